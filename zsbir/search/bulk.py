"""Indexes of embeddings that were made before: by any number of machines, or for other indexes."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from zsbir.engine.shards import Part, read_parts
from zsbir.errors import ZsbirError
from zsbir.methods.base import Method, load
from zsbir.search.catalog import Entry
from zsbir.search.index import RECORD, Index, record_of
from zsbir.search.model import unit
from zsbir.search.stores.base import Vectors
from zsbir.search.writing import Skip

_AT_ONCE = 10_000
"""Photos that are copied at a time."""


def index_embeddings(
    model: Method | str | Path | None,
    embeddings: str | Path,
    out: str | Path,
    *,
    store: str | Mapping[str, Any] = "exact",
    device: str = "cpu",
    progress: bool = False,
) -> Index:
    """Put what `zsbir embed` wrote into an index, part by part: memory does not grow with the number of photos.

    It may be stopped at any moment and called again: it passes over photos that are in.

    Args:
        model: The model that embedded the photos; it embeds the queries. None: the index's own, or the default.
        embeddings: The folder of `zsbir embed`, with its manifest.
        out: The index; made if it is not there.
        store: Name or mapping, see `STORES`; of a new index only.
        device: Where the model runs.
        progress: Show a bar.

    Raises:
        ZsbirError: If parts are missing or damaged, or another model made them.
    """
    known, parts = read_parts(Path(embeddings))
    there = (Path(out) / RECORD).is_file()
    index = Index.load(out, model, device, repair=True) if there else Index.new(model, out, store, device, progress)
    try:
        if index.record["fingerprint"] != known:
            raise ZsbirError(f"{embeddings} was embedded by another model: give --model the one that made it")
        index.extend(
            (_entries(part), unit(part.vectors), [(path, reason, "") for path, reason in part.skipped])
            for part in tqdm(parts, desc="indexing", unit="part", disable=not progress)
        )
    except ZsbirError:
        index.close()
        if not there:
            shutil.rmtree(index.folder, ignore_errors=True)
        raise
    return index


def merge_indexes(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    store: str | Mapping[str, Any] | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> Index:
    """Put the photos of indexes into one, in bounded memory; if a path occurs twice, the first photo counts.

    It may be stopped at any moment and called again: it passes over photos that are in.

    Args:
        folders: The indexes; they stay as they are.
        out: The index that gets the photos; made if it is not there.
        store: Name or mapping, see `STORES`; None: that of the first. Of a new index only.
        device: Where the model runs.
        progress: Show a bar.

    Raises:
        ZsbirError: If one is no index, is damaged, or was made by another model than the first.
    """
    records = [record_of(Path(folder)) for folder in (*folders, *([out] if (Path(out) / RECORD).is_file() else []))]
    if Path(out).absolute() in [Path(folder).absolute() for folder in folders]:
        raise ZsbirError(f"{out} cannot be merged into itself: leave it out of --merge")
    for folder, record in zip((*folders, out), records, strict=False):
        if record["fingerprint"] != records[0]["fingerprint"]:
            raise ZsbirError(f"{folder} was made by another model than {folders[0]}: their vectors cannot be compared")
    method = load(Path(folders[0]) / "model")
    if len(records) > len(folders):
        index = Index.load(out, method, device, repair=True)
    else:
        index = Index.new(method, out, store or records[0]["store"], device, progress)
    for folder in folders:
        with closing(Index.load(folder, method, device)) as part:
            for source in part.catalog.sources():
                index.catalog.begin(source)
            index.extend(_photos(part, progress))
    return index


def _photos(index: Index, progress: bool) -> Iterator[tuple[list[Entry], Vectors, list[Skip]]]:
    """Yield what an index holds, some photos at a time."""
    last = 0
    with tqdm(total=len(index), desc=f"merging {index.folder}", unit="photo", disable=not progress) as bar:
        while part := index.catalog.some(last, _AT_ONCE):
            ids = np.array([number for number, _ in part], dtype=np.int64)
            yield [entry for _, entry in part], index.store.vectors(ids), []
            last = part[-1][0]
            bar.update(len(part))
    yield [], np.zeros((0, index.record["dim"]), np.float32), index.catalog.skipped()


def _entries(part: Part) -> list[Entry]:
    """Return catalogue entries: their files are not read, so the name stands for the content."""
    names = (hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest() for name in part.ids)
    return [Entry(name, digest, 0, 0) for name, digest in zip(part.ids, names, strict=True)]
