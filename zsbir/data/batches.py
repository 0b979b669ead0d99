"""Augment a step's images in batches, on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from zsbir.types import Batch


@dataclass
class RawBatch:
    """A step's images as the workers give them: uint8, with the augmentation still to be applied.

    Attributes:
        images: field name to (B, 3, S, S) uint8.
        labels: field name to (B,) int64.
        warp: field name to (B, 2, 3) float32, see `affine_matrices`; empty without augmentation.
        objects: field name to (B, S, S) bool.
        keep: field name to (B, N) bool.
        files: field name to file names.
        skipped: Files that could not be read, and were replaced by another of their class.
    """

    images: dict[str, Tensor] = field(default_factory=dict)
    labels: dict[str, Tensor] = field(default_factory=dict)
    warp: dict[str, Tensor] = field(default_factory=dict)
    objects: dict[str, Tensor] = field(default_factory=dict)
    keep: dict[str, Tensor] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def pin_memory(self) -> RawBatch:
        """Return it with pinned tensors, for asynchronous copies to a GPU."""
        return self._with(Tensor.pin_memory)

    def to(self, device: torch.device | str) -> RawBatch:
        """Return it with all tensors on `device`; from pinned memory, the copies are asynchronous."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory until `stream` has used it."""
        for tensors in self._tensors().values():
            for tensor in tensors.values():
                tensor.record_stream(stream)

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        return {part: getattr(self, part) for part in ("images", "labels", "warp", "objects", "keep")}

    def _with(self, change: Callable[[Tensor], Tensor]) -> RawBatch:
        changed: dict[str, Any] = {
            part: {name: change(tensor) for name, tensor in tensors.items()}
            for part, tensors in self._tensors().items()
        }
        return replace(self, **changed)


FILE_SIDE = 256
"""Side in pixels of the files that SBKA's shift was published for (Sketchy's)."""


def affine_matrices(
    count: int, rng: np.random.Generator, probability: float, corner: bool = False
) -> npt.NDArray[np.float32]:
    """Draw SBKA's augmentation (arXiv 2312.10320, released code): flip, scale, rotation, shift, each at 0.5.

    The two axes are scaled at the same coin, by factors of their own, and shifted likewise.

    Args:
        count: How many images.
        rng: The source of randomness.
        probability: Share of the images that are augmented at all.
        corner: Scale and rotate about the top left corner, as released, not about the centre: this moves the image's
            centre by an eighth of its side on average, and parts of the object leave the picture.

    Returns:
        (count, 2, 3) float32 maps from output to input position in [-1, 1] coordinates, as ``affine_grid`` takes
        them: flip left-right; scale of each axis in [0.7, 1.3]; rotation within ±30°; shift within ±10 of 256 pixels.
    """
    chosen = rng.random(count) < probability

    def coin() -> npt.NDArray[np.bool_]:
        use: npt.NDArray[np.bool_] = (rng.random(count) < 0.5) & chosen
        return use

    flip = np.where(coin(), -1.0, 1.0)
    scale = np.where(coin()[:, None], rng.uniform(0.7, 1.3, (count, 2)), 1.0)
    angle = np.where(coin(), rng.uniform(-np.pi / 6, np.pi / 6, count), 0.0)
    shift = np.where(coin()[:, None], rng.uniform(-1, 1, (count, 2)) * 2 * 10 / FILE_SIDE, 0.0)
    cos, sin = np.cos(angle), np.sin(angle)
    # The way back from the output: shift, rotation and scale undone, then the flip.
    turn = np.stack([np.stack([cos, sin], axis=1), np.stack([-sin, cos], axis=1)], axis=1) / scale[:, :, None]
    origin = -(1 - 1 / FILE_SIDE) if corner else 0.0  # the middle of the first pixel
    offset = origin - (turn @ (origin + shift)[:, :, None])[:, :, 0]
    maps = np.concatenate([turn, offset[:, :, None]], axis=2)
    maps[:, 0] *= flip[:, None]
    return maps.astype(np.float32)


def warp(images: Tensor, matrices: Tensor, fill: float | None) -> Tensor:
    """Apply (B, 2, 3) affine maps to (B, C, H, W) float images.

    Args:
        images: Values in [0, 1].
        matrices: See `affine_matrices`.
        fill: Value outside the image (white, 1.0, is the background of a sketch); None: the border is repeated.
    """
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    if fill is None:
        return F.grid_sample(images, grid, align_corners=False, padding_mode="border")
    return F.grid_sample(images - fill, grid, align_corners=False, padding_mode="zeros") + fill


def to_unit(images: Tensor, device: torch.device | str) -> Tensor:
    """Move (B, 3, H, W) uint8 images to `device` as float32 in [0, 1]; float16 (stored features) only as float32."""
    moved = images.to(device, non_blocking=True).to(torch.float32)
    return moved.div_(255) if images.dtype == torch.uint8 else moved


def to_batch(
    raw: RawBatch,
    classes: tuple[str, ...],
    device: torch.device | str = "cpu",
    order: torch.memory_format = torch.contiguous_format,
    sketch_fill: float | None = 1.0,
    photo_fill: float | None = None,
) -> Batch:
    """Turn a step's images into floats and augment them, on the device.

    Args:
        raw: What the loader gave.
        classes: The split's class names.
        device: Where the batch is wanted.
        order: Memory order of the images.
        sketch_fill: What a warp puts outside a sketch, see `warp`.
        photo_fill: Likewise for photos.
    """
    raw = raw.to(device)
    images: dict[str, Tensor] = {}
    objects = dict(raw.objects)
    for name, pixels in raw.images.items():
        unit = to_unit(pixels, device)
        if name in raw.warp:
            unit = warp(unit, raw.warp[name], sketch_fill if name == "sketch" else photo_fill)
            if name in objects:
                objects[name] = warp(objects[name][:, None].float(), raw.warp[name], 0.0)[:, 0] > 0.5
        images[name] = unit.contiguous(memory_format=order)
    return Batch(
        sketch=images["sketch"],
        photo=images["photo"],
        label=raw.labels["sketch"],
        photo_label=raw.labels["photo"],
        negative=images.get("negative"),
        negative_label=raw.labels.get("negative"),
        classes=classes,
        photo_object=objects.get("photo"),
        negative_object=objects.get("negative"),
        photo_keep=raw.keep.get("photo"),
        negative_keep=raw.keep.get("negative"),
        files=raw.files,
    )
