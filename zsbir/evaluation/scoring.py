"""The pass over all scores: in chunks, exact, several protocols at once, in bounded memory.

The two functions under everything else are `evaluate_scores` and `evaluate_embeddings`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zsbir.errors import ZsbirError
from zsbir.evaluation import metrics
from zsbir.evaluation.inputs import Array, as_floats, check_finite, check_vectors, common_labels
from zsbir.evaluation.protocols import PROTOCOLS, Protocol
from zsbir.evaluation.ranking import Ranks, rank_relevant
from zsbir.matchers import MATCHERS
from zsbir.matchers.base import Matcher
from zsbir.types import Embeddings, Labels

Floats = npt.NDArray[np.float64]
ScoreChunk = Callable[[npt.NDArray[np.int64]], Tensor]
"""From (q,) query positions to their (q, G) scores, a fresh tensor that may be overwritten."""

METRICS = ("mAP", "P@k", "R@k", "MRR", "nDCG")
"""What can be asked for; "mAP" is mAP@all and mAP@k. The fine-grained setting has "acc@k" besides."""

CHUNK_BYTES = 48 << 20
"""Size of a chunk of scores on the CPU; the whole pass needs about three times as much."""

CHUNK_BYTES_CUDA = 1 << 30
"""Likewise on a GPU, where the sort needs about five times as much."""

MAX_ROWS = 512
PAIRS = 1 << 16
"""Query-photo pairs at once for matchers that look at pairs."""


@dataclass(frozen=True, eq=False)
class PerQuery:
    """The metrics of every query that has a relevant photo.

    Attributes:
        values: By protocol and metric, (q,) float64.
        query: (q,) int64, the position of each among all queries, ascending.
        labels: (q,) int64, its class.
        excluded: How many queries have no relevant photo in the gallery; they count nowhere.
        curve: (q, L) float64 interpolated precision at recall levels, or None if it was not asked for.
    """

    values: dict[str, dict[str, Floats]]
    query: npt.NDArray[np.int64]
    labels: Labels
    excluded: int
    curve: Floats | None = None
    notes: tuple[str, ...] = field(default=())


def evaluate_scores(
    scores: Array,
    query_labels: Array | Sequence[Any],
    gallery_labels: Array | Sequence[Any],
    protocols: Sequence[str | Protocol] = ("standard",),
    ks: Sequence[int] = (100, 200),
) -> dict[str, dict[str, float]]:
    """Evaluate a matrix of scores under any number of protocols.

    Args:
        scores: (Q, G) real numbers, higher is better; an array or a tensor on any device. It is not changed.
        query_labels: (Q,) class of each query: numbers from 0, or names.
        gallery_labels: (G,) class of each photo.
        protocols: Names from `zsbir.evaluation.protocols.PROTOCOLS`, or records.
        ks: Cut-offs; one above G is allowed and gives a warning.

    Returns:
        ``{protocol: {"mAP@all": ..., "mAP@100": ..., "P@100": ...}}``, each in [0, 1]; a protocol has no entry for
        what its release does not define. Queries without a relevant photo are left out, with a warning.

    Raises:
        ZsbirError: For NaN or infinite scores, unknown labels, shapes that do not fit, or no query with a relevant
            photo.

    >>> evaluate_scores([[3.0, 2.0, 1.0]], [0], [0, 1, 0], ks=(2,))["standard"]["mAP@all"]
    0.8333333333333333
    """
    matrix = as_floats(scores, "the scores")
    check_vectors(matrix[:, :1], matrix[:, :1].new_empty(matrix.shape[1], 1))
    check_finite(matrix, "rows of the scores")
    labels = common_labels(query_labels, gallery_labels, (matrix.shape[0], matrix.shape[1]))

    def chunk(index: npt.NDArray[np.int64]) -> Tensor:
        return matrix[torch.from_numpy(index).to(matrix.device)]

    return _warned(measure(chunk, *labels, protocols, ks, matrix.device, matrix.dtype.itemsize), protocols)


def evaluate_embeddings(
    queries: Array,
    query_labels: Array | Sequence[Any],
    gallery: Array,
    gallery_labels: Array | Sequence[Any],
    protocols: Sequence[str | Protocol] = ("standard",),
    ks: Sequence[int] = (100, 200),
    matcher: str | Mapping[str, Any] | Matcher = "cosine",
) -> dict[str, dict[str, float]]:
    """Evaluate vectors under any number of protocols; the full score matrix never exists.

    Args:
        queries: (Q, D) sketch vectors, arrays or tensors; the gallery's device is computed on.
        query_labels: (Q,) class of each query: numbers from 0, or names.
        gallery: (G, D) photo vectors.
        gallery_labels: (G,) class of each photo.
        protocols: Names from `zsbir.evaluation.protocols.PROTOCOLS`, or records.
        ks: Cut-offs.
        matcher: Name, spec or instance.

    Returns:
        As `evaluate_scores`.

    Raises:
        ZsbirError: As `evaluate_scores`, and for vectors of different widths.

    >>> result = evaluate_embeddings([[1.0, 0.0]], [0], [[1.0, 0.1], [0.0, 1.0]], [0, 1], ks=(1,))
    >>> result["standard"]
    {'mAP@all': 1.0, 'mAP@1': 1.0, 'P@1': 1.0}
    """
    photos = as_floats(gallery, "the gallery vectors")
    sketches = as_floats(queries, "the queries").to(photos.device)
    check_vectors(sketches, photos)
    check_finite(sketches, "queries")
    check_finite(photos, "gallery photos")
    labels = common_labels(query_labels, gallery_labels, (len(sketches), len(photos)))
    left = Embeddings(sketches, labels[0], domain="sketch")
    right = Embeddings(photos, labels[1], domain="photo")
    chunk = fitted_scores(MATCHERS.build(matcher), left, right)
    return _warned(measure(chunk, *labels, protocols, ks, photos.device, photos.dtype.itemsize), protocols)


def _warned(result: PerQuery, protocols: Sequence[str | Protocol]) -> dict[str, dict[str, float]]:
    for note in result.notes:
        warnings.warn(note, stacklevel=3)
    return averages(result, protocols)


def as_protocols(protocols: str | Protocol | Sequence[str | Protocol]) -> list[Protocol]:
    """Return the records of one or several protocols, given by name or as records."""
    given = [protocols] if isinstance(protocols, (str, Protocol)) else list(protocols)
    if not given:
        raise ZsbirError("name at least one protocol, for instance 'standard'")
    return [PROTOCOLS.build(item) for item in given]


def averages(result: PerQuery, protocols: str | Protocol | Sequence[str | Protocol]) -> dict[str, dict[str, float]]:
    """Return the means of all metrics, over queries or over classes as each protocol says."""
    means: dict[str, dict[str, float]] = {}
    for protocol in as_protocols(protocols):
        weight = query_weights(result.labels, protocol)
        means[protocol.name] = {
            metric: float(weight @ values) for metric, values in result.values[protocol.name].items()
        }
    return means


def query_weights(labels: Labels, protocol: Protocol) -> Floats:
    """Return (q,) float64, the weight of each query in the protocol's mean; they sum to 1."""
    if protocol.average == "query":
        return np.full(len(labels), 1 / len(labels))
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return np.asarray(1 / (len(counts) * counts[inverse]), dtype=np.float64)


def fitted_scores(matcher: Matcher, queries: Embeddings, gallery: Embeddings) -> ScoreChunk:
    """Fit the matcher on the gallery and return its scores by query positions.

    A matcher whose score depends on the pair alone (``pairwise``) is fitted on chunks of the gallery, so that no
    more than about `PAIRS` pairs are worked on at once.
    """
    if not matcher.pairwise:
        fitted = matcher.fit(gallery)
        return lambda index: fitted.scores(take(queries, index))
    step = max(1, PAIRS // MAX_ROWS * 8)
    starts = range(0, len(gallery), step)
    parts = [copy.copy(matcher).fit(take(gallery, np.arange(i, min(i + step, len(gallery))))) for i in starts]
    rows = max(1, PAIRS // step)

    def chunk(index: npt.NDArray[np.int64]) -> Tensor:
        blocks = []
        for start in range(0, len(index), rows):
            some = take(queries, index[start : start + rows])
            blocks.append(torch.cat([part.scores(some) for part in parts], dim=1))
        return torch.cat(blocks)

    return chunk


def take(embeddings: Embeddings, index: npt.NDArray[np.int64]) -> Embeddings:
    """Return the chosen rows, without their paths."""
    where = torch.from_numpy(index)
    tokens = embeddings.tokens
    return replace(
        embeddings,
        vectors=embeddings.vectors[where.to(embeddings.vectors.device)],
        labels=np.asarray(embeddings.labels)[index],
        paths=type(embeddings.paths)(),
        tokens=None if tokens is None else tokens[where.to(tokens.device)],
    )


def measure(
    chunk: ScoreChunk,
    query_labels: Labels,
    gallery_labels: Labels,
    protocols: str | Protocol | Sequence[str | Protocol],
    ks: Sequence[int],
    device: torch.device | str = "cpu",
    itemsize: int = 4,
    wanted: Sequence[str] = ("mAP", "P@k"),
    levels: Sequence[float] = (),
    shard: tuple[int, int] = (0, 1),
) -> PerQuery:
    """Compute the metrics of every query.

    Args:
        chunk: Gives the scores of some queries.
        query_labels: (Q,) int64 from 0.
        gallery_labels: (G,) int64 from 0, in the same classes.
        protocols: One or several.
        ks: Cut-offs.
        device: Where the scores are.
        itemsize: Bytes of a score.
        wanted: Names from `METRICS`.
        levels: Recall levels of the precision-recall curve; none by default.
        shard: ``(i, n)``: compute only every n-th chunk from the i-th on. The chunks do not depend on n, so n
            processes together give bit for bit what one gives.

    Returns:
        The metrics of the queries (of this shard), in their order.

    Raises:
        ZsbirError: If no query has a relevant photo, a k is below 1, or a metric is unknown.
    """
    records = as_protocols(protocols)
    _check_request(ks, wanted)
    classes, start, counts, order = _by_class(query_labels, gallery_labels)
    relevant = counts[query_labels]
    kept = np.flatnonzero(relevant)
    if not len(kept):
        raise ZsbirError("no query has a photo of its class in the gallery: nothing can be evaluated")
    # Queries with equally many relevant photos share a chunk, so that little is padded.
    kept = kept[np.lexsort((query_labels[kept], relevant[kept]))]
    on_device = torch.from_numpy(order).to(device)
    rows = chunk_rows(len(gallery_labels), itemsize, torch.device(device))
    found: list[npt.NDArray[np.int64]] = []
    blocks: list[tuple[dict[tuple[str, str], Tensor], Tensor | None]] = []
    with torch.inference_mode():
        for number, index in enumerate(_pieces(kept, rows)):
            if number % shard[1] != shard[0]:
                continue
            first = torch.from_numpy(start[query_labels[index]]).to(device)
            many = torch.from_numpy(relevant[index]).to(device)
            offset = torch.arange(int(relevant[index].max()), device=device)
            columns = on_device[torch.minimum(first[:, None] + offset, first[:, None] + many[:, None] - 1)]
            scores = chunk(index)
            if not bool(torch.isfinite(scores.sum())):
                check_finite(scores, "rows of scores from the matcher")
            ranks = rank_relevant(scores.contiguous(), columns, many)
            del scores
            curve = metrics.interpolated_precision(ranks, levels).cpu() if levels else None
            blocks.append((_metrics(ranks, records, ks, wanted), curve))
            found.append(index)
    return _joined(found, blocks, query_labels, len(query_labels) - len(kept), _notes(query_labels, kept, ks, len(gallery_labels)))


def chunk_rows(gallery: int, itemsize: int, device: torch.device) -> int:
    """Return how many queries to score at once."""
    budget = CHUNK_BYTES_CUDA if device.type == "cuda" else CHUNK_BYTES
    most = MAX_ROWS * 16 if device.type == "cuda" else MAX_ROWS
    return int(np.clip(budget // (gallery * itemsize), 1, most))


def _pieces(index: npt.NDArray[np.int64], rows: int) -> Iterator[npt.NDArray[np.int64]]:
    for begin in range(0, len(index), rows):
        yield index[begin : begin + rows]


def _by_class(query_labels: Labels, gallery_labels: Labels) -> tuple[int, Labels, Labels, Labels]:
    """Return the number of classes, where each class starts in `order`, its size, and photos sorted by class."""
    classes = int(max(query_labels.max(), gallery_labels.max())) + 1
    counts = np.bincount(gallery_labels, minlength=classes).astype(np.int64)
    return classes, np.cumsum(counts) - counts, counts, np.argsort(gallery_labels, kind="stable").astype(np.int64)


def _check_request(ks: Sequence[int], wanted: Sequence[str]) -> None:
    if any(k < 1 for k in ks):
        raise ZsbirError(f"a cut-off k must be at least 1, not {min(ks)}")
    unknown = [name for name in wanted if name not in (*METRICS, "acc@k")]
    if unknown:
        raise ZsbirError(f"there is no metric {unknown[0]!r}. Known: {', '.join(METRICS)}")


def _notes(query_labels: Labels, kept: Labels, ks: Sequence[int], gallery: int) -> tuple[str, ...]:
    notes = []
    missing = len(query_labels) - len(kept)
    if missing:
        notes.append(f"{missing} of {len(query_labels)} queries have no relevant photo in the gallery: left out")
    large = [k for k in ks if k > gallery]
    if large:
        notes.append(f"k = {', '.join(map(str, large))} is larger than the gallery of {gallery} photos")
    return tuple(notes)


def _metrics(
    ranks: Ranks, protocols: Sequence[Protocol], ks: Sequence[int], wanted: Sequence[str]
) -> dict[tuple[str, str], Tensor]:
    """Return (q,) values on the CPU by (protocol, metric); what protocols share is computed once."""
    known: dict[Any, Tensor] = {}

    def once(key: Any, compute: Callable[[], Tensor]) -> Tensor:
        if key not in known:
            known[key] = compute().cpu()
        return known[key]

    out: dict[tuple[str, str], Tensor] = {}
    for p in protocols:
        if "mAP" in wanted:
            ties = p.ties if ranks.ties is not None else "mean-position"
            for k in (None, *(ks if p.ap_at else ())):
                over = p.ap_at or "min(R, k)"
                out[p.name, f"mAP@{k or 'all'}"] = once(
                    ("ap", p.ap, ties, k, k and over),
                    lambda p=p, k=k, over=over: metrics.average_precision(ranks, k, p.ap, p.ties, over),  # type: ignore[misc]
                )
        if "P@k" in wanted and (over_p := p.precision_at):
            for k in ks:
                out[p.name, f"P@{k}"] = once(
                    ("p", k, over_p), lambda k=k, over=over_p: metrics.precision(ranks, k, over)  # type: ignore[misc]
                )
        if "R@k" in wanted:
            for k in ks:
                out[p.name, f"R@{k}"] = once(("r", k), lambda k=k: metrics.recall(ranks, k))  # type: ignore[misc]
        if "acc@k" in wanted:
            for k in ks:
                out[p.name, f"acc@{k}"] = once(("a", k), lambda k=k: metrics.success(ranks, k))  # type: ignore[misc]
        if "MRR" in wanted:
            out[p.name, "MRR"] = once("mrr", lambda: metrics.reciprocal_rank(ranks))
        if "nDCG" in wanted:
            out[p.name, "nDCG"] = once("ndcg", lambda: metrics.ndcg(ranks))
    return out


def _joined(
    found: list[npt.NDArray[np.int64]],
    blocks: list[tuple[dict[tuple[str, str], Tensor], Tensor | None]],
    labels: Labels,
    excluded: int,
    notes: tuple[str, ...],
) -> PerQuery:
    query = np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
    order = np.argsort(query)
    values: dict[str, dict[str, Floats]] = {}
    for protocol, metric in blocks[0][0] if blocks else ():
        joined = torch.cat([block[protocol, metric] for block, _ in blocks]).numpy()
        values.setdefault(protocol, {})[metric] = joined[order]
    curves = [curve for _, curve in blocks if curve is not None]
    curve = torch.cat(curves).numpy()[order] if curves else None
    return PerQuery(values, query[order], labels[query[order]], excluded, curve, notes)
