"""An index: photos found by drawing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import PIL
import timm
import torch
from PIL import Image

import zsbir
from zsbir.data.scan import photo_files
from zsbir.errors import ZsbirError
from zsbir.files import read_record, replaced, write_json
from zsbir.methods.base import Method, load
from zsbir.methods.saving import save
from zsbir.registry import spec_of
from zsbir.search.model import Embedder, find_model, fingerprint
from zsbir.search.searching import Hit as Hit
from zsbir.search.stores import STORES
from zsbir.search.stores.base import Store
from zsbir.search.writing import Writing

FORMAT = 1
RECORD = "index.json"

LARGEST = 2**20
"""The most numbers a vector may have."""


class Index(Writing):
    """Photos, their vectors and the model that made them, in one folder.

    Made by `Index.build` or `Index.load`. Searching is safe from many threads at once, also while another one changes
    the index. One process at a time changes it; a second one is refused.

    Attributes:
        folder: Where it is.
        record: What ``index.json`` says: model, preprocessing, store, versions.
    """

    def __init__(self, folder: Path, record: dict[str, Any], embedder: Embedder) -> None:
        super().__init__(folder, record, embedder)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def build(
        cls,
        model: Method | str | Path | None,
        photos: str | Path,
        out: str | Path | None = None,
        *,
        store: str | Mapping[str, Any] = "exact",
        device: str = "cpu",
        progress: bool = False,
        **options: Any,
    ) -> Index:
        """Index a folder or list of photos.

        Args:
            model: A method, a run folder, a name (see `find_model`), or None for the default.
            photos: What to index, see `zsbir.data.scan.photo_files`.
            out: A folder that does not exist yet; None: a temporary one, until `save`.
            store: Name or mapping, see `STORES`.
            device: Where the model runs.
            progress: Show a bar.
            **options: As for `update`.

        Raises:
            ZsbirError: If `out` exists, there are no photos that can be read, or the model's weights are not there.
        """
        if next(iter(photo_files(photos)), None) is None:
            raise ZsbirError(f"{photos} holds no image file")
        index = cls.new(model, out, store, device, progress)
        try:
            index.update(photos, progress=progress, **options)
            if not len(index):
                (_, reason), *_ = index.skipped()
                raise ZsbirError(f"none of the image files of {photos} can be decoded; the first: {reason}")
        except ZsbirError:
            if not len(index):
                index.close()
                shutil.rmtree(index.folder, ignore_errors=True)
            raise
        return index

    @classmethod
    def new(
        cls, model: Method | str | Path | None, out: str | Path | None, store: str | Mapping[str, Any], device: str,
        progress: bool,
    ) -> Index:  # fmt: skip
        """Return an empty index with a copy of the model; arguments as for `build`."""
        temporary = None if out is not None else tempfile.TemporaryDirectory(prefix="zsbir-index-")
        folder = Path(temporary.name) / "index" if temporary else Path(str(out))
        if (folder / RECORD).exists() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
            what = "is an index: load it to add photos" if (folder / RECORD).exists() else "exists and is no index"
            raise ZsbirError(f"{folder} {what}; or give another name")
        say = print if progress else lambda line: None
        embedder = Embedder(model if isinstance(model, Method) else find_model(model, device, say), device)
        record = _describe(embedder, STORES.build(store))
        with replaced(folder) as new:
            save(embedder.method, new / "model")
            write_json(new / RECORD, record)
        index = cls(folder, record, embedder)
        index._temporary = temporary
        return index

    @classmethod
    def load(
        cls,
        folder: str | Path,
        model: Method | str | Path | None = None,
        device: str = "cpu",
        *,
        repair: bool = False,
    ) -> Index:
        """Open an index.

        Args:
            folder: What `build` or `save` wrote.
            model: The model for queries; None: the copy in the index.
            device: Where the model runs.
            repair: Open it although vectors are lost: `update` embeds those photos again.

        Raises:
            ZsbirError: If it is no index, is damaged, or `model` is not the one that made it.
        """
        folder = Path(folder)
        record = record_of(folder)
        if not (repair or (folder / "photos.sqlite").is_file()):
            raise ZsbirError(f"{folder} lacks its list of photos: `zsbir index PHOTOS -o {folder}` makes it again")
        given = model if isinstance(model, Method) else load(folder / "model") if model is None else find_model(model)
        if fingerprint(given) != record["fingerprint"]:
            name = record["model"].get("name")
            raise ZsbirError(
                f"{folder} was made by another model ({name!r}): its vectors cannot be compared with this one's"
            )
        index = cls(folder, record, Embedder(given, device))
        without = len(index) - len(index.store)
        if without > 0 and not repair:
            index.close()
            raise ZsbirError(
                f"{folder} lacks the vectors of {without} photos: `zsbir index -o {folder}` embeds them again"
            )
        return index

    def skipped(self) -> list[tuple[str, str]]:
        """Return the files that could not be read, each with the reason."""
        return [(path, reason) for path, reason, _ in self.catalog.skipped()]

    def save(self, folder: str | Path | None = None) -> None:
        """Write everything to disk; with `folder`, as a copy there, which takes the place of what is there."""
        with self._lock.writing():
            self.store.flush()
            self.catalog.checkpoint()
            if folder is not None and Path(folder).absolute() != self.folder.absolute():
                with replaced(Path(folder)) as new:
                    shutil.copytree(
                        self.folder, new, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*-wal", "*-shm")
                    )

    def close(self) -> None:
        """Let go of the files; a temporary index is deleted."""
        self.store.close()
        self.catalog.close()
        if self._temporary is not None:
            self._temporary.cleanup()


def _describe(embedder: Embedder, store: Store) -> dict[str, Any]:
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


def record_of(folder: Path) -> dict[str, Any]:
    """Return the record of an index folder.

    Raises:
        ZsbirError: If it holds none, or one of another version.
    """
    if not (folder / RECORD).is_file():
        raise ZsbirError(f"{folder} is no index: make one with `zsbir index PHOTOS -o {folder}`")
    if read_record(folder / RECORD, {"format": int})["format"] != FORMAT:
        raise ZsbirError(f"{folder} was written by another version of zsbir: build it again")
    record = read_record(folder / RECORD, {"fingerprint": str, "dim": int, "store": dict, "model": dict})
    if isinstance(record["dim"], bool) or not 1 <= record["dim"] <= LARGEST:
        raise ZsbirError(f"{folder / RECORD} is damaged: vectors of {record['dim']} numbers")
    return record
