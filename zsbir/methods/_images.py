"""What images may be given as, and the checks of what a method embeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from zsbir.errors import ZsbirError
from zsbir.registry import close_matches
from zsbir.types import Domain, Paths, Records

Images = Records | str | Path | Image.Image | npt.NDArray[Any] | Tensor | Iterable[Any]
"""Records of a dataset; or an image, or several: paths, bytes of an image file, PIL images, (H, W, 3) uint8 arrays, or
(3, H, W) tensors, uint8 or float in [0, 1]."""

_DOMAINS = list(get_args(Domain))  # here, because older torch cannot export a call of get_args
_values_known: ContextVar[bool] = ContextVar("values_known", default=False)


def check_domain(domain: object) -> None:
    """Raise ZsbirError for anything but ``"sketch"`` and ``"photo"``."""
    if domain not in _DOMAINS:
        raise ZsbirError(f"there is no domain {domain!r}. {close_matches(str(domain), _DOMAINS)}")


def check_images(images: object, size: int) -> None:
    """Raise ZsbirError if `images` is not what `Method.embed` takes: (B, 3, size, size) float in [0, 1].

    Values are checked where no gradient is wanted and they are not known: a GPU has to be waited for to see them.
    """
    how = "; encode_sketches and encode_photos take images of any kind"
    if not isinstance(images, Tensor):
        raise ZsbirError(f"embed takes a tensor, not {type(images).__name__}{how}")
    if not images.is_floating_point() or images.dtype == torch.float64:
        raise ZsbirError(f"embed takes float32 images in [0, 1], not {images.dtype}{how}")
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size):
        raise ZsbirError(f"embed takes images (B, 3, {size}, {size}), not {tuple(images.shape)}{how}")
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not images.numel() or images.is_meta:
        return
    if _values_known.get():
        return
    low, high = (float(value) for value in torch.aminmax(images))
    if not (low >= -0.01 and high <= 1.01):
        raise ZsbirError(
            f"embed takes images in [0, 1], and these go from {low:.4g} to {high:.4g}: divide bytes by 255, and do not "
            "normalise, the method does"
        )


@contextmanager
def values_known() -> Iterator[None]:
    """Say that the values of images come from bytes, and so lie in [0, 1]."""
    token = _values_known.set(True)
    try:
        yield
    finally:
        _values_known.reset(token)


def as_items(images: Images) -> Sequence[Any] | Iterator[Any]:
    """Return the images one by one, as they were given; an iterator is not read yet."""
    if isinstance(images, Records):
        return [str(images.file(row)) for row in range(len(images))]
    if isinstance(images, (str, bytes, Path, Image.Image)):
        return [images]
    if isinstance(images, (np.ndarray, Tensor)):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, (Sequence, Iterator)):
        return images
    if isinstance(images, Iterable) and not isinstance(images, dict):
        return list(images)
    raise ZsbirError(f"images are paths, PIL images, arrays or tensors, or lists of these, not {type(images).__name__}")


def paths_of(images: Images, items: Sequence[Any] | Iterator[Any], kept: list[int]) -> Paths:
    """Return the names of the images that were kept, where all have one; those of an iterator are not kept."""
    if isinstance(images, Records):
        return images.paths.take(kept)
    if isinstance(items, Iterator):
        return Paths()
    named = all(isinstance(items[row], (str, Path)) for row in kept)
    return Paths(str(items[row]) for row in kept) if named else Paths()
