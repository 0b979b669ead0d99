"""A run without gradient: what a method measures on the seen classes, written as a run folder like any other."""

from __future__ import annotations

from pathlib import Path

from zsbir.data.base import Dataset
from zsbir.engine import run as runs
from zsbir.engine.devices import choose_device
from zsbir.methods.base import Method
from zsbir.methods.saving import save


def measure(
    method: Method,
    dataset: Dataset,
    *,
    out: str | Path,
    device: str = "auto",
    seed: int = 0,
    workers: int = 2,
    cache: str | Path | None = None,
    progress: bool = True,
) -> Method:
    """Fit a method whose ``trains`` is False, and write its run.

    Args:
        method: Such as `frozen`.
        dataset: Its training part is read.
        out: The run folder, which must be new; it gets ``run.json`` and ``best``.
        device: Where the method runs.
        seed: Of the order, where it matters.
        workers: Threads that decode images.
        cache: A folder for decoded images.
        progress: Show a bar.

    Raises:
        ZsbirError: If the folder holds something, or an image cannot be read; a new folder is then removed.
    """
    out = Path(out)
    runs.claim(out)
    try:
        settings = {"device": choose_device(device), "workers": workers, "select_on": "none"}
        method.fit(dataset, seed=seed, device=settings["device"], workers=workers, cache=cache, progress=progress)
        runs.write_run(out, method, dataset, method.recipe, seed, settings)
        save(method, out / "best")
    except Exception:
        runs.discard(out)
        raise
    return method.eval()
