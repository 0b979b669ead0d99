"""From scores or vectors to the numbers of any protocols."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zsbir.evaluation.inputs import Array, as_floats, check_counts, check_embeddings, check_finite, common_labels
from zsbir.evaluation.measure import Protocols, Request, Results, ScoreChunk, averages, measure
from zsbir.matchers import MATCHERS
from zsbir.matchers.base import Matcher
from zsbir.types import Domain, Embeddings, Labels


def evaluate_scores(
    scores: Array | Sequence[Any],
    query_labels: Array | Sequence[Any],
    gallery_labels: Array | Sequence[Any],
    protocols: Protocols = ("standard",),
    ks: Sequence[int] | int = (100, 200),
) -> Results:
    """Evaluate a matrix of scores under any number of protocols.

    Args:
        scores: (Q, G) real numbers, higher is better; an array or a tensor on any device. It is not changed.
        query_labels: (Q,) class of each query: numbers from 0, or names.
        gallery_labels: (G,) class of each photo.
        protocols: Names from `zsbir.evaluation.protocols.PROTOCOLS`, or records.
        ks: Cut-offs; one above G is allowed and gives a warning.

    Returns:
        ``{protocol: {"mAP@all": ..., "mAP@100": ..., "P@100": ...}}``, each in [0, 1]; a protocol has no entry for
        what its release does not define. Queries without a relevant photo are left out, with a warning; photos of
        one class only give a warning too.

    Raises:
        ZsbirError: For NaN or infinite scores, unknown labels, shapes that do not fit, or no query with a relevant
            photo.

    >>> evaluate_scores([[3.0, 2.0, 1.0]], [0], [0, 1, 0], ks=(2,))["standard"]["mAP@all"]
    0.8333333333333333
    """
    matrix = as_floats(scores, "the scores")
    check_counts(*matrix.shape)
    check_finite(matrix, "rows of the scores")
    left, right, _ = common_labels(query_labels, gallery_labels, matrix.shape)

    def chunk(index: npt.NDArray[np.int64]) -> Tensor:
        return matrix[torch.from_numpy(index).to(matrix.device)]

    return _means(chunk, left, right, Request(protocols, ks), matrix)


def evaluate_embeddings(
    queries: Array | Sequence[Any],
    query_labels: Array | Sequence[Any],
    gallery: Array | Sequence[Any],
    gallery_labels: Array | Sequence[Any],
    protocols: Protocols = ("standard",),
    ks: Sequence[int] | int = (100, 200),
    matcher: str | Mapping[str, Any] | Matcher = "cosine",
) -> Results:
    """Evaluate vectors under any number of protocols; the full score matrix never exists.

    Args:
        queries: (Q, D) sketch vectors, arrays or tensors; the work is done on the gallery's device.
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
    given: list[tuple[Any, Any, Domain]] = [(queries, query_labels, "sketch"), (gallery, gallery_labels, "photo")]
    left, right = check_embeddings(*(Embeddings(vectors, labels, domain=side) for vectors, labels, side in given))
    chunk = fitted_scores(MATCHERS.build(matcher), left, right)
    return _means(chunk, left.labels, right.labels, Request(protocols, ks), right.vectors)


def _means(chunk: ScoreChunk, left: Labels, right: Labels, request: Request, like: Tensor) -> Results:
    found = measure(chunk, left, right, request, like)
    alone = ["all photos are of one class, so every ranking is perfect"] if (right == right[0]).all() else []
    for note in (*alone, *found.notes):
        warnings.warn(note, stacklevel=3)
    return averages(found, request.protocols)


def fitted_scores(matcher: Matcher, queries: Embeddings, gallery: Embeddings) -> ScoreChunk:
    """Fit the matcher on the gallery and return its scores by query positions."""
    fitted = matcher.fit(gallery)
    return lambda index: fitted.scores(queries.take(index))
