"""What goes into an evaluation, checked: a mistake is named before it becomes a number."""

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
from zsbir.types import Embeddings, Labels

Array = npt.NDArray[Any] | Tensor
"""NumPy or torch, CPU or CUDA."""


def as_floats(values: Array | Sequence[Any], what: str) -> Tensor:
    """Return `values` as a 2-D float32 or float64 tensor on its device.

    Half precision is taken as the exact numbers it holds, with a warning: coarse scores tie.

    Raises:
        ZsbirError: If it is not 2-D, or not of numbers.
    """
    try:
        tensor = values.detach() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    except TypeError as error:
        raise ZsbirError(f"{what} must be numbers: {error}") from None
    if tensor.ndim != 2:
        raise ZsbirError(f"{what} must have 2 dimensions (one row each), not shape {tuple(tensor.shape)}")
    if tensor.dtype in (torch.float16, torch.bfloat16):
        warnings.warn(
            f"{what} are {str(tensor.dtype).removeprefix('torch.')}: they are computed with in float32, but were "
            "rounded before, so results differ slightly from those of the full precision",
            stacklevel=3,
        )
        return tensor.float()
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor
    if tensor.is_complex():
        raise ZsbirError(f"{what} must be real numbers, not {tensor.dtype}")
    return tensor.to(torch.float64)


def check_finite(values: Tensor, what: str, paths: Sequence[str] = ()) -> None:
    """Raise a ZsbirError that counts and names the rows of `values` (n, D) with NaN or infinity."""
    # The sum is finite iff all entries are (or it overflows, and the slow check decides).
    if bool(torch.isfinite(values.sum())):
        return
    bad = (~torch.isfinite(values)).any(dim=1).nonzero()[:, 0].tolist()
    if bad:
        names = [paths[i] if i < len(paths) else f"row {i}" for i in bad[:5]]
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise ZsbirError(
            f"{len(bad)} of {len(values)} {what} have NaN or infinite values: {', '.join(names)}{more}. "
            "Embed these files again, or leave them out."
        )


def check_vectors(queries: Tensor, gallery: Tensor) -> None:
    """Raise a ZsbirError for an empty side or widths that differ."""
    if not len(gallery):
        raise ZsbirError("the gallery is empty: there is no photo to find")
    if not len(queries):
        raise ZsbirError("there are no queries: nothing to evaluate")
    if queries.shape[1] != gallery.shape[1]:
        raise ZsbirError(
            f"queries are {queries.shape[1]} wide but the gallery is {gallery.shape[1]}: "
            "they come from different models"
        )


def common_labels(
    queries: Array | Sequence[Any], gallery: Array | Sequence[Any], shape: tuple[int, int]
) -> tuple[Labels, Labels]:
    """Return both label lists as positions in one common list of classes.

    Args:
        queries: Class of each query: numbers from 0, or names.
        gallery: Class of each photo, likewise.
        shape: How many queries and photos there are.

    Raises:
        ZsbirError: If lengths differ or a label is unknown (negative).
    """
    arrays = []
    for labels, count, what in ((queries, shape[0], "queries"), (gallery, shape[1], "photos of the gallery")):
        array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
        if array.ndim != 1 or len(array) != count:
            raise ZsbirError(f"{count} {what} need {count} labels, not an array of shape {array.shape}")
        if array.dtype.kind == "f":
            raise ZsbirError(f"the labels of the {what} must be whole numbers or names, not {array.dtype}")
        unknown = int((array < 0).sum()) if array.dtype.kind == "i" else 0
        if unknown:
            raise ZsbirError(f"{unknown} of {count} {what} have an unknown label (-1): label them, or leave them out")
        arrays.append(array)
    if (arrays[0].dtype.kind in "iu") != (arrays[1].dtype.kind in "iu"):
        raise ZsbirError(
            "the labels of queries and gallery must be of one kind: numbers on both sides or names on both"
        )
    _, inverse = np.unique(np.concatenate(arrays), return_inverse=True)
    return inverse[: shape[0]].astype(np.int64), inverse[shape[0] :].astype(np.int64)


def check_embeddings(queries: Embeddings, gallery: Embeddings) -> tuple[Embeddings, Embeddings, tuple[str, ...]]:
    """Check both sides of an evaluation and give them one list of classes.

    Returns:
        Queries and gallery in float32 or float64 with labels in the common classes, and these classes.

    Raises:
        ZsbirError: For an empty side, widths that differ, NaN or infinite values (with the files), unknown labels.
    """
    left, right = as_floats(queries.vectors, "the queries"), as_floats(gallery.vectors, "the gallery vectors")
    check_vectors(left, right)
    check_finite(left, "queries", queries.paths)
    check_finite(right, "gallery photos", gallery.paths)
    classes = tuple(dict.fromkeys((*queries.classes, *gallery.classes)))
    labels = [_in_classes(side, classes) for side in (queries, gallery)]
    common_labels(labels[0], labels[1], (len(left), len(right)))  # lengths and unknown labels
    if not classes:
        classes = tuple(str(i) for i in range(int(max(labels[0].max(), labels[1].max())) + 1))
    return (
        replace(queries, vectors=left, labels=labels[0], classes=classes),
        replace(gallery, vectors=right, labels=labels[1], classes=classes),
        classes,
    )


def _in_classes(side: Embeddings, classes: tuple[str, ...]) -> Labels:
    """Return the labels of a side as positions in `classes`; a side without class names counts in them already."""
    labels = np.asarray(side.labels, dtype=np.int64)
    known = len(side.classes or classes)
    if known and len(labels) and int(labels.max()) >= known:
        raise ZsbirError(f"a {side.domain} has the unknown label {int(labels.max())}: there are {known} classes")
    if not side.classes or side.classes == classes:
        return labels
    place = np.array([*(classes.index(name) for name in side.classes), -1], dtype=np.int64)
    return place[labels]
