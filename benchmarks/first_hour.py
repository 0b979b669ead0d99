"""Time the commands of a newcomer's first hour, from installing to searching, in a new virtual environment.

    python benchmarks/first_hour.py --root DATA --unseen giraffe,horse

DATA is a folder of one's own: DATA/{sketch,photo}/CLASS/*.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _results import table, write

SOURCES = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--unseen", required=True, help="two or more classes to hold out, with commas between them")
    options = parser.parse_args()
    root = options.root.resolve()
    drawing = next(path for path in sorted((root / "sketch").rglob("*")) if path.is_file())
    photos = sum(path.is_file() for path in (root / "photo").rglob("*"))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        # Nothing that an earlier run has stored may make this one faster.
        env = os.environ | {"XDG_CACHE_HOME": str(home / "cache")}
        env.pop("PYTHONPATH", None)

        def timed(what: str, *words: str) -> None:
            begin = time.perf_counter()
            done = subprocess.run(words, cwd=home, env=env, capture_output=True, text=True)
            seconds = time.perf_counter() - begin
            if done.returncode:
                sys.exit(f"{what}: exit {done.returncode}\n{done.stderr[-2000:]}")
            rows.append((f"`{what}`", f"{seconds:.1f}"))
            print(what, f"{seconds:.1f} s", flush=True)

        timed("python -m venv", sys.executable, "-m", "venv", "new")
        python, command = str(home / "new/bin/python"), str(home / "new/bin/zsbir")
        timed("pip install '.[quickstart,web]'", python, "-m", "pip", "install", "-q", f"{SOURCES}[quickstart,web]")

        def zsbir(line: str, *more: str) -> None:
            timed(f"zsbir {line}", command, *line.split(), *more)

        zsbir("--help")
        zsbir("list")
        zsbir("quickstart")
        (home / "my-data").symlink_to(root)
        zsbir(f"train contrastive --dataset folder --root my-data --unseen {options.unseen} --recipe small-data")
        zsbir("evaluate runs/contrastive-folder-1 --protocol standard --protocol sbka")
        zsbir("index my-data/photo -o my.index")
        (home / f"drawing{drawing.suffix}").symlink_to(drawing)
        zsbir(f"search my.index drawing{drawing.suffix}")
    text = f"# The first hour\n\nSeconds of each command, in this order; {photos:,} photos, nothing stored before.\n\n"
    write("first_hour", {"rows": rows, "photos": photos}, text + table(("command", "seconds"), rows))


if __name__ == "__main__":
    main()
