"""Checks of what goes into an evaluation: they name a mistake before it becomes a number."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zsbir.errors import ZsbirError
from zsbir.names import some
from zsbir.types import Embeddings, Labels

Array = npt.NDArray[Any] | Tensor
"""NumPy or torch, CPU or CUDA."""

EXACT = 2**53
"""Up to here every whole number is a float64."""


def as_floats(values: Array | Sequence[Any], what: str) -> Tensor:
    """Return `values` as a 2-D float32 or float64 tensor on its device.

    Half precision is taken as the exact numbers it holds, with a warning: coarse scores tie.

    Raises:
        ZsbirError: If it is not 2-D, not dense, not of real numbers, or has masked entries.
    """
    if isinstance(values, Tensor) and values.layout != torch.strided:
        raise ZsbirError(f"{what} must be dense, not {values.layout}: call .to_dense() first")
    if isinstance(values, Tensor) and values.is_floating_point():
        tensor = values.detach()
    else:
        device = values.device if isinstance(values, Tensor) else "cpu"
        tensor = torch.from_numpy(_numbers(values, what)).to(device)
    if tensor.ndim != 2:
        raise ZsbirError(f"{what} must have 2 dimensions (one row each), not shape {tuple(tensor.shape)}")
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor
    warnings.warn(
        f"{what} are {str(tensor.dtype).removeprefix('torch.')}: zsbir computes with them in float32, but they were "
        "rounded before, so results differ slightly from those in full precision",
        stacklevel=3,
    )
    return tensor.float()


def _numbers(values: Any, what: str) -> npt.NDArray[Any]:
    """Return real numbers as an array that torch can take: in memory order, of this machine's bytes, never rounded."""
    array = _array(values, what)
    if array.dtype.kind not in "biuf":
        raise ZsbirError(f"{what} must be {'real ' * (array.dtype.kind == 'c')}numbers, not {array.dtype}")
    if array.dtype.kind in "iu" and array.size and max(-int(array.min()), int(array.max())) > EXACT:
        raise ZsbirError(f"{what} have whole numbers above 2^53, which would be rounded: scale them down")
    own = array.dtype.newbyteorder("=")
    return np.ascontiguousarray(array, dtype=own if own in ("f2", "f4", "f8") else np.float64)


def _array(values: Any, what: str) -> npt.NDArray[Any]:
    if np.ma.is_masked(values):
        raise ZsbirError(f"{what} have masked entries: fill them or leave them out")
    try:
        return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    except (ValueError, TypeError) as error:
        raise ZsbirError(f"{what} must be numbers in rows of equal length: {error}") from None


def check_finite(values: Tensor, what: str, paths: Sequence[str] = ()) -> None:
    """Raise a ZsbirError that counts and names the rows of `values` (n, D) with NaN or infinity."""
    # The sum is finite iff all entries are (or it overflows, and the slow check decides).
    if bool(torch.isfinite(values.sum())):
        return
    bad = (~torch.isfinite(values)).any(dim=1).nonzero()[:, 0].tolist()
    if bad:
        names = [paths[i] if i < len(paths) else f"row {i}" for i in bad]
        raise ZsbirError(
            f"{len(bad)} of {len(values)} {what} have NaN or infinite values: {some(names, 5)}. "
            "Embed these files again, or leave them out."
        )


def check_counts(queries: int, gallery: int) -> None:
    """Raise a ZsbirError for an empty side."""
    if not gallery:
        raise ZsbirError("the gallery is empty: there is no photo to find")
    if not queries:
        raise ZsbirError("there are no queries: nothing to evaluate")


def common_labels(
    queries: Array | Sequence[Any], gallery: Array | Sequence[Any], shape: Sequence[int]
) -> tuple[Labels, Labels, tuple[str, ...]]:
    """Return Q and G labels (`shape`), numbers from 0 or names, as positions in one list of classes, and this list.

    Raises:
        ZsbirError: If lengths or kinds differ, or a label is unknown (negative).
    """
    left, right = _labels(queries, shape[0], "queries"), _labels(gallery, shape[1], "photos of the gallery")
    if left.dtype.kind != right.dtype.kind:
        raise ZsbirError(
            "the labels of queries and gallery must be of one kind: numbers on both sides or names on both"
        )
    classes, inverse = np.unique(np.concatenate([left, right]), return_inverse=True)
    inverse = inverse.astype(np.int64)
    return inverse[: shape[0]], inverse[shape[0] :], tuple(map(str, classes))


def _labels(labels: Array | Sequence[Any], count: int, what: str) -> npt.NDArray[Any]:
    """Return labels as uint64 numbers or as text, none of them changed on the way."""
    where = f"the labels of the {what}"
    array = _array(labels, where)
    if array.ndim != 1 or len(array) != count:
        raise ZsbirError(f"{count} {what} need {count} labels, not an array of shape {array.shape}")
    # NumPy would turn numbers among names into names.
    loose = array if array.dtype.kind == "O" else labels if isinstance(labels, (list, tuple)) else ()
    if len({isinstance(label, str) for label in loose}) > 1:
        raise ZsbirError(f"{where} mix names with other things: give names or numbers")
    if array.dtype.kind == "O":
        array = np.array(array.tolist())
    if not count:
        return array.astype(np.uint64)
    if array.dtype.kind == "U":
        return array.astype(str)
    if array.dtype.kind not in "biu":
        raise ZsbirError(f"{where} must be whole numbers or names, not {array.dtype}")
    unknown = int((array < 0).sum()) if array.dtype.kind == "i" else 0
    if unknown:
        raise ZsbirError(f"{unknown} of {count} {what} have an unknown label (-1): label them, or leave them out")
    return array.astype(np.uint64)


def check_embeddings(queries: Embeddings, gallery: Embeddings) -> tuple[Embeddings, Embeddings]:
    """Return both sides of an evaluation in float32 or float64, with labels in one list of classes.

    Raises:
        ZsbirError: If a side is not `Embeddings`, or empty, widths differ, or for NaN or infinite values (with the
            files) and unknown labels.
    """
    for side in (queries, gallery):
        if not isinstance(side, Embeddings):
            raise ZsbirError(
                f"an evaluator takes Embeddings, not {type(side).__name__}: make them with zsbir.Embeddings(vectors, "
                "labels, classes), or give arrays to zsbir.evaluation.evaluate_embeddings"
            )
    left, right = as_floats(queries.vectors, "the queries"), as_floats(gallery.vectors, "the gallery vectors")
    check_counts(len(left), len(right))
    if left.shape[1] != right.shape[1]:
        raise ZsbirError(
            f"queries are {left.shape[1]} wide but the gallery is {right.shape[1]}: they come from different models"
        )
    check_finite(left, "queries", queries.paths)
    check_finite(right, "gallery photos", gallery.paths)
    classes = tuple(dict.fromkeys((*queries.classes, *gallery.classes)))
    if classes:
        labels = _in_classes(queries, classes), _in_classes(gallery, classes)
    else:
        first, second, classes = common_labels(queries.labels, gallery.labels, (len(left), len(right)))
        labels = first, second
    return (
        replace(queries, vectors=left, labels=labels[0], classes=classes),
        replace(gallery, vectors=right, labels=labels[1], classes=classes),
    )


def _in_classes(side: Embeddings, classes: tuple[str, ...]) -> Labels:
    """Return the labels of a side as positions in `classes`; a side without class names counts in them already."""
    given = _labels(side.labels, len(side), "queries" if side.domain == "sketch" else "photos of the gallery")
    if given.dtype.kind != "u":
        raise ZsbirError(f"the labels of {side.domain} embeddings with classes must be positions in them, not names")
    own = side.classes or classes
    if len(given) and int(given.max()) >= len(own):
        raise ZsbirError(f"a {side.domain} has the unknown label {int(given.max())}: there are {len(own)} classes")
    return np.array([classes.index(name) for name in own], dtype=np.int64)[given.astype(np.int64)]
