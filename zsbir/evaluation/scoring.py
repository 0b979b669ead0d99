"""The two functions under everything else: scores or vectors in, the numbers of any protocols out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zsbir.evaluation.inputs import Array, as_floats, check_finite, check_vectors, common_labels
from zsbir.evaluation.measure import PerQuery, Protocols, Request, ScoreChunk, averages, measure
from zsbir.matchers import MATCHERS
from zsbir.matchers.base import Matcher
from zsbir.types import Embeddings


def evaluate_scores(
    scores: Array | Sequence[Any],
    query_labels: Array | Sequence[Any],
    gallery_labels: Array | Sequence[Any],
    protocols: Protocols = ("standard",),
    ks: Sequence[int] | int = (100, 200),
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
        what its release does not define. Queries without a relevant photo are left out, with a warning; photos of
        one class only give a warning too.

    Raises:
        ZsbirError: For NaN or infinite scores, unknown labels, shapes that do not fit, or no query with a relevant
            photo.

    >>> evaluate_scores([[3.0, 2.0, 1.0]], [0], [0, 1, 0], ks=(2,))["standard"]["mAP@all"]
    0.8333333333333333
    """
    matrix = as_floats(scores, "the scores")
    check_vectors(matrix[:, :1], matrix[:, :1].new_empty(matrix.shape[1], 1))
    check_finite(matrix, "rows of the scores")
    labels = common_labels(query_labels, gallery_labels, (matrix.shape[0], matrix.shape[1]))[:2]

    def chunk(index: npt.NDArray[np.int64]) -> Tensor:
        return matrix[torch.from_numpy(index).to(matrix.device)]

    return _means(chunk, *labels, Request(protocols, ks), matrix)


def evaluate_embeddings(
    queries: Array | Sequence[Any],
    query_labels: Array | Sequence[Any],
    gallery: Array | Sequence[Any],
    gallery_labels: Array | Sequence[Any],
    protocols: Protocols = ("standard",),
    ks: Sequence[int] | int = (100, 200),
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
    left, right, _ = common_labels(query_labels, gallery_labels, (len(sketches), len(photos)))
    request = Request(protocols, ks)
    sides = Embeddings(sketches, left, domain="sketch"), Embeddings(photos, right, domain="photo")
    return _means(fitted_scores(MATCHERS.build(matcher), *sides), left, right, request, photos)


def _means(
    chunk: ScoreChunk, left: npt.NDArray[np.int64], right: npt.NDArray[np.int64], request: Request, like: Tensor
) -> dict[str, dict[str, float]]:
    result: PerQuery = measure(chunk, left, right, request, like.device, like.dtype.itemsize)
    alone = ["all photos are of one class, so every ranking is perfect"] if (right == right[0]).all() else []
    for note in (*alone, *result.notes):
        warnings.warn(note, stacklevel=3)
    return averages(result, request.protocols)


def fitted_scores(matcher: Matcher, queries: Embeddings, gallery: Embeddings) -> ScoreChunk:
    """Fit the matcher on the gallery and return its scores by query positions."""
    fitted = matcher.fit(gallery)
    return lambda index: fitted.scores(take(queries, index))


def take(embeddings: Embeddings, index: npt.NDArray[np.int64], paths: bool = False) -> Embeddings:
    """Return the chosen rows; their paths are dropped unless asked for."""
    where = torch.from_numpy(index)
    tokens = embeddings.tokens
    return replace(
        embeddings,
        vectors=embeddings.vectors[where.to(embeddings.vectors.device)],
        labels=np.asarray(embeddings.labels)[index],
        paths=embeddings.paths.take(index) if paths and len(embeddings.paths) else type(embeddings.paths)(),
        tokens=None if tokens is None else tokens[where.to(tokens.device)],
    )
