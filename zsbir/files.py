"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from zsbir.errors import ZsbirError

OLD = ".previous"
NEW = ".incomplete"
Kinds = Mapping[str, type | tuple[type, ...]]


def stamp(file: str | Path) -> tuple[int, int]:
    """Return a file's size in bytes and its time of change in ns, kept within 64 bits as databases want it.

    Raises:
        OSError: If there is no such file, or no file can have that name.
    """
    try:
        found = os.stat(file)  # noqa: PTH116 (called for every image)
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error)) from None
    return found.st_size, max(-(2**63), min(found.st_mtime_ns, 2**63 - 1))


def open_regular(file: str | Path) -> BufferedReader:
    """Open a regular file for reading; a pipe or a device neither blocks nor is read.

    Raises:
        OSError: If it is not there, cannot be read or is not a regular file.
    """
    try:
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error)) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return BufferedReader(FileIO(handle))


def read_regular(file: str | Path) -> bytes:
    """Return the content of a regular file; raises as `open_regular`."""
    with open_regular(file) as stream:
        return stream.read()


def unique(name: str) -> str:
    """Return a name that no other process uses, on this machine or another."""
    return f"{name}-{socket.gethostname()}-{os.getpid()}".replace(".", "_")


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a name of its own, sync it and rename it: no process ever sees half of it.

    Args:
        file: Where it goes; its folder is made.
        write: Gets the path to write.

    Raises:
        ZsbirError: If it cannot be written; what was there is intact.
    """
    part = file.with_name(f".{unique(file.name)}")
    with writing("file", file):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write(part)
            _sync(part)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)


def write_json(file: Path, value: Any) -> None:
    """Write JSON as `write_whole` writes a file."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_whole(file, lambda part: part.write_text(text, encoding="utf-8"))


@contextmanager
def reading(what: str, file: str | Path) -> Iterator[None]:
    """Turn any error while a file is read and decoded into one sentence.

    Decoders raise errors of many kinds on damaged files, so all are taken.

    Raises:
        ZsbirError: If the block fails.
    """
    try:
        yield
    except ZsbirError:
        raise
    except Exception as error:
        kind = str(error).split("\n")[0][:200]
        if isinstance(error, RecursionError):
            kind = "it is nested too deeply"
        elif isinstance(error, KeyError):
            kind = f"it lacks {kind}"
        raise ZsbirError(f"the {what} {file} cannot be read: {kind or type(error).__name__}") from error


@contextmanager
def writing(what: str, where: str | Path) -> Iterator[None]:
    """Turn a failure to write, or to write in that format, into one sentence.

    Raises:
        ZsbirError: If the block raises OSError, ValueError or SafetensorError.
    """
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise ZsbirError(
            f"the {what} cannot be written to {where}: {reason}; make room, or choose another place"
        ) from error


def read_json(file: Path) -> Any:
    """Read JSON; raises ZsbirError if the file is missing or broken."""
    with reading("file", file):
        return json.loads(read_regular(file))


def read_record(file: Path, keys: Kinds) -> dict[str, Any]:
    """Read a JSON object; raises ZsbirError if it lacks one of `keys`, or its value is not of the kind given."""
    record: dict[str, Any] = read_json(file)
    held = record if isinstance(record, dict) else {}
    wrong = [key for key, kind in keys.items() if not isinstance(held.get(key, ...), kind)]
    if wrong:
        raise ZsbirError(f"{file} is incomplete: {', '.join(wrong)} is missing or wrong")
    return record


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Give a new folder to fill; when the block ends well it takes the place of `folder`, else it is removed.

    The files are synced, the old folder is moved aside, the new one takes its name, the old one is removed: a machine
    that stops at any moment leaves the old folder or the new one whole, and `present` finds it.

    Args:
        folder: What to replace; it need not exist.

    Raises:
        ZsbirError: If the disk is full or cannot be written; what was there is intact.
    """
    new, old = folder.with_name(folder.name + NEW), folder.with_name(folder.name + OLD)
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        yield new
        for file in new.iterdir():
            _sync(file)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        new.rename(folder)
        _sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except Exception as error:
        shutil.rmtree(new, ignore_errors=True)
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        if not full and not isinstance(error, OSError):
            raise
        reason = "the disk is full" if full else f"it cannot be written ({error})"
        raise ZsbirError(f"{folder}: {reason}; what was there before is intact: make room and try again") from error


def present(folder: Path) -> Path:
    """Return `folder`, or the one that `replaced` had moved aside when the machine stopped."""
    old = folder.with_name(folder.name + OLD)
    return old if not folder.exists() and old.exists() else folder


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows syncs no folders
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
