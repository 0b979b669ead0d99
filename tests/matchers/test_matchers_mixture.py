"""The mixture and k-means against scikit-learn, from the same start."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.metrics import silhouette_score
from sklearn.mixture import GaussianMixture

from zsbir.matchers._kmeans import candidates, choose_clusters, kmeans, nearest, silhouette
from zsbir.matchers._mixture import BLOCK, bic, fit_mixture, log_likelihood

KINDS = [("full", "full"), ("diagonal", "diag"), ("spherical", "spherical")]


def blobs(rows: int, width: int, groups: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(groups, size=rows)
    centers = rng.standard_normal((groups, width))
    shape = rng.standard_normal((width, width)) / np.sqrt(width)
    return centers[labels] + spread * rng.standard_normal((rows, width)) @ shape, labels


def sklearn_start(x: np.ndarray, clusters: int) -> np.ndarray:
    """The k-means labels that GaussianMixture(random_state=0) starts from."""
    return SklearnKMeans(clusters, n_init=1, random_state=np.random.RandomState(0)).fit(x).labels_.astype(np.int64)


@pytest.mark.parametrize(("kind", "theirs"), KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spread", [0.3, 1.5])  # components far apart, and overlapping
def test_equal_to_sklearn_from_the_same_start(kind, theirs, dtype, spread):
    x = blobs(500, 8, 5, spread)[0].astype(dtype)
    expected = GaussianMixture(5, covariance_type=theirs, random_state=0).fit(x.astype(np.float64))
    start = sklearn_start(x.astype(np.float64), 5)
    mixture = fit_mixture(torch.from_numpy(x), torch.from_numpy(start), 5, kind)
    tolerance = 1e-4 if dtype == np.float32 else 1e-9
    np.testing.assert_allclose(mixture.means.numpy(), expected.means_, atol=tolerance)
    np.testing.assert_allclose(mixture.weights.numpy(), expected.weights_, atol=tolerance)
    assert mixture.log_likelihood == pytest.approx(expected.lower_bound_, abs=tolerance)
    assert log_likelihood(torch.from_numpy(x), mixture) == pytest.approx(expected.score(x), abs=tolerance)
    assert mixture.iterations == expected.n_iter_
    assert mixture.converged
    assert not mixture.notes
    if dtype == np.float64:
        assert bic(torch.from_numpy(x), mixture) == pytest.approx(expected.bic(x), rel=1e-9)
        if kind == "full":
            np.testing.assert_allclose(mixture.factors.numpy(), expected.precisions_cholesky_, atol=1e-6)


@pytest.mark.parametrize("spread", [0.2, 1.0])
def test_rows_left_out_in_many_dimensions_change_nothing(spread):
    """Wider than a block, so that rows drop out between blocks."""
    x = blobs(900, 2 * BLOCK + 17, 4, spread)[0]
    expected = GaussianMixture(4, random_state=0).fit(x)
    mixture = fit_mixture(torch.from_numpy(x), torch.from_numpy(sklearn_start(x, 4)), 4)
    np.testing.assert_allclose(mixture.means.numpy(), expected.means_, atol=1e-9)
    assert mixture.log_likelihood == pytest.approx(expected.lower_bound_, abs=1e-8)
    assert mixture.iterations == expected.n_iter_


def test_iteration_limit_is_reported():
    x = torch.from_numpy(blobs(300, 4, 4, 1.5)[0])
    mixture = fit_mixture(x, torch.arange(300) % 4, 4, max_iter=2)
    assert mixture.iterations == 2
    assert not mixture.converged


def test_log_likelihood_never_falls():
    x = torch.from_numpy(blobs(300, 4, 4, 1.0)[0])
    values = [fit_mixture(x, torch.arange(300) % 4, 4, max_iter=n, tol=0).log_likelihood for n in range(1, 12)]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(values))


def test_empty_component_keeps_its_place_and_is_named():
    x = torch.from_numpy(blobs(200, 3, 2, 0.2)[0])
    labels = (torch.arange(200) % 2).long()
    mixture = fit_mixture(x, labels, 3, max_iter=5)
    assert any("component 2 is empty" in note for note in mixture.notes)
    assert torch.isfinite(mixture.means).all()
    assert float(mixture.weights[2]) < 1e-9


def test_degenerate_component_is_mended_and_named():
    x = torch.zeros(60, 4, dtype=torch.float64)
    x[:30] = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[30:, 0] = 7.0  # thirty equal rows
    mixture = fit_mixture(x, (torch.arange(60) >= 30).long(), 2, reg=0.0)
    assert any("component 1 is degenerate" in note for note in mixture.notes)
    assert torch.isfinite(mixture.means).all()
    np.testing.assert_allclose(mixture.means[1].numpy(), [7, 0, 0, 0], atol=1e-9)


def test_float32_far_from_zero_is_no_worse():
    x = blobs(400, 6, 3, 0.3)[0]
    start = torch.from_numpy(sklearn_start(x, 3))
    near = fit_mixture(torch.from_numpy(x), start, 3)
    far = fit_mixture(torch.from_numpy(x + 100).float(), start, 3)
    np.testing.assert_allclose(far.means.numpy() - 100, near.means.numpy(), atol=1e-4)
    assert far.log_likelihood == pytest.approx(near.log_likelihood, abs=1e-3)


def test_kmeans_equals_sklearn_from_the_same_centres():
    x = blobs(400, 5, 6, 0.8)[0]
    start = x[:6].copy()
    expected = SklearnKMeans(6, init=start, n_init=1, tol=1e-4).fit(x)
    found = kmeans(torch.from_numpy(x), 6, start=torch.from_numpy(start))
    np.testing.assert_allclose(found.centers.numpy(), expected.cluster_centers_, atol=1e-9)
    np.testing.assert_array_equal(found.labels.numpy(), expected.labels_)
    assert found.inertia == pytest.approx(expected.inertia_)


def test_kmeans_plus_plus_finds_separate_blobs_and_repeats():
    x, labels = blobs(300, 6, 8, 0.02)
    first, again = (kmeans(torch.from_numpy(x), 8, seed=3) for _ in range(2))
    assert torch.equal(first.centers, again.centers)
    assert len(np.unique(first.labels.numpy() * 8 + labels)) == 8


def test_kmeans_with_too_few_distinct_rows_says_so():
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).repeat(10, 1)
    found = kmeans(x, 4)
    assert found.empty == 2
    assert torch.isfinite(found.centers).all()


def test_nearest_is_chunked_exactly():
    x, words = torch.randn(101, 7), torch.randn(9, 7)
    whole = nearest(x, words)
    parts = nearest(x, words, chunk=10)
    assert torch.equal(whole[0], parts[0])
    torch.testing.assert_close(whole[1], torch.cdist(x, words).min(1).values.square(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(whole[1], parts[1])


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(4, 40), clusters=st.integers(2, 4), seed=st.integers(0, 99))
def test_silhouette_equals_sklearn(rows, clusters, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 3))
    labels = rng.integers(clusters, size=rows)
    labels[:2] = 0, 1
    if len(np.unique(labels)) >= rows:
        return
    found = silhouette(torch.from_numpy(x), torch.from_numpy(labels))
    assert found == pytest.approx(silhouette_score(x, labels), abs=1e-9)


@pytest.mark.parametrize("rule", ["silhouette", "bic"])
def test_the_number_of_clear_clusters_is_found(rule):
    rng = np.random.default_rng(1)
    x = torch.from_numpy(2 * rng.standard_normal((7, 6))[np.arange(400) % 7] + 0.2 * rng.standard_normal((400, 6)))
    clusters, ratings = choose_clusters(x, rule, 16, seed=0)
    assert clusters == 7
    assert max(ratings, key=ratings.get) == 7


def test_candidates_rise_to_the_limit():
    for most in range(1, 80):
        values = candidates(most)
        assert values == sorted(set(values))
        assert all(2 <= v <= most for v in values)


def test_kmeans_stops_at_sklearns_tolerance():
    x = blobs(400, 5, 6, 2.5)[0]
    for tol in (1e-1, 1e-2):
        expected = SklearnKMeans(6, init=x[:6].copy(), n_init=1, tol=tol).fit(x)
        found = kmeans(torch.from_numpy(x), 6, tol=tol, start=torch.from_numpy(x[:6].copy()))
        exact = kmeans(torch.from_numpy(x), 6, tol=0, start=torch.from_numpy(x[:6].copy()))
        assert found.iterations == expected.n_iter_ < exact.iterations


def test_an_empty_cluster_moves_to_the_row_furthest_from_its_own():
    x = torch.tensor([[0.0, 0.0], [0.1, 0.0], [5.0, 0.0], [5.1, 0.0], [20.0, 0.0]])
    start = torch.tensor([[0.0, 0.0], [5.0, 0.0], [500.0, 0.0]])  # nothing is near the third
    found = kmeans(x, 3, start=start)
    assert found.empty == 0
    assert found.labels.tolist() == [0, 0, 1, 1, 2]
    assert found.centers[2].tolist() == [20.0, 0.0]


@pytest.mark.parametrize("clusters", [18, 20])
def test_the_second_round_finds_what_lies_between_the_candidates(clusters):
    """Neither number is among the first round's."""
    assert clusters not in candidates(40)
    rng = np.random.default_rng(0)
    centres = 10 * np.eye(clusters)
    x = torch.from_numpy(centres[np.arange(400) % clusters] + 0.05 * rng.standard_normal((400, clusters)))
    assert choose_clusters(x, "silhouette", 40, seed=0)[0] == clusters
