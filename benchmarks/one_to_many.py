"""Speed of one-to-many matching against scikit-learn's mixture and a loop over queries, as the method was published.

    python benchmarks/one_to_many.py            # the whole table and the plot
    python benchmarks/one_to_many.py --quick    # small sizes

Both sides run on the same synthetic gallery in one process, alternating; each time is the best of its repetitions.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from _results import RESULTS, table, write
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from zsbir.evaluation.scoring import evaluate_scores
from zsbir.matchers import MATCHERS
from zsbir.matchers._codebook import Codebook, fit_codebook, split
from zsbir.matchers._mixture import fit_mixture
from zsbir.matchers.one_to_many import OneToMany
from zsbir.types import Embeddings

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def synthetic(rows: int, width: int, classes: int, seed: int) -> tuple[Floats, Ints]:
    """Return unit vectors (rows, width) float32 in classes that overlap, and their labels.

    The variance falls along the principal directions as the features of a network's last layer do, and every class has
    the same shape; rows of all seeds share directions and class centres.
    """
    shared = np.random.default_rng(0)
    scale = np.arange(1, width + 1) ** -0.5
    turn = np.linalg.qr(shared.standard_normal((width, width)))[0]
    centers = shared.standard_normal((classes, width)) * scale
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=rows)
    vectors = (1.3 * centers[labels] + 2 * scale * rng.standard_normal((rows, width))) @ turn
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return seconds and result."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def sklearn_fit(gallery: Floats, subspaces: int, clusters: int, seed: int = 0) -> list[GaussianMixture]:
    """Fit one full mixture a sub-space with scikit-learn's defaults, as published."""
    parts = np.split(gallery, subspaces, axis=1)
    return [GaussianMixture(clusters, random_state=seed).fit(part) for part in parts]


def sklearn_starts(gallery: Floats, subspaces: int, clusters: int) -> list[torch.Tensor]:
    """The k-means labels that `sklearn_fit` starts from."""
    found = []
    for part in np.split(gallery, subspaces, axis=1):
        labels = KMeans(clusters, n_init=1, random_state=np.random.RandomState(0)).fit(part).labels_
        found.append(torch.from_numpy(labels.astype(np.int64)))
    return found


def loop_scores(words: Floats, codes: Ints, gallery: Floats, queries: Floats) -> Floats:
    """Score as published: all Euclidean distances, then query by query a table of distances and look-ups in it."""
    plain = cdist(queries, gallery)
    out = np.empty((len(queries), len(gallery)))
    width = words.shape[2]
    for row, query in enumerate(queries):
        near = np.zeros(len(gallery), dtype=np.float32)
        for m, own in enumerate(words):
            distances = np.linalg.norm(own - query[m * width : (m + 1) * width], axis=1) ** 2
            near += distances[codes[:, m]]
        out[row] = near
    return 0.8 * out + 0.2 * plain


def embeddings(vectors: Floats, labels: Ints) -> Embeddings:
    """Wrap arrays."""
    return Embeddings(torch.from_numpy(vectors), labels)


def own_fit(gallery: Floats, subspaces: int, clusters: int, seed: int = 0, device: str = "cpu") -> Codebook:
    """Fit as the matcher does, k-means start included."""
    codebook, _ = fit_codebook(torch.from_numpy(gallery).to(device), subspaces, clusters, "full", seed)
    return codebook


def compare_fit(gallery: Floats, subspaces: int, clusters: int, repeats: int) -> dict[str, Any]:
    """Time both fits; the mixture of the same start is compared too."""
    ours = [timed(lambda: own_fit(gallery, subspaces, clusters))[0]]
    single, mixtures = timed(lambda: sklearn_fit(gallery, subspaces, clusters))
    ours += [timed(lambda: own_fit(gallery, subspaces, clusters))[0] for _ in range(repeats)]
    double, exact = timed(lambda: sklearn_fit(gallery.astype(np.float64), subspaces, clusters))
    ours.append(timed(lambda: own_fit(gallery, subspaces, clusters))[0])
    starts = sklearn_starts(gallery.astype(np.float64), subspaces, clusters)
    same32, same = (
        Codebook(
            torch.stack([fit_mixture(part, start, clusters).means for part, start in zip(parts, starts, strict=True)])
        )
        for parts in (split(torch.from_numpy(gallery).to(kind), subspaces) for kind in (torch.float32, torch.float64))
    )
    theirs = np.stack([m.means_ for m in exact])
    return {
        "own_s": min(ours),
        "own_all_s": ours,
        "sklearn_float32_s": single,
        "sklearn_float64_s": double,
        "iterations_sklearn": [m.n_iter_ for m in exact],
        "ratio_float32": single / min(ours),
        "ratio_float64": double / min(ours),
        "same_start_largest_difference_of_means_float64": float(np.abs(same.codewords.numpy() - theirs).max()),
        "same_start_largest_difference_of_means_float32": float(np.abs(same32.codewords.numpy() - theirs).max()),
        "codebook": same32,
        "sklearn_words": np.stack([m.means_ for m in mixtures]).astype(np.float32),
        "sklearn64_words": theirs.astype(np.float32),
    }


def compare_scores(gallery: Floats, queries: Floats, words: Floats, repeats: int, slow: int) -> dict[str, Any]:
    """Time both ways of scoring with the same codewords, in seconds a query; `slow` queries for the loop."""
    matcher = MATCHERS.build("one-to-many", subspaces=len(words), clusters=words.shape[1], normalise=False)
    assert isinstance(matcher, OneToMany)
    matcher.apply(Codebook(torch.from_numpy(words)), embeddings(gallery, np.zeros(len(gallery), np.int64)))
    codes = matcher.codes.numpy()
    asked = embeddings(queries, np.zeros(len(queries), np.int64))
    loop, own, product = [], [], []
    place = torch.empty(len(queries), len(gallery))
    for _ in range(repeats):
        seconds, expected = timed(lambda: loop_scores(words, codes, gallery, queries[:slow]))
        loop.append(seconds / slow)
        for _ in range(3):
            seconds, scores = timed(lambda: matcher.scores(asked))
            own.append(seconds / len(queries))
            seconds, _ = timed(lambda: torch.mm(asked.vectors, torch.from_numpy(gallery).T, out=place))
            product.append(seconds / len(queries))
    return {
        "loop_ms_a_query": 1e3 * min(loop),
        "own_ms_a_query": 1e3 * min(own),
        "loop_median_ms": 1e3 * float(np.median(loop)),
        "own_median_ms": 1e3 * float(np.median(own)),
        "product_ms_a_query": 1e3 * min(product),
        "ratio": min(loop) / min(own),
        "ratio_to_product": min(own) / min(product),
        "loop_to_product": min(loop) / min(product),
        "ratio_of_medians": float(np.median(loop) / np.median(own)),
        "largest_difference": float(np.abs(expected + scores[:slow].numpy()).max()),
    }


def mean_ap(words: Floats, gallery: tuple[Floats, Ints], queries: tuple[Floats, Ints]) -> float:
    """Return mAP@all under the protocol ``sbka``, scored by the loop."""
    codes = Codebook(torch.from_numpy(words)).encode(torch.from_numpy(gallery[0])).numpy()
    scores = -loop_scores(words, codes, gallery[0], queries[0])
    return evaluate_scores(scores, queries[1], gallery[1], ("sbka",), (100,))["sbka"]["mAP@all"]


def own_map(words: torch.Tensor, gallery: tuple[Floats, Ints], queries: tuple[Floats, Ints]) -> float:
    """Return the same of the matcher."""
    matcher = OneToMany(len(words), words.shape[1], normalise=False).apply(Codebook(words), embeddings(*gallery))
    scores = matcher.scores(embeddings(*queries))
    return evaluate_scores(scores, queries[1], gallery[1], ("sbka",), (100,))["sbka"]["mAP@all"]


def curves(sizes: list[int], clusters: list[int], width: int) -> dict[str, list[dict[str, float]]]:
    """Time the own fit (M = 2) and scoring of 256 queries against gallery size (K = 25) and against K."""
    points: dict[str, list[dict[str, float]]] = {"size": [], "clusters": []}
    queries = embeddings(*synthetic(256, width, 25, 2))
    middle = sizes[len(sizes) // 2]
    for name, settings in (("size", [(n, 25) for n in sizes]), ("clusters", [(middle, k) for k in clusters])):
        for rows, many in settings:
            gallery = embeddings(*synthetic(rows, width, 25, 1))
            matcher = MATCHERS.build("one-to-many", clusters=many)
            fit = timed(lambda m=matcher, g=gallery: m.fit(g))[0]  # type: ignore[misc]
            score = min(timed(lambda m=matcher: m.scores(queries))[0] for _ in range(3))  # type: ignore[misc]
            points[name].append({"rows": rows, "clusters": many, "fit_s": fit, "score_ms_a_query": 1e3 * score / 256})
    return points


def plot(points: dict[str, list[dict[str, float]]], result: dict[str, Any]) -> None:
    """Draw time against gallery size and against K."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    for axis, (name, key, label) in zip(
        axes, (("size", "rows", "photos in the gallery (K = 25)"), ("clusters", "clusters", "K")), strict=True
    ):
        x = [p[key] for p in points[name]]
        axis.plot(x, [p["fit_s"] for p in points[name]], "o-", label="fit, M = 2 (s)")
        axis.plot(x, [p["score_ms_a_query"] for p in points[name]], "s-", label="score (ms a query)")
        axis.set_xlabel(label)
        axis.set_xscale("log")
        axis.set_yscale("log")
    if result["rows"] >= 10000:
        axes[0].plot([result["rows"]], [result["fit"]["sklearn_float32_s"]], "x", label="scikit-learn fit, float32 (s)")
        axes[0].plot([result["rows"]], [result["scoring"]["loop_ms_a_query"]], "+", label="loop (ms a query)")
    axes[0].legend(fontsize=8)
    figure.savefig(RESULTS / "one_to_many.png", dpi=110)


def report(result: dict[str, Any]) -> str:
    """Return the table."""
    fit, scoring = result["fit"], result["scoring"]
    cells = (
        ("fit (s), scikit-learn in float32", fit["sklearn_float32_s"], fit["own_s"], fit["ratio_float32"]),
        ("fit (s), scikit-learn in float64", fit["sklearn_float64_s"], fit["own_s"], fit["ratio_float64"]),
        ("scoring (ms a query)", scoring["loop_ms_a_query"], scoring["own_ms_a_query"], scoring["ratio"]),
        ("scoring, medians", scoring["loop_median_ms"], scoring["own_median_ms"], scoring["ratio_of_medians"]),
    )
    rows = [[name, f"{theirs:.2f}", f"{own:.3f}", f"{ratio:.1f}×"] for name, theirs, own, ratio in cells]
    gpu = f"{result['gpu_fit_s']:.2f} s" if result["gpu_fit_s"] is not None else "not measured (no GPU)"
    return (
        f"# One-to-many matching: speed\n\nSynthetic gallery of {result['rows']} × {result['width']}, "
        f"M = {result['subspaces']}, K = {result['clusters']}.\n\n"
        + table(["", "scikit-learn, loop", "zsbir", "ratio"], rows)
        + f"\nThe floor: the matrix product of queries and photos alone takes {scoring['product_ms_a_query']:.3f} ms "
        "a query here, so no scoring with the plain distance in it can be more than "
        f"{scoring['loop_to_product']:.0f}× faster "
        f"than the loop; this one takes {scoring['ratio_to_product']:.2f}× the product.\n\nFit on a GPU: {gpu}."
        f"\n\nmAP@all (`sbka`, {result['queries']} queries): one-to-one "
        f"{result['map_one_to_one']:.4f}; "
        f"scikit-learn and loop {result['map_sklearn']:.4f} (seeds 1 and 2: "
        f"{', '.join(f'{v:.4f}' for v in result['map_sklearn_other_seeds'])}); "
        f"zsbir from the same start {result['map_same_start']:.4f}; "
        f"zsbir from its own start, seeds 0–2: {', '.join(f'{v:.4f}' for v in result['map_own_start'])}. "
        "Largest difference "
        f"of the means from the same start: {fit['same_start_largest_difference_of_means_float64']:.1e} (float64), "
        f"{fit['same_start_largest_difference_of_means_float32']:.1e} (float32).\n\n![time](one_to_many.png)\n"
    )


def main() -> None:
    """Run the comparison and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    quick = parser.parse_args().quick
    rows, width, queries = (2000, 128, 100) if quick else (17101, 768, 512)
    subspaces, clusters = 2, 25
    warnings.simplefilter("ignore")
    gallery, asked = synthetic(rows, width, 25, 1), synthetic(queries, width, 25, 2)
    fit = compare_fit(gallery[0], subspaces, clusters, repeats=1)
    codebook, words, words64 = fit.pop("codebook"), fit.pop("sklearn_words"), fit.pop("sklearn64_words")
    plain = -cdist(asked[0], gallery[0])
    gpu = None
    if torch.cuda.is_available():
        own_fit(gallery[0], subspaces, clusters, device="cuda")
        gpu = timed(lambda: own_fit(gallery[0], subspaces, clusters, device="cuda").codewords.cpu())[0]
    result: dict[str, Any] = {
        "rows": rows,
        "width": width,
        "subspaces": subspaces,
        "clusters": clusters,
        "queries": queries,
        "fit": fit,
        "gpu_fit_s": gpu,
        "scoring": compare_scores(gallery[0], asked[0], words, repeats=5, slow=64),
        "map_one_to_one": evaluate_scores(plain, asked[1], gallery[1], ("sbka",), (100,))["sbka"]["mAP@all"],
        "map_sklearn": mean_ap(words64, gallery, asked),
        "map_sklearn_other_seeds": [
            mean_ap(np.stack([m.means_ for m in sklearn_fit(gallery[0], subspaces, clusters, s)]), gallery, asked)
            for s in (1, 2)
        ],
        "map_same_start": own_map(codebook.codewords, gallery, asked),
        "map_own_start": [
            own_map(own_fit(gallery[0], subspaces, clusters, s).codewords, gallery, asked) for s in range(3)
        ],
    }
    sizes = [500, 1000, 2000] if quick else [2000, 4000, 8000, 17101]
    result["curves"] = curves(sizes, [10, 25, 50], width)
    plot(result["curves"], result)
    write("one_to_many_quick" if quick else "one_to_many", result, report(result))


if __name__ == "__main__":
    main()
