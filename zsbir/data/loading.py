"""From index plans to batches on the device: decoding in workers, augmentation and normalisation in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from zsbir.data.base import Dataset
from zsbir.data.cache import ImageCache
from zsbir.data.images import prepare
from zsbir.data.sampling import Plan
from zsbir.errors import ZsbirError
from zsbir.types import Batch, Domain, Records, Split

Pixels = npt.NDArray[np.uint8]
Prepare = Literal["squash", "crop-pad"]


class ImageSource:
    """Gives the prepared image of a record.

    Args:
        dataset: Opens the files.
        size: Side of the square in pixels.
        sketch_prepare: How a sketch becomes a square, see `zsbir.data.images.prepare`.
        photo_prepare: Likewise for photos.
        cache: A folder for decoded images (see `zsbir.data.cache`), filled on first use; None: decode every time.
    """

    def __init__(
        self,
        dataset: Dataset,
        size: int,
        sketch_prepare: Prepare = "squash",
        photo_prepare: Prepare = "squash",
        cache: str | Path | None = None,
    ) -> None:
        self.dataset = dataset
        self.size = size
        self.how: dict[Domain, Prepare] = {"sketch": sketch_prepare, "photo": photo_prepare}
        self._caches: dict[Domain, ImageCache] = {}
        if cache is not None:
            self.use_cache(cache)

    def use_cache(self, folder: str | Path) -> None:
        """Take prepared images from a cache folder from now on, and fill it where it has gaps."""
        for domain, how in self.how.items():
            self._caches[domain] = ImageCache(folder, self.size, how, self.dataset.open, self.dataset.variant)

    def image(self, file: str, domain: Domain) -> Pixels:
        """Return (size, size, 3) uint8; raises ZsbirError for a file that cannot be read."""
        if domain in self._caches:
            return self._caches[domain].get(file)
        return prepare(self.dataset.open(file), self.size, self.how[domain])

    def mask(self, file: str) -> npt.NDArray[np.bool_] | None:
        """Return (size, size) bool, True on the object, squashed like the photo, or None."""
        mask = self.dataset.object_mask(file)
        if mask is None:
            return None
        rows = (np.arange(self.size) + 0.5) * mask.shape[0] / self.size
        columns = (np.arange(self.size) + 0.5) * mask.shape[1] / self.size
        return mask[np.ix_(rows.astype(int), columns.astype(int))]


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

    images: dict[str, Tensor]
    labels: dict[str, Tensor]
    warp: dict[str, Tensor]
    objects: dict[str, Tensor]
    keep: dict[str, Tensor]
    files: dict[str, list[str]]
    skipped: list[str]

    def pin_memory(self) -> RawBatch:
        """Return itself with pinned images, for asynchronous copies to a GPU."""
        self.images = {k: v.pin_memory() for k, v in self.images.items()}
        return self


class Steps(TorchDataset[RawBatch]):
    """Items are whole steps, addressed by (epoch, step).

    Args:
        split: The records.
        source: Where prepared images come from.
        make_plan: The plan of an epoch, for this process.
        augment_probability: Share of images with a random affine warp; 0: none.
        seed: The run's seed.
        rank: This process, from 0: it takes its share of the whole batch's augmentations, like that of the plan.
        world: How many processes share a batch.
        keep: Looks up the stored mask (N,) bool of a photo by its file name.
        with_objects: Also deliver the object masks, where the dataset knows them.
    """

    def __init__(
        self,
        split: Split,
        source: ImageSource,
        make_plan: Callable[[int], Plan],
        augment_probability: float = 0.0,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        keep: Callable[[str], npt.NDArray[np.bool_]] | None = None,
        with_objects: bool = False,
    ) -> None:
        self.split = split
        self.source = source
        self.make_plan = make_plan
        self.augment_probability = augment_probability
        self.seed = seed
        self.rank, self.world = rank, world
        self.keep = keep
        self.with_objects = with_objects
        self._plan: tuple[int, Plan] | None = None
        self._by_class: dict[tuple[Domain, int], npt.NDArray[np.int64]] = {}

    def plan(self, epoch: int) -> Plan:
        """Return the epoch's plan, kept until another epoch is asked for."""
        if self._plan is None or self._plan[0] != epoch:
            self._plan = (epoch, self.make_plan(epoch))
        return self._plan[1]

    def __getitem__(self, where: tuple[int, int]) -> RawBatch:
        epoch, step = where
        plan = self.plan(epoch)
        raw = RawBatch({}, {}, {}, {}, {}, {}, [])
        rng = np.random.default_rng([self.seed, epoch, step, 7])
        self._fill(raw, "sketch", "sketch", plan.sketch[step], rng)
        self._fill(raw, "photo", "photo", plan.photo[step], rng)
        if plan.negative is not None:
            self._fill(raw, "negative", "photo", plan.negative[step], rng)
        return raw

    def _fill(
        self, raw: RawBatch, name: str, domain: Domain, rows: npt.NDArray[np.int64], rng: np.random.Generator
    ) -> None:
        records = self.split.of(domain)
        read = [self._read(records, int(row), domain, raw.skipped) for row in rows]
        stacked = np.empty((len(read), 3, self.source.size, self.source.size), dtype=np.uint8)
        for place, (_, pixels) in zip(stacked, read, strict=True):
            place[...] = pixels.transpose(2, 0, 1)
        raw.images[name] = torch.from_numpy(stacked)
        raw.labels[name] = torch.from_numpy(records.labels[rows])
        raw.files[name] = [file for file, _ in read]
        if self.augment_probability:
            whole = affine_matrices(len(rows) * self.world, rng, self.augment_probability)
            raw.warp[name] = torch.from_numpy(whole[self.rank * len(rows) :][: len(rows)])
        if domain == "photo" and self.with_objects:
            masks = [self.source.mask(file) for file in raw.files[name]]
            known = [mask for mask in masks if mask is not None]
            if len(known) == len(masks):
                raw.objects[name] = torch.from_numpy(np.stack(known))
        if domain == "photo" and self.keep is not None:
            raw.keep[name] = torch.from_numpy(np.stack([self.keep(file) for file in raw.files[name]]))

    def _read(self, records: Records, row: int, domain: Domain, skipped: list[str]) -> tuple[str, Pixels]:
        """Read a record; if it is broken, the next of its class that is not, and note the broken one."""
        label = int(records.labels[row])
        members = self._by_class.get((domain, label))
        if members is None:
            members = self._by_class[domain, label] = np.flatnonzero(records.labels == label)
        start = int(np.searchsorted(members, row))
        for turn in range(len(members)):
            file = str(records.file(int(members[(start + turn) % len(members)])))
            try:
                return file, self.source.image(file, domain)
            except ZsbirError as error:
                skipped.append(str(error))
        raise ZsbirError(f"no {domain} of the class {self.split.classes[label]!r} can be read; the last: {skipped[-1]}")


class StepLoader:
    """Iterates over the steps of epochs, decoding ahead in `workers` processes that live as long as the loader.

    Args:
        steps: The steps.
        workers: Processes; 0: decode in this one.
        pin: Pin host memory, for a CUDA device.
    """

    def __init__(self, steps: Steps, workers: int = 2, pin: bool = False) -> None:
        self.steps = steps
        self._order: list[tuple[int, int]] = []
        options: dict[str, Any] = {"persistent_workers": True, "prefetch_factor": 2} if workers else {}
        # fork keeps the datasets' buffers shared; threads of torch have not started work in the workers yet.
        self._loader: DataLoader[RawBatch] = DataLoader(
            steps, batch_size=None, sampler=_Order(self), num_workers=workers, pin_memory=pin, **options
        )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[RawBatch]:
        """Yield the batches of one epoch from step `start` on."""
        self._order = [(epoch, step) for step in range(start, len(self.steps.plan(epoch)))]
        return iter(self._loader)

    @property
    def order(self) -> list[tuple[int, int]]:
        """What is left to load of the current epoch."""
        return self._order


class _Order(torch.utils.data.Sampler[tuple[int, int]]):
    def __init__(self, owner: StepLoader) -> None:
        self._owner = owner

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._owner.order)

    def __len__(self) -> int:
        return len(self._owner.order)


def affine_matrices(count: int, rng: np.random.Generator, probability: float) -> npt.NDArray[np.float32]:
    """Draw SBKA's augmentation (arXiv 2312.10320, released code): flip, scale, rotation, shift, each at 0.5.

    Args:
        count: How many images.
        rng: The source of randomness.
        probability: Share of the images that are augmented at all.

    Returns:
        (count, 2, 3) float32 maps from output to input position in [-1, 1] coordinates, as ``affine_grid`` takes
        them: flip left-right; scale of each axis in [0.7, 1.3]; rotation within ±30°; shift within ±10 of 224 pixels.
    """

    def half(values: npt.NDArray[np.float64], otherwise: float) -> npt.NDArray[np.float64]:
        use = (rng.random(count) < 0.5) & chosen
        return np.where(use, values, otherwise)

    chosen = rng.random(count) < probability
    flip = half(np.full(count, -1.0), 1.0)
    sx, sy = half(rng.uniform(0.7, 1.3, count), 1.0), half(rng.uniform(0.7, 1.3, count), 1.0)
    angle = half(rng.uniform(-np.pi / 6, np.pi / 6, count), 0.0)
    shift = 2 * 10 / 224
    tx, ty = half(rng.uniform(-shift, shift, count), 0.0), half(rng.uniform(-shift, shift, count), 0.0)
    cos, sin = np.cos(angle), np.sin(angle)
    rows = [[flip * cos / sx, flip * sin / sx, tx], [-sin / sy, cos / sy, ty]]
    return np.stack([np.stack(row, axis=1) for row in rows], axis=1).astype(np.float32)


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
    """Move (B, 3, H, W) uint8 images to `device` as float32 in [0, 1]."""
    return images.to(device, non_blocking=True).to(torch.float32).div_(255)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return ``(images - mean) / std`` per channel of (B, 3, H, W) images in [0, 1]."""
    m = torch.tensor(mean, device=images.device).view(1, -1, 1, 1)
    s = torch.tensor(std, device=images.device).view(1, -1, 1, 1)
    return (images - m).div_(s)


def to_batch(
    raw: RawBatch,
    classes: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device | str = "cpu",
    order: torch.memory_format = torch.contiguous_format,
) -> Batch:
    """Finish a step on the device: to float, augment, normalise.

    Args:
        raw: What the loader gave.
        classes: The split's class names.
        mean: Per channel, in [0, 1].
        std: Likewise.
        device: Where the batch is wanted.
        order: Memory order of the images.
    """
    images: dict[str, Tensor] = {}
    objects = {name: mask.to(device) for name, mask in raw.objects.items()}
    for name, pixels in raw.images.items():
        unit = to_unit(pixels, device)
        if name in raw.warp:
            matrices = raw.warp[name].to(device)
            unit = warp(unit, matrices, 1.0 if name == "sketch" else None)
            if name in objects:
                objects[name] = warp(objects[name][:, None].float(), matrices, 0.0)[:, 0] > 0.5
        images[name] = normalise(unit, mean, std).contiguous(memory_format=order)
    labels = {name: label.to(device) for name, label in raw.labels.items()}
    keep = {name: mask.to(device) for name, mask in raw.keep.items()}
    return Batch(
        sketch=images["sketch"],
        photo=images["photo"],
        label=labels["sketch"],
        photo_label=labels["photo"],
        negative=images.get("negative"),
        negative_label=labels.get("negative"),
        classes=classes,
        photo_object=objects.get("photo"),
        negative_object=objects.get("negative"),
        photo_keep=keep.get("photo"),
        negative_keep=keep.get("negative"),
        files=raw.files,
        fixed=not raw.warp,
    )
