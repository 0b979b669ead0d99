"""Indexes of embeddings that were made before, by any number of machines."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from zsbir.engine.shards import Part, read_parts
from zsbir.errors import ZsbirError
from zsbir.methods.base import Method
from zsbir.search.catalog import Entry
from zsbir.search.index import Index
from zsbir.search.model import unit


def index_embeddings(
    model: Method | str | Path | None,
    embeddings: str | Path,
    out: str | Path,
    *,
    store: str | Mapping[str, Any] = "exact",
    device: str = "cpu",
    progress: bool = False,
) -> Index:
    """Make an index of what `zsbir embed` wrote, part by part: memory does not grow with the number of photos.

    Args:
        model: What embedded the photos; it embeds the queries.
        embeddings: The folder of `zsbir embed`, with its manifest.
        out: A folder that does not exist yet.
        store: Name or mapping, see `STORES`.
        device: Where the model runs.
        progress: Show a bar.

    Raises:
        ZsbirError: If `out` exists, embedding has not ended, a part is damaged, or another model made it.
    """
    known, parts = read_parts(Path(embeddings))
    index = Index.new(model, out, store, device, progress)
    try:
        if index.record["fingerprint"] != known:
            raise ZsbirError(f"{embeddings} was embedded by another model: give --model the one that made it")
        index.extend(
            (_entries(part), unit(part.vectors), part.skipped)
            for part in tqdm(parts, desc="indexing", unit="part", disable=not progress)
        )
    except ZsbirError:
        index.close()
        shutil.rmtree(index.folder, ignore_errors=True)
        raise
    return index


def _entries(part: Part) -> list[Entry]:
    """Return catalogue entries: their files are not read, so the name stands for the content."""
    names = (hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest() for name in part.ids)
    return [Entry(name, digest, 0, 0) for name, digest in zip(part.ids, names, strict=True)]
