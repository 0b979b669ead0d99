"""Evaluate, compare, pictures, map and protocols: no option is dropped, and what the commands say."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import zsbir
from tests.cli.test_cli_options import options
from zsbir import cli
from zsbir.cli import compare, evaluate, mapping, pictures, protocols
from zsbir.engine.run import write_run

BACKBONE = {"name": "tiny", "image_size": 32, "width": 4}


def noise(root, classes):
    """Write coloured noise, 4 sketches and 5 photos of each class."""
    rng = np.random.default_rng(0)
    for domain, count in (("sketch", 4), ("photo", 5)):
        for number, name in enumerate(classes):
            (root / domain / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (32, 32, 3)) + 45 * number
                Image.fromarray(pixels.astype(np.uint8)).save(root / domain / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two seen, two unseen classes."""
    return noise(tmp_path_factory.mktemp("data"), ("bar", "circle", "cross", "square"))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    dataset = zsbir.DATASETS.build("folder", root=str(data), unseen="circle,cross")
    torch.manual_seed(0)
    method = zsbir.build("dann", backbone=BACKBONE, domain_loss_ratio=0.0)
    folder = tmp_path_factory.mktemp("runs") / "run"
    method.save(folder / "best")
    write_run(folder, method, dataset, zsbir.Recipe(), 0, {"select_on": "none"})
    assert cli.main(["embed", str(folder), "--out", str(folder.parent / "embedded"), "--workers", "0"]) == 0
    assert cli.main(["evaluate", str(folder), "--no-html", "--resamples", "0"]) == 0  # the baseline is there now
    return folder


@pytest.fixture
def outcome(run, tmp_path, monkeypatch, capsys):
    """Return what a command does: exit code, prints, files, and how it embeds."""
    monkeypatch.chdir(tmp_path)
    seen = []
    from zsbir.methods import embedding

    real = embedding.embed_split
    monkeypatch.setattr(embedding, "as_device", lambda name: seen.append(str(name)) or torch.device("cpu"))
    monkeypatch.setattr(
        embedding, "embed_split", lambda *a, **k: seen.append((k["batch_size"], k["workers"])) or real(*a, **k)
    )

    def of(*words, out="out"):
        seen.clear()
        for folder in (tmp_path / "out", run / "evaluation"):
            shutil.rmtree(folder, ignore_errors=True)
        code = cli.main([str(word) for word in words])
        printed = capsys.readouterr()
        files = {}
        for file in sorted(tmp_path.rglob("*")):
            if file.is_file():
                kind = file.suffix in (".json", ".md", ".png")
                files[str(file.relative_to(tmp_path))] = file.read_bytes() if kind else b""
        return code, printed.out if code == 0 else printed.err, files, list(seen)

    return of


PLAIN = {}


def check(base, words, outcome):
    """Assert that words change what a command does, or are refused in one sentence."""
    key = " ".join(map(str, base))
    plain = PLAIN[key] = PLAIN[key] if key in PLAIN else outcome(*base)
    assert plain[0] == 0, plain[1]
    changed = outcome(*base, *words)
    if changed[0] == 2:
        assert changed[1].strip().splitlines()[-1].startswith("zsbir: ")
    else:
        assert changed[0] == 0
        assert changed != plain


EVALUATE = {
    "run": [],
    "protocol": ["--protocol", "sbka"],
    "matcher": ["--matcher", "query-expansion"],
    "set": ["--set", "alpha=1"],
    "setting": ["--setting", "generalised"],
    "ks": ["--ks", "3"],
    "bits": ["--bits", "8"],
    "part": ["--part", "validation"],
    "seeds": ["--seeds"],
    "out": ["--out", "elsewhere"],
    "seed": ["--seed", "4"],
    "html": ["--html"],
    "top": ["--top", "2"],
    "show": ["--show", "circle/1.png"],
    "show-best": ["--show-best", "1"],
    "show-random": ["--show-random", "8"],
    "map": ["--map", "after"],
    "resamples": ["--resamples", "7"],
    "no-baseline": ["--no-baseline"],
    "dataset": ["--dataset", "folder"],
    "root": ["--root", "nowhere"],
    "unseen": ["--unseen", "cross"],
    "validation": ["--validation", "1"],
    "split": ["--split", "split.json"],
    "set-data": ["--set-data", "a=1"],
    "method": ["--method", "frozen"],
    "backbone": ["--backbone", "tiny"],
    "weights": ["--weights", "file.pth"],
    "no-pretrained": ["--no-pretrained"],
    "set-method": ["--set-method", "margin=0.2"],
    "device": ["--device", "cpu"],
    "batch-size": ["--batch-size", "3"],
    "workers": ["--workers", "0"],
}


def test_every_option_of_evaluate_is_in_the_table():
    assert sorted(EVALUATE) == sorted(options(evaluate.evaluate))


OTHERWISE = ("part", "no-baseline", "dataset", "root", "weights", "device", "batch-size", "workers")
"""Options that mean something else, or nothing, for embeddings."""


@pytest.mark.parametrize(("option", "kind"), [*((o, "run") for o in EVALUATE), *((o, "embedded") for o in OTHERWISE)])
def test_option_of_evaluate_changes_something_or_is_refused(option, kind, run, outcome):
    what = run if kind == "run" else run.parent / "embedded"
    base = ["evaluate", what, "--no-html", "--resamples", "5", "--out", "out"]
    if option in ("out", "resamples"):
        base = [word for i, word in enumerate(base) if word != f"--{option}" and base[i - 1] != f"--{option}"]
    if option == "run":
        assert outcome(*base)[1] != outcome(*base[:2], run.parent / "embedded", *base[2:])[1]
        return
    if option == "show":
        base += ["--show-best", "0"]
    check(base, EVALUATE[option], outcome)


FOLDER = ("--dataset", "folder", "--root", "DATA", "--unseen", "circle,cross")
NAMED = {
    "run": ("frozen", "--no-pretrained"),
    "dataset": ("--dataset", "openmojo"),
    "root": ("--root", "nowhere"),
    "unseen": ("--unseen", "bar,cross"),
    "validation": ("--validation", "1"),
    "split": ("--split", "nosuch.json"),
    "set-data": ("--set-data", "hold_out=0.4"),
    "backbone": ("--backbone", "test_vit"),
    "weights": ("--weights", "nosuch.pth"),
    "no-pretrained": (),
    "set-method": ("--set-method", "nosuch=1"),
}


@pytest.mark.parametrize("option", NAMED)
def test_options_of_a_method_by_name(option, data, outcome):
    base = ["evaluate", "frozen", *FOLDER, "--backbone", "tiny", "--no-pretrained", "--no-html", "--out", "out"]
    base = [str(data) if word == "DATA" else word for word in base]
    plain = outcome(*base)
    assert plain[0] == 0, plain[1]
    words = NAMED[option]
    if option == "no-pretrained":
        base.remove("--no-pretrained")
    elif option == "run":
        base[1] = "frozn"
        words = ()
    elif words[0] in base:
        place = base.index(words[0])
        del base[place : place + 2]
    changed = outcome(*base, *words)
    assert changed != plain


def test_a_method_by_name_needs_its_dataset_and_is_found_by_name(data, outcome):
    code, said, *_ = outcome("evaluate", "frozen")
    assert (code, "name the dataset" in said) == (2, True)
    code, said, *_ = outcome("evaluate", "frozzen", "--dataset", "folder")
    assert (code, "Did you mean 'frozen'" in said) == (2, True)
    code, said, *_ = outcome("evaluate", "frozen", *(str(data) if w == "DATA" else w for w in FOLDER),
                             "--backbone", "tiny", "--no-pretrained", "--no-html")  # fmt: skip
    assert code == 0
    assert "report: evaluations/frozen-folder/evaluation" in said


def test_a_method_by_name_is_evaluated_on_seen_classes_held_out(tmp_path, outcome):
    root = noise(tmp_path / "five", ("a", "b", "c", "d", "e"))
    words = ["evaluate", "frozen", "--dataset", "folder", "--root", root, "--unseen", "e", "--backbone", "tiny",
             "--no-pretrained", "--no-html", "--part", "validation"]  # fmt: skip
    code, said, *_ = outcome(*words, "--validation", "2")
    assert code == 0, said
    assert "8 sketches against 10 photos, 2 classes" in said
    code, said, *_ = outcome(*words, "--validation", "0")
    assert code == 2
    assert "no validation classes" in said


def test_the_baseline_is_computed_once_and_kept_in_the_run(run, outcome):
    words = ["evaluate", run, "--no-html", "--ks", "2", "--protocol", "standard", "--protocol", "sbka"]
    (run / "baseline.json").unlink(missing_ok=True)
    _, said, _, first = outcome(*words)
    assert "the backbone without training, once" in said
    line = next(line for line in said.splitlines() if line.startswith("sbka: mAP@all"))
    assert "backbone without training 0." in line
    _, again, _, second = outcome(*words)
    assert "once for this run" not in again
    assert line in again
    assert len(second) == len(first) / 2  # the run alone is embedded
    kept = json.loads((run / "evaluation" / "report.json").read_text())["baseline"]
    assert set(kept) == {"standard", "sbka"}
    _, without, *_ = outcome(*words, "--no-baseline")
    assert "without training" not in without


def test_a_run_is_evaluated_from_any_folder_and_with_a_moved_dataset(run, data, outcome, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(data, moved)
    shutil.copytree(run, tmp_path / "run")
    words = ("--no-html", "--resamples", "0", "--out", "out")
    code, said, *_ = outcome("evaluate", "run", *words)
    assert code == 0, said
    code, other, *_ = outcome("evaluate", "run", *words, "--root", moved)
    assert code == 0, other
    assert other.split("|")[1:] == said.split("|")[1:]


PICTURES = {
    "run": ["nosuch"],
    "query": ["--query", "circle/2.png"],
    "random": ["--random", "2"],
    "top": ["--top", "2"],
    "out": ["--out", "elsewhere"],
    "matcher": ["--matcher", "query-expansion"],
    "set": ["--set", "alpha=1"],
    "part": ["--part", "validation"],
    "cell": ["--cell", "20"],
    "root": ["--root", "nowhere"],
    "seed": ["--seed", "3"],
    "device": ["--device", "cpu"],
    "batch-size": ["--batch-size", "3"],
    "workers": ["--workers", "0"],
}
MAP = {
    "run": ["nosuch"],
    "out": ["--out", "elsewhere.png"],
    "before": ["--before"],
    "classes": ["--classes", "1"],
    "most": ["--most", "3"],
    "layout": ["--layout", "tsne"],
    "part": ["--part", "validation"],
    "root": ["--root", "nowhere"],
    "seed": ["--seed", "3"],
    "device": ["--device", "cpu"],
    "batch-size": ["--batch-size", "3"],
    "workers": ["--workers", "0"],
}


def test_every_option_of_pictures_and_map_is_in_the_table():
    assert sorted(PICTURES) == sorted(options(pictures.pictures))
    assert sorted(MAP) == sorted(options(mapping.mapping))


@pytest.mark.parametrize(
    ("command", "option", "kind"),
    [
        *(("pictures", o, "run") for o in PICTURES),
        *(("map", o, "run") for o in MAP),
        *((c, o, "embedded") for c in ("pictures", "map") for o in OTHERWISE if o in PICTURES),
        ("map", "before", "embedded"),
    ],
)
def test_option_of_pictures_and_map_changes_something_or_is_refused(command, option, kind, run, outcome):
    words = (PICTURES if command == "pictures" else MAP)[option]
    base = [command, run if kind == "run" else run.parent / "embedded"]
    base += {"pictures": ["--cell", "16", "--out", "out", "--random", "1"],
             "map": ["--out", "out/map.png", "--layout", "pca", "--most", "4"]}[command]  # fmt: skip
    if option == "run":
        base[1], words = base[1] / "nosuch", []
        assert outcome(*base)[0] == 2
        return
    if f"--{option}" in base:
        place = base.index(f"--{option}")
        changed = [*base[:place], *words, *base[place + 2 :]]
        assert outcome(*base)[1:] != outcome(*changed)[1:]
        return
    if option == "seed" and command == "pictures":
        base[base.index("--random") + 1] = "3"
    check(base, words, outcome)


COMPARE = {
    "run-a": [],
    "run-b": [],
    "protocol": ["--protocol", "sbka"],
    "metric": ["--metric", "P@3"],
    "permutations": ["--permutations", "7"],
    "resamples": ["--resamples", "3"],
    "seed": ["--seed", "8"],
    "classes": ["--classes", "0"],
    "out": ["--out", "out/difference.json"],
}


@pytest.mark.parametrize("option", COMPARE)
def test_option_of_compare_changes_something_or_is_refused(option, run, outcome, tmp_path):
    assert sorted(COMPARE) == sorted(options(compare.compare))
    for name, matcher in (("a", "cosine"), ("b", "euclidean")):
        where = tmp_path / name
        words = ("--protocol", "standard", "--protocol", "sbka", "--ks", "3", "--no-html", "--resamples", "0")
        assert outcome("evaluate", run.parent / "embedded", *words, "--matcher", matcher, "--out", where)[0] == 0
    base = ["compare", "a", "b", "--permutations", "50", "--resamples", "20"]
    if option.startswith("run"):
        swapped = ["compare", *(["b", "b"] if option == "run-a" else ["a", "a"]), *base[3:]]
        assert outcome(*base)[1] != outcome(*swapped)[1]
        return
    if COMPARE[option][0] in base:
        place = base.index(COMPARE[option][0])
        del base[place : place + 2]
    check(base, COMPARE[option], outcome)


def test_compare_with_one_path_says_what_is_missing(outcome):
    code, said, *_ = outcome("compare", "runs/a")
    assert code == 2
    assert said.strip() == "zsbir: compare takes two evaluated runs, and only runs/a was named: add the other one"
    assert "two evaluated runs" in outcome("compare")[1]


def test_options_of_protocols(outcome):
    assert options(protocols.COMMANDS["list"]) == []
    assert sorted(options(protocols.COMMANDS["explain"])) == ["k", "map", "prec", "tolerance"]
    base = ["protocols", "explain", "--map", "0.5", "--prec", "0.6", "--k", "10"]
    plain = outcome(*base)
    for place, value in ((3, "0.9"), (5, "0.2"), (7, "2")):
        assert outcome(*base[:place], value, *base[place + 1 :])[1] != plain[1]
    # At the edge of what is possible the tolerance decides.
    edge = ["protocols", "explain", "--map", "0.62", "--prec", "0.6", "--k", "10"]
    assert outcome(*edge)[1] != outcome(*edge, "--tolerance", "0.1")[1]
