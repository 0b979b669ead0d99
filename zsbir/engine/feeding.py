"""From a dataset and a recipe to the loader of one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch

from zsbir.data.base import Dataset
from zsbir.data.batches import RawBatch
from zsbir.data.loading import ImageSource, StepLoader, Steps
from zsbir.data.sampling import Plan, balanced_plan, mixed_plan, triplet_plan
from zsbir.errors import ZsbirError
from zsbir.methods.base import Method, Recipe
from zsbir.methods.features import StoredFeatures
from zsbir.types import Domain

Keep = Callable[[str], npt.NDArray[np.bool_]]


def make_loader(
    method: Method,
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    rank: int,
    world: int,
    workers: int,
    pin: bool,
    keep: Keep | None = None,
) -> StepLoader:
    """Return the loader of one process of `world`.

    Every process draws the plan of the whole batch (``batch_size * world`` rows) and takes its own columns, so what is
    trained on does not depend on how many share the work.

    Args:
        method: Gives the preparation, the negative classes' weights, and says whether its masker needs object masks.
        dataset: Its training part is read.
        recipe: Sampling, batch size, augmentation.
        seed: The run's seed.
        rank: This process, from 0.
        world: How many processes.
        workers: Decoding processes of this process.
        pin: Pin host memory.
        keep: Looks up a stored patch mask (N,) bool by a photo's file name.

    Raises:
        ZsbirError: If stored masks meet an augmentation that they cannot follow, or a batch cannot be filled.
    """
    if keep is not None and recipe.augment != "none":
        raise ZsbirError("stored masks do not follow a warped photo: use augment=none with them")
    split = dataset.train
    weights = method.negative_weights(split.classes)
    table = None if weights is None else weights.detach().cpu().double().numpy()
    size = recipe.batch_size * world

    def make_plan(epoch: int) -> Plan:
        if recipe.sampling == "mixed":
            whole = mixed_plan(split, size, recipe.sketch_share, seed, epoch, recipe.samples_per_epoch)
        elif recipe.sampling == "balanced":
            samples = recipe.samples_per_epoch or len(split.sketches)
            classes = min(size // recipe.per_class, len(split.classes))
            whole = balanced_plan(split, classes, recipe.per_class, seed, epoch, max(samples // size, 1))
        else:
            whole = triplet_plan(split, size, seed, epoch, recipe.samples_per_epoch, table, recipe.anchor)
        return whole.share(rank, world)

    source = ImageSource(dataset, method.preprocess)
    probability = recipe.augment_probability if recipe.augment != "none" else 0.0
    objects = bool(getattr(getattr(method, "masker", None), "needs_objects", False))
    corner = recipe.augment == "affine-corner"
    steps = Steps(split, source, make_plan, probability, seed, rank, world, keep, objects, corner)
    return StepLoader(steps, workers, pin)


def store_features(method: Method, dataset: Dataset, loader: StepLoader, device: torch.device, progress: bool) -> None:
    """Let a method's frozen layers see each training image once, where it has some and the images are files."""
    trunk, train = method.trunk, dataset.train
    if trunk is None or not trunk.frozen:
        return
    stored = StoredFeatures(trunk, method.preprocess, dataset.variant)
    files = {d: [str(train.of(d).file(row)) for row in range(len(train.of(d)))] for d in get_args(Domain)}
    if all(stored.takes(names) for names in files.values()):
        for domain, names in files.items():
            stored.fill(loader.steps.source, names, domain, device, progress)
        method.stored = loader.steps.source.features = stored


def on_device(batches: Iterator[RawBatch], device: torch.device) -> Iterator[RawBatch]:
    """Yield batches whose tensors are on `device`; on CUDA, they are copied while the step before them computes."""
    if device.type != "cuda":
        return batches
    return _copied(batches, torch.cuda.Stream(device), device)


def _copied(batches: Iterator[RawBatch], aside: torch.cuda.Stream, device: torch.device) -> Iterator[RawBatch]:
    for raw in batches:
        with torch.cuda.stream(aside):
            there = raw.to(device)
        current = torch.cuda.current_stream(device)
        current.wait_stream(aside)
        there.record_stream(current)
        yield there


def images_per_step(plan: Plan) -> int:
    """Return how many images of this process are in a step."""
    negatives = 0 if plan.negative is None else plan.negative.shape[1]
    return int(plan.sketch.shape[1] + plan.photo.shape[1] + negatives)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for a step: its randomness depends on the run's seed, the step and the process alone."""
    torch.manual_seed((seed * 1_000_003 + step * 1009 + rank) % 2**63)
