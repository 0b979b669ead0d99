"""Where the images of a large job come from: folders, lists, tar files and Parquet tables, local or remote.

A source is cut into shards, and a shard is the unit of everything: of scheduling, of output files, of starting again.
Each shard is read from its beginning by one process, so tar files and tables need no index.
"""

from __future__ import annotations

import hashlib
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from zsbir.data.formats import kind_of
from zsbir.data.scan import Skipped, photo_files
from zsbir.errors import ZsbirError, needing
from zsbir.types import Paths

Item = tuple[str, str | bytes]
"""The id of an image, and its local path or its encoded bytes."""

_IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "bytes")
_PATH_COLUMNS = ("path", "file", "url")
_ID_COLUMNS = ("id", "key", "__key__")


class Source(ABC):
    """Images in shards.

    Attributes:
        shards: The shards' names, each with what changes when its content does: processes that share a job must agree
            on them.
    """

    shards: Sequence[str]

    @abstractmethod
    def read(self, shard: int) -> Iterator[Item]:
        """Yield the images of a shard in a fixed order.

        Raises:
            ZsbirError: If the shard cannot be read; a single broken image is the decoder's matter.
        """


def open_source(where: str | Path, block: int = 2048, left_out: Skipped | None = None) -> Source:
    """Open images by address.

    Args:
        where: A folder (searched at any depth), a text file with an address a line, or tar files or Parquet tables:
            one, a folder of them, or a pattern with ``*``. Local, or with a protocol of fsspec:
            ``s3://bucket/photos/``.
        block: Images a shard, where the source is single files.
        left_out: Gets the files of a local folder that cannot be images, each with the reason.

    Raises:
        ZsbirError: If there is nothing there, or the protocol needs a package that is not installed.
    """
    where = str(where)
    if block < 1:
        raise ZsbirError(f"--block {block}: a block has at least one image")
    fs, path = _file_system(where)
    found = _files(fs, path, where)
    kinds = {_kind(name) for name in found}
    for kind, source in (("tar", TarSource), ("parquet", ParquetSource)):
        if kinds == {kind}:
            return source(fs, found)
        if kind in kinds:
            raise ZsbirError(f"{where} holds {kind} files and others: give one kind, for instance '{where}/*.{kind}'")
    if kinds == {"list"} and len(found) == 1:
        with fs.open(found[0], "rt", encoding="utf-8", errors="surrogateescape") as lines:
            addresses = [line.strip() for line in lines if line.strip()]
        if _remote(fs) or any("://" in address for address in addresses):
            return FileSource(Paths(addresses), block)
    if _remote(fs) or fsspec.core.has_magic(path):
        images = Paths(fs.unstrip_protocol(name) if _remote(fs) else name for name in found if _kind(name) == "image")
    else:
        images = Paths(photo_files(where, left_out))
    if not len(images):
        raise ZsbirError(f"there are no images in {where}")
    return FileSource(images, block)


class FileSource(Source):
    """Single files, `block` a shard, in the order of the list.

    Args:
        files: Local paths, or addresses with a protocol.
        block: Files a shard.
        names: The ids of the images; None: `files`.
    """

    def __init__(self, files: Paths, block: int, names: Paths | None = None) -> None:
        self.files, self.block, self.names = files, block, files if names is None else names
        digest = hashlib.sha256("\0".join(self.names).encode("utf-8", "surrogateescape")).hexdigest()
        self.shards = [f"{digest}@{start}" for start in range(0, len(files), block)]

    def read(self, shard: int) -> Iterator[Item]:
        """See `Source.read`."""
        rows = range(shard * self.block, min((shard + 1) * self.block, len(self.files)))
        for name, file in zip(self.names.take(rows), self.files.take(rows), strict=True):
            if "://" not in file:
                yield name, file
                continue
            fs, path = _file_system(file)
            try:
                yield name, fs.cat_file(path)
            except OSError:
                yield name, b""  # the decoder says that it is empty, and the job goes on


class TarSource(Source):
    """Tar files as WebDataset writes them; a shard is a file, an image its member."""

    def __init__(self, fs: Any, files: Sequence[str]) -> None:
        self._fs, self._files = fs, list(files)
        self.shards = [f"{name}@{fs.size(name)}" for name in self._files]

    def read(self, shard: int) -> Iterator[Item]:
        """See `Source.read`."""
        name = self._files[shard]
        try:
            with self._fs.open(name, "rb") as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
                for member in tar:
                    if member.isfile() and _kind(member.name) == "image":
                        data = tar.extractfile(member)
                        yield f"{name}/{member.name}", data.read() if data is not None else b""
        except (OSError, tarfile.TarError, EOFError) as error:
            raise ZsbirError(f"the tar file {name} cannot be read: {error}") from None


class ParquetSource(Source):
    """Parquet tables; a shard is a file, an image a row: its bytes (``image``), or where it lies (``path``)."""

    def __init__(self, fs: Any, files: Sequence[str]) -> None:
        self._fs, self._files = fs, list(files)
        self.shards = [f"{name}@{fs.size(name)}" for name in self._files]

    def read(self, shard: int) -> Iterator[Item]:
        """See `Source.read`."""
        with needing("a Parquet table", "zsbir[table]"):
            from pyarrow import ArrowException
            from pyarrow.parquet import ParquetFile
        name = self._files[shard]
        try:
            with self._fs.open(name, "rb") as stream:
                table = ParquetFile(stream)
                names = table.schema_arrow.names
                image, path, key = (_first(names, known) for known in (_IMAGE_COLUMNS, _PATH_COLUMNS, _ID_COLUMNS))
                if image is None and path is None:
                    wanted = ", ".join((*_IMAGE_COLUMNS, *_PATH_COLUMNS))
                    raise ZsbirError(f"{name} has no column of images: name one of its columns {wanted}")
                columns = [column for column in (image or path, key) if column is not None]
                row = 0
                for batch in table.iter_batches(256, columns=columns):
                    for record in batch.to_pylist():
                        value = record[columns[0]]
                        value = value.get("bytes") or value.get("path") if isinstance(value, dict) else value
                        yield str(record[key]) if key else f"{name}#{row}", b"" if value is None else value
                        row += 1
        except (OSError, ArrowException) as error:
            raise ZsbirError(f"the table {name} cannot be read: {error}") from None


def _file_system(where: str) -> tuple[Any, str]:
    try:
        fs, path = url_to_fs(where)
    except (ImportError, ValueError) as error:
        raise ZsbirError(f"{where} cannot be opened: {error}") from None
    return fs, str(path)


def _files(fs: Any, path: str, where: str) -> list[str]:
    """Return the files that an address means, sorted."""
    try:
        if fsspec.core.has_magic(path):
            found = fs.glob(path)
        elif fs.isdir(path):
            found = fs.find(path)
        else:
            found = [path] if fs.isfile(path) or fs.exists(path) else []
    except (OSError, ImportError) as error:
        raise ZsbirError(f"{where} cannot be listed: {error}") from None
    if not found:
        raise ZsbirError(f"there is nothing at {where}")
    return sorted(str(name) for name in found)


def _kind(name: str) -> str:
    """Return what an address names: an image, a tar file, a Parquet table, a list, or something else."""
    ending = PurePosixPath(name).suffix.lower()
    held = {".tar": "tar", ".tgz": "tar", ".parquet": "parquet", ".txt": "list", ".lst": "list"}
    return held.get(ending) or ("image" if kind_of(name) == "image" else "other")


def _remote(fs: Any) -> bool:
    return "file" not in fs.protocol and "local" not in fs.protocol


def _first(names: Sequence[str], known: Sequence[str]) -> str | None:
    return next((name for name in known if name in names), None)
