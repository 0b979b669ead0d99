"""What the matching benchmarks share: machine description, result files, synthetic features."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy
import sklearn
import torch

import zsbir

RESULTS = Path(__file__).parent / "results"
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def machine() -> dict[str, Any]:
    """Return cores, processor, load and library versions; no names of hosts or folders."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load_at_end": round(os.getloadavg()[0], 1),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none: GPU figures not measured",
        "python": platform.python_version(),
        "versions": {
            "zsbir": zsbir.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def write(name: str, values: Mapping[str, Any], text: str) -> None:
    """Write results/NAME.json and results/NAME.md, and print the text."""
    RESULTS.mkdir(exist_ok=True)
    words = ["FOLDER" if "/" in word else word for word in sys.argv[1:]]
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    m = machine()
    record = {"command": command, "date": date, "machine": m, **values}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    foot = (
        f"\n{date}, `{command}`; {m['cores']} cores ({m['cpu']}), {m['torch_threads']} threads, load "
        f"{m['load_at_end']} at the end (shared machine), GPU: {m['gpu']}; torch {m['versions']['torch']}, "
        f"scikit-learn {m['versions']['scikit-learn']}, numpy {m['versions']['numpy']}.\n"
    )
    (RESULTS / f"{name}.md").write_text(text + foot, encoding="utf-8")
    print(text + foot)


def synthetic(rows: int, width: int, classes: int, seed: int) -> tuple[Floats, Ints]:
    """Return unit vectors (rows, width) float32 in classes that overlap, and their labels.

    The variance falls along the principal directions as the features of a network's last layer do, and every class has
    the same shape; rows of all seeds share directions and class centres.
    """
    shared = np.random.default_rng(0)
    scale = np.arange(1, width + 1) ** -0.5
    turn = np.linalg.qr(shared.standard_normal((width, width)))[0]
    centers = shared.standard_normal((classes, width)) * scale
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=rows)
    vectors = (1.3 * centers[labels] + 2 * scale * rng.standard_normal((rows, width))) @ turn
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels
