"""One-to-many matching: the published codes, distances and scores; its own fit; saving and adding photos."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import zsbir
from zsbir.errors import ZsbirError
from zsbir.evaluation.scoring import evaluate_embeddings, evaluate_scores
from zsbir.matchers._codebook import Codebook, split
from zsbir.matchers._mixture import fit_mixture
from zsbir.matchers.base import Matcher
from zsbir.matchers.one_to_many import GRIDS, OneToMany
from zsbir.types import Embeddings

REFERENCE = Path(__file__).parents[1] / "reference"
CASES = [("M2_K8", 2, 8), ("M4_K8", 4, 8), ("M2_K12", 2, 12)]


@pytest.fixture(scope="module")
def case():
    with np.load(REFERENCE / "sbka_matching.npz") as data:
        return {name: data[name] for name in data.files}


@pytest.fixture
def gallery(case):
    return Embeddings(torch.from_numpy(case["gallery"]), case["gallery_labels"])


@pytest.fixture
def queries(case):
    return Embeddings(torch.from_numpy(case["queries"]), case["query_labels"], domain="sketch")


@pytest.mark.parametrize(("name", "subspaces", "clusters"), CASES)
def test_given_codewords_all_is_as_published(case, gallery, queries, name, subspaces, clusters):
    matcher = OneToMany(subspaces, clusters, normalise=False)
    matcher.apply(Codebook(torch.from_numpy(case[f"{name}_codewords"])), gallery)
    np.testing.assert_array_equal(matcher.codes.numpy(), case[f"{name}_codes"])
    scores = matcher.scores(queries)
    np.testing.assert_allclose(-scores.numpy(), case[f"{name}_fused"], atol=2e-6)
    only_codes = OneToMany(subspaces, clusters, weight=1.0, normalise=False)
    only_codes.apply(Codebook(torch.from_numpy(case[f"{name}_codewords"])), gallery)
    np.testing.assert_allclose(-only_codes.scores(queries).numpy(), case[f"{name}_adist"], atol=2e-6)
    found = evaluate_scores(scores, case["query_labels"], case["gallery_labels"], ("sbka",), (20, 50))["sbka"]
    published = json.loads((REFERENCE / "sbka_matching.json").read_text())[name]
    assert found["mAP@all"] == pytest.approx(published["macro_map_all"], abs=1e-5)
    assert found["mAP@50"] == pytest.approx(published["macro_map_50"], abs=1e-5)
    assert found["P@20"] == pytest.approx(published["macro_p_20"], abs=1e-6)


@pytest.mark.parametrize(("name", "subspaces", "clusters"), CASES)
def test_ap_of_each_query_is_as_published(case, gallery, queries, name, subspaces, clusters):
    """In float64, as published: float32 swaps a few neighbours, which moves an AP by 1e-5."""
    matcher = OneToMany(subspaces, clusters, normalise=False, precision="float64")
    matcher.apply(Codebook(torch.from_numpy(case[f"{name}_codewords"])), gallery)
    scores = matcher.scores(queries)
    for i in range(0, len(queries), 3):
        one = evaluate_scores(
            scores[i : i + 1], case["query_labels"][i : i + 1], case["gallery_labels"], ("sbka",), (50,)
        )["sbka"]
        assert one["mAP@all"] == pytest.approx(case[f"{name}_ap_all"][i], abs=1e-9)
        assert one["mAP@50"] == pytest.approx(case[f"{name}_ap_50"][i], abs=1e-9)


@pytest.mark.parametrize(("name", "subspaces", "clusters"), CASES)
def test_own_fit_scores_as_published(case, name, subspaces, clusters):
    """Over seeds: single fits scatter."""
    published = json.loads((REFERENCE / "sbka_matching.json").read_text())[name]["macro_map_all"]
    scores = [
        evaluate_embeddings(
            case["queries"],
            case["query_labels"],
            case["gallery"],
            case["gallery_labels"],
            ("sbka",),
            (20,),
            {"name": "one-to-many", "subspaces": subspaces, "clusters": clusters, "seed": seed},
        )["sbka"]["mAP@all"]
        for seed in range(5)
    ]
    assert np.mean(scores) == pytest.approx(published, abs=0.03)


def test_slow_loop_agrees(gallery, queries):
    """Distances by their definition, one pair at a time, with unnormalised vectors and four sub-spaces."""
    shifted = Embeddings(gallery.vectors[:40] * 3 + 5, gallery.labels[:40])
    asked = Embeddings(queries.vectors[:5] * 3 + 5, queries.labels[:5])
    matcher = zsbir.MATCHERS.build(
        "one-to-many", subspaces=4, clusters=3, weight=0.6, model="diagonal", normalise=False
    ).fit(shifted)
    scores = matcher.scores(asked)
    words = matcher.codebook.codewords.double()
    for i, query in enumerate(asked.vectors.double()):
        for j, photo in enumerate(shifted.vectors.double()):
            near = sum(
                (q - w[((w - g) ** 2).sum(1).argmin()]).square().sum()
                for q, g, w in zip(query.split(8), photo.split(8), words, strict=True)
            )
            expected = 0.6 * near + 0.4 * (query - photo).norm()
            assert float(-scores[i, j]) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("model", ["full", "diagonal", "spherical", "k-means"])
def test_chunks_of_queries_do_not_matter(gallery, queries, model):
    matcher = zsbir.MATCHERS.build("one-to-many", clusters=6, model=model).fit(gallery)
    whole = matcher.scores(queries)
    parts = [
        matcher.scores(Embeddings(vectors, labels))
        for vectors, labels in zip(queries.vectors.split(17), np.array_split(queries.labels, 6), strict=False)
    ]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-6, rtol=0)


def test_weight_zero_is_plain_euclidean(gallery, queries, case):
    matcher = zsbir.MATCHERS.build("one-to-many", clusters=4, weight=0.0, normalise=False).fit(gallery)
    np.testing.assert_allclose(-matcher.scores(queries).numpy(), case["euclidean"], atol=1e-5)


def test_float64_fit_and_same_seed_repeat(gallery, queries):
    build = lambda seed, precision="float32": zsbir.MATCHERS.build(  # noqa: E731
        "one-to-many", clusters=8, seed=seed, precision=precision
    ).fit(gallery)
    assert torch.equal(build(1).scores(queries), build(1).scores(queries))
    assert not torch.equal(build(1).scores(queries), build(2).scores(queries))
    torch.testing.assert_close(
        build(1, "float64").scores(queries), build(1).scores(queries).double(), atol=1e-4, rtol=0
    )


def test_auto_looks_at_no_label_and_says_how(gallery, queries):
    matcher = zsbir.MATCHERS.build("one-to-many").fit(gallery)
    blind = zsbir.MATCHERS.build("one-to-many").fit(Embeddings(gallery.vectors, np.full(len(gallery), -1)))
    assert torch.equal(matcher.scores(queries), blind.scores(queries))
    assert matcher.codebook.codewords.shape[1] == 9  # the photos' true number of classes
    line = matcher.describe()
    assert "M=2, K=9 chosen by silhouette on the gallery without labels" in line
    assert "transductive: fitted on the gallery" in line


def test_sweep_has_the_published_cells():
    matcher = zsbir.MATCHERS.build("one-to-many", sweep="sketchy-25", seed=3)
    variants = matcher.variants()
    assert [(v.subspaces, v.clusters) for v in variants] == [(m, k) for m in (2, 4) for k in range(22, 29)]
    assert all(v.seed == 3 and v.grid is None for v in variants)
    assert "M in 2, 4; K in 22–28" in matcher.describe()
    assert len(OneToMany().variants()) == 1
    assert GRIDS["quickdraw-30"][0] == (2,)
    with pytest.raises(ZsbirError, match="test labels"):
        matcher.fit(Embeddings(torch.randn(8, 4), np.zeros(8, dtype=np.int64)))
    with pytest.raises(ZsbirError, match="Did you mean 'sketchy-25'"):
        OneToMany(sweep="sketchy25")


@pytest.mark.parametrize("weight", [0.8, 1.0])
def test_saved_matcher_takes_new_queries_and_photos(gallery, queries, tmp_path, weight):
    first = Embeddings(gallery.vectors[:500], gallery.labels[:500])
    more = Embeddings(gallery.vectors[500:], gallery.labels[500:])
    matcher = zsbir.MATCHERS.build("one-to-many", clusters=8, weight=weight).fit(first)
    matcher.save(tmp_path / "m")
    again = OneToMany.load(tmp_path / "m")
    assert again.spec == matcher.spec
    assert again.describe() == matcher.describe()
    torch.testing.assert_close(again.scores(queries), matcher.scores(queries), atol=0, rtol=0)
    before = again.codebook.codewords.clone()
    again.add(more)
    assert torch.equal(again.codebook.codewords, before)  # no refit
    whole = zsbir.MATCHERS.build("one-to-many", clusters=8, weight=weight).apply(again.codebook, gallery)
    torch.testing.assert_close(again.scores(queries), whole.scores(queries), atol=1e-6, rtol=0)
    assert torch.equal(again.codes, whole.codes)


def test_codes_alone_are_small_on_disk(gallery, queries, tmp_path):
    matcher = zsbir.MATCHERS.build("kmeans-pq", subspaces=4, clusters=16).fit(gallery)
    matcher.save(tmp_path)
    assert (tmp_path / "matcher.safetensors").stat().st_size < 600 * 4 + 16 * 32 * 4 + 1000
    again = Matcher.load(tmp_path)
    assert again.describe().startswith("kmeans-pq(M=4, K=16")
    torch.testing.assert_close(again.scores(queries), matcher.scores(queries))


def test_damaged_files_are_named(gallery, tmp_path):
    with pytest.raises(ZsbirError, match=r"none.matcher\.json cannot be read"):
        Matcher.load(tmp_path / "none")
    matcher = zsbir.MATCHERS.build("one-to-many", clusters=4).fit(gallery)
    matcher.save(tmp_path)
    record = json.loads((tmp_path / "matcher.json").read_text())
    (tmp_path / "matcher.json").write_text(json.dumps({**record, "format": 99}))
    with pytest.raises(ZsbirError, match="format 1"):
        Matcher.load(tmp_path)
    (tmp_path / "matcher.json").write_text(json.dumps({**record, "state": {}}))
    with pytest.raises(ZsbirError, match="it lacks 'chosen'"):
        Matcher.load(tmp_path)
    (tmp_path / "matcher.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ZsbirError, match=f"the matcher in {tmp_path} cannot be read"):
        Matcher.load(tmp_path)
    with pytest.raises(ZsbirError, match="cannot be saved"):
        zsbir.MATCHERS.build("cosine").save(tmp_path)


def test_few_photos_give_one_cluster_each_with_a_message(queries):
    small = Embeddings(torch.eye(4, 32), np.arange(4))
    with pytest.warns(UserWarning, match="only 4 photos|are empty"):
        matcher = zsbir.MATCHERS.build("one-to-many", clusters=25).fit(small)
    assert torch.isfinite(matcher.scores(queries)).all()
    twins = Embeddings(torch.eye(2, 32).repeat(10, 1), np.arange(20))
    with pytest.warns(UserWarning, match="clusters are empty"):
        matcher = zsbir.MATCHERS.build("one-to-many", clusters=4).fit(twins)
    assert torch.isfinite(matcher.scores(queries)).all()
    one = Embeddings(torch.ones(1, 32), np.zeros(1, dtype=np.int64))
    assert zsbir.MATCHERS.build("one-to-many").fit(one).scores(queries).shape == (90, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subspaces": 0}, "at least 1"),
        ({"weight": 1.5}, "weight=1.5"),
        ({"clusters": 0}, "clusters=0"),
        ({"clusters": "many"}, "'many'"),
        ({"model": "tied"}, "'full', 'diagonal'"),
        ({"choose": "luck"}, "'silhouette' or 'bic'"),
        ({"precision": "half"}, "float32"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ZsbirError, match=message):
        OneToMany(**settings)


def test_misuse_is_refused(gallery, queries):
    with pytest.raises(ZsbirError, match="does not divide the 32"):
        OneToMany(subspaces=5).fit(gallery)
    with pytest.raises(ZsbirError, match="call fit"):
        OneToMany().scores(queries)
    with pytest.raises(ZsbirError, match="empty"):
        OneToMany().fit(Embeddings(torch.zeros(0, 8), np.zeros(0, dtype=np.int64)))
    matcher = OneToMany(clusters=3).fit(gallery)
    with pytest.raises(ZsbirError, match="embed both with one model"):
        matcher.scores(Embeddings(torch.zeros(1, 16), np.zeros(1, dtype=np.int64)))


def test_mixtures_from_given_starts_equal_sklearn(case):
    """What a fit as published gives, from its own k-means: the published codewords up to their order."""
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture

    vectors = torch.from_numpy(case["gallery"]).double()
    starts, expected = [], []
    for part in split(vectors, 2):
        state = np.random.RandomState(0)
        starts.append(torch.from_numpy(KMeans(8, n_init=1, random_state=state).fit(part.numpy()).labels_).long())
        expected.append(GaussianMixture(8, random_state=0).fit(part.numpy()).means_)
    fitted = [fit_mixture(part, start, 8) for part, start in zip(split(vectors, 2), starts, strict=True)]
    np.testing.assert_allclose(np.stack([mixture.means for mixture in fitted]), np.stack(expected), atol=1e-9)
    assert not any(mixture.notes for mixture in fitted)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu(gallery, queries):
    on_cpu = zsbir.MATCHERS.build("one-to-many", clusters=8).fit(gallery)
    there = Embeddings(gallery.vectors.cuda(), gallery.labels)
    on_cuda = zsbir.MATCHERS.build("one-to-many", clusters=8).fit(there)
    torch.testing.assert_close(on_cuda.scores(queries).cpu(), on_cpu.scores(queries), atol=1e-3, rtol=0)
