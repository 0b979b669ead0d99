"""Settings, embeddings on disk, reports and commands, from the outside."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import zsbir
from zsbir.cli import main
from zsbir.cli.protocols import COMMANDS
from zsbir.errors import ZsbirError
from zsbir.evaluation import Evaluator, load_embeddings, save_embeddings
from zsbir.evaluation.comparison import load_per_query
from zsbir.evaluation.embeddings import is_pair, load_pair, save_pair
from zsbir.evaluation.fine_grained import fine_grained
from zsbir.evaluation.pictures import RIGHT, WRONG, top_k_picture
from zsbir.evaluation.settings import binary, few_queries, fit_itq, generalised
from zsbir.matchers.base import Matcher
from zsbir.types import Embeddings, Paths

CLASSES = ("cat", "dog", "owl", "tree")


def side(count, domain, classes=CLASSES, seed=0, noise=1.0, name=""):
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(8, 24))
    labels = np.arange(count) % len(classes)
    vectors = centres[labels + (0 if classes == CLASSES else 4)] + noise * generator.normal(size=(count, 24))
    paths = Paths(
        f"{classes[label]}/{name}n{i}{'-1' if domain == 'sketch' else ''}.png" for i, label in enumerate(labels)
    )
    return Embeddings(
        torch.from_numpy(vectors.astype(np.float32)), labels, classes, paths, domain, meta={"manifest": "m"}
    )


@pytest.fixture
def pair():
    return side(40, "sketch", seed=1), side(90, "photo", seed=2)


EVALUATOR = Evaluator(["standard", "sbka", "puxim"], ks=(5, 10), resamples=50)


def test_report_holds_every_part(pair):
    report = EVALUATOR.evaluate(*pair, notes=["as published: 2 classes seen"])
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["counts"] == {"queries": 40, "evaluated": 40, "excluded": 0, "gallery": 90, "classes": 4}
    assert data["notes"] == ["as published: 2 classes seen"]
    assert "P@5" in data["results"]["sbka"]
    assert "P@5" not in data["results"]["puxim"]
    assert "min(R, k)" in data["protocols"]["standard"]["definition"]
    for name in ("standard", "sbka"):
        low, high = data["intervals"][name]["mAP@all"]["queries"]
        assert low <= data["results"][name]["mAP@all"] <= high
        mean = np.mean([v["mAP@all"] for v in data["per_class"][name].values()])
        assert data["results"][name]["mAP@all"] == pytest.approx(mean, abs=1e-9)  # 10 queries in every class
    assert data["chance"]["standard"] == pytest.approx(0.27, abs=0.03)
    assert np.array(data["confusion"]).sum(axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    assert sum(data["histogram"]["relevant"]) == pytest.approx(1)
    assert [t["note"] for t in data["top"]] == ["best"] * 3 + ["median"] * 3 + ["worst"] * 3
    best, worst = data["top"][0], data["top"][-1]
    assert best["ap"] > worst["ap"]
    assert 0 <= data["domain_gap"]["accuracy"] <= 1
    for shown in data["top"]:
        assert shown["scores"] == sorted(shown["scores"], reverse=True)
        assert shown["correct"] == [label == shown["label"] for label in shown["labels"]]


def test_report_files(pair, tmp_path):
    report = EVALUATOR.evaluate(*pair)
    opened = []

    def opener(path):
        opened.append(path)
        return Image.new("RGB", (20, 30), "blue")

    report.save(tmp_path / "out", open_sketch=opener, title="runs/a")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/") == 4 + 9 * 11  # the plots; of nine queries the sketch and ten photos
    assert "http" not in page
    assert "<title>runs/a: zsbir evaluation</title>" in page
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    assert opened
    assert "| mAP@all |" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["schema"] == "zsbir-report-1"
    back = load_per_query(tmp_path / "out")
    assert back.values["sbka"]["P@5"].mean() == pytest.approx(report.results["sbka"]["P@5"], abs=1e-12)
    assert back.paths[0] == "cat/n0-1.png"
    with pytest.raises(ZsbirError, match="zsbir evaluate"):
        load_per_query(tmp_path)


def test_picture_frames(pair):
    report = EVALUATOR.evaluate(*pair)
    picture = top_k_picture(report.top, lambda _: Image.new("RGB", (10, 10), "white"), cell=20, frame=2)
    colours = {colour for _, colour in picture.getcolors(1 << 20)}
    assert {RIGHT, WRONG} <= colours
    assert top_k_picture([], lambda _: Image.new("RGB", (1, 1))).size[0] > 0


def test_generalised(pair):
    seen = side(16, "sketch", ("a", "b", "c", "d"), 3), side(50, "photo", ("a", "b", "c", "d"), 4)
    report = generalised(EVALUATOR, pair, seen)
    plain = EVALUATOR.evaluate(*pair)
    assert report.counts["gallery"] == 140
    assert report.results["standard"]["mAP@all"] <= plain.results["standard"]["mAP@all"]
    groups = {name: values["standard"]["mAP@all"] for name, values in report.groups.items()}
    expected = 2 * groups["seen"] * groups["unseen"] / (groups["seen"] + groups["unseen"])
    assert groups["harmonic mean"] == pytest.approx(expected)
    with pytest.raises(ZsbirError, match="both seen and unseen: cat"):
        generalised(EVALUATOR, pair, pair)


def test_fine_grained(pair):
    queries, gallery = pair
    report = fine_grained(EVALUATOR, queries, gallery, ks=(1, 5))
    vectors = torch.nn.functional.normalize(queries.vectors), torch.nn.functional.normalize(gallery.vectors)
    scores = (vectors[0] @ vectors[1].T).numpy()
    ranks = {"across categories": [], "within category": []}
    for i, row in enumerate(scores):  # sketch n_i was drawn from photo n_i
        ranks["across categories"].append((row > row[i]).sum())
        ranks["within category"].append(((row > row[i]) & (gallery.labels == queries.labels[i])).sum())
    for name, places in ranks.items():
        for k in (1, 5):
            assert report.results[name][f"acc@{k}"] == pytest.approx(np.mean(np.array(places) < k))
    text = report.to_dict()
    assert text["setting"] == "fine-grained"
    with pytest.raises(ZsbirError, match="drawn from"):
        fine_grained(EVALUATOR, queries, side(9, "photo", name="other"))
    with pytest.raises(ZsbirError, match="no paths"):
        fine_grained(EVALUATOR, replace(queries, paths=Paths()), gallery)


def test_binary_codes(pair):
    report = binary(EVALUATOR, *pair, bits=16)
    assert report.setting == "binary-16"
    assert "transductive" in report.notes[0]
    assert report.matcher.startswith("hamming")
    assert report.results["standard"]["mAP@all"] > report.chance["standard"] + 0.1
    other = binary(EVALUATOR, *pair, bits=16, learn_from=side(60, "photo", seed=8))
    assert "transductive" not in other.notes[0]
    with pytest.raises(ZsbirError, match="32 bits"):
        binary(EVALUATOR, *pair, bits=32)


def test_itq_turns_by_a_rotation_and_quantises_better_than_pca():
    vectors = side(200, "photo").vectors.double()
    quantiser = fit_itq(vectors, 8)
    gram = quantiser.rotation.T @ quantiser.rotation
    assert torch.allclose(gram, torch.eye(8, dtype=torch.float64), atol=1e-9)

    def loss(rotation):
        projected = (vectors - quantiser.mean) @ rotation
        return float((torch.where(projected >= 0, 1.0, -1.0) - projected).square().sum())

    plain = torch.linalg.eigh(torch.cov(vectors.T)).eigenvectors[:, -8:]
    assert loss(quantiser.rotation) < loss(plain)
    losses = [loss(fit_itq(vectors, 8, iterations=n).rotation) for n in (0, 1, 5, 50)]
    assert losses[0] > 1.02 * losses[1] > losses[1] > losses[2] > losses[3] - 1e-9
    assert torch.equal(quantiser.codes(vectors), fit_itq(vectors, 8).codes(vectors))


def test_half_precision_is_said(pair):
    with pytest.warns(UserWarning, match="float16"):
        report = EVALUATOR.evaluate(pair[0], replace(pair[1], vectors=pair[1].vectors.half()))
    assert "the embeddings are stored in float16" in report.notes


def test_a_sweep_is_marked_as_oracle(pair, monkeypatch):
    from zsbir.matchers import one_to_many

    monkeypatch.setitem(one_to_many.GRIDS, "small", ((2,), range(3, 5)))
    matcher = {"name": "one-to-many", "sweep": "small", "model": "k-means"}
    report = Evaluator("sbka", matcher, ks=(5,), resamples=0).evaluate(*pair)
    tried = [results["sbka"]["mAP@all"] for results in report.groups.values()]
    assert len(tried) == 2
    assert report.results["sbka"]["mAP@all"] == pytest.approx(max(tried))
    assert any("oracle: chosen on the test labels" in note for note in report.notes)


def test_few_queries_is_flagged(pair):
    report = few_queries(EVALUATOR, *pair)
    assert (report.counts["queries"], report.counts["gallery"]) == (2, 9)
    assert "not comparable" in report.notes[0]
    assert report.query_paths[0] == "cat/n0-1.png"


def test_embeddings_come_back(pair, tmp_path):
    queries = replace(pair[0], tokens=torch.randn(40, 3, 2))
    back = load_embeddings(save_embeddings(queries, tmp_path / "deep" / "queries"))
    assert torch.equal(back.vectors, queries.vectors)
    assert torch.equal(back.tokens, queries.tokens)
    assert np.array_equal(back.labels, queries.labels)
    assert (back.classes, back.paths, back.domain, back.meta) == (CLASSES, queries.paths, "sketch", {"manifest": "m"})


def test_embeddings_from_elsewhere(pair, tmp_path):
    queries, gallery = pair
    own = EVALUATOR.evaluate(*pair).results
    names = np.array(CLASSES)
    arrays = {"vectors": queries.vectors.numpy(), "labels": names[queries.labels]}
    np.savez(tmp_path / "queries.npz", **arrays)
    np.save(tmp_path / "gallery.npy", gallery.vectors.numpy())
    (tmp_path / "gallery_labels.txt").write_text("\n".join(names[gallery.labels]) + "\n", encoding="utf-8")
    assert is_pair(tmp_path)
    assert EVALUATOR.evaluate(*load_pair(tmp_path)).results == own
    np.save(tmp_path / "gallery_labels.npy", names[gallery.labels])
    assert EVALUATOR.evaluate(*load_pair(tmp_path)).results == own
    np.savez(
        tmp_path / "all.npz",
        queries=arrays["vectors"],
        query_labels=queries.labels,
        gallery=gallery.vectors.numpy(),
        gallery_labels=gallery.labels,
    )
    assert EVALUATOR.evaluate(*load_pair(tmp_path / "all.npz")).results == own


def test_broken_embeddings(tmp_path):
    with pytest.raises(ZsbirError, match="no embeddings file"):
        load_embeddings(tmp_path / "no.npz")
    with pytest.raises(ZsbirError, match=r"holds no queries\.safetensors"):
        load_pair(tmp_path)
    np.savez(tmp_path / "queries.npz", vectors=np.zeros((2, 3)), labels=np.array([0]))
    with pytest.raises(ZsbirError, match="2 whole numbers or names"):
        load_embeddings(tmp_path / "queries.npz")
    np.savez(tmp_path / "queries.npz", features=np.zeros((2, 3)))
    with pytest.raises(ZsbirError, match="no array 'vectors'; it has features"):
        load_embeddings(tmp_path / "queries.npz")
    np.savez(tmp_path / "queries.npz", vectors=np.zeros((2, 3)), labels=np.array(["a", None], dtype=object))
    with pytest.raises(ZsbirError, match="pickled objects are refused"):
        load_embeddings(tmp_path / "queries.npz")
    (tmp_path / "queries.npz").write_bytes((tmp_path / "queries.npz").read_bytes()[:-30])
    with pytest.raises(ZsbirError, match="cannot be read"):
        load_embeddings(tmp_path / "queries.npz")
    np.save(tmp_path / "gallery.npy", np.zeros((2, 3)))
    with pytest.raises(ZsbirError, match="needs its labels beside it"):
        load_embeddings(tmp_path / "gallery.npy")
    (tmp_path / "x.safetensors").write_bytes(b"broken")
    with pytest.raises(ZsbirError, match="cannot be read"):
        load_embeddings(tmp_path / "x.safetensors")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(ZsbirError, match=r"expected \.safetensors"):
        load_embeddings(tmp_path / "x.txt")


def test_evaluate_and_compare_commands(pair, tmp_path, capsys):
    for name, noise in (("a", 1.0), ("b", 0.4)):
        save_pair(side(40, "sketch", seed=1, noise=noise), pair[1], tmp_path / name)
    folders = [str(tmp_path / name) for name in "ab"]
    plain = ["--no-html", "--device", "cpu"]

    def zsbir_says(*words, code=0):
        assert main([str(word) for word in words]) == code
        printed = capsys.readouterr()
        return printed.err if code else printed.out

    printed = zsbir_says("evaluate", *folders, "--protocol", "standard", "--protocol", "sbka", "--ks", 5, "--seeds",
                         "--resamples", 20, *plain)  # fmt: skip
    assert "| metric | standard | sbka |" in printed
    assert "note: dataset manifest m" in printed
    assert "mean ± standard deviation over 2 runs" in printed
    assert (tmp_path / "b" / "evaluation" / "report.json").is_file()
    line = next(line for line in printed.splitlines() if line.startswith("standard: mAP@all"))
    assert "95 % interval over queries" in line
    assert "random order 0.2" in line
    printed = zsbir_says("compare", *folders, "--permutations", 200, "--resamples", 50, "--out", tmp_path / "d.json")
    assert "difference +" in printed
    assert "gained most" in printed
    assert json.loads((tmp_path / "d.json").read_text())["p"] < 0.05
    zsbir_says("evaluate", folders[0], "--setting", "binary", "--bits", 8, "--resamples", 0, *plain)
    assert (tmp_path / "a" / "evaluation" / "binary-8" / "report.json").is_file()
    for words, said in [
        ((folders[0], "--setting", "generalised"), "evaluate a run, not embeddings"),
        ((tmp_path,), "cannot be evaluated"),
        ((), "name at least one"),
        ((folders[0], "--seeds"), "at least two"),
        ((folders[0], "--set", "a=1"), "--matcher"),
    ]:
        assert said in zsbir_says("evaluate", *words, "--no-html", code=2)


def test_protocols_commands(capsys):
    COMMANDS["list"]()
    assert "ties: expectation" in capsys.readouterr().out
    COMMANDS["explain"](0.805, 0.768, 200)
    printed = capsys.readouterr().out
    assert "mAP@200 = 0.805 is above P@200 = 0.768" in printed
    assert "only if some queries have fewer than 200" in printed


def test_without_matplotlib_the_html_says_what_to_install(pair, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    report = EVALUATOR.evaluate(*pair)
    with pytest.raises(ZsbirError, match=r"pip install 'zsbir\[report\]'"):
        report.save(tmp_path)
    report.save(tmp_path, html=False)


def test_missing_matplotlib_is_said_before_the_work(tmp_path, monkeypatch, capsys):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else real(name, *a))
    assert main(["evaluate", str(tmp_path / "nothing")]) == 2
    assert "needs matplotlib" in (said := capsys.readouterr().err)
    assert "or use --no-html" in said


def test_a_report_shows_itself_shortly(pair):
    report = EVALUATOR.evaluate(*pair, notes=["a <b> note"])
    text = repr(report)
    assert len(text) < 200
    assert f"mAP@all {report.results['standard']['mAP@all']:.4f} (standard)" in text
    page = report._repr_html_()
    assert "<table>" in page
    assert "a &lt;b&gt; note" in page
    assert len(report.plot().axes) == 5  # four plots and the colour bar


class Counting(Matcher):
    """Cosine, counting how often each query is scored."""

    def __init__(self):
        self.cosine, self.asked = zsbir.MATCHERS.build("cosine"), []

    def fit(self, gallery):
        self.cosine.fit(gallery)
        return self

    def scores(self, queries):
        self.asked += queries.vectors[:, 0].tolist()
        return self.cosine.scores(queries)


def test_each_query_is_scored_once(pair):
    queries, gallery = pair
    lonely = replace(queries, labels=np.where(queries.labels == 3, 4, queries.labels), classes=(*CLASSES, "none"))
    matcher = Counting()
    report = Evaluator(matcher=matcher, ks=5, random=40, resamples=0).evaluate(lonely, gallery)
    assert sorted(matcher.asked) == sorted(queries.vectors[:, 0].tolist())
    assert report.counts["excluded"] == 10
    assert len(report.top) == 40  # those without a relevant photo are shown too
    assert [row.ap is None for row in report.top].count(True) == 10


def test_first_photos_confusion_and_histogram_by_definition(pair, monkeypatch):
    monkeypatch.setattr("zsbir.evaluation.measure.MAX_ROWS", 7)
    queries, gallery = pair
    report = Evaluator(ks=5, random=40, resamples=0, top=12).evaluate(*pair)
    scores = (F.normalize(queries.vectors) @ F.normalize(gallery.vectors).T).numpy()
    order = np.argsort(-scores, axis=1)
    for row in report.top:
        assert row.photos == tuple(order[row.query, :12])
        assert row.scores == pytest.approx(scores[row.query, order[row.query, :12]], abs=1e-5)
    confusion = np.zeros((4, 4))
    for label, first in zip(queries.labels, order[:, :10], strict=True):
        confusion[label] += np.bincount(gallery.labels[first], minlength=4) / 100
    assert report.confusion == pytest.approx(confusion)
    same = queries.labels[:, None] == gallery.labels
    edges = np.array(report.histogram["edges"])
    for kind, values in (("relevant", scores[same]), ("irrelevant", scores[~same])):
        exact = np.histogram(values, edges)[0] / len(values)
        assert np.abs(np.cumsum(report.histogram[kind]) - np.cumsum(exact)).max() < 0.01
