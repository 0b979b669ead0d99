"""From images to embeddings, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from zsbir.data.base import Dataset
from zsbir.data.batches import normalise, to_unit
from zsbir.data.loading import ImageSource
from zsbir.methods.base import Method
from zsbir.registry import spec_of
from zsbir.types import Domain, Embeddings, Paths, Records, Split


class _Images(TorchDataset[Tensor]):
    def __init__(self, source: ImageSource, files: Sequence[str], domain: Domain) -> None:
        self.source = source
        self.files = files
        self.domain = domain

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.source.image(self.files[index], self.domain)).permute(2, 0, 1).contiguous()


@torch.no_grad()
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

    Returns:
        Embeddings on the CPU in float32, in the order of `files`, with labels -1.

    Raises:
        ZsbirError: If a file cannot be read; the message names it.
    """
    recipe = method.recipe
    source = ImageSource(dataset or _PlainFiles(), method.image_size, recipe.sketch_prepare, recipe.photo_prepare)
    names = [str(file) for file in files]
    loader = DataLoader(_Images(source, names, domain), batch_size=batch_size, num_workers=workers)
    was_training = method.training
    method.to(device).eval()
    vectors: list[Tensor] = []
    patches: list[Tensor] = []
    bar = tqdm(
        total=len(names),
        desc=f"embedding {'sketches' if domain == 'sketch' else 'photos'}",
        unit="img",
        disable=not progress,
        leave=False,
    )
    with bar:
        for pixels in loader:
            images = normalise(to_unit(pixels, device), method.mean, method.std)
            features = method.embed(images, domain)
            vectors.append(features.vector.float().cpu())
            if tokens and features.tokens is not None:
                patches.append(features.tokens.float().cpu())
            bar.update(len(pixels))
    method.train(was_training)
    return Embeddings(
        vectors=torch.cat(vectors) if vectors else torch.zeros(0, 1),
        labels=np.full(len(names), -1, dtype=np.int64),
        paths=Paths(names),
        domain=domain,
        tokens=torch.cat(patches) if patches else None,
        meta={"method": getattr(method, "spec", None), "matcher": method.matcher, "image_size": method.image_size},
    )


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
    meta = {**plain.meta, "dataset": spec_of(dataset), "manifest": getattr(dataset, "manifest_hash", None)}
    return Embeddings(plain.vectors, records.labels, classes, records.paths, domain, plain.tokens, meta)


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

    Returns:
        (queries, gallery), on the CPU in float32.
    """
    options: dict[str, Any] = {
        "device": device,
        "batch_size": batch_size,
        "workers": workers,
        "progress": progress,
        "tokens": tokens,
    }
    return (
        embed_records(method, dataset, split.sketches, split.classes, "sketch", **options),
        embed_records(method, dataset, split.photos, split.classes, "photo", **options),
    )
