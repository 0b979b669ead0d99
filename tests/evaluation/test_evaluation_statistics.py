"""Intervals and tests against known results."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from zsbir.errors import ZsbirError
from zsbir.evaluation.comparison import SavedQueries, compare_saved, summarise
from zsbir.evaluation.consistency import consistent, explain
from zsbir.evaluation.statistics import bootstrap, randomisation_p


def test_bootstrap_over_queries_matches_the_normal_interval():
    generator = np.random.default_rng(0)
    values = generator.normal(0.5, 0.1, 4000)
    labels = np.arange(4000) % 8
    low, high = bootstrap({"m": values}, labels, "query", resamples=2000)["m"]
    half = 1.96 * values.std() / np.sqrt(4000)
    assert low == pytest.approx(values.mean() - half, abs=half * 0.15)
    assert high == pytest.approx(values.mean() + half, abs=half * 0.15)
    by_class = bootstrap({"m": values}, labels, "class", resamples=2000)["m"]
    assert by_class == pytest.approx((low, high), abs=half * 0.3)


@pytest.mark.parametrize("average", ["query", "class"])
def test_bootstrap_over_classes_sees_how_classes_differ(average):
    labels = np.repeat(np.arange(10), [10, 20, 30, 40, 50, 10, 20, 30, 40, 50])
    values = {"m": labels / 10.0, "constant": np.full(len(labels), 0.25)}
    queries = bootstrap(values, labels, average, "queries", resamples=500)
    classes = bootstrap(values, labels, average, "classes", resamples=500)
    assert classes["m"][1] - classes["m"][0] > 2 * (queries["m"][1] - queries["m"][0])
    assert queries["constant"] == pytest.approx((0.25, 0.25))
    assert classes["constant"] == pytest.approx((0.25, 0.25))
    assert bootstrap(values, labels, average, resamples=500) == queries  # same seed, same interval


def test_bootstrap_by_class_against_a_loop():
    generator = np.random.default_rng(3)
    labels, values = generator.integers(0, 4, 40), generator.random(40)
    found = bootstrap({"m": values}, labels, "class", resamples=300, seed=5)["m"]
    order = np.argsort(np.unique(labels, return_inverse=True)[1], kind="stable")
    draws, means = np.random.default_rng(5), []
    for _ in range(300):
        index = order[draws.integers(0, 40, 40)]
        means.append(np.mean([values[index[labels[index] == c]].mean() for c in np.unique(labels[index])]))
    assert found == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


def test_bad_bootstrap():
    with pytest.raises(ZsbirError, match="resamples"):
        bootstrap({"m": np.ones(2)}, np.zeros(2, dtype=int), "query", resamples=0)


def test_randomisation_against_all_signs():
    difference = np.array([0.3, -0.1, 0.2, 0.25, 0.05, -0.02, 0.4, 0.1])
    weights = np.full(8, 1 / 8)
    sums = [abs(np.dot(signs, difference)) for signs in itertools.product((-1, 1), repeat=8)]
    exact = np.mean([s >= abs(difference.sum()) - 1e-12 for s in sums])
    assert randomisation_p(difference, weights, 40_000) == pytest.approx(exact, abs=0.006)
    assert randomisation_p(np.zeros(8), weights, 200) == 1.0


def test_p_is_uniform_when_there_is_no_difference():
    generator = np.random.default_rng(0)
    ps = [randomisation_p(generator.normal(size=60), np.full(60, 1 / 60), 400, seed=i) for i in range(200)]
    assert np.mean(np.array(ps) < 0.05) == pytest.approx(0.05, abs=0.04)
    assert np.mean(ps) == pytest.approx(0.5, abs=0.07)


def saved(values, paths, labels=None, setting="zero-shot", average="query"):
    labels = np.zeros(len(values), dtype=np.int64) if labels is None else labels
    classes = ("cat", "dog", *map(str, range(8)))
    return SavedQueries(
        {"standard": {"mAP@all": np.array(values)}}, labels, classes, tuple(paths), {"standard": average}, setting
    )


def test_compare():
    generator = np.random.default_rng(0)
    labels, paths = np.arange(300) % 10, [str(i) for i in range(300)]
    first = generator.random(300)

    def compare(second, average):
        sides = (saved(values, paths, labels, average=average) for values in (first, second))
        return compare_saved(*sides, permutations=500, resamples=300)

    better = compare(first + 0.1 + 0.01 * generator.normal(size=300), "class")
    assert better.difference == pytest.approx(0.1, abs=0.01)
    assert better.interval[0] > 0.09
    assert better.class_interval[0] > 0.09
    assert better.p < 0.01
    same = compare(generator.permutation(first), "query")
    assert same.interval[0] < 0 < same.interval[1]


def test_classes_of_any_size_weigh_the_same_where_the_protocol_says_so():
    labels = np.array([0, 0, 0, 1])
    sides = [saved(values, "abcd", labels, average="class") for values in ([0, 0, 0, 0], [0.3, 0.3, 0.3, 0.9])]
    assert compare_saved(*sides, permutations=9, resamples=9).difference == pytest.approx(0.6)


def test_compare_saved_matches_queries_by_file():
    first = saved([0.1, 0.2, 0.3], ["a", "b", "c"], np.array([0, 1, 1]))
    second = saved([0.5, 0.1, 0.9], ["c", "a", "d"], np.array([1, 0, 1]), "few-queries")
    found = compare_saved(first, second, permutations=50, resamples=50)
    assert found.queries == 2
    assert found.classes == pytest.approx({"cat": 0.0, "dog": 0.2})
    assert found.difference == pytest.approx(0.1)
    assert "only 2 queries are in both" in found.notes[0]
    assert "settings differ" in found.notes[1]
    assert 0 < found.p <= 1
    with pytest.raises(ZsbirError, match="no query in common"):
        compare_saved(first, saved([0.1], ["z"]))
    with pytest.raises(ZsbirError, match="not both runs"):
        compare_saved(first, second, "sbka")
    with pytest.raises(ZsbirError, match="mAP@all"):
        compare_saved(first, second, "standard", "mAP@al")


def test_summary_over_seeds():
    runs = [{"standard": {"mAP@all": value}} for value in (0.1, 0.2, 0.3)]
    found = summarise(runs)
    assert found["standard"]["mAP@all"]["mean"] == pytest.approx(0.2)
    assert found["standard"]["mAP@all"]["sd"] == pytest.approx(0.1)
    with pytest.raises(ZsbirError, match="at least two"):
        summarise(runs[:1])
    with pytest.raises(ZsbirError, match="different protocols"):
        summarise([runs[0], {"sbka": {"mAP@all": 0.1}}])


def verdicts(*pair):
    return {e.protocol: e.verdict for e in explain(*pair)}


def test_a_published_pair_above_its_precision():
    assert not consistent(0.805, 0.768)
    assert consistent(0.768, 0.768)
    found = verdicts(0.805, 0.768, 200)
    assert found["standard"] == found["sbka"] == found["zse"] == "only with small classes"
    assert found["sem-pcyc"] == "possible"
    assert found["puxim"] == found["dann"] == "undefined"
    assert verdicts(0.0, 1.0, 10)["standard"] == "impossible"
    assert verdicts(0.5, 0.5, 10)["standard"] == "possible"


@pytest.mark.parametrize("bad", [(80.5, 0.7, 200), (0.8, -0.1, 200), (0.8, 0.7, 0)])
def test_explain_refuses_what_is_no_pair(bad):
    with pytest.raises(ZsbirError):
        explain(*bad)


@pytest.mark.parametrize("classes", [3, 30])
def test_every_real_pair_is_possible_under_its_own_protocol(classes):
    from zsbir.evaluation import evaluate_scores

    generator = np.random.default_rng(classes)
    k = 8
    for _ in range(15):
        right = generator.integers(0, classes, 90)
        left = right[:25]
        scores = generator.normal(size=(25, 90)) + generator.uniform(0, 3) * (left[:, None] == right[None])
        names = ("standard", "sbka", "zse", "sem-pcyc", "doodle2search")
        found = evaluate_scores(scores, left, right, names, (k,))
        small = np.bincount(right, minlength=classes)[left].min() < k
        for name in names:
            verdict = verdicts(found[name][f"mAP@{k}"], found[name][f"P@{k}"], k)[name]
            assert verdict == "possible" or (small and verdict == "only with small classes"), (name, verdict)


def test_the_draw_that_was_seen_counts():
    """A difference that no random sign reaches: p is 1 / (draws + 1), never 0."""
    difference = np.full(60, 0.5)
    assert randomisation_p(difference, np.full(60, 1 / 60), permutations=99) == 1 / 100


def test_classes_that_a_resample_misses_do_not_count():
    """Two classes of one query each: half of the resamples have one of them alone, with its own mean."""
    found = bootstrap({"m": np.array([0.4, 0.8])}, np.array([0, 1]), "class", resamples=400)["m"]
    assert found == (0.4, 0.8)
