"""What an index says about itself: ``index.json``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import PIL
import timm
import torch
from PIL import Image

import zsbir
from zsbir import files
from zsbir.errors import ZsbirError
from zsbir.registry import spec_of
from zsbir.search.model import Embedder, fingerprint
from zsbir.search.stores.base import Store

FORMAT = 1
RECORD = "index.json"

LARGEST = 2**20
"""The most numbers a vector may have."""


def describe(embedder: Embedder, store: Store) -> dict[str, Any]:
    """Return the record of a new index: model, preprocessing, store and versions."""
    method, size = embedder.method, embedder.method.preprocess.size
    blank = Image.new("RGB", (size, size), "white")
    return {
        "format": FORMAT,
        "model": spec_of(method),
        "fingerprint": fingerprint(method),
        "dim": int(embedder.images([blank], "photo").shape[1]),
        "preprocessing": asdict(method.preprocess),
        "store": spec_of(store),
        "versions": {part.__name__: part.__version__ for part in (zsbir, torch, timm, PIL)},
    }


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of an index folder.

    Raises:
        ZsbirError: If it holds none, or one of another version.
    """
    if not (folder / RECORD).is_file():
        raise ZsbirError(f"{folder} is no index: make one with `zsbir index PHOTOS -o {folder}`")
    record = files.read_record(
        folder / RECORD, {"format": int, "fingerprint": str, "dim": int, "store": dict, "model": dict}
    )
    if record["format"] != FORMAT:
        raise ZsbirError(f"{folder} was written by another version of zsbir: build it again")
    if isinstance(record["dim"], bool) or not 1 <= record["dim"] <= LARGEST:
        raise ZsbirError(f"{folder / RECORD} is damaged: vectors of {record['dim']} numbers")
    return record
