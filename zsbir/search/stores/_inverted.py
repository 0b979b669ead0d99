"""IVF-PQ indexes of any size: trained on a sample, filled a block at a time, with their lists on disk."""

from __future__ import annotations

import importlib
import shutil
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from zsbir.search.stores.exact import FileStore

faiss: Any = importlib.import_module("faiss")  # its stubs lack half of it

SAMPLES = 39
"""Vectors that a centroid is learned from, at the least: faiss's own bound."""

SMALLEST = 256 * SAMPLES
"""Vectors below which there is no index: the codes have nothing to learn from, and comparing all is as fast."""

BLOCK = 1 << 20
"""Rows whose codes are in memory at a time, and what a stopped run does again at most."""

_STEP = 1 << 16


def read(file: Path) -> Any:
    """Open an index; its lists, in a file beside it, are memory-mapped."""
    index = faiss.read_index(str(file), faiss.IO_FLAG_ONDISK_SAME_DIR | faiss.IO_FLAG_READ_ONLY)
    return index if isinstance(index, faiss.IndexIVF) else None  # before, small ones were kept flat


def grow(index: Any | None, store: FileStore, kept: Path, lists: int, code_bytes: int) -> Any:
    """Return an index of all rows of a store, written to `kept`.

    One that grew to more than four times what it was trained on is trained again; else only new rows are coded. Blocks
    of codes are whole files, and those that are there are taken as they are, so that a run that was stopped goes on.
    Memory: the training sample or the codes of a block, and the centroids.

    Args:
        index: The one before; None: there is none.
        store: The vectors; a row's place is its number in the index.
        kept: The index's file.
        lists: How many lists a new one has; 0: twice the square root of the rows, 16,384 at most.
        code_bytes: Bytes a vector is coded in.
    """
    total, folder = len(store.row_ids), kept.with_suffix(".building")
    if index is not None and total > 4 * index.ntotal:
        index = None
    first = 0 if index is None else index.ntotal
    wanted = lists or min(int(2 * total**0.5), 1 << 14, total // SAMPLES)
    template = folder / f"{wanted}.trained" if index is None else kept
    if not template.is_file():
        write(_trained(store, wanted, code_bytes), template)
    work = read(template)
    _empty(work)
    blocks = []
    for start in range(first, total, BLOCK):
        stop = min(start + BLOCK, total)
        blocks.append(folder / f"{start}-{stop}-{work.nlist}.block")
        if not blocks[-1].is_file():
            work.reset()
            for row in range(start, stop, _STEP):
                rows = np.arange(row, min(row + _STEP, stop))
                work.add_with_ids(np.ascontiguousarray(store.rows[rows[0] : rows[-1] + 1]), rows)
            write(work, blocks[-1])
    work.reset()
    _merge(work, [] if index is None else [index], blocks, kept)
    shutil.rmtree(folder, ignore_errors=True)
    return read(kept)


def _trained(store: FileStore, lists: int, code_bytes: int) -> Any:
    index = faiss.index_factory(store.rows.shape[1], f"IVF{lists}_HNSW32,PQ{code_bytes}x8", faiss.METRIC_INNER_PRODUCT)
    index.pq.cp.max_points_per_centroid = 64  # of 256: four times as fast, and the codes are as good
    wanted = max(SMALLEST, (SAMPLES + 1) * lists)
    sample = np.unique(np.random.default_rng(0).integers(0, len(store.row_ids), 2 * wanted))
    sample = sample[np.linspace(0, len(sample) - 1, min(wanted, len(sample))).astype(int)]
    index.train(np.ascontiguousarray(store.rows[sample]))
    return index


def _empty(index: Any) -> None:
    """Give an index lists in memory, with nothing in them."""
    held = faiss.ArrayInvertedLists(index.nlist, index.code_size)
    index.replace_invlists(held, True)
    held.this.disown()
    index.ntotal = 0


def _merge(empty: Any, before: list[Any], blocks: list[Path], kept: Path) -> None:
    """Put the lists of several indexes together in a file of their own, and then the index's file in its place."""
    held = before + [faiss.read_index(str(block), faiss.IO_FLAG_MMAP) for block in blocks]
    vector = faiss.InvertedListsPtrVector()
    for one in held:
        vector.push_back(one.invlists)
    names = (kept.with_name(f"{kept.stem}.{number}.lists") for number in count())
    file = next(name for name in names if not name.exists())
    lists = faiss.OnDiskInvertedLists(empty.nlist, empty.code_size, str(file))
    empty.ntotal = lists.merge_from_multiple(vector.data(), vector.size())
    empty.replace_invlists(lists, True)
    lists.this.disown()
    write(empty, kept)
    for old in kept.parent.glob(f"{kept.stem}.*.lists"):
        if old != file:
            old.unlink()


def write(index: Any, file: Path) -> None:
    """Write an index under another name first, so that nobody sees half of it."""
    file.parent.mkdir(exist_ok=True)
    part = file.with_name(file.name + ".new")
    faiss.write_index(index, str(part))
    part.replace(file)
