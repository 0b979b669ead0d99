"""Bulk embedding: images a second for one process, two, and Ray; what the scheduler costs; memory; the first part.

python benchmarks/bulk.py --count 20000        (tiny backbone: the decoders and the engine are what is measured)
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from _results import table, write
from PIL import Image

import zsbir


def photos(folder: Path, count: int) -> None:
    """Write `count` JPEG files of 160 px; every hundredth is drawn anew, the others are links to one of 100."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        file = folder / f"{number:07d}.jpg"
        if number < 100:
            pixels = rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((160, 160)).save(file, quality=85)
        else:
            os.link(folder / f"{number % 100:07d}.jpg", file)


def run(name: str, command: list[str], out: Path) -> dict[str, object]:
    """Run a command; return images a second, seconds to the first part, and the peak memory of its processes."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first, peak = 0.0, 0
    while process.poll() is None:
        if not first and list((out / "parts" / "gallery").glob("0*.json")):
            first = time.monotonic() - began
        try:
            tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            peak = max(peak, sum(p.memory_info().rss for p in tree))
        except psutil.Error:
            pass  # a process that ended between the two calls
        time.sleep(0.1)
    seconds = time.monotonic() - began
    if process.returncode:
        raise SystemExit(f"{name} failed: {' '.join(command)}")
    counts = json.loads((out / "manifest.json").read_text())["jobs"]["gallery"]
    return {"engine": name, "seconds": seconds, "first_s": first, "peak_mb": peak / 1e6, "images": counts["images"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--block", type=int, default=1024)
    parser.add_argument("--name", default="bulk", help="of the result files")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        zsbir.build("frozen", backbone={"name": "tiny", "image_size": 64}).save(root / "model")
        photos(root / "photos", args.count)
        start = [sys.executable, "-m"]
        for name, before, more in (
            ("one process", [], []),
            ("two processes (torchrun)", ["torch.distributed.run", "--nproc-per-node", "2", "-m"], []),
            ("Ray, one actor", [], ["--engine", "ray", "--actors", "1"]),
            ("Ray, two actors", [], ["--engine", "ray", "--actors", "2"]),
        ):
            out = root / name.replace(" ", "-")
            command = [*start, *before, "zsbir", "embed", str(root / "model"), "--photos", str(root / "photos"),
                       "-o", str(out), "--block", str(args.block), "--workers", "1", "--device", "cpu"]  # fmt: skip
            rows.append(run(name, [*command, *more], out))
            print(rows[-1], flush=True)
    lines = [
        (
            r["engine"],
            f"{r['images'] / r['seconds']:.0f}",
            f"{r['seconds']:.1f}",
            f"{r['first_s']:.1f}",
            f"{r['peak_mb']:.0f}",
        )
        for r in rows
    ]
    head = ("engine", "images a second", "seconds in all", "to the first part", "peak memory of all its processes, MB")
    write(args.name, {"count": args.count, "block": args.block, "rows": rows}, table(head, lines))


if __name__ == "__main__":
    main()
