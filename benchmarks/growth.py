"""An IVF-PQ index as it grows: seconds, memory, disk, recall@10, time a query; and what 100 million would take.

    python benchmarks/growth.py --folder PLACE           # 0.5, 1, 2 and 5 million vectors; about an hour on one core

Each size is a process of its own that fills a store from nothing; sizes that are measured are skipped, and one that was
stopped goes on where it was. The vectors are drawn from 1,000 clusters whose spread falls from one direction to the
next as it does in embeddings: about 30 directions count, where noise of equal spread would have 512.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _results import RESULTS, table, write
from search import timed

from zsbir.search.stores import STORES
from zsbir.search.stores.base import padded

SIZES = (500_000, 1_000_000, 2_000_000, 5_000_000)
GOAL = 100_000_000
MOST_LISTS = 16_384
STEP = 65_536
QUERIES = 200
CLOCKS = (time.perf_counter, time.process_time)


def drawn(count: int, dim: int, seed: int) -> Iterator[np.ndarray]:
    """Yield unit vectors, `STEP` at a time; each part has its own seed, so that it can be begun anywhere."""
    scale = np.arange(1, dim + 1, dtype=np.float32) ** -0.5
    fixed = np.random.default_rng(0)
    middle = fixed.standard_normal((1000, dim), dtype=np.float32) * scale
    turn = np.linalg.qr(fixed.standard_normal((dim, dim)))[0].astype(np.float32)  # no axis is special
    for start in range(0, count, STEP):
        rng = np.random.default_rng([seed, start])
        part = rng.standard_normal((min(STEP, count - start), dim), dtype=np.float32) * scale
        part += middle[rng.integers(0, len(middle), len(part))]
        yield (part / np.linalg.norm(part, axis=1, keepdims=True)) @ turn


class Peak(threading.Thread):
    """Looks at this process's memory ten times a second: what is its own, and with mapped files' pages."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.own = self.mapped = 0.0
        self.start()

    def run(self) -> None:
        """See `threading.Thread.run`."""
        while True:
            found = psutil.Process().memory_info()
            self.own = max(self.own, (found.rss - found.shared) / 1e6)
            self.mapped = max(self.mapped, found.rss / 1e6)
            time.sleep(0.1)


def now() -> tuple[float, float]:
    """Return the time, and the processor time of this process, in seconds."""
    return CLOCKS[0](), CLOCKS[1]()


def measure(count: int, dim: int, folder: Path) -> dict[str, Any]:
    """Fill a store and search in it."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "seconds.json"
    spent: dict[str, float] = json.loads(kept.read_text()) if kept.is_file() else {}
    peak = Peak()

    def add(name: str, began: tuple[float, float]) -> None:
        for unit, start, clock in zip(("s", "cpu_s"), began, CLOCKS, strict=True):
            spent[f"{name}_{unit}"] = spent.get(f"{name}_{unit}", 0) + clock() - start
        kept.write_text(json.dumps(spent))

    store = STORES.build("faiss", kind="ivf-pq")
    store.open(folder, dim)
    for number, part in enumerate(drawn(count, dim, 1)):
        if number * STEP >= len(store):
            began = now()
            store.add(np.arange(number * STEP, number * STEP + len(part)), part)
            add("write", began)
    store.flush()
    began = now()
    store.finish()
    add("index", began)
    row: dict[str, Any] = {"vectors": count, **spent, "peak_mb": peak.own, "peak_with_mapped_mb": peak.mapped}
    row["lists"] = store._index.nlist
    files = [file for file in folder.rglob("*") if file.is_file()]
    row["disk_gb"] = sum(file.stat().st_size for file in files) / 1e9
    row["vectors_gb"] = (folder / "vectors.f32").stat().st_size / 1e9
    queries = next(drawn(QUERIES, dim, 2))
    truth = padded(*store.nearest(queries, 10), 10)[1]
    store.close()
    store = STORES.build("faiss", kind="ivf-pq")
    store.open(folder, dim)
    for query in queries[:20]:
        store.search(query[None], 10)
    found, times = timed(lambda query: store.search(query[None], 10)[1][0], queries)
    row |= times
    row["recall_at_10"] = float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth, strict=True)]))
    row["load_average"] = os.getloadavg()[0]
    return row


def at_the_goal(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Carry the power law through the last two sizes on to `GOAL`, for what grows like one."""
    found = {}
    for key in ("index_cpu_s", "disk_gb", "p50_ms"):
        (n, a), (m, b) = ((row["vectors"], row.get(key, np.nan)) for row in rows[-2:])
        power = np.log(b / a) / np.log(m / n)
        found[key] = float(b * (GOAL / m) ** power)
        found[f"{key}_power"] = float(power)
    # Comparing every vector with every list is what grows fastest: if all of the last size's time were that.
    last = rows[-1]
    found["index_cpu_s_most"] = last.get("index_cpu_s", np.nan) * GOAL / last["vectors"] * MOST_LISTS / last["lists"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--dim", type=int, default=512, help="of the packaged model doodle: 512")
    parser.add_argument("--folder", type=Path, required=True, help="where the stores are built, one after the other")
    parser.add_argument("--name", default="growth", help="of the result files")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--again", action="store_true", help="measure anew what is there")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.dim, args.folder / str(args.one))))
        return
    file = RESULTS / f"{args.name}.json"
    rows = json.loads(file.read_text())["rows"] if file.is_file() else []
    for size in args.sizes:
        if size in [row["vectors"] for row in rows] and not args.again:
            continue
        command = [sys.executable, __file__, "--one", str(size), "--dim", str(args.dim), "--folder", str(args.folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows = [row for row in rows if row["vectors"] != size]
        rows = sorted([*rows, json.loads(done.stdout.splitlines()[-1])], key=lambda row: row["vectors"])
        shutil.rmtree(args.folder / str(size))
        report(args.name, rows, args.dim)


def report(name: str, rows: list[dict[str, Any]], dim: int) -> None:
    head = ("vectors", "lists", "train and code, s", "of a core", "own memory at most, MB", "with mapped files, MB",
            "disk, GB", "recall@10", "p50, ms", "p95, ms", "load average")  # fmt: skip
    keys = ("index_s", "index_cpu_s", "peak_mb", "peak_with_mapped_mb", "disk_gb")
    lines = [
        [f"{row['vectors']:,}", row["lists"], *(f"{row[key]:,.1f}" if key in row else "–" for key in keys),
         f"{row['recall_at_10']:.3f}", *(f"{row[key]:.1f}" for key in ("p50_ms", "p95_ms", "load_average"))]
        for row in rows
    ]  # fmt: skip
    text = f"IVF-PQ, {dim} dimensions, 64-byte codes, 96 lists probed, 320 candidates scored exactly.\n\n"
    text += table(head, lines)
    more: dict[str, Any] = {}
    if len(rows) > 1 and rows[-1]["vectors"] >= GOAL / 100:
        more = at_the_goal(rows)
        hours = more["index_cpu_s"] / 3600
        took = (
            "not known"
            if np.isnan(hours)
            else f"{hours:.1f} h of one core (exponent {more['index_cpu_s_power']:.2f}), or "
            f"up to {more['index_cpu_s_most'] / 3600:.0f} h if all of it grows as vectors times lists"
        )
        text += (
            f"\n{GOAL:,} vectors, not measured, by the power law through the last two sizes: to train and code {took}, "
            f"{more['disk_gb']:.0f} GB on disk, p50 {more['p50_ms']:.0f} ms (exponent {more['p50_ms_power']:.2f}). It "
            "assumes files in the page cache, as they were here: from a disk each of 320 candidates is a read of its "
            f"own. The lists stop to grow at {MOST_LISTS:,}, from 67 million vectors on. Seconds are those of a busy "
            "machine; processor seconds are not.\n"
        )
    more = {key: value for key, value in more.items() if not np.isnan(value)}
    write(name, {"dim": dim, "queries": QUERIES, "rows": rows, **more}, text)


if __name__ == "__main__":
    main()
