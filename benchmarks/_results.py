"""What the benchmarks share: the description of the machine, and result files."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("zsbir", "torch", "timm", "open_clip_torch", "numpy", "scipy", "scikit-learn")


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())


def machine() -> dict[str, Any]:
    """Return cores, processor, load and library versions; no names of hosts or folders."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "load_at_end": round(os.getloadavg()[0], 1),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none: GPU figures not measured",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
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
    used = ", ".join(f"{name} {m['versions'][name]}" for name in LIBRARIES[1:])
    foot = (
        f"\n{date}, `{command}`; {m['cores']} cores ({m['cpu']}), {m['torch_threads']} threads, load "
        f"{m['load_at_end']} at the end (shared machine), GPU: {m['gpu']}; {used}.\n"
    )
    (RESULTS / f"{name}.md").write_text(text + foot, encoding="utf-8")
    print(text + foot)
