"""What a run says while it goes: a progress bar, lines where there is no terminal, and ``metrics.jsonl``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import torch
from tqdm import tqdm


class StepLog:
    """Appends one JSON object a line to a file: exact figures, kept whatever the terminal does.

    Args:
        file: Where; None: nowhere.
        upto: On resuming, drop the rows with a later ``step``, which will be written again.
    """

    def __init__(self, file: Path | None, upto: int | None = None) -> None:
        self._file = file
        if file is not None and upto is not None and file.is_file():
            rows = [line for line in file.read_text().splitlines(keepends=True) if _step_of(line) <= upto]
            file.write_text("".join(rows))

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        if self._file is not None:
            with self._file.open("a") as handle:
                handle.write(json.dumps(row) + "\n")


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return sys.maxsize  # half a line, from a run that was killed while writing it


class EpochBar:
    """One epoch's progress: a tqdm bar on a terminal, a line every 10 s elsewhere, nothing if not wanted.

    Args:
        name: Which epoch, in words.
        steps: Steps an epoch.
        done: Steps done before (resuming).
        images: Images a step, all processes together.
        device: Whose memory is shown.
        show: False for processes other than the first, or when the caller wants silence.
    """

    def __init__(self, name: str, steps: int, done: int, images: int, device: torch.device, show: bool) -> None:
        self._name = name
        self._steps, self._done, self._images = steps, done, images
        self._device = device
        self._show = show
        self._terminal = sys.stderr.isatty()
        self._start = self._last = time.monotonic()
        self._fresh = 0
        self._bar = (
            tqdm(total=steps * images, initial=done * images, desc=self._name, unit="img")
            if show and self._terminal
            else None
        )

    def __enter__(self) -> EpochBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, figures: Mapping[str, float]) -> None:
        """Count one step, and show its figures."""
        self._done += 1
        self._fresh += 1
        if not self._show:
            return
        text = " ".join(f"{name} {value:.3f}" for name, value in figures.items())
        text += f" mem {memory_gb(self._device):.1f} GB"
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(self._images)
            return
        now = time.monotonic()
        if now - self._last > 10 or self._done == self._steps:
            self._last = now
            a_step = max(now - self._start, 1e-9) / self._fresh
            left = tqdm.format_interval((self._steps - self._done) * a_step)
            say(f"{self._name} {self._done}/{self._steps} {self._images / a_step:.0f} img/s {left} left {text}")


def memory_gb(device: torch.device) -> float:
    """Return the memory in use, in GB: on CUDA the most that was allocated, else the process's resident set."""
    held = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
    return float(held) / 1e9


def say(text: str) -> None:
    """Print a line to standard error without breaking a progress bar."""
    tqdm.write(text, file=sys.stderr)
