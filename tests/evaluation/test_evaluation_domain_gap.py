"""The domain gap against scikit-learn and known cases."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import balanced_accuracy_score

from zsbir.evaluation.domain_gap import RIDGE, domain_gap


def draw(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_one_distribution_is_at_chance_and_two_far_ones_at_one():
    x, y = draw(400, 6), draw(300, 6, seed=1)
    same, far = domain_gap(x, y), domain_gap(x, y + 10)
    assert abs(same.accuracy - 0.5) < 0.08
    assert far.accuracy == 1.0
    assert far.mean_distance == pytest.approx(10 * 6**0.5, rel=0.02)
    assert far.relative_distance == pytest.approx(10, rel=0.05)
    assert same.relative_distance < 0.1
    assert "chance 0.5" in far.describe()


@pytest.mark.parametrize("width", [3, 300])
def test_accuracy_equals_scikit_learns_on_the_same_folds(width):
    x, y = draw(90, width), draw(60, width, seed=1) + 0.3
    generator = torch.Generator().manual_seed(0)
    sides = [side[torch.randperm(len(side), generator=generator)].double().numpy() for side in (x, y)]
    found = []
    for fold in range(5):
        train = [np.concatenate([side[k::5] for k in range(5) if k != fold]) for side in sides]
        weight = np.concatenate([np.full(len(part), 0.5 / len(part)) for part in train])
        rows, target = np.concatenate(train), np.repeat([-1, 1], [len(part) for part in train])
        centre = np.average(rows, axis=0, weights=weight)
        scale = np.sqrt(np.average((rows - centre) ** 2, axis=0, weights=weight))
        oracle = RidgeClassifier(alpha=RIDGE, fit_intercept=False)
        oracle.fit((rows - centre) / scale, target, sample_weight=weight)
        test = [side[fold::5] for side in sides]
        truth = np.repeat([-1, 1], [len(part) for part in test])
        found.append(balanced_accuracy_score(truth, oracle.predict((np.concatenate(test) - centre) / scale)))
    assert domain_gap(x, y).accuracy == pytest.approx(np.mean(found), abs=1e-9)


def test_sizes_that_differ_do_not_move_chance():
    assert abs(domain_gap(draw(1000, 4), draw(50, 4, seed=1)).accuracy - 0.5) < 0.12


def test_scaling_the_embedding_changes_only_the_distance():
    x, y = draw(80, 5), draw(80, 5, seed=1) + 0.5
    small, large = domain_gap(x, y), domain_gap(1000 * x, 1000 * y)
    assert large.accuracy == small.accuracy
    assert large.mean_distance == pytest.approx(1000 * small.mean_distance, rel=1e-5)
    assert large.relative_distance == pytest.approx(small.relative_distance, rel=1e-5)


def test_embeddings_that_are_all_alike_are_at_chance():
    gap = domain_gap(torch.ones(20, 3), torch.ones(20, 3))
    assert gap.accuracy == 0.5
    assert gap.mean_distance == 0


def test_few_embeddings_make_fewer_folds_and_one_none():
    gap = domain_gap(draw(3, 2), draw(9, 2) + 20)
    assert (gap.accuracy, gap.sketches, gap.photos) == (1.0, 3, 9)
    assert domain_gap(draw(1, 2), draw(9, 2)) is None
