"""From images to embeddings: the one way that evaluation, `zsbir embed`, indexes, queries and the web page take."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from zsbir.arguments import Count, Natural, checked
from zsbir.backbones.base import Backbone
from zsbir.data.base import Dataset
from zsbir.data.batches import to_unit
from zsbir.data.loading import ImageSource
from zsbir.data.preprocess import Preprocess
from zsbir.errors import ZsbirError
from zsbir.methods._batching import BatchSize
from zsbir.methods._images import Images as Images
from zsbir.methods._images import as_items, check_domain, check_images, paths_of, values_known
from zsbir.methods._reading import Reader, read_ahead, stacked
from zsbir.methods.features import StoredFeatures
from zsbir.registry import spec_of
from zsbir.types import Domain, Embeddings, Features, Records, Split

T = TypeVar("T")
Skip = Callable[[int, str], None]
Precision = Literal["no", "bf16"]
Decoder = Literal["cpu", "device"]


class Encoder(nn.Module):
    """Embeds sketches and photos: the part of a `zsbir.methods.base.Method` that is there once it is trained.

    Attributes:
        preprocess: How an image becomes what the network sees. It is saved with the weights.
        matcher: Spec of the matcher the paper uses at test time.
        spec: Its name and arguments, recorded when it is made.
        stored: Where embedding takes the outputs of frozen layers from, instead of images.
    """

    preprocess: Preprocess
    matcher: str | Mapping[str, Any] = "cosine"
    spec: dict[str, Any]
    stored: StoredFeatures | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "embed" in vars(cls):
            setattr(cls, "embed", _checked(vars(cls)["embed"]))  # noqa: B010 (a plain assignment has the wrong type)

    @property
    def trunk(self) -> Backbone | None:
        """The backbone that both domains go through first, if there is one: what of it is frozen can be stored."""
        return None

    def takes_stored(self, images: object) -> bool:
        """Tell whether `images` are the outputs of frozen layers: vectors, or maps that are smaller than an image."""
        if self.trunk is None or not self.trunk.frozen or not isinstance(images, Tensor):
            return False
        channels, height, width = images.shape[1:] if images.ndim == 4 else (3, 0, 0)
        return images.ndim == 2 or (channels != 3 and height == width < self.preprocess.size)

    def encode_sketches(self, images: Images, **options: Any) -> Tensor:
        """Return the embeddings of sketches, (n, D) float32 on the CPU.

        Args:
            images: One or more: paths (image files, SVG, ``file.ndjson#17``), PIL images, (H, W, 3) uint8 arrays, or
                (3, H, W) tensors, uint8 or float in [0, 1]. Sizes may differ.
            **options: ``device``, ``batch_size``, ``workers`` (threads that decode ahead), ``progress``, ``cache``,
                ``precision`` and ``decode``, see `zsbir.methods.embedding.apply`.

        Raises:
            ZsbirError: If an image cannot be read, or `images` holds something else.
        """
        return embed(self, images, "sketch", **options).vectors

    def encode_photos(self, images: Images, **options: Any) -> Tensor:
        """Return the embeddings of photos, (n, D) float32 on the CPU; as `encode_sketches`."""
        return embed(self, images, "photo", **options).vectors

    def embed(self, images: Tensor, domain: Domain) -> Features:
        """Return the retrieval embedding of a prepared batch; `encode_sketches` and `encode_photos` prepare it.

        Args:
            images: (B, 3, S, S) float32 in [0, 1], S the size in ``self.preprocess``, with which the method normalises
                them itself.
            domain: Which domain all of them belong to.

        Returns:
            Features with ``vector`` (B, D), and tokens where the method has them.

        Raises:
            ZsbirError: For anything else; a subclass's `embed` need not check.
        """
        raise TypeError(f"{type(self).__name__} has no embed")


def _checked(embed: Callable[..., Features]) -> Callable[..., Features]:
    """Return a method's `embed` that refuses what it does not take."""

    @functools.wraps(embed)
    def checked_embed(self: Encoder, images: Tensor, domain: Domain) -> Features:
        check_domain(domain)
        if not self.takes_stored(images):
            check_images(images, self.preprocess.size)
        return embed(self, images, domain)

    return checked_embed


def embed(
    method: Encoder,
    images: Images,
    domain: Domain,
    *,
    classes: tuple[str, ...] = (),
    tokens: bool = False,
    dataset: Dataset | None = None,
    **options: Any,
) -> Embeddings:
    """Embed images.

    Args:
        method: In training mode or not: it is switched to evaluation for this, and back.
        images: Records, or one or more paths, PIL images, arrays or tensors.
        domain: What they are.
        classes: The names that the labels of records refer to.
        tokens: Also keep the patch features.
        dataset: Opens the files; None: as image files.
        **options: As for `apply`: device, batch_size, workers, progress, cache, precision, decode, skip.

    Returns:
        Embeddings on the CPU in float32, in the order of `images`, without those that were skipped. Labels are those of
        the records, else -1; paths are there where `images` has them and is no iterator.

    Raises:
        ZsbirError: If an image cannot be read and there is no `skip`, or `images` holds something else.
    """
    vectors: list[Tensor] = []
    patches: list[Tensor] = []
    kept: list[int] = []
    items, where = as_items(images), torch.device("cpu")
    for rows, features in apply(
        method, lambda batch: method.embed(batch, domain), items, domain, dataset=dataset, **options
    ):
        where = features.vector.device
        # Without waiting for the GPU, which works on while the next batch is read.
        vectors.append(features.vector.float().to("cpu", non_blocking=where.type == "cuda"))
        if tokens and features.tokens is not None:
            patches.append(features.tokens.float().cpu())
        kept += rows
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    return Embeddings(
        vectors=torch.cat(vectors) if vectors else torch.zeros(0, 1),
        labels=images.labels[kept] if isinstance(images, Records) else np.full(len(kept), -1, dtype=np.int64),
        classes=classes,
        paths=paths_of(images, items, kept),
        domain=domain,
        tokens=torch.cat(patches) if patches else None,
        meta=model_meta(method) | ({} if dataset is None else dataset_meta(dataset)),
    )


def embed_split(method: Encoder, dataset: Dataset, split: Split, **options: Any) -> tuple[Embeddings, Embeddings]:
    """Embed a split: its sketches as queries and its photos as gallery.

    Args:
        method: What embeds.
        dataset: Opens the files.
        split: One of the dataset's splits.
        **options: As for `embed`.

    Returns:
        (queries, gallery), on the CPU in float32.
    """
    more: dict[str, Any] = {"dataset": dataset, "classes": split.classes, **options}
    return embed(method, split.sketches, "sketch", **more), embed(method, split.photos, "photo", **more)


@checked("embedding")
def apply(
    method: Encoder,
    call: Callable[[Tensor], T],
    images: Images,
    domain: Domain,
    *,
    dataset: Dataset | None = None,
    device: torch.device | str | None = None,
    batch_size: Count | None = None,
    workers: Natural = 0,
    progress: bool = False,
    cache: str | Path | None = None,
    precision: Precision = "no",
    decode: Decoder = "cpu",
    skip: Skip | None = None,
) -> Iterator[tuple[list[int], T]]:
    """Prepare images, batch by batch, and yield what a function of the method gives of each batch.

    Args:
        method: Is switched to evaluation for this, and back.
        call: Takes (B, 3, S, S) float32 in [0, 1] on the device, and runs without gradient.
        images: As for `embed`; an iterator is read as far as it is needed.
        domain: What they are.
        dataset: Opens the files; None: as image files.
        device: Where the method runs, and is moved to; None: where it is.
        batch_size: Images a step; None: on CUDA as many as its memory takes, else 32.
        workers: Threads that decode ahead; 0: none.
        progress: Show a bar.
        cache: A folder for decoded images, see `zsbir.data.cache`.
        precision: ``"bf16"`` lets the method compute in bfloat16 where that is safe: faster on a GPU with tensor cores,
            and a cosine differs by up to 0.02 (Lite0).
        decode: ``"device"`` decodes JPEG files where the method runs, with nvJPEG, see `zsbir.data.jpeg.squares`.
        skip: Called with the position of an image that cannot be read, and why; the image is then left out.

    Yields:
        The rows of a batch among `images`, and what `call` gave of them.
    """
    items = as_items(images)
    where = next(method.parameters(), torch.empty(0)).device if device is None else as_device(device)
    source = ImageSource(dataset, method.preprocess, cache)
    if method.stored is not None and isinstance(items, Sequence):
        names = [str(item) for item in items if isinstance(item, (str, Path))]
        if len(names) == len(items) and method.stored.takes(names):
            method.stored.fill(source, names, domain, where)
            source.features = method.stored
    reader = Reader(source, domain, where if decode == "device" else None)
    was_training, sized = method.training, BatchSize(batch_size, where, method)
    method.to(where)
    if was_training:
        method.eval()

    def apply_to(pixels: Tensor) -> T:
        half = torch.autocast(where.type, torch.bfloat16) if precision == "bf16" else nullcontext()
        with torch.no_grad(), half, values_known():
            return call(to_unit(pixels, where))

    name, total = "sketches" if domain == "sketch" else "photos", len(items) if isinstance(items, Sequence) else None
    try:
        silent = not progress or total == 0
        with tqdm(total=total, desc=f"embedding {name}", unit="img", disable=silent, leave=False) as bar:
            for start, read in read_ahead(reader.read, items, sized, workers):
                batch = reader.finish(read)
                for at, held in enumerate(batch):
                    if isinstance(held, str):
                        if skip is None:
                            raise ZsbirError(held)
                        skip(start + at, held)
                rows = [start + at for at, held in enumerate(batch) if isinstance(held, Tensor)]
                if rows:
                    pixels = stacked([held for held in batch if isinstance(held, Tensor)], where)
                    pieces = list(sized.pieces(apply_to, pixels))
                    stops = [at for at, _ in pieces[1:]] + [len(rows)]
                    yield from ((rows[at:stop], result) for (at, result), stop in zip(pieces, stops, strict=True))
                bar.update(len(batch))
    finally:
        if was_training:
            method.train()


def model_meta(method: Encoder) -> dict[str, Any]:
    """Return what embeddings say of the method that made them."""
    return {"method": getattr(method, "spec", None), "matcher": method.matcher, "preprocess": asdict(method.preprocess)}


def dataset_meta(dataset: Dataset) -> dict[str, Any]:
    """Return what embeddings say of the dataset they come from."""
    return {"dataset": spec_of(dataset), "manifest": getattr(dataset, "manifest_hash", None)}


def as_device(device: torch.device | str) -> torch.device:
    """Return a device by name; ``"auto"`` is a GPU where there is one.

    Raises:
        ZsbirError: If there is none of that name here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ZsbirError(f"there is no device {device!r}: say 'cpu', 'cuda', 'cuda:1' or 'auto'") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ZsbirError(f"device={device!r}: torch finds no CUDA device here; use 'cpu', or install torch for CUDA")
    return found
