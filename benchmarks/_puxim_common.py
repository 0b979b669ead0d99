"""What the masker and PuXIM benchmarks share: machine description and result files."""

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

import open_clip
import timm
import torch

import zsbir

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Return cores, processor and library versions; no names of hosts or folders."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    ) if Path("/proc/cpuinfo").exists() else platform.processor()  # fmt: skip
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
            "timm": timm.__version__,
            "open_clip": open_clip.__version__,
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
    record = {"command": command, "date": date, "machine": machine(), **values}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    m = record["machine"]
    foot = (
        f"\n{date}, `{command}`; {m['cores']} cores ({m['cpu']}), {m['torch_threads']} threads, load "
        f"{m['load_at_end']} at the end (the machine was shared), GPU: {m['gpu']}; torch {m['versions']['torch']}, "
        f"timm {m['versions']['timm']}, open_clip {m['versions']['open_clip']}.\n"
    )
    (RESULTS / f"{name}.md").write_text(text + foot, encoding="utf-8")
    print(text + foot)
