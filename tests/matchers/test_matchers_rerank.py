"""Query expansion, k-reciprocal re-ranking and diffusion against slow versions by definition."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import zsbir
from zsbir.errors import ZsbirError
from zsbir.matchers.base import top_neighbours
from zsbir.matchers.diffusion import Diffusion
from zsbir.matchers.k_reciprocal import KReciprocal
from zsbir.matchers.query_expansion import QueryExpansion
from zsbir.types import Embeddings

NAMES = ("query-expansion", "k-reciprocal", "diffusion")


def embeddings(rows: int, seed: int, width: int = 6, noise: float = 0.7) -> Embeddings:
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 4
    vectors = np.eye(4, width)[labels] + noise * rng.standard_normal((rows, width)) / math.sqrt(width)
    return Embeddings(torch.from_numpy(vectors).float(), labels)


GALLERY, QUERIES = embeddings(50, 0), embeddings(9, 1)


def cosines(x: Embeddings, y: Embeddings) -> np.ndarray:
    a, b = (e.vectors.double().numpy() for e in (x, y))
    return (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [1, 4, 9])
def test_chunks_of_queries_do_not_matter(name, rows):
    matcher = zsbir.MATCHERS.build(name).fit(GALLERY)
    whole = matcher.scores(QUERIES)
    parts = [
        matcher.scores(Embeddings(QUERIES.vectors[i : i + rows], QUERIES.labels[i : i + rows]))
        for i in range(0, len(QUERIES), rows)
    ]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_query_expansion_by_definition(alpha):
    scores = QueryExpansion(neighbours=5, alpha=alpha).fit(GALLERY).scores(QUERIES)
    photos = GALLERY.vectors.double().numpy()
    photos = photos / np.linalg.norm(photos, axis=1, keepdims=True)
    for i, query in enumerate(QUERIES.vectors.double().numpy()):
        query = query / np.linalg.norm(query)
        order = sorted(range(len(photos)), key=lambda j: -(photos[j] @ query))[:5]
        wider = query + sum(max(photos[j] @ query, 0) ** alpha * photos[j] for j in order)
        np.testing.assert_allclose(scores[i].numpy(), photos @ wider / np.linalg.norm(wider), atol=1e-5)


def slow_k_reciprocal(k1: int, k2: int, weight: float) -> np.ndarray:
    among = cosines(GALLERY, GALLERY)
    count = len(among)
    lists = [sorted((j for j in range(count) if j != i), key=lambda j: -among[i, j]) for i in range(count)]

    def is_near(x_to_photo: float, photo: int, k: int) -> bool:
        return x_to_photo >= among[photo, lists[photo][min(k, count - 1) - 1]]

    def mutual(similar: np.ndarray, order: list[int], k: int) -> set[int]:
        return {j for j in order[:k] if is_near(similar[j], j, k)}

    half = max(1, round(k1 / 2))
    halves = [mutual(among[i], lists[i], half) | {i} for i in range(count)]

    def encode(similar: np.ndarray, order: list[int], itself: int | None) -> np.ndarray:
        base = mutual(similar, order, k1) | (set() if itself is None else {itself})
        grown = set(base)
        for member in base:
            if len(halves[member] & base) > 2 / 3 * len(halves[member]):
                grown |= halves[member]
        code = np.zeros(count)
        for j in grown:
            code[j] = math.exp(-(1 - similar[j]))
        return code / code.sum() if grown else code

    def average(code: np.ndarray, order: list[int], codes: list[np.ndarray]) -> np.ndarray:
        parts = [p for p in [code, *(codes[j] for j in order[: k2 - 1])] if p.sum() > 0]
        return np.mean(parts, axis=0) if parts else code

    codes = [encode(among[i], lists[i], i) for i in range(count)]
    averaged = [average(codes[i], lists[i], codes) for i in range(count)]
    asked = cosines(QUERIES, GALLERY)
    out = np.zeros_like(asked)
    for i, similar in enumerate(asked):
        order = sorted(range(count), key=lambda j: -similar[j])
        code = average(encode(similar, order, None), order, codes)
        for j in range(count):
            least, most = np.minimum(code, averaged[j]).sum(), np.maximum(code, averaged[j]).sum()
            out[i, j] = -((1 - weight) * (1 - least / most) + weight * (1 - similar[j]))
    return out


@pytest.mark.parametrize(("k1", "k2"), [(6, 1), (8, 3), (20, 6), (100, 4)])
def test_k_reciprocal_by_definition(k1, k2):
    found = KReciprocal(k1, k2, 0.3).fit(GALLERY).scores(QUERIES).numpy()
    np.testing.assert_allclose(found, slow_k_reciprocal(k1, k2, 0.3), atol=1e-5)


def test_diffusion_by_definition():
    matcher = Diffusion(neighbours=7, query_neighbours=3, alpha=0.9, gamma=2.0, iterations=200).fit(GALLERY)
    found = matcher.scores(QUERIES).numpy()
    among = cosines(GALLERY, GALLERY)
    np.fill_diagonal(among, -np.inf)
    near = np.zeros_like(among, dtype=bool)
    for i, row in enumerate(among):
        near[i, np.argsort(-row)[:7]] = True
    graph = np.where(near & near.T, np.clip(among, 0, None) ** 2, 0)
    degree = graph.sum(1)
    scale = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0)
    graph = graph * scale[:, None] * scale
    for i, similar in enumerate(cosines(QUERIES, GALLERY)):
        start = np.zeros(len(graph))
        first = np.argsort(-similar)[:3]
        start[first] = np.clip(similar[first], 0, None) ** 2
        expected = np.linalg.solve(np.eye(len(graph)) - 0.9 * graph, start)
        reached = expected > 1e-5
        np.testing.assert_allclose(found[i][reached], expected[reached], atol=1e-4)
        assert (found[i][~reached] < 1e-4).all()


def test_unreached_photos_follow_by_cosine():
    vectors = torch.cat([torch.eye(2, 4).repeat_interleave(3, 0), torch.eye(4)[2:].repeat_interleave(3, 0)])
    vectors = vectors + 0.01 * torch.randn(12, 4)
    matcher = Diffusion(neighbours=2, query_neighbours=1).fit(Embeddings(vectors, np.zeros(12, dtype=np.int64)))
    query = Embeddings(torch.tensor([[1.0, 0.2, 0.1, 0.0]]), np.zeros(1, dtype=np.int64))
    scores = matcher.scores(query)[0]
    assert (scores[:3] > 0).all()
    order = scores.argsort(descending=True).tolist()
    assert [i // 3 for i in order] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


def test_neighbours_are_chunked_exactly():
    vectors = torch.nn.functional.normalize(torch.randn(57, 5), dim=1)
    whole = top_neighbours(vectors, 6)
    parts = top_neighbours(vectors, 6, chunk=10)
    assert torch.equal(whole[1], parts[1])
    assert not (whole[1] == torch.arange(57)[:, None]).any()


@pytest.mark.parametrize("name", NAMES)
def test_re_ranking_helps_on_clear_groups(name):
    """A sanity check of direction: more photos of the query's class come first than by cosine."""
    gallery, queries = embeddings(200, 3, noise=0.9), embeddings(40, 4, noise=0.9)
    same = queries.labels[:, None] == gallery.labels

    def precision(matcher: str) -> float:
        # Diffusion's published 50 neighbours are a quarter of this gallery.
        settings = {"neighbours": 10} if matcher == "diffusion" else {}
        scores = zsbir.MATCHERS.build(matcher, **settings).fit(gallery).scores(queries)
        top = scores.topk(50, dim=1).indices.numpy()
        return float(np.take_along_axis(same, top, axis=1).mean())

    assert precision(name) > precision("cosine")


@pytest.mark.parametrize("name", NAMES)
def test_small_galleries_and_misuse(name):
    with pytest.raises(ZsbirError, match="call fit"):
        zsbir.MATCHERS.build(name).scores(QUERIES)
    two = zsbir.MATCHERS.build(name).fit(embeddings(2, 0))
    assert torch.isfinite(two.scores(QUERIES)).all()
    with pytest.raises(ZsbirError, match="one model"):
        two.scores(Embeddings(torch.zeros(1, 3), np.zeros(1, dtype=np.int64)))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("query-expansion", {"neighbours": 0}),
        ("k-reciprocal", {"k1": 0}),
        ("k-reciprocal", {"weight": 2.0}),
        ("diffusion", {"alpha": 1.0}),
    ],
)
def test_bad_settings_are_refused(name, settings):
    with pytest.raises(ZsbirError, match="must be"):
        zsbir.MATCHERS.build(name, **settings)


def test_one_photo():
    one = embeddings(1, 0)
    assert zsbir.MATCHERS.build("k-reciprocal").fit(one).scores(QUERIES).shape == (9, 1)
    with pytest.raises(ZsbirError, match="two photos"):
        zsbir.MATCHERS.build("diffusion").fit(one)


@pytest.mark.parametrize("name", [n for n in zsbir.MATCHERS.names() if n != "relation"])
def test_scores_before_fit_say_what_to_call(name):
    with pytest.raises(ZsbirError, match=r"call fit\(gallery\) first"):
        zsbir.MATCHERS.build(name).scores(QUERIES)


@pytest.mark.parametrize("name", ["cosine", "euclidean", "query-expansion", "k-reciprocal"])
@pytest.mark.parametrize("scale", [1e20, 1e-30])
def test_huge_and_tiny_vectors_are_ranked_as_ordinary_ones(name, scale):
    def ranked(factor):
        sides = (replace(side, vectors=side.vectors * factor) for side in (GALLERY, QUERIES))
        gallery, queries = sides
        return zsbir.MATCHERS.build(name).fit(gallery).scores(queries).argsort(dim=1)

    assert torch.equal(ranked(scale), ranked(1.0))


def test_a_matcher_says_what_it_is_in_a_line():
    assert repr(zsbir.MATCHERS.build("query-expansion", alpha=1.0)).startswith("<query-expansion(neighbours=10")
