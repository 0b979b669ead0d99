"""From images to embeddings: the one way that evaluation, `zsbir embed`, indexes, queries and the web page take."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from zsbir.data.base import Dataset
from zsbir.data.batches import to_unit
from zsbir.data.images import decode_image
from zsbir.data.loading import ImageSource, planes
from zsbir.data.preprocess import as_image
from zsbir.errors import ZsbirError
from zsbir.registry import close_matches, spec_of
from zsbir.types import Domain, Embeddings, Paths, Records, Split

if TYPE_CHECKING:
    from zsbir.methods.base import Method

T = TypeVar("T")
Images = Records | str | Path | Image.Image | npt.NDArray[Any] | Tensor | Iterable[Any]
"""Records of a dataset; or an image, or several: paths, bytes of an image file, PIL images, (H, W, 3) uint8 arrays, or
(3, H, W) tensors, uint8 or float in [0, 1]."""
Skip = Callable[[int, str], None]

_AHEAD = 2
"""Batches that are decoded while one is embedded."""


def embed(
    method: Method,
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
        **options: As for `apply`: device, batch_size, workers, progress, cache, skip.

    Returns:
        Embeddings on the CPU in float32, in the order of `images`, without those that were skipped. Labels are those of
        the records, else -1; paths are there where `images` has them.

    Raises:
        ZsbirError: If an image cannot be read and there is no `skip`, or `images` holds something else.
    """
    vectors: list[Tensor] = []
    patches: list[Tensor] = []
    kept: list[int] = []
    items = _items(images)
    for rows, features in apply(
        method, lambda batch: method.embed(batch, domain), items, domain, dataset=dataset, **options
    ):
        vectors.append(features.vector.float().cpu())
        if tokens and features.tokens is not None:
            patches.append(features.tokens.float().cpu())
        kept += rows
    return Embeddings(
        vectors=torch.cat(vectors) if vectors else torch.zeros(0, 1),
        labels=images.labels[kept] if isinstance(images, Records) else np.full(len(kept), -1, dtype=np.int64),
        classes=classes,
        paths=_paths(images, items, kept),
        domain=domain,
        tokens=torch.cat(patches) if patches else None,
        meta=model_meta(method) | ({} if dataset is None else dataset_meta(dataset)),
    )


def embed_split(method: Method, dataset: Dataset, split: Split, **options: Any) -> tuple[Embeddings, Embeddings]:
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


def apply(
    method: Method,
    call: Callable[[Tensor], T],
    images: Images,
    domain: Domain,
    *,
    dataset: Dataset | None = None,
    device: torch.device | str | None = None,
    batch_size: int = 64,
    workers: int = 0,
    progress: bool = False,
    cache: str | Path | None = None,
    skip: Skip | None = None,
) -> Iterator[tuple[list[int], T]]:
    """Prepare images, batch by batch, and yield what a function of the method gives of each batch.

    Args:
        method: Is switched to evaluation for this, and back.
        call: Takes (B, 3, S, S) float32 in [0, 1] on the device, and runs without gradient.
        images: As for `embed`.
        domain: What they are.
        dataset: Opens the files; None: as image files.
        device: Where the method runs, and is moved to; None: where it is.
        batch_size: Images a step.
        workers: Threads that decode ahead; 0: none.
        progress: Show a bar.
        cache: A folder for decoded images, see `zsbir.data.cache`.
        skip: Called with the position of an image that cannot be read, and why; the image is then left out.

    Yields:
        The rows of a batch among `images`, and what `call` gave of them.
    """
    check_domain(domain)
    if batch_size < 1 or workers < 0:
        raise ZsbirError(f"batch_size={batch_size} must be at least 1, workers={workers} at least 0")
    items = _items(images)
    where = next(method.parameters(), torch.empty(0)).device if device is None else as_device(device)
    source = ImageSource(dataset, method.preprocess, cache)
    names = [str(item) for item in items if isinstance(item, (str, Path))]
    if method.stored is not None and len(names) == len(items) and method.stored.takes(names):
        method.stored.fill(source, names, domain, where)
        source.features = method.stored

    def read(index: int) -> Tensor | str:
        item = items[index]
        try:
            if isinstance(item, (str, Path)):
                return source.tensor(str(item), domain)
            image = decode_image(item) if isinstance(item, bytes) else as_image(item)
            return planes(method.preprocess.pixels(image, domain))
        except (ZsbirError, MemoryError) as error:
            return str(error) or f"{item} does not fit into memory"

    was_training = method.training
    method.to(where)
    if was_training:
        method.eval()
    name = "sketches" if domain == "sketch" else "photos"
    try:
        silent = not (progress and items)
        with tqdm(total=len(items), desc=f"embedding {name}", unit="img", disable=silent, leave=False) as bar:
            for start, batch in _ahead(read, len(items), batch_size, workers):
                rows = [start + at for at, held in enumerate(batch) if isinstance(held, Tensor)]
                for at, held in enumerate(batch):
                    if isinstance(held, str):
                        if skip is None:
                            raise ZsbirError(held)
                        skip(start + at, held)
                if rows:
                    pixels = torch.stack([held for held in batch if isinstance(held, Tensor)])
                    with torch.no_grad():
                        result = call(to_unit(pixels, where))
                    yield rows, result
                bar.update(len(batch))
    finally:
        if was_training:
            method.train()


def model_meta(method: Method) -> dict[str, Any]:
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
        raise ZsbirError(f"device={device!r}: this machine has no CUDA device that torch can use; say 'cpu'")
    return found


def check_domain(domain: object) -> None:
    """Raise ZsbirError for anything but ``"sketch"`` and ``"photo"``."""
    known = list(get_args(Domain))
    if domain not in known:
        raise ZsbirError(f"there is no domain {domain!r}. {close_matches(str(domain), known)}")


def check_images(images: object, size: int) -> None:
    """Raise ZsbirError if `images` is not what `Method.embed` takes: (B, 3, size, size) float in [0, 1].

    Values are checked where no gradient is wanted: in training they come from the loader, and a GPU would wait.
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
    low, high = (float(value) for value in torch.aminmax(images))
    if not (low >= -0.01 and high <= 1.01):
        raise ZsbirError(
            f"embed takes images in [0, 1], and these go from {low:.4g} to {high:.4g}: divide bytes by 255, and do not "
            "normalise, the method does"
        )


def _ahead(read: Callable[[int], T], count: int, batch_size: int, workers: int) -> Iterator[tuple[int, list[T]]]:
    """Yield the start and the items of each batch; threads read ahead."""
    starts = range(0, count, batch_size)
    if not workers or count == 1:
        for start in starts:
            yield start, [read(index) for index in range(start, min(start + batch_size, count))]
        return
    pool = ThreadPoolExecutor(workers)
    waiting: deque[tuple[int, list[Future[T]]]] = deque()
    try:
        for start in starts:
            stop = min(start + batch_size, count)
            waiting.append((start, [pool.submit(read, index) for index in range(start, stop)]))
            if len(waiting) > _AHEAD:
                first, held = waiting.popleft()
                yield first, [future.result() for future in held]
        for first, held in waiting:
            yield first, [future.result() for future in held]
    finally:
        pool.shutdown(cancel_futures=True)


def _items(images: Images) -> Sequence[Any]:
    if isinstance(images, Records):
        return [str(images.file(row)) for row in range(len(images))]
    if isinstance(images, (str, bytes, Path, Image.Image)):
        return [images]
    if isinstance(images, (np.ndarray, Tensor)):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, Sequence):
        return images
    if isinstance(images, Iterable) and not isinstance(images, dict):
        return list(images)
    raise ZsbirError(f"images are paths, PIL images, arrays or tensors, or lists of these, not {type(images).__name__}")


def _paths(images: Images, items: Sequence[Any], kept: list[int]) -> Paths:
    if isinstance(images, Records):
        return images.paths.take(kept)
    named = all(isinstance(items[row], (str, Path)) for row in kept)
    return Paths(str(items[row]) for row in kept) if named else Paths()
