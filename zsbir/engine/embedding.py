"""From images to embeddings, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from zsbir.data.base import Dataset
from zsbir.data.batches import to_unit
from zsbir.data.loading import ImageSource
from zsbir.errors import ZsbirError
from zsbir.methods.base import Method
from zsbir.registry import spec_of
from zsbir.types import Domain, Embeddings, Paths, Records, Split

Skip = Callable[[int, str], None]


@dataclass
class _Loaded:
    """A batch as the workers give it: the images that could be read, their rows, and why the others could not."""

    pixels: Tensor
    rows: list[int]
    broken: dict[int, str]


class _Images(TorchDataset[tuple[int, Tensor | str]]):
    def __init__(self, source: ImageSource, files: Sequence[str], domain: Domain) -> None:
        self.source = source
        self.files = files
        self.domain = domain

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        try:
            pixels = self.source.image(self.files[index], self.domain)
        except ZsbirError as error:
            return index, str(error)
        return index, torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))

    def collate(self, items: list[tuple[int, Tensor | str]]) -> _Loaded:
        """Put a batch together, without the images that could not be read."""
        read = [(index, item) for index, item in items if isinstance(item, Tensor)]
        size = self.source.size
        pixels = torch.stack([item for _, item in read]) if read else torch.zeros(0, 3, size, size, dtype=torch.uint8)
        broken = {index: item for index, item in items if isinstance(item, str)}
        return _Loaded(pixels, [index for index, _ in read], broken)


@contextmanager
def _evaluating(method: Method, device: torch.device | str) -> Iterator[None]:
    was_training = method.training
    method.to(device).eval()
    try:
        with torch.no_grad():
            yield
    finally:
        method.train(was_training)


def _batches(
    method: Method,
    files: Sequence[str],
    domain: Domain,
    dataset: Dataset | None,
    device: torch.device | str,
    batch_size: int,
    workers: int,
    cache: str | Path | None,
    skip: Skip | None,
) -> Iterator[tuple[Tensor, list[int]]]:
    """Yield images (b, 3, S, S) in [0, 1] on the device with their rows; a batch may be empty."""
    source = ImageSource(dataset or _PlainFiles(), method.preprocess, cache)
    images = _Images(source, files, domain)
    loader: Any = DataLoader(images, batch_size=batch_size, num_workers=workers, collate_fn=images.collate)
    for loaded in loader:
        for row, reason in loaded.broken.items():
            if skip is None:
                raise ZsbirError(reason)
            skip(row, reason)
        yield to_unit(loaded.pixels, device), loaded.rows


def embed_files(
    method: Method,
    files: Sequence[str | Path],
    domain: Domain,
    *,
    dataset: Dataset | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    workers: int = 0,
    progress: bool = False,
    tokens: bool = False,
    cache: str | Path | None = None,
    skip: Skip | None = None,
) -> Embeddings:
    """Embed image files.

    Args:
        method: In training mode or not: it is switched to evaluation for this, and back.
        files: Full paths.
        domain: What they are.
        dataset: Opens them; None: as plain image files.
        device: Where the method runs.
        batch_size: Images a step.
        workers: Processes that decode.
        progress: Show a bar.
        tokens: Also keep the patch features.
        cache: A folder for decoded images, see `zsbir.data.cache`.
        skip: Called with the position of a file that cannot be read, and why; the file is then left out.

    Returns:
        Embeddings on the CPU in float32, in the order of `files`, with labels -1.

    Raises:
        ZsbirError: If a file cannot be read and there is no `skip`; the message names it.
    """
    names = [str(file) for file in files]
    vectors: list[Tensor] = []
    patches: list[Tensor] = []
    kept: list[int] = []
    bar = tqdm(
        total=len(names),
        desc=f"embedding {'sketches' if domain == 'sketch' else 'photos'}",
        unit="img",
        disable=not progress,
        leave=False,
    )
    with bar, _evaluating(method, device):
        for images, rows in _batches(method, names, domain, dataset, device, batch_size, workers, cache, skip):
            if rows:
                features = method.embed(images, domain)
                vectors.append(features.vector.float().cpu())
                if tokens and features.tokens is not None:
                    patches.append(features.tokens.float().cpu())
                kept += rows
            bar.update(len(rows))
    return Embeddings(
        vectors=torch.cat(vectors) if vectors else torch.zeros(0, 1),
        labels=np.full(len(kept), -1, dtype=np.int64),
        paths=Paths(names[row] for row in kept),
        domain=domain,
        tokens=torch.cat(patches) if patches else None,
        meta=model_meta(method),
    )


def model_meta(method: Method) -> dict[str, Any]:
    """Return what embeddings say of the method that made them."""
    return {"method": getattr(method, "spec", None), "matcher": method.matcher, "preprocess": asdict(method.preprocess)}


def accuracy(
    method: Method,
    dataset: Dataset,
    records: Records,
    domain: Domain,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    workers: int = 0,
    cache: str | Path | None = None,
) -> float:
    """Return the share of records that the method's classifier puts into their class, in [0, 1].

    Args:
        method: With `classify`; its classes are those of the dataset's training part.
        dataset: Opens the files.
        records: With labels of the same classes; at least one.
        domain: What they are.
        device: Where the method runs.
        batch_size: Images a step.
        workers: Processes that decode.
        cache: A folder for decoded images.

    Raises:
        ZsbirError: If a file cannot be read, or the method has no classifier.
    """
    files = [str(records.file(i)) for i in range(len(records))]
    right = 0
    with _evaluating(method, device):
        for images, rows in _batches(method, files, domain, dataset, device, batch_size, workers, cache, None):
            found = method.classify(images).argmax(dim=1).cpu().numpy()
            right += int((found == records.labels[rows]).sum())
    return right / len(files)


class _PlainFiles(Dataset):
    """Opens plain image files; it has no splits."""

    def __init__(self) -> None:
        none = Records(Path(), Paths(), np.zeros(0, dtype=np.int64))
        super().__init__(Split(none, none, ()), Split(none, none, ()))


def embed_records(
    method: Method, dataset: Dataset, records: Records, classes: tuple[str, ...], domain: Domain, **options: Any
) -> Embeddings:
    """Embed the records of one domain with their labels; `options` as for `embed_files`."""
    files = [str(records.file(i)) for i in range(len(records))]
    plain = embed_files(method, files, domain, dataset=dataset, **options)
    meta = {**plain.meta, **dataset_meta(dataset)}
    return Embeddings(plain.vectors, records.labels, classes, records.paths, domain, plain.tokens, meta)


def dataset_meta(dataset: Dataset) -> dict[str, Any]:
    """Return what embeddings say of the dataset they come from."""
    return {"dataset": spec_of(dataset), "manifest": getattr(dataset, "manifest_hash", None)}


def embed_split(
    method: Method,
    dataset: Dataset,
    split: Split,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    workers: int = 0,
    progress: bool = False,
    tokens: bool = False,
    cache: str | Path | None = None,
) -> tuple[Embeddings, Embeddings]:
    """Embed a split: its sketches as queries and its photos as gallery.

    Args:
        method: What embeds.
        dataset: Opens the files.
        split: One of the dataset's splits.
        device: Where the method runs.
        batch_size: Images a step.
        workers: Processes that decode.
        progress: Show a bar.
        tokens: Also keep the patch features.
        cache: A folder for decoded images, see `zsbir.data.cache`.

    Returns:
        (queries, gallery), on the CPU in float32.
    """
    options: dict[str, Any] = {
        "device": device,
        "batch_size": batch_size,
        "workers": workers,
        "progress": progress,
        "tokens": tokens,
        "cache": cache,
    }
    return (
        embed_records(method, dataset, split.sketches, split.classes, "sketch", **options),
        embed_records(method, dataset, split.photos, split.classes, "photo", **options),
    )
