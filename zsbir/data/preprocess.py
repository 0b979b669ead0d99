"""How an image becomes what a model sees: a square of pixels, then normalised values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from zsbir.arguments import Count, Positive, checked
from zsbir.data.images import upright
from zsbir.errors import ZsbirError
from zsbir.registry import close_matches
from zsbir.types import Domain

Pixels = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]

DRAWN_AT_MOST = 300
"""A pixel of a sketch is drawn where R + G + B is at most this (PuXIM's release)."""

CROP_MARGIN = 10
"""Pixels kept around the drawn box (PuXIM's release)."""


def squash(image: Image.Image, size: int, how: Image.Resampling = Image.Resampling.BILINEAR) -> Pixels:
    """Resize both sides to `size` with antialiasing; the ratio is lost. PuXIM's release does so to photos, bicubic."""
    return _resized(image, (size, size), how)


def pad_black(image: Image.Image, size: int) -> Pixels:
    """Resize keeping the ratio, bicubic, and pad with black, as the releases of clip-prompt and CMCA do."""
    # As Pillow's ImageOps.pad, which leaves nothing, or fails, where less than half a pixel of a side is left.
    width, height = (max(1, round(side / max(image.size) * size)) for side in image.size)
    left, top = round((size - width) / 2), round((size - height) / 2)
    square = np.zeros((size, size, 3), dtype=np.uint8)
    square[top : top + height, left : left + width] = _resized(image, (width, height), Image.Resampling.BICUBIC)
    return square


def crop_pad(image: Image.Image, size: int) -> Pixels:
    """Crop to the drawn box with a margin of 10 px, resize keeping the ratio, pad with the image's maximum value."""
    image = _crop(image, drawn_box(np.asarray(image)))
    width, height = (max(1, round(side * size / max(image.size))) for side in image.size)
    return _padded(_resized(image, (width, height)), size)


def crop_pad_released(image: Image.Image, size: int) -> Pixels:
    """Prepare a sketch as PuXIM's release does, to the pixel.

    It differs from `crop_pad` in three points: the box ends one pixel earlier at the right and at the bottom, sides are
    cut to whole pixels, and lines are not antialiased when the sketch is made smaller. A sketch without any drawn
    pixel, which the release cannot read, is not cropped.
    """
    box = drawn_box(np.asarray(image))
    pixels = np.asarray(_crop(image, None if box is None else (box[0], box[1], box[2] - 1, box[3] - 1)))
    ratio = pixels.shape[0] / pixels.shape[1]
    width, height = (int(size / ratio), size) if ratio > 1 else (size, int(size * ratio))
    return _padded(_without_antialiasing(pixels, max(width, 1), max(height, 1)), size)


WAYS: dict[str, Callable[[Image.Image, int], Pixels]] = {
    "squash": squash,
    "bicubic": functools.partial(squash, how=Image.Resampling.BICUBIC),
    "pad-black": pad_black,
    "crop-pad": crop_pad,
    "crop-pad-released": crop_pad_released,
}
"""The ways from an RGB image and a side to a square (side, side, 3) uint8, by name; add your own under a new name."""


def way(how: str) -> Callable[[Image.Image, int], Pixels]:
    """Return one of `WAYS` by its name; raises ZsbirError for an unknown one, with the close matches."""
    if how not in WAYS:
        raise ZsbirError(f"there is no way {how!r} to make a square of an image. {close_matches(how, list(WAYS))}")
    return WAYS[how]


@checked("preprocess")
@dataclass(frozen=True)
class Preprocess:
    """What a model sees of an image.

    Attributes:
        size: Side of the square in pixels.
        mean: Per channel, of values in [0, 1].
        std: Likewise.
        sketch: How a sketch becomes a square: a name in `WAYS`.
        photo: Likewise for photos.

    Raises:
        ZsbirError: For an unknown way, a size below 1, or statistics that are not three numbers, `std` above 0.
    """

    size: Count
    mean: tuple[float, float, float]
    std: tuple[Positive, Positive, Positive]
    sketch: str = "squash"
    photo: str = "squash"

    def __post_init__(self) -> None:
        for how in (self.sketch, self.photo):
            way(how)
        for name in ("mean", "std"):  # a list, where it comes out of JSON
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))

    @classmethod
    def of(cls, backbone: Any, given: Mapping[str, Any] | None = None, **published: Any) -> Preprocess:
        """Return the preparation of a method.

        Args:
            backbone: Says ``image_size``, ``mean`` and ``std``.
            given: What the user changes: any field but the size, which is the backbone's.
            **published: What the method's paper changes.

        Raises:
            ZsbirError: For a field that does not exist, with the close matches, or a value that it cannot have.
        """
        start = replace(cls(backbone.image_size, backbone.mean, backbone.std), **published)
        if "size" in (given or {}):
            raise ZsbirError("preprocess.size is the backbone's: give it image_size (backbone.image_size=...)")
        return replace(start, **(given or {}))

    def how(self, domain: Domain) -> str:
        """Return the way of a domain."""
        return self.sketch if domain == "sketch" else self.photo

    def pixels(self, image: Image.Image, domain: Domain) -> Pixels:
        """Return the (size, size, 3) uint8 square of an RGB image."""
        return WAYS[self.how(domain)](image, self.size)

    def normalise(self, images: Tensor) -> Tensor:
        """Return ``(images - mean) / std`` per channel of (B, 3, H, W) images in [0, 1].

        Stored outputs of frozen layers (any other shape, see `zsbir.methods.features`) are returned as they are.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            return images
        # Kept on the device: copying them there in each step would make the processor wait for the GPU.
        plain = type(images) is Tensor and not torch.compiler.is_compiling()
        channels = _channels if plain else _channels.__wrapped__
        mean, std = (channels(v, images.device, images.dtype) for v in (self.mean, self.std))
        return (images - mean) / std


def as_image(image: object) -> Image.Image:
    """Return an image that is in memory as RGB.

    Args:
        image: A PIL image of any mode; an (H, W, 3) or (H, W) uint8 array; or a (3, H, W) tensor, uint8 or float in
            [0, 1].

    Raises:
        ZsbirError: If it is something else.
    """
    if isinstance(image, Image.Image):
        return upright(image)
    if isinstance(image, Tensor):
        image = _bytes(image.detach().cpu())
    if not isinstance(image, np.ndarray):
        raise ZsbirError(f"an image is a path, a PIL image, an array or a tensor, not {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
        raise ZsbirError(f"an array is an image if it is (H, W, 3) uint8, and this is {image.shape} {image.dtype}")
    return Image.fromarray(image).convert("RGB")


def _bytes(image: Tensor) -> Pixels:
    """Return a (3, H, W) tensor as (H, W, 3) uint8."""
    if image.ndim != 3 or len(image) != 3:
        raise ZsbirError(f"a tensor is an image if it is (3, H, W), and this is {tuple(image.shape)}")
    if image.is_floating_point():
        low, high = (float(value) for value in torch.aminmax(image))
        if not (low >= -0.01 and high <= 1.01):
            raise ZsbirError(f"a float tensor is an image if it is in [0, 1]; this goes from {low:.4g} to {high:.4g}")
        image = (image * 255).round().clamp(0, 255).to(torch.uint8)
    if image.dtype != torch.uint8:
        raise ZsbirError(f"a tensor is an image if it is uint8, or float in [0, 1], and this is {image.dtype}")
    return np.asarray(image.permute(1, 2, 0))


@functools.lru_cache(maxsize=32)
def _channels(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, device=device, dtype=dtype).view(1, -1, 1, 1)


def drawn_box(pixels: Pixels) -> Box | None:
    """Return (left, top, right, bottom) of what is drawn on an (H, W, 3) uint8 image, or None where nothing is."""
    drawn = pixels.sum(axis=2, dtype=np.uint16) <= DRAWN_AT_MOST
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _crop(image: Image.Image, box: Box | None) -> Image.Image:
    """Cut out a box and the margin around it, as far as it lies in the image; None: nothing is cut."""
    if box is None:
        return image
    left, top = (max(edge - CROP_MARGIN, 0) for edge in box[:2])
    right, bottom = (min(edge + CROP_MARGIN, side) for edge, side in zip(box[2:], image.size, strict=True))
    return image.crop((left, top, right, bottom))


def _resized(image: Image.Image, size: tuple[int, int], how: Image.Resampling = Image.Resampling.BILINEAR) -> Pixels:
    return np.array(image if image.size == size else image.resize(size, how), dtype=np.uint8)


def _padded(pixels: Pixels, size: int) -> Pixels:
    """Return `pixels` in the middle of a square of their maximum value."""
    height, width = pixels.shape[:2]
    square = np.full((size, size, 3), pixels.max(), dtype=np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def _without_antialiasing(pixels: Pixels, width: int, height: int) -> Pixels:
    """Resize bilinearly between the four nearest pixels, in OpenCV's fixed-point arithmetic and so to the bit."""

    def taps(source: int, target: int, clamp: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        at = ((np.arange(target) + 0.5) * (1 / (target / source)) - 0.5).astype(np.float32)
        low = np.floor(at).astype(np.int64)
        part = (at - low).astype(np.float32)
        if clamp:  # OpenCV does so for columns, not for rows
            part[(low < 0) | (low >= source - 1)] = 0
        weights = np.rint(np.stack([1 - part, part]) * np.float32(2048)).astype(np.int32)
        return np.clip(np.stack([low, low + 1]), 0, source - 1), weights[..., None]

    if pixels.shape[:2] == (height, width):
        return pixels
    (left, right), across = taps(pixels.shape[1], width, True)
    (above, below), down = taps(pixels.shape[0], height, False)
    wide = pixels.astype(np.int32)
    rows = (wide[:, left] * across[0] + wide[:, right] * across[1]) >> 4
    down = down[..., None]
    mixed = ((rows[above] * down[0] >> 16) + (rows[below] * down[1] >> 16) + 2) >> 2
    return np.asarray(mixed, dtype=np.uint8)
