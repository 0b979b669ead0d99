"""Decode in a child process that is killed at a limit of time or memory.

An SVG of a few kilobytes can keep its renderer busy for minutes, with Python's lock held, or end the process. So files
that may come from anywhere are decoded in a child, which opens no file and is killed at its limit. It is a plain child
process rather than one of `multiprocessing`: that works inside a DataLoader's worker, beside threads and CUDA, and in
scripts without ``if __name__ == "__main__"``.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from PIL import Image

from zsbir.errors import ZsbirError

_START = 120.0
"""Seconds a child may take to start; only a machine that is out of memory or processes needs them."""


class IsolatedError(ZsbirError):
    """A decoding failed, or was stopped at a limit.

    Attributes:
        status: The `status` of the error that the function raised, if it had one.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def isolated(function: str, data: bytes, seconds: float = 30.0, memory: int = 4 << 30, **options: Any) -> Image.Image:
    """Call a function in a child process: ``function(data, **options)``, which returns an RGB image.

    Args:
        function: Where it is: ``"package.module:name"``.
        data: What it decodes.
        seconds: How long it may take.
        memory: Bytes that it may take beyond what the child holds already; kept on Linux only.
        **options: Further arguments, of JSON's types.

    Raises:
        IsolatedError: If the function raises, takes too long, needs too much memory, or ends the child.
    """
    with _borrowed() as child:
        return child.call(data, {"function": function, "seconds": seconds, "memory": memory, "options": options})


class _Child:
    def __init__(self) -> None:
        package = str(Path(__file__).resolve().parents[2])
        paths = [str(Path(path).absolute()) for path in sys.path if path]
        known = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, package])}
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", "from zsbir.data.isolation import answer; answer()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**known, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},  # threads take address space
                start_new_session=True,  # Ctrl-C is for the parent
            )
        except OSError as error:
            raise ZsbirError(f"the process that decodes images cannot be started: {error}") from None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        with self._limited(_START) as ended:
            ready = self.stdout.read(1)
        if not ready or ended.is_set():
            self.close()
            raise ZsbirError("the process that decodes images does not start: the machine may be out of memory")

    def call(self, data: bytes, header: dict[str, Any]) -> Image.Image:
        answer: dict[str, Any] = {}
        pixels = b""
        with self._limited(header["seconds"]) as ended:
            try:
                _write(self.stdin, header, data)
                answer, pixels = _read(self.stdout)
            except (OSError, EOFError):
                self.close()
        if "size" in answer and not ended.is_set():
            return Image.frombytes("RGB", tuple(answer["size"]), pixels)
        if "error" in answer:
            raise IsolatedError(answer["error"], answer.get("status"))
        if ended.is_set():
            raise IsolatedError(f"it takes longer than {header['seconds']:g} seconds to decode")
        raise IsolatedError("it ended the process that decodes it: it is broken, or made to break things")

    @contextlib.contextmanager
    def _limited(self, seconds: float) -> Iterator[threading.Event]:
        """Kill the child after some seconds; the event tells whether that happened."""
        ended = threading.Event()

        def end() -> None:
            ended.set()
            self.process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield ended
        finally:
            timer.cancel()
            if ended.is_set():
                self.close()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.stdin, self.stdout):
            with contextlib.suppress(OSError):  # what was not written cannot be
                stream.close()


_idle: list[_Child] = []


@contextlib.contextmanager
def _borrowed() -> Iterator[_Child]:
    """Take an idle child or start one: there are as many as threads decode at once."""
    while True:
        try:
            child = _idle.pop()
        except IndexError:
            child = _Child()
        if child.process.poll() is None:
            break
    try:
        yield child
    except BaseException as error:
        if not isinstance(error, IsolatedError):
            child.close()  # interrupted in the middle: its answer would be taken for the next one's
        raise
    finally:
        if child.process.poll() is None:
            _idle.append(child)


def _end_children() -> None:
    while _idle:
        _idle.pop().close()


atexit.register(_end_children)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # two processes must not talk to the same child


def _write(stream: IO[bytes], header: dict[str, Any], data: bytes = b"") -> None:
    stream.write(json.dumps({**header, "bytes": len(data)}).encode() + b"\n")
    stream.write(data)
    stream.flush()


def _read(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    header = json.loads(line)
    body = stream.read(header["bytes"])
    if len(body) < header["bytes"]:
        raise EOFError
    return header, body


def answer() -> None:
    """Answer calls until the parent closes the pipe: the child's whole life."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing printed gets between the answers
    Image.init()
    with contextlib.suppress(ImportError):  # while decoding no file can be opened, so no module imported
        importlib.import_module("resvg_py")
    sink.write(b"\n")
    sink.flush()
    while True:
        try:
            header, data = _read(source)
        except EOFError:
            return
        module, _, name = header["function"].partition(":")
        function = getattr(importlib.import_module(module), name)
        fatal, reply = False, {}
        with _confined(header["seconds"], header["memory"]):
            try:
                image = function(data, **header["options"])
            except ZsbirError as error:
                reply = {"error": str(error), "status": getattr(error, "status", None)}
            except MemoryError:
                reply = {"error": f"it needs more than {header['memory'] >> 20} MB of memory to decode"}
            except BaseException as error:  # a panic of the Rust renderer is no Exception; this child ends with it
                reply = {"error": " ".join(str(error).split())[:120] or type(error).__name__}
                fatal = not isinstance(error, Exception)
        _write(sink, reply or {"size": image.size}, b"" if reply else image.tobytes())
        if fatal:
            return


@contextlib.contextmanager
def _confined(seconds: float, memory: int) -> Iterator[None]:
    """Limit this process: no further open file, so much more memory, and an alarm in case the parent is gone."""
    if sys.platform == "win32":
        yield
        return
    import resource
    import signal

    with contextlib.ExitStack() as lifted:

        def limit(what: int, value: int) -> None:
            before = resource.getrlimit(what)
            lifted.callback(resource.setrlimit, what, before)
            resource.setrlimit(what, (value, before[1]))

        statm = Path("/proc/self/statm")
        if statm.exists():
            limit(resource.RLIMIT_AS, int(statm.read_text().split()[0]) * resource.getpagesize() + memory)
        limit(resource.RLIMIT_NOFILE, 3)
        lifted.callback(signal.alarm, 0)
        signal.alarm(int(seconds) + 2)
        yield
