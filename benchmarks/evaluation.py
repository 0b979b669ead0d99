"""Exact evaluation against the bare matrix product, against simpler ways, and in bounded memory.

    python benchmarks/evaluation.py

Random unit vectors, 768-d, 25 classes (QuickDraw's size: 30), all protocols, k = 100 and 200. Every size runs in a
process of its own, so that its peak memory can be read; product and evaluation take turns within it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _results import processor

from zsbir.evaluation import PROTOCOLS, evaluate_embeddings
from zsbir.evaluation.measure import chunk_rows

RESULTS = Path(__file__).parent / "results"
SKETCHY = (15229, 17101, 25)
QUICKDRAW = (92291, 54151, 30)
KS = (100, 200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sample", type=int, default=256, help="queries of the slow ways; their time is scaled up")
    parser.add_argument("--quickdraw-queries", type=int, default=QUICKDRAW[0], help="fewer: time is not scaled")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one:
        print(json.dumps(measure(json.loads(args.one), args)))
        return
    sizes = [(SKETCHY[0] // d, SKETCHY[1] // d, 25) for d in (8, 4, 2, 1)]
    jobs: list[dict[str, Any]] = [{"size": size, "slow": size == SKETCHY} for size in sizes]
    jobs.append({"size": (args.quickdraw_queries, *QUICKDRAW[1:]), "slow": False, "repeats": 1})
    rows = []
    for job in jobs:
        command = [sys.executable, __file__, *sys.argv[1:], "--one", json.dumps(job)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print({k: v for k, v in rows[-1].items() if k != "slow"}, flush=True)
    write(rows, args)


def measure(job: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Time one size; returns seconds, the ratio and the extra memory."""
    device = torch.device(args.device)
    queries, gallery, classes = job["size"]
    generator = torch.Generator().manual_seed(0)
    # Unit length in place: a second copy would be counted as memory of the evaluation.
    left, right = (torch.randn(n, 768, generator=generator) for n in (queries, gallery))
    for side in (left, right):
        side.div_(side.norm(dim=1, keepdim=True))
    left, right = left.to(device), right.to(device)
    base = memory("VmRSS")
    labels = np.arange(queries) % classes, np.arange(gallery) % classes
    rows = chunk_rows(gallery, 4, device)

    def product() -> None:
        for start in range(0, queries, rows):
            left[start : start + rows] @ right.T

    def evaluation() -> None:
        evaluate_embeddings(left, labels[0], right, labels[1], PROTOCOLS.names(), KS)

    evaluate_embeddings(left[:rows], labels[0][:rows], right, labels[1], PROTOCOLS.names(), KS)  # warm-up
    times: dict[str, list[float]] = {"product": [], "evaluation": []}
    cpu: dict[str, list[float]] = {"product": [], "evaluation": []}
    for _ in range(job.get("repeats", args.repeats)):
        for name, function in (("product", product), ("evaluation", evaluation)):
            wall, used = timed(function, device)
            times[name].append(wall)
            cpu[name].append(used)
    best = {name: min(values) for name, values in times.items()}
    used = {name: min(values) for name, values in cpu.items()}
    out = {
        "queries": queries,
        "photos": gallery,
        "rows_at_once": rows,
        "seconds": best,
        "ratio": best["evaluation"] / best["product"],
        "cpu_seconds": used,
        "cpu_ratio": used["evaluation"] / used["product"],
        "all_seconds": times,
        "load": os.getloadavg()[0],
        "resident_before_mib": base,
        "peak_mib": memory("VmHWM"),
        "extra_memory_mib": memory("VmHWM") - base,
    }
    if device.type == "cuda":
        out["gpu_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
    if job["slow"]:
        out["slow"] = slow_ways(left.cpu(), right.cpu(), labels, args.sample)
    return out


def timed(function: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Return wall and processor seconds of a call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start, used = time.perf_counter(), time.process_time()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - used


def memory(field: str) -> float:
    """Return ``VmRSS`` (now) or ``VmHWM`` (largest so far) of this process, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def slow_ways(
    left: torch.Tensor, right: torch.Tensor, labels: tuple[np.ndarray, np.ndarray], sample: int
) -> dict[str, float]:
    """Return the seconds, scaled to all queries, of an argsort of every row and of scikit-learn for every query."""
    from sklearn.metrics import average_precision_score

    some = np.linspace(0, len(left) - 1, sample).astype(np.int64)
    scores = (left[torch.from_numpy(some)] @ right.T).numpy()
    relevant = labels[0][some][:, None] == labels[1][None]
    found: dict[str, float] = {}

    def argsort() -> None:
        order = np.take_along_axis(relevant, np.argsort(-scores, axis=1), axis=1)
        precision = order.cumsum(axis=1) / np.arange(1, order.shape[1] + 1)
        (precision * order).sum(axis=1) / order.sum(axis=1)
        for k in KS:
            (precision[:, :k] * order[:, :k]).sum(axis=1) / k
            order[:, :k].sum(axis=1) / k

    def sklearn() -> None:
        for row, right_ones in zip(scores, relevant, strict=True):
            average_precision_score(right_ones, row)

    for name, function in (("argsort and cumulative sums", argsort), ("scikit-learn, mAP@all alone", sklearn)):
        found[name] = timed(function, torch.device("cpu"))[0] * len(left) / sample
    return found


def write(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Write the JSON, the table and the plot."""
    record = {
        "command": shlex.join(["python", "benchmarks/evaluation.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "cpu": processor(),
            "cores": os.cpu_count(),
            "threads": args.threads,
            "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "protocols": PROTOCOLS.names(),
        "ks": KS,
        "sizes": rows,
        "gpu": "see device" if args.device == "cuda" else "not measured",
    }
    name = "evaluation" if args.device == "cpu" else "evaluation-cuda"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    lines = [
        "| queries × photos × 768 | product s | evaluation s | ratio | CPU ratio | extra memory MiB | load |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        s, extra = row["seconds"], row["extra_memory_mib"]
        lines.append(
            f"| {row['queries']:,} × {row['photos']:,} | {s['product']:.2f} | {s['evaluation']:.2f} "
            f"| {row['ratio']:.2f} | {row['cpu_ratio']:.2f} | {'–' if extra is None else f'{extra:.0f}'} "
            f"| {row['load']:.1f} |"
        )
    slow = next(row for row in rows if "slow" in row)
    lines.append("")
    lines += [
        f"{way}, {slow['queries']:,} × {slow['photos']:,}, without the product: {seconds:.1f} s "
        f"(scaled up from {args.sample} queries)\n"
        for way, seconds in slow["slow"].items()
    ]
    m = record["machine"]
    lines.append(
        f"All {len(record['protocols'])} protocols, k = 100 and 200; best of {args.repeats} (largest size: once), wall "
        f"time; CPU ratio: of processor time. {m['cpu']}, {m['cores']} cores, {args.threads} threads, torch "
        f"{m['torch']}, NumPy {m['numpy']}, {record['date']}. Load: processes that wanted a core at the end of the "
        f"size's run (this run alone: about {args.threads}). Extra memory: peak less what is resident once the "
        "embeddings are made, in a process of its own; what the first product loads counts in it. "
        f"GPU: {record['gpu']}. `{record['command']}`"
    )
    text = "# Evaluation: time and memory\n\n" + "\n".join(lines) + "\n"
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
    plot(rows, RESULTS / f"{name}.png")


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Draw time against the number of pairs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    pairs = [row["queries"] * row["photos"] for row in rows]
    for name, label in (("product", "bare matrix product"), ("evaluation", "evaluation, product included")):
        axes.plot(pairs, [row["seconds"][name] for row in rows], marker="o", label=label)
    axes.set(xscale="log", yscale="log", xlabel="queries × photos", ylabel="seconds")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(file)


if __name__ == "__main__":
    main()
