"""What a run reports: a progress bar (lines if there is no terminal), and ``metrics.jsonl``."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm import tqdm

SECONDS = 5
"""The longest time without a line."""


class StepLog:
    """Appends exact figures to a file, one JSON object a line.

    Args:
        file: Where; None: nowhere.
        size: On resuming, its length in bytes at the checkpoint: later rows are dropped, as they are written again.
    """

    def __init__(self, file: Path | None, size: int = 0) -> None:
        self._file = file
        if file is not None and size:
            if not file.is_file() or file.stat().st_size < size:
                say(f"note: {file} is shorter than at the checkpoint: rows of earlier steps are lost")
            else:
                os.truncate(file, size)
        elif file is not None:
            file.write_bytes(b"")

    @property
    def size(self) -> int:
        """The file's length in bytes, once all of it is on the disk."""
        if self._file is None or not self._file.is_file():
            return 0
        with self._file.open("rb") as handle:
            os.fsync(handle.fileno())
            return os.fstat(handle.fileno()).st_size

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        if self._file is not None:
            with self._file.open("a") as handle:
                handle.write(json.dumps(row) + "\n")


class Estimate:
    """Says once, after the first steps, how long the whole run will take.

    Args:
        steps: How many are left.
        show: False: say nothing, as in processes other than the first.
    """

    def __init__(self, steps: int, show: bool) -> None:
        self._left, self._show = steps, show
        self._begun: float | None = None
        self._done = 0

    def step(self) -> None:
        """Count a step; the first one, which warms up, is not timed."""
        if not self._show:
            return
        now = time.monotonic()
        if self._begun is None:
            self._begun = now
            return
        self._done += 1
        if self._done >= 3 and now - self._begun > SECONDS / 2:
            self._show = False
            a_step = (now - self._begun) / self._done
            whole = tqdm.format_interval((self._left - self._done - 1) * a_step)
            say(f"about {whole} left for {self._left} steps of {a_step:.2f} s, validations not counted")


class EpochBar:
    """One epoch's progress: a tqdm bar on a terminal, a line every five seconds elsewhere, nothing if not wanted.

    Args:
        name: Which epoch, in words.
        steps: Steps an epoch.
        done: Steps done before (resuming).
        images: Images a step, all processes together.
        device: Whose memory is shown.
        show: False: show nothing, as in processes other than the first.
    """

    def __init__(self, name: str, steps: int, done: int, images: int, device: torch.device, show: bool) -> None:
        self._name, self._device, self._show = name, device, show
        self._steps, self._done, self._images, self._fresh = steps, done, images, 0
        self._start = self._last = time.monotonic()
        terminal = show and sys.stderr.isatty()
        self._bar = tqdm(total=steps * images, initial=done * images, desc=name, unit="img") if terminal else None

    def close(self) -> None:
        """End the bar; it stays on the screen."""
        if self._bar is not None:
            self._bar.close()

    def step(self, figures: Mapping[str, float]) -> None:
        """Count one step, and show its figures."""
        self._done += 1
        self._fresh += 1
        now = time.monotonic()
        due = now - self._last > (0.1 if self._bar is not None else SECONDS) or self._done == self._steps
        if not self._show or not due:
            return
        text = " ".join(f"{name} {value:.3f}" for name, value in figures.items())
        text += f" mem {memory_gb(self._device):.1f} GB"
        self._last = now
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(self._done * self._images - self._bar.n)
            return
        a_step = max(now - self._start, 1e-9) / self._fresh
        left = tqdm.format_interval((self._steps - self._done) * a_step)
        say(f"{self._name} {self._done}/{self._steps} {self._images / a_step:.0f} img/s {left} left {text}")


def memory_gb(device: torch.device) -> float:
    """Return the memory in use, in GB: on CUDA the most that was ever allocated, else the process's resident set."""
    held = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
    return float(held) / 1e9


@contextmanager
def heard(what: str, show: bool = True) -> Iterator[None]:
    """Say every five seconds that a block is still busy with `what`."""
    done = threading.Event()

    def tell() -> None:
        begun = time.monotonic()
        while not done.wait(SECONDS):
            say(f"{what}: {time.monotonic() - begun:.0f} s")

    teller = threading.Thread(target=tell, daemon=True)
    if show:
        teller.start()
    try:
        yield
    finally:
        done.set()
        if show:
            teller.join()


def say(text: str) -> None:
    """Print a line to standard error without breaking a progress bar."""
    tqdm.write(text, file=sys.stderr)
