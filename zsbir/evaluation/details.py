"""What a report shows besides its numbers: first photos, confusion of classes, distribution of scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from zsbir.evaluation.measure import ScoreChunk, chunk_rows
from zsbir.types import Embeddings, Labels

CONFUSION_TOP = 10
SAMPLE = 2000


@dataclass(frozen=True)
class TopPhotos:
    """The first photos of one query.

    Attributes:
        query: Its position among the queries.
        path: Its file.
        label: Its class name.
        note: Why it is shown, such as ``"best"``.
        ap: Its AP under the report's first protocol; None if it has no relevant photo.
        photos: Positions in the gallery, best first.
        paths: Their files.
        labels: Their class names.
        scores: Their scores.
        correct: Which of them are relevant.
    """

    query: int
    path: str
    label: str
    note: str
    ap: float | None
    photos: tuple[int, ...]
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    correct: tuple[bool, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def top_photos(
    chunk: ScoreChunk,
    queries: Embeddings,
    gallery: Embeddings,
    chosen: Iterable[tuple[int, str, float | None]],
    k: int = 10,
) -> tuple[TopPhotos, ...]:
    """Return the first `k` photos of the chosen queries.

    Args:
        chunk: Scores by query positions.
        queries: The queries, with labels in the same classes as the gallery's.
        gallery: The photos.
        chosen: For each query its position, a note and its AP.
        k: How many photos.
    """
    rows = list(chosen)
    shown: list[TopPhotos] = []
    for query, note, ap in rows:
        scores = chunk(np.array([query], dtype=np.int64))[0]
        best = torch.topk(scores, min(k, len(gallery)))
        index = best.indices.tolist()
        label = int(queries.labels[query])
        labels = [int(gallery.labels[i]) for i in index]
        shown.append(
            TopPhotos(
                query,
                queries.paths[query] if query < len(queries.paths) else f"query {query}",
                queries.classes[label],
                note,
                ap,
                tuple(index),
                tuple(gallery.paths[i] if i < len(gallery.paths) else f"photo {i}" for i in index),
                tuple(gallery.classes[i] for i in labels),
                tuple(round(v, 6) for v in best.values.tolist()),
                tuple(i == label for i in labels),
            )
        )
    return tuple(shown)


def best_median_worst(ap: npt.NDArray[np.float64], query: Labels, each: int = 3) -> list[tuple[int, str, float | None]]:
    """Choose the queries a report shows: the best, median and worst by AP, `each` of each, none twice.

    >>> best_median_worst(np.array([0.1, 0.9, 0.5]), np.array([0, 1, 2]), each=1)
    [(1, 'best', 0.9), (2, 'median', 0.5), (0, 'worst', 0.1)]
    """
    order = np.argsort(-ap, kind="stable")
    each = min(each, len(order) // 3) or min(1, len(order))
    middle = max(0, len(order) // 2 - each // 2)
    picks = {"best": order[:each], "median": order[middle : middle + each], "worst": order[len(order) - each :]}
    chosen: dict[int, tuple[int, str, float | None]] = {}
    for note, places in picks.items():
        for place in places:
            chosen.setdefault(int(place), (int(query[place]), note, float(ap[place])))
    return list(chosen.values())


def confusion_and_histogram(
    chunk: ScoreChunk, queries: Labels, gallery: Labels, classes: int, seed: int = 0, bins: int = 60
) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
    """Return what the first photos of each class are, and how relevant and irrelevant scores are distributed.

    Looks at up to `SAMPLE` queries, drawn with `seed`.

    Args:
        chunk: Scores by query positions.
        queries: (Q,) class of each query.
        gallery: (G,) class of each photo, in the same classes.
        classes: C, their number.
        seed: Seed of the sample.
        bins: Of the histogram.

    Returns:
        (C, C) share of each class (column) among the first `CONFUSION_TOP` photos of the sketches of a class (row;
        0 without a sketch), and ``{"edges": (bins + 1), "relevant": (bins), "irrelevant": (bins), "queries": n}``
        with the share of the pairs in each bin.
    """
    generator = np.random.default_rng(seed)
    chosen = np.sort(generator.permutation(len(queries))[:SAMPLE]).astype(np.int64)
    top = min(CONFUSION_TOP, len(gallery))
    counts = np.zeros((classes, classes))
    edges, histogram = None, np.zeros((2, bins))
    device = chunk(chosen[:1]).device
    photo_label = torch.from_numpy(gallery).to(device)
    rows = max(1, chunk_rows(len(gallery), 4, device) // 4)
    for begin in range(0, len(chosen), rows):
        index = chosen[begin : begin + rows]
        with torch.inference_mode():
            scores = chunk(index)
            first = photo_label[torch.topk(scores, top, dim=1).indices].cpu().numpy()
        np.add.at(counts, (np.repeat(queries[index], top), first.reshape(-1)), 1)
        values = scores.cpu().numpy()
        if edges is None:  # the range of the first chunk, widened; what lies beyond falls into the outer bins
            low, high = float(values.min()), float(values.max())
            margin = 0.05 * (high - low) or 0.5
            edges = np.linspace(low - margin, high + margin, bins + 1)
        same = queries[index][:, None] == gallery[None, :]
        clipped = np.clip(values, edges[0], edges[-1])
        histogram[0] += np.histogram(clipped[same], edges)[0]
        histogram[1] += np.histogram(clipped[~same], edges)[0]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    total = np.maximum(histogram.sum(axis=1, keepdims=True), 1)
    assert edges is not None
    relevant, irrelevant = (histogram / total).tolist()
    return share, {
        "edges": edges.tolist(),
        "relevant": relevant,
        "irrelevant": irrelevant,
        "queries": len(chosen),
    }
