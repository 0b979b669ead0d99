"""From a method and a dataset to stored masks."""

from __future__ import annotations

from pathlib import Path

import torch

from zsbir.data.base import Dataset
from zsbir.data.loading import ImageSource
from zsbir.engine.logging import say
from zsbir.engine.trainer import Trainer
from zsbir.errors import ZsbirError
from zsbir.maskers.base import Masker
from zsbir.maskers.store import MaskStore
from zsbir.methods.base import Method
from zsbir.types import Split


def use_stored_masks(trainer: Trainer, root: str | Path) -> MaskStore:
    """Compute a trainer's missing masks, and make it read its masks from the store under `root`.

    Call it before `Trainer.fit`. Raises ZsbirError as `stored_masks`, and if training warps photos.
    """
    if trainer.recipe.augment != "none":
        raise ZsbirError("stored masks do not follow a warped photo: use augment=none with them")
    store = stored_masks(trainer.method, trainer.dataset, root, device=trainer.device, progress=trainer.progress)
    trainer.loader.steps.keep = store
    return store


def stored_masks(
    method: Method,
    dataset: Dataset,
    root: str | Path,
    *,
    split: Split | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    progress: bool = False,
) -> MaskStore:
    """Compute the missing masks of a dataset's training photos, and return the store.

    Args:
        method: A method with a masker, such as `puxim`.
        dataset: Opens the photos.
        root: Folder of all mask stores; runs and datasets can share it.
        split: Whose photos; None: the training part.
        device: Where the masker runs.
        batch_size: Photos at a time.
        progress: Show a bar.

    Returns:
        The store, ready for ``Trainer(..., keep=store)``. Photos that cannot be read are left out, with a note.

    Raises:
        ZsbirError: If the method has no masker, or its masks cannot be stored.
    """
    masker = getattr(method, "masker", None)
    grid = getattr(getattr(method, "encoder", None), "grid", None)
    if not isinstance(masker, Masker) or grid is None:
        raise ZsbirError(f"the method {type(method).__name__} has no masker, so there are no masks to store")
    preprocess = method.preprocess
    source = ImageSource(dataset, preprocess)
    store = MaskStore(masker, grid, root, {"size": preprocess.size, "prepare": preprocess.photo})
    part = dataset.train if split is None else split
    files = [str(part.photos.file(i)) for i in range(len(part.photos))]
    names = [part.classes[label] for label in part.photos.labels.tolist()]
    computed = store.precompute(
        files, names, lambda file: source.image(file, "photo"), source.mask,
        device=device, batch_size=batch_size, progress=progress,
        skip=lambda file, error: say(f"no mask: {error}"),
    )  # fmt: skip
    say(f"masks: {computed} computed, {len(files) - computed} already stored in {store.file}")
    return store
