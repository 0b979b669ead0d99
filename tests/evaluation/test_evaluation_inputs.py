"""Mistakes in the input give one clear sentence, never a wrong number."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from zsbir.errors import UnknownNameError, ZsbirError
from zsbir.evaluation import Evaluator, evaluate_embeddings, evaluate_scores
from zsbir.types import Embeddings, Paths


def test_protocols_load_no_torch():
    code = "import sys, zsbir.evaluation.protocols as p; p.PROTOCOLS.describe(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("scores", "left", "right", "message"),
    [
        (np.zeros((1, 0)), [0], [], "gallery is empty"),
        (np.zeros((0, 2)), [], [0, 1], "no queries"),
        (np.zeros((1, 2)), [0], [0, -1], r"1 of 2 photos of the gallery have an unknown label"),
        (np.zeros((1, 2)), [-1], [0, 1], r"1 of 1 queries have an unknown label"),
        (np.zeros((1, 2)), [0], [0], "2 photos of the gallery need 2 labels"),
        (np.array([[np.nan, 1.0]]), [0], [0, 1], "1 of 1 rows of the scores have NaN or infinite values: row 0"),
        (np.zeros((1, 2)), [2], [0, 1], "no query has a photo of its class"),
        (np.zeros((1, 2)), [0.5], [0, 1], "whole numbers or names"),
        (np.zeros((1, 2)), ["cat"], [0, 1], "one kind"),
        (np.zeros(2), [0], [0, 1], "2 dimensions"),
        (np.zeros((1, 2), dtype=complex), [0], [0, 1], "real numbers"),
        (np.array([["a", "b"]]), [0], [0, 1], "must be numbers"),
    ],
)
def test_scores_that_cannot_be_evaluated(scores, left, right, message):
    with pytest.raises(ZsbirError, match=message):
        evaluate_scores(scores, np.array(left), np.array(right))


def test_unknown_protocol_and_bad_k():
    with pytest.raises(UnknownNameError, match="sbka"):
        evaluate_scores(np.zeros((1, 1)), [0], [0], ("sbca",))
    with pytest.raises(ZsbirError, match="at least one protocol"):
        evaluate_scores(np.zeros((1, 1)), [0], [0], ())
    with pytest.raises(ZsbirError, match="at least 1"):
        evaluate_scores(np.zeros((1, 1)), [0], [0], ks=(0,))


def test_k_above_the_gallery_is_allowed_and_said():
    with pytest.warns(UserWarning, match="k = 100 is larger than the gallery of 2 photos"):
        found = evaluate_scores(np.array([[2.0, 1.0]]), [0], [0, 1], ("standard", "sbka"), ks=(100,))
    assert found["standard"]["P@100"] == pytest.approx(0.01)
    assert found["sbka"]["P@100"] == pytest.approx(0.5)


def test_scores_are_not_changed():
    scores = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32)
    before = scores.copy()
    evaluate_scores(scores, [0, 1, 0, 1], np.arange(9) % 2, ks=(2,))
    assert np.array_equal(scores, before)


def test_half_precision_warns_and_is_exact_on_what_it_holds():
    scores = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float16)
    labels = (np.arange(4) % 2, np.arange(9) % 2)
    with pytest.warns(UserWarning, match="float16"):
        half = evaluate_scores(scores, *labels, ks=(2,))
    assert half == evaluate_scores(scores.astype(np.float64), *labels, ks=(2,))
    with pytest.warns(UserWarning, match="bfloat16"):
        evaluate_scores(torch.from_numpy(scores).bfloat16(), *labels, ks=(2,))


def side(vectors, labels, classes, domain, name="x"):
    paths = Paths(f"{name}/{i}.png" for i in range(len(vectors)))
    return Embeddings(torch.as_tensor(vectors, dtype=torch.float32), np.array(labels), classes, paths, domain)


def test_embeddings_that_cannot_be_evaluated():
    good = side([[1.0, 0.0]], [0], ("cat",), "photo")
    bad = side([[1.0, 0.0], [float("nan"), 0.0]], [0, 0], ("cat",), "sketch", "sketch")
    with pytest.raises(ZsbirError, match=r"1 of 2 queries have NaN or infinite values: sketch/1\.png"):
        Evaluator().evaluate(bad, good)
    with pytest.raises(ZsbirError, match="3 wide but the gallery is 2"):
        Evaluator().evaluate(side([[1.0, 0.0, 0.0]], [0], ("cat",), "sketch"), good)
    with pytest.raises(ZsbirError, match="3 wide but the gallery is 2"):
        evaluate_embeddings(np.zeros((1, 3)), [0], np.zeros((1, 2)), [0])
    with pytest.raises(ZsbirError, match="unknown label 1"):
        Evaluator().evaluate(side([[1.0, 0.0]], [1], ("cat",), "sketch"), good)
    with pytest.raises(ZsbirError, match="gallery is empty"):
        Evaluator().evaluate(good, side(np.zeros((0, 2)), np.zeros(0, dtype=int), ("cat",), "photo"))
    with pytest.raises(ZsbirError, match="no metric 'map'"):
        Evaluator(metrics=["map"]).evaluate(good, good)


def test_labels_are_matched_by_class_name():
    sketches = side([[1.0, 0.0], [0.0, 1.0]], [0, 1], ("cat", "dog"), "sketch")
    photos = side([[1.0, 0.0], [0.0, 1.0], [0.5, 0.4]], [1, 0, 2], ("dog", "cat", "owl"), "photo")
    report = Evaluator(ks=(1,)).evaluate(sketches, photos)
    assert report.results["standard"]["mAP@all"] == 1.0
    assert set(report.per_class["standard"]) == {"cat", "dog"}


def test_matcher_by_name():
    generator = np.random.default_rng(0)
    queries, photos = generator.normal(size=(20, 4)), generator.normal(size=(70, 4))
    labels = (np.arange(20) % 3, np.arange(70) % 3)
    distance = np.linalg.norm(queries[:, None] - photos[None], axis=2)
    expected = evaluate_scores(-distance, *labels, ("sbka", "standard"), ks=(5,))
    found = evaluate_embeddings(queries, labels[0], photos, labels[1], ("sbka", "standard"), (5,), "euclidean")
    for name in expected:
        assert found[name] == pytest.approx(expected[name], abs=1e-9)


def test_no_warning_on_a_plain_run():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate_embeddings(np.eye(3), [0, 1, 2], np.eye(3), [0, 1, 2], ks=(1,))


SCORES, LEFT, RIGHT = np.array([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0]]), [0, 1], [0, 1, 0]
STANDARD = {"mAP@all": (5 / 6 + 1) / 2, "mAP@1": 1.0, "P@1": 1.0}


@pytest.mark.parametrize(
    "given",
    [
        {"scores": SCORES[::-1][::-1]},
        {"scores": np.asfortranarray(SCORES)},
        {"scores": SCORES[:, ::-1], "gallery_labels": RIGHT[::-1]},
        {"scores": SCORES.astype(">f8")},
        {"scores": SCORES.astype(">i4")},
        {"scores": SCORES.astype(np.uint64)},
        {"scores": SCORES.astype(np.longdouble)},
        {"scores": np.ma.masked_array(SCORES, np.zeros((2, 3), dtype=bool))},
        {"scores": SCORES.tolist()},
        {"scores": torch.from_numpy(SCORES).requires_grad_()},
        {"query_labels": torch.tensor(LEFT, dtype=torch.int8)},
        {"query_labels": np.array(LEFT, dtype=object)},
        {"query_labels": np.array(LEFT, dtype=bool)},
        {"query_labels": ["a", "b"], "gallery_labels": np.array(["a", "b", "a"], dtype=object)},
        {"query_labels": np.array([2**60, 2**60 + 1]), "gallery_labels": np.array([2**60, 2**60 + 1, 2**60], "u8")},
        {"ks": 1},
        {"ks": iter([1])},
        {"ks": np.array([1])},
        {"protocols": None},
        {"protocols": "standard"},
        {"protocols": iter(["standard"])},
    ],
)
def test_the_same_in_another_form_gives_the_same(given):
    arguments = {"scores": SCORES, "query_labels": LEFT, "gallery_labels": RIGHT, "ks": (1,), **given}
    assert evaluate_scores(**arguments)["standard"] == pytest.approx(STANDARD)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scores": [[3.0, 2.0, 1.0], [1.0]]}, "rows of equal length"),
        ({"scores": np.ma.masked_array(SCORES, SCORES > 2)}, "masked"),
        ({"scores": np.array([["3", "2", "1"]] * 2, dtype=object)}, "must be numbers"),
        ({"scores": torch.from_numpy(SCORES).to_sparse()}, "dense"),
        ({"scores": np.array([[2**60, 2**60 + 1, 0]] * 2)}, "2\\^53"),
        ({"scores": None}, "must be numbers"),
        ({"query_labels": [0.0, 1.0]}, "whole numbers or names"),
        ({"query_labels": np.ma.masked_array(LEFT, [True, False])}, "masked"),
        ({"query_labels": np.array([0, "a"], dtype=object)}, "mix names"),
        ({"query_labels": [0, "a"]}, "mix names"),
        ({"query_labels": [None, "a"]}, "mix names"),
        ({"query_labels": ["0", "1"]}, "one kind"),
        ({"ks": float("nan")}, "whole number"),
        ({"ks": (1, float("nan"))}, "whole number"),
        ({"ks": (2.0,)}, "whole number"),
        ({"ks": "12"}, "whole number"),
        ({"ks": (-1,)}, "at least 1"),
        ({"protocols": ()}, "at least one protocol"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(given, message):
    arguments = {"scores": SCORES, "query_labels": LEFT, "gallery_labels": RIGHT, "ks": (1,), **given}
    with pytest.raises(ZsbirError, match=message):
        evaluate_scores(**arguments)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"protocol": "puxim", "metrics": ("P@k",)}, "'puxim' has none of the metrics asked for"),
        ({"protocol": "dann", "metrics": "P@k"}, "'dann' has none"),
        ({"protocol": ["standard", "dann"], "metrics": "P@k"}, "'dann' has none"),
        ({"metrics": ("R@k",), "ks": ()}, "has none"),
        ({"metrics": ()}, "has none"),
        ({"resamples": -1}, "resamples=-1 must be a whole number of at least 0"),
    ],
)
def test_an_evaluator_without_anything_to_compute_is_refused(given, message):
    with pytest.raises(ZsbirError, match=message):
        Evaluator(**given)


@pytest.mark.parametrize("matcher", ["cosine", "euclidean"])
@pytest.mark.parametrize("scale", [1e20, 1e-30])
def test_huge_and_tiny_vectors_score_as_ordinary_ones(matcher, scale):
    generator = np.random.default_rng(0)
    labels = np.arange(12) % 4, np.arange(40) % 4
    sides = [np.eye(4, 8)[side] + 0.1 * generator.normal(size=(len(side), 8)) for side in labels]
    found = [
        evaluate_embeddings(
            *(x for s, y in zip(sides, labels, strict=True) for x in ((s * by).astype(np.float32), y)), matcher=matcher
        )
        for by in (1.0, scale)
    ]
    assert found[0] == found[1]
    assert found[0]["standard"]["mAP@all"] == 1.0


def test_embeddings_with_labels_of_other_kinds():
    vectors = np.eye(2)
    good = side(vectors, [0, 1], ("cat", "dog"), "photo")
    with pytest.raises(ZsbirError, match="whole numbers or names, not float64"):
        Evaluator().evaluate(side(vectors, [0.6, 1.2], ("cat", "dog"), "sketch"), good)
    with pytest.raises(ZsbirError, match="positions"):
        Evaluator().evaluate(side(vectors, ["cat", "dog"], ("cat", "dog"), "sketch"), good)
    named = [side(vectors, ["dog", "cat"], (), domain) for domain in ("sketch", "photo")]
    report = Evaluator(ks=1).evaluate(*named)
    assert report.classes == ("cat", "dog")
    assert report.results["standard"]["mAP@all"] == 1.0
    large = [side(vectors, [7, 2**60], (), domain) for domain in ("sketch", "photo")]
    assert Evaluator(ks=1).evaluate(*large).classes == ("7", str(2**60))
    with pytest.raises(ZsbirError, match="takes Embeddings, not ndarray"):
        Evaluator().evaluate(vectors, vectors)
    with pytest.raises(ZsbirError, match="of one class"):
        Evaluator().evaluate(good, side(vectors, [0, 0], ("cat", "dog"), "photo"))


def test_photos_of_one_class_are_said():
    with pytest.warns(UserWarning, match="every ranking is perfect"):
        evaluate_scores(SCORES, LEFT, [0, 0, 0], ks=1)
