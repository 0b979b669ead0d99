"""Turn index plans into raw batches: decode in worker processes, ahead of the step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from zsbir.data.base import Dataset
from zsbir.data.batches import RawBatch, affine_matrices
from zsbir.data.cache import ImageCache
from zsbir.data.images import load_image
from zsbir.data.preprocess import Pixels, Preprocess
from zsbir.data.sampling import Plan
from zsbir.errors import ZsbirError
from zsbir.types import DOMAINS, Domain, Records, Split


class ImageSource:
    """Gives the prepared image of a record.

    Args:
        dataset: Opens the files; None: as image files.
        preprocess: How images become squares.
        cache: A folder for decoded images (see `zsbir.data.cache`), filled on first use; None: decode every time.
        features: Gives what a model's frozen layers make of a file, instead of its image; see
            `zsbir.methods.features`.
    """

    def __init__(
        self,
        dataset: Dataset | None,
        preprocess: Preprocess,
        cache: str | Path | None = None,
        features: Callable[[str, Domain], Tensor] | None = None,
    ) -> None:
        self.dataset = dataset
        self.preprocess = preprocess
        self.size = preprocess.size
        self.features = features
        self.caches: dict[Domain, ImageCache] = {}
        if cache is not None:
            self.use_cache(cache)

    def use_cache(self, folder: str | Path) -> None:
        """Take prepared images from a cache folder from now on, and fill it where it has gaps."""
        variant = "" if self.dataset is None else self.dataset.variant
        for domain in DOMAINS:
            how = self.preprocess.how(domain)
            self.caches[domain] = ImageCache(folder, self.size, how, self._opener(domain), variant)

    def image(self, file: str, domain: Domain) -> Pixels:
        """Return (size, size, 3) uint8; raises ZsbirError for a file that cannot be read."""
        if domain in self.caches:
            return self.caches[domain].get(file)
        return self.preprocess.pixels(self._opener(domain)(file), domain)

    def _opener(self, domain: Domain) -> Callable[[str], Image.Image]:
        if self.dataset is not None:
            return self.dataset.open
        # Photos of any size: what is lost by decoding a JPEG at about twice the square's side cannot be seen in it.
        return partial(load_image, at_least=2 * self.size) if domain == "photo" else load_image

    def tensor(self, file: str, domain: Domain) -> Tensor:
        """Return (3, size, size) uint8, or what the model's frozen layers make of it, in float16."""
        return planes(self.image(file, domain)) if self.features is None else self.features(file, domain)

    def mask(self, file: str) -> npt.NDArray[np.bool_] | None:
        """Return (size, size) bool, True on the object, squashed like the photo, or None."""
        mask = None if self.dataset is None else self.dataset.object_mask(file)
        if mask is None:
            return None
        rows = (np.arange(self.size) + 0.5) * mask.shape[0] / self.size
        columns = (np.arange(self.size) + 0.5) * mask.shape[1] / self.size
        return mask[np.ix_(rows.astype(int), columns.astype(int))]


def planes(pixels: Pixels) -> Tensor:
    """Return (3, H, W) of (H, W, 3), in memory of its own."""
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))


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
        corner: Warp about the corner, see `affine_matrices`.
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
        corner: bool = False,
    ) -> None:
        self.split = split
        self.source = source
        self.make_plan = make_plan
        self.augment_probability, self.corner = augment_probability, corner
        self.seed = seed
        self.rank, self.world = rank, world
        self.keep = keep
        self.with_objects = with_objects
        self._plan: tuple[int, Plan] | None = None

    def plan(self, epoch: int) -> Plan:
        """Return the epoch's plan, kept until another epoch is asked for."""
        if self._plan is None or self._plan[0] != epoch:
            self._plan = (epoch, self.make_plan(epoch))
        return self._plan[1]

    def __getitem__(self, where: tuple[int, int]) -> RawBatch:
        epoch, step = where
        plan = self.plan(epoch)
        raw = RawBatch()
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
        raw.images[name] = torch.stack([tensor for _, tensor in read])
        raw.labels[name] = torch.from_numpy(records.labels[rows])
        raw.files[name] = [file for file, _ in read]
        if self.augment_probability:
            whole = affine_matrices(len(rows) * self.world, rng, self.augment_probability, self.corner)
            raw.warp[name] = torch.from_numpy(whole[self.rank * len(rows) :][: len(rows)])
        if domain == "photo" and self.with_objects:
            masks = [self.source.mask(file) for file in raw.files[name]]
            known = [mask for mask in masks if mask is not None]
            if len(known) == len(masks):
                raw.objects[name] = torch.from_numpy(np.stack(known))
        if domain == "photo" and self.keep is not None:
            raw.keep[name] = torch.from_numpy(np.stack([self.keep(file) for file in raw.files[name]]))

    def _read(self, records: Records, row: int, domain: Domain, skipped: list[str]) -> tuple[str, Tensor]:
        """Read a record; if it is broken, the next of its class that is not, and note the broken one."""
        for number in _and_others(records.labels, row):
            file = str(records.file(number))
            try:
                return file, self.source.tensor(file, domain)
            except ZsbirError as error:
                skipped.append(str(error))
        name = self.split.classes[records.labels[row]]
        raise ZsbirError(f"no {domain} of the class {name!r} can be read; the last: {skipped[-1]}")


def _and_others(labels: npt.NDArray[np.int64], row: int) -> Iterator[int]:
    """Yield a row, and then the others of its class: those after it, then those before it."""
    yield row
    members = np.flatnonzero(labels == labels[row])
    yield from np.roll(members, -int(np.searchsorted(members, row)))[1:].tolist()


class StepLoader:
    """Iterates over the steps of epochs, decoding ahead in `workers` processes that live as long as the loader.

    Args:
        steps: The steps.
        workers: Processes; 0: decode in this one.
        pin: Pin host memory, for a CUDA device.
    """

    def __init__(self, steps: Steps, workers: int = 2, pin: bool = False) -> None:
        self.steps = steps
        self._order: list[tuple[int, int]] = []  # what an epoch loads; the loader reads it when one begins
        options: dict[str, Any] = {"persistent_workers": True, "prefetch_factor": 2} if workers else {}
        # fork keeps the datasets' buffers shared; threads of torch have not started work in the workers yet.
        self._loader: DataLoader[RawBatch] = DataLoader(
            steps, batch_size=None, sampler=self._order, num_workers=workers, pin_memory=pin,
            worker_init_fn=_own_group, **options,
        )  # fmt: skip

    def epoch(self, epoch: int, start: int = 0) -> Iterator[RawBatch]:
        """Yield the batches of one epoch from step `start` on."""
        self._order[:] = [(epoch, step) for step in range(start, len(self.steps.plan(epoch)))]
        return iter(self._loader)


def _own_group(worker: int) -> None:
    """Leave the group of processes: a signal to all of it is for the process that trains, which ends its workers."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
