"""Pictures of chosen and random queries, and maps of embeddings: as commands and inside the report."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import zsbir
from zsbir.cli import main
from zsbir.engine.run import write_run
from zsbir.errors import ZsbirError
from zsbir.evaluation.embedding_map import MapSettings, embedding_map, lay_out
from zsbir.evaluation.overview import TopPhotos
from zsbir.evaluation.pictures import top_k_picture
from zsbir.evaluation.shown import draw_queries, find_queries
from zsbir.types import Embeddings, Paths

CLASSES = ("bar", "circle", "cross", "square")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder: two seen and two unseen classes of coloured noise, 4 sketches and 5 photos each."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for domain, count in (("sketch", 4), ("photo", 5)):
        for number, name in enumerate(CLASSES):
            (root / domain / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (32, 32, 3)) + 45 * number
                Image.fromarray(pixels.astype(np.uint8)).save(root / domain / name / f"{i}.png")
    torch.manual_seed(0)
    data = zsbir.DATASETS.build("folder", root=str(root), unseen="circle,cross")
    method = zsbir.build("dann", backbone={"name": "tiny", "image_size": 32, "width": 4}, domain_loss_ratio=0.0)
    folder = root / "run"
    method.save(folder / "best")
    write_run(folder, method, data, zsbir.Recipe(), 0, {"select_on": "none"})
    return folder


def command(capsys, *words):
    code = main([str(word) for word in words])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_pictures_of_named_and_random_queries(run, tmp_path, capsys):
    words = ("pictures", run, "--query", "circle/2.png", "--random", 2, "-k", 4, "-o", tmp_path, "--workers", 0)
    code, out, _ = command(capsys, *words, "--device", "cpu", "--cell", 20)
    assert code == 0
    names = sorted(file.name for file in tmp_path.iterdir())
    assert len(names) == 4
    assert names[0] == "001-circle.png"
    assert names[-1] == "sheet.png"
    assert "sketch/circle/2.png" in out.splitlines()[0]
    one, sheet = Image.open(tmp_path / names[0]), Image.open(tmp_path / "sheet.png")
    assert one.width == sheet.width
    assert sheet.height > 2.5 * one.height


def test_pictures_show_what_the_evaluation_finds(run, tmp_path, capsys):
    assert command(capsys, "embed", run, "--out", tmp_path / "e", "--workers", 0)[0] == 0
    command(capsys, "pictures", tmp_path / "e", "--random", 1, "-k", 3, "-o", tmp_path / "a")
    command(capsys, "pictures", run, "--random", 1, "-k", 3, "-o", tmp_path / "b", "--workers", 0)
    pictures = [np.asarray(Image.open(tmp_path / name / "sheet.png")) for name in "ab"]
    assert np.array_equal(*pictures)


def test_report_has_chosen_queries_and_the_map(run, tmp_path, capsys):
    words = ("--show", "cross/1.png", "--show-random", 2, "--show-best", 1, "--top", 3, "--map", "both", "--ks", 2)
    code, _, _ = command(capsys, "evaluate", run, *words, "--out", tmp_path, "--resamples", 0, "--workers", 0)
    assert code == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Asked for" in page
    assert 'alt="Map of sketch and photo embeddings"' in page
    top = json.loads((tmp_path / "report.json").read_text())["top"]
    notes = [row["note"] for row in top]
    assert notes[:4] == ["best", "median", "worst", "chosen"] or "chosen" not in notes  # it may be one of the first
    assert any(row["path"] == "sketch/cross/1.png" for row in top)
    assert {len(row["paths"]) for row in top} == {3}


def test_map_command(run, tmp_path, capsys):
    file = tmp_path / "new" / "map.png"
    code, out, _ = command(capsys, "map", run, "--before", "-o", file, "--layout", "pca", "--workers", 0)
    assert (code, out.strip()) == (0, str(file))
    after = tmp_path / "after.png"
    assert command(capsys, "map", run, "-o", after, "--classes", "cross,circle", "--workers", 0)[0] == 0
    assert Image.open(file).width > 1.5 * Image.open(after).width


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pictures", "RUN", "--query", "cat/1.png"), "is none of the 8 queries"),
        (("pictures", "RUN", "--query", "1.png"), "could be 2 of the queries"),
        (("pictures", "RUN", "--random", "0"), "--random N"),
        (("pictures", "RUN", "-k", "0"), "--top 0 must be at least 1"),
        (("pictures", "RUN", "-o", "RUN/run.json"), "is a file"),
        (("pictures", "RUN", "--set", "a=1"), "--matcher"),
        (("pictures", "RUN", "--matcher", "cosin"), "cosine"),
        (("pictures", "RUN/nothing"), "does not exist"),
        (("map", "RUN/nothing"), "does not exist"),
        (("map", "RUN", "--classes", "dog"), "no class 'dog'"),
        (("map", "RUN", "--classes", "21"), "classes=21 must be a whole number in [1, 20]"),
        (("map", "RUN", "--most", "0"), "at least 3"),
        (("map", "RUN", "-o", "RUN/x.gag", "--layout", "pca"), "cannot be written"),
        (("map", "RUN", "--part", "validation"), "no validation classes"),
        (("evaluate", "RUN", "--show", "7.png"), "is none of the 8 queries"),
        (("evaluate", "RUN", "--top", "0"), "top=0 must be a whole number of at least 1"),
        (("evaluate", "RUN", "--batch-size", "0"), "--batch-size 0 must be at least 1"),
        (("evaluate", "RUN", "--seed", "-1"), "seed"),
        (("evaluate", "RUN", "--out", "RUN/run.json"), "cannot be written to RUN/run.json"),
        (("evaluate", "OTHER"), "method, dataset, recipe, seed, settings is missing or wrong"),
        (("pictures", "RUN", "--seed", "-1"), "seed"),
        (("map", "RUN", "--seed", "-1"), "seed"),
        (("compare", "RUN", "RUN", "--classes", "-1"), "--classes"),
        (("compare", "RUN", "RUN"), "zsbir evaluate"),
        (("compare", "RUN/a", "RUN/b"), "RUN/a"),
    ],
)
def test_mistakes_are_one_sentence(run, capsys, monkeypatch, words, said):
    monkeypatch.chdir(run.parent)
    (run.parent / "RUN").exists() or (run.parent / "RUN").symlink_to(run)
    (run.parent / "OTHER").mkdir(exist_ok=True)
    (run.parent / "OTHER/run.json").write_text("{}", encoding="utf-8")
    more = () if words[0] == "compare" else ("--workers", "0")
    code, _, err = command(capsys, *words, *more)
    lines = [line for line in err.splitlines() if line.startswith("zsbir:") and "warning" not in line]
    assert code == 2
    assert len(lines) == 1
    assert said in lines[0]


def test_queries_are_found_by_the_end_of_their_path():
    paths = ["sketch/cat/1.png", "sketch/cat/11.png", "sketch/dog/1.png", "1.png"]
    assert find_queries(paths, ["cat/1.png", "/data/sketch/dog/1.png", "1.png"]) == [0, 2, 3]
    with pytest.raises(ZsbirError, match="do not know their files"):
        find_queries([], ["1.png"])
    assert sorted(draw_queries(5, 9, 3)) == list(range(5))


def test_no_query_is_shown_twice():
    photos = Embeddings(torch.eye(3), np.arange(3), ("x", "y", "z"))
    vectors = torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 0], [2, 0, 1], [1, 0, 0], [0, 0, 1]]).float()
    labels = np.array([0, 1, 3, 2, 3, 3])
    sketches = Embeddings(vectors, labels, ("x", "y", "z", "none"), Paths("abcdef"), "sketch")
    rows = zsbir.Evaluator(ks=1, resamples=0, examples=1, random=6, queries=("b",)).evaluate(sketches, photos).top
    assert sorted(row.query for row in rows) == list(range(6))
    assert (rows[0].query, rows[0].note, rows[0].ap) == (1, "best", 1.0)  # "b" is the best one already
    assert {row.query: row.ap for row in rows}[2] is None  # no relevant photo


def test_more_photos_than_a_line_holds_go_on_below():
    many = tuple(range(7))
    row = TopPhotos(0, "s", "cat", "", None, many, ("p",) * 7, ("dog",) * 7, (0.1,) * 7, (False,) * 7)
    one, two = (top_k_picture([row], lambda _: Image.new("RGB", (9, 9)), cell=30, columns=n) for n in (7, 4))
    assert two.width < one.width
    assert two.height > one.height


@pytest.mark.parametrize("layout", ["tsne", "pca"])
def test_layouts_keep_clusters_together_and_repeat(layout):
    label = torch.arange(90) % 3
    vectors = torch.randn(90, 20) + 12 * torch.eye(20)[label]
    settings = MapSettings(layout=layout)
    places = torch.from_numpy(lay_out(vectors, settings))
    nearest = torch.cdist(places, places).fill_diagonal_(torch.inf).topk(5, largest=False).indices
    assert (label[nearest] == label[:, None]).float().mean() > 0.97
    assert np.array_equal(places, lay_out(vectors, settings))
    assert np.isfinite(lay_out(torch.ones(10, 1), settings)).all()
    with pytest.raises(ZsbirError, match="at least 5"):
        lay_out(torch.ones(4, 2), settings)


def test_missing_packages_are_named(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(ZsbirError, match=r"scikit-learn: run `pip install 'zsbir\[report\]'"):
        lay_out(torch.ones(9, 2), MapSettings())


def test_map_shows_the_classes_asked_for():
    def side(domain, seed):
        generator = torch.Generator().manual_seed(seed)
        labels = np.arange(40, dtype=np.int64) % 4
        return Embeddings(torch.randn(40, 6, generator=generator), labels, ("a", "b", "c", "d"), domain=domain)

    panels = [(title, side("sketch", 1), side("photo", 2)) for title in ("before", "after")]
    figure = embedding_map(panels, MapSettings(classes=("d", "a", "b"), most=15, layout="pca"))
    assert [axes.get_title().split("\n")[0] for axes in figure.axes] == ["before", "after"]
    assert "sketch told from photo" in figure.axes[0].get_title()
    assert [len(points.get_offsets()) for points in figure.axes[0].collections] == [15, 15]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["sketch", "photo", "", "a", "b", "d"]
    assert MapSettings(classes=2).chosen_classes(("a", "b", "c", "d")) == [0, 3]
