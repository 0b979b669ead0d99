"""Every definition against reference values, a slow oracle and scikit-learn."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from tests.evaluation import oracle
from zsbir.evaluation import PROTOCOLS, evaluate_scores, metrics
from zsbir.evaluation.measure import METRICS, Request, averages, measure
from zsbir.evaluation.ranking import rank_relevant

REFERENCE = Path(__file__).parents[1] / "reference"
ALL = PROTOCOLS.names()


def ranked(scores, relevant):
    columns = torch.from_numpy(np.flatnonzero(relevant))[None]
    return rank_relevant(torch.tensor([scores], dtype=torch.float64), columns, torch.tensor([columns.shape[1]]))


@pytest.mark.parametrize("case", ["balanced", "long_tail", "few_relevant"])
# Rounded to float32, a few of the reference distances become equal or swap.
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-6), (np.float32, 5e-6)])
def test_reference_values(case, dtype, tolerance):
    data = np.load(REFERENCE / "protocols.npz")
    expected = json.loads((REFERENCE / "protocols.json").read_text())[case]
    names = {"standard_micro": "standard", "standard_macro": "standard-macro"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = evaluate_scores(
            -data[f"{case}_distances"].astype(dtype),
            data[f"{case}_query_labels"],
            data[f"{case}_gallery_labels"],
            protocols=[names.get(name, name) for name in expected],
            ks=(20, 100),
        )
    for name, values in expected.items():
        for metric, value in values.items():
            assert found[names.get(name, name)][metric] == pytest.approx(value, abs=tolerance), (name, metric)
    assert found["puxim"].keys() == {"mAP@all", "mAP@20", "mAP@100"}
    assert found["dann"].keys() == {"mAP@all"}


# Few distinct values, so that ties are common; at most 7 photos, so that all orders can be gone through.
queries = st.lists(st.tuples(st.integers(-2, 3), st.booleans()), min_size=1, max_size=7).filter(
    lambda photos: any(right for _, right in photos)
)


@settings(max_examples=120, deadline=None)
@given(queries, st.integers(1, 9))
def test_ties_are_the_mean_over_all_orders(photos, k):
    scores = [float(score) for score, _ in photos]
    relevant = [right for _, right in photos]
    ranks = ranked(scores, relevant)

    def check(found, metric):
        assert float(found) == pytest.approx(oracle.mean_over_orders(metric, scores, relevant), abs=1e-9)

    check(metrics.average_precision(ranks), oracle.exact_ap)
    check(metrics.average_precision(ranks, k), lambda order: oracle.exact_ap(order, k))
    check(metrics.reciprocal_rank(ranks), oracle.reciprocal_rank)
    check(metrics.ndcg(ranks), oracle.ndcg)
    check(metrics.recall(ranks, k), lambda order: oracle.recall(order, k))
    for over in ("k", "min(k, G)", "min(k, R)", "top min(k, R)"):
        check(metrics.precision(ranks, k, over), lambda order, over=over: oracle.precision(order, k, over))
    for voc in (False, True):
        for cut in (None, k):
            found = metrics.average_precision(ranks, cut, "voc" if voc else "exact", "mean-position")
            assert float(found) == pytest.approx(oracle.mean_position_ap(scores, relevant, cut, voc), abs=1e-9)
    found = metrics.average_precision(ranks, k, "exact", "mean-position", "hits")
    assert float(found) == pytest.approx(oracle.mean_position_ap(scores, relevant, k, over="hits"), abs=1e-9)
    grouped = metrics.average_precision(ranks, None, "exact", "grouped")
    assert float(grouped) == pytest.approx(average_precision_score(relevant, scores), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 50), st.integers(1, 60))
def test_without_ties_all_agree_with_the_oracle_and_scikit_learn(seed, size, k, classes):
    generator = np.random.default_rng(seed)
    scores = generator.permutation(size).astype(np.float32)
    labels = generator.integers(0, classes, size)
    relevant = (labels == labels[0]).tolist()
    order = [relevant[i] for i in np.argsort(-scores)]
    ranks = ranked(scores.tolist(), relevant)
    assert ranks.ties is None
    exact = float(metrics.average_precision(ranks))
    assert exact == pytest.approx(average_precision_score(relevant, scores), abs=1e-12)
    for ap, slow in (("exact", oracle.exact_ap), ("voc", oracle.voc_ap)):
        ties = "mean-position" if ap == "voc" else "expectation"
        assert float(metrics.average_precision(ranks, None, ap, ties)) == pytest.approx(slow(order), abs=1e-12)
        assert float(metrics.average_precision(ranks, k, ap, ties)) == pytest.approx(slow(order, k), abs=1e-12)
    for ties in ("expectation", "mean-position", "grouped"):
        found = metrics.average_precision(ranks, k, "exact", ties, "hits")
        assert float(found) == pytest.approx(oracle.exact_ap(order, k, "hits"), abs=1e-12)
    if size > 1:
        assert float(metrics.ndcg(ranks)) == pytest.approx(ndcg_score([relevant], [scores]), abs=1e-9)


def test_scikit_learn_on_the_first_k_alone():
    generator = np.random.default_rng(0)
    scores, labels = generator.normal(size=(30, 90)), generator.integers(0, 4, 90)
    found = evaluate_scores(scores, np.arange(30) % 4, labels, ("sem-pcyc", "doodle2search"), ks=(5,))
    slow = []
    for row, label in zip(scores, np.arange(30) % 4, strict=True):
        first = np.argsort(-row)[:5]
        right = labels[first] == label
        slow.append(average_precision_score(right, row[first]) if right.any() else 0.0)
    assert found["sem-pcyc"]["mAP@5"] == pytest.approx(np.mean(slow), abs=1e-12)
    assert found["doodle2search"]["mAP@5"] == pytest.approx(np.mean(slow), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.float32, np.float64, np.int64]))
def test_no_result_depends_on_the_order_of_gallery_or_queries(seed, dtype):
    generator = np.random.default_rng(seed)
    queries, gallery = generator.integers(1, 12), generator.integers(2, 25)
    scores = generator.integers(-3, 4, (queries, gallery)).astype(dtype)  # many ties
    left, right = generator.integers(0, 4, queries), generator.integers(0, 4, gallery)
    right[:2], left[0] = (0, 1), 0
    ks = (1, 3, 30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = evaluate_scores(scores, left, right, ALL, ks)
        rows, columns = generator.permutation(queries), generator.permutation(gallery)
        again = evaluate_scores(scores[rows][:, columns], left[rows], right[columns], ALL, ks)
    for name in ALL:
        assert found[name] == pytest.approx(again[name], abs=1e-12)
        assert all(0 <= value <= 1 + 1e-12 for value in found[name].values())


def test_scores_that_differ_in_the_last_bit_only_are_no_tie():
    low = np.float32(0.3)
    scores = np.array([[low, np.nextafter(low, np.float32(1)), low]], dtype=np.float32)
    first = evaluate_scores(scores, [0], [1, 0, 1], ks=(1,))["standard"]
    last = evaluate_scores(scores, [1], [1, 0, 1], ks=(1,))["standard"]
    assert first == {"mAP@all": 1.0, "mAP@1": 1.0, "P@1": 1.0}
    assert last["P@1"] == 0.0
    assert last["mAP@all"] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_negative_zero_ties_with_zero():
    found = evaluate_scores(np.array([[0.0, -0.0]]), [0], [0, 1], ks=(1,))["standard"]
    assert found["P@1"] == 0.5


def test_collapsed_embeddings_score_chance():
    labels = np.repeat(np.arange(5), 7)
    found = evaluate_scores(np.zeros((5, 35)), np.arange(5), labels, ks=(10,))["standard"]
    assert found["mAP@all"] == pytest.approx(metrics.chance(35, 7), abs=1e-12)
    assert found["P@10"] == pytest.approx(7 / 35)
    generator = np.random.default_rng(0)
    orders = [oracle.exact_ap([bool(x) for x in generator.permutation(35) < 7]) for _ in range(4000)]
    assert metrics.chance(35, 7) == pytest.approx(np.mean(orders), abs=0.01)


def test_queries_without_a_relevant_photo_are_left_out_and_counted():
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    with pytest.warns(UserWarning, match="1 of 2 queries have no relevant photo"):
        found = evaluate_scores(scores, ["cat", "owl"], ["dog", "cat", "dog"], ks=(2,))
    assert found["standard"] == {"mAP@all": 0.5, "mAP@2": 0.5, "P@2": 0.5}


def test_average_by_class_and_by_query():
    scores = np.array([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]])  # AP 1, 1 and 1/2
    found = evaluate_scores(scores, [0, 0, 1], [0, 1], ("standard", "standard-macro"), ks=(1,))
    assert found["standard"]["mAP@all"] == pytest.approx(2.5 / 3)
    assert found["standard-macro"]["mAP@all"] == pytest.approx(0.75)


def test_precision_recall_curve():
    ranks = ranked([4.0, 3.0, 2.0, 1.0], [False, True, True, False])
    curve = metrics.interpolated_precision(ranks, [0.0, 0.5, 0.51, 1.0])
    assert curve.tolist() == [pytest.approx([2 / 3, 2 / 3, 2 / 3, 2 / 3])]
    ranks = ranked([4.0, 3.0, 2.0, 1.0], [True, False, False, True])
    assert metrics.interpolated_precision(ranks, [0.0, 0.5, 0.51, 1.0]).tolist() == [[1.0, 1.0, 0.5, 0.5]]


def test_threads_give_the_same_result():
    generator = np.random.default_rng(2)
    scores = generator.integers(-9, 9, (70, 90)).astype(np.float32)
    labels = generator.integers(0, 5, 70), generator.integers(0, 5, 90)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(evaluate_scores(scores, *labels, ALL, (4, 20)))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for name in ALL:
        assert found[0][name] == pytest.approx(found[1][name], abs=1e-12)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_what_the_cpu_gives():
    generator = np.random.default_rng(0)
    for scores in (generator.normal(size=(50, 400)), generator.integers(-4, 4, (50, 400))):
        matrix = torch.from_numpy(scores.astype(np.float32))
        labels = np.arange(50) % 9, np.arange(400) % 9
        on_cpu = evaluate_scores(matrix, *labels, ALL, (5, 50))
        on_gpu = evaluate_scores(matrix.cuda(), *labels, ALL, (5, 50))
        for name in ALL:
            assert on_gpu[name] == pytest.approx(on_cpu[name], abs=1e-12)


def test_the_size_of_chunks_does_not_matter(monkeypatch):
    generator = np.random.default_rng(1)
    scores = torch.from_numpy(generator.normal(size=(101, 60)).astype(np.float32))
    left, right = generator.integers(0, 7, 101), generator.integers(0, 6, 60)
    found = []
    for rows in (8, 512):
        monkeypatch.setattr("zsbir.evaluation.measure.MAX_ROWS", rows)
        result = measure(lambda i: scores[torch.from_numpy(i)], left, right, Request(ALL, (3, 10), METRICS))
        assert result.excluded > 0
        found.append(averages(result, ALL))
    for name, values in found[0].items():
        assert values == pytest.approx(found[1][name], abs=1e-12)


def test_neighbouring_floats_among_relevant_photos_are_no_tie():
    """Each value is tied with one irrelevant photo; the two relevant photos lie one float apart."""
    high = np.float32(0.3)
    low = np.nextafter(high, np.float32(0))
    scores = np.array([[high, high, low, low]], dtype=np.float32)
    found = evaluate_scores(scores, [0], [0, 1, 0, 1], ("standard", "sbka", "dann"), ks=(2,))
    relevant = [True, False, True, False]
    spread = [1.0, 1.0, 0.0, 0.0]
    assert found["standard"]["mAP@all"] == pytest.approx(oracle.mean_over_orders(oracle.exact_ap, spread, relevant))
    assert found["dann"]["mAP@all"] == pytest.approx(average_precision_score(relevant, spread))
    assert found["sbka"]["mAP@all"] == pytest.approx(oracle.mean_position_ap(spread, relevant, voc=True))


def test_a_recall_level_is_reached_by_the_hit_that_reaches_it():
    """0.55 * 100 is 55.00000000000001 in floats, but the 55th hit has recall 0.55."""
    ranks = ranked([float(-i) for i in range(101)], [True] * 55 + [False] + [True] * 45)
    assert 0.55 * 100 > 55
    found = metrics.interpolated_precision(ranks, [0.5, 0.55, 0.56])
    assert found.tolist() == [pytest.approx([1.0, 1.0, 100 / 101])]
