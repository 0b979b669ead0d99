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
        found = evaluate_scores(np.array([[2.0, 1.0]]), [0], [0, 0], ("standard", "sbka"), ks=(100,))
    assert found["standard"]["P@100"] == pytest.approx(0.02)
    assert found["sbka"]["P@100"] == pytest.approx(1.0)


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
