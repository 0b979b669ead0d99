"""Bulk embedding: images a second for one process, two, and Ray; what the scheduler costs; memory; the first part.

    python benchmarks/bulk.py --count 20000
    python benchmarks/bulk.py --count 200000 --engines "one process" --name bulk_large    # does memory grow?

The backbone is tiny: the decoders and the engine are what is measured.
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

ENGINES: dict[str, tuple[list[str], list[str]]] = {
    "one process": ([], []),
    "two processes (torchrun)": (["torch.distributed.run", "--nproc-per-node", "2", "-m"], []),
    "Ray, one actor": ([], ["--engine", "ray", "--actors", "1"]),
    "Ray, two actors": ([], ["--engine", "ray", "--actors", "2"]),
}
"""What stands before the command, and its further options."""


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


def run(name: str, command: list[str], out: Path, parts: int) -> dict[str, object]:
    """Run a command; return images a second, seconds to the first part, and the memory of its processes.

    Memory is taken at the most, and when a tenth and nine tenths of the parts are there: does it grow with the images?
    """
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first, peak, at = 0.0, 0, dict[float, int]()
    while process.poll() is None:
        done = len(list((out / "parts" / "gallery").glob("0*.json")))
        first = first or (time.monotonic() - began if done else 0.0)
        try:
            tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            used = sum(p.memory_info().rss for p in tree)
        except psutil.Error:
            continue  # a process ended between the two calls
        peak = max(peak, used)
        for share in (0.1, 0.9):
            if done >= share * parts:
                at.setdefault(share, used)
        time.sleep(0.1)
    seconds = time.monotonic() - began
    if process.returncode:
        raise SystemExit(f"{name} failed: {' '.join(command)}")
    counts = json.loads((out / "manifest.json").read_text())["jobs"]["gallery"]
    return {
        "engine": name, "seconds": seconds, "first_s": first, "peak_mb": peak / 1e6, "images": counts["images"],
        "tenth_mb": at[0.1] / 1e6, "nine_tenths_mb": at[0.9] / 1e6,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--block", type=int, default=1024)
    parser.add_argument("--name", default="bulk", help="of the result files")
    parser.add_argument("--engines", nargs="*", choices=list(ENGINES), default=list(ENGINES))
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        zsbir.build("frozen", backbone={"name": "tiny", "image_size": 64}).save(root / "model")
        photos(root / "photos", args.count)
        start = [sys.executable, "-m"]
        for name in args.engines:
            before, more = ENGINES[name]
            out = root / name.replace(" ", "-")
            command = [*start, *before, "zsbir", "embed", str(root / "model"), "--photos", str(root / "photos"),
                       "-o", str(out), "--block", str(args.block), "--workers", "1", "--device", "cpu"]  # fmt: skip
            rows.append(run(name, [*command, *more], out, -(-args.count // args.block)))
            print(rows[-1], flush=True)
    lines = [
        (
            r["engine"],
            f"{r['images'] / r['seconds']:.0f}",
            f"{r['seconds']:.1f}",
            f"{r['first_s']:.1f}",
            f"{r['tenth_mb']:.0f}",
            f"{r['nine_tenths_mb']:.0f}",
            f"{r['peak_mb']:.0f}",
        )
        for r in rows
    ]
    memory = ("memory of its processes, MB, after a tenth", "after nine tenths", "at the most")
    head = ("engine", "images a second", "seconds in all", "to the first part", *memory)
    write(args.name, {"count": args.count, "block": args.block, "rows": rows}, table(head, lines))


if __name__ == "__main__":
    main()
