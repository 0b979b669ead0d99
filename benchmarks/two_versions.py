"""Training, evaluation and search of two checkouts of zsbir, in turn: the ratios say whether a change made it slower.

    python benchmarks/two_versions.py OLD NEW

Each task runs in a process of its own, with random images and vectors and fixed seeds, and leaves its imports out.
Old and new take turns, so that what else the machine does meets both alike; CPU seconds count what the process and its
threads used, whoever else was running.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from _results import table, write

START = """
import time, warnings, torch, numpy as np
warnings.simplefilter("ignore")
torch.manual_seed(0)
def done(begin):
    print("took", *(round(now - then, 4) for now, then in zip((time.perf_counter(), time.process_time()), begin)))
def now():
    return time.perf_counter(), time.process_time()
"""
TASKS = {
    "training: `dann`, 40 steps of 16 at 96 px": """
import pathlib, zsbir
from PIL import Image
rng = np.random.default_rng(0)
root = pathlib.Path("shapes")
for domain in ("sketch", "photo"):
    for name in "abcd":
        (root / domain / name).mkdir(parents=True, exist_ok=True)
        for i in range(40):
            Image.fromarray(rng.integers(0, 255, (96, 96, 3), dtype=np.uint8)).save(root / domain / name / f"{i}.png")
data = zsbir.DATASETS.build("folder", root=str(root), unseen="a")
backbone = {"name": "tiny", "image_size": 96, "width": 32}
method = zsbir.build("dann", backbone=backbone)
recipe = zsbir.Recipe(epochs=1, batch_size=16, samples_per_epoch=640, augment="none")
trainer = zsbir.Trainer(method, data, recipe=recipe, out=f"run-{time.time()}", workers=0, progress=False)
begin = now()
trainer.fit()
done(begin)
""",
    "evaluation: 4,000 × 8,000 × 256, every protocol": """
from zsbir.evaluation import PROTOCOLS, evaluate_embeddings
left, right = (torch.nn.functional.normalize(torch.randn(n, 256), dim=1) for n in (4000, 8000))
labels = torch.randint(25, (4000,)), torch.randint(25, (8000,))
names = list(PROTOCOLS.names()) if hasattr(PROTOCOLS, "names") else list(PROTOCOLS)
evaluate_embeddings(left[:50], labels[0][:50], right[:100], labels[1][:100])
begin = now()
evaluate_embeddings(left, labels[0], right, labels[1], names)
done(begin)
""",
    "search: 200 queries, 200,000 × 256, exact store": """
import pathlib
from zsbir.search.stores import STORES
store = STORES.build("exact")
folder = pathlib.Path(f"store-{time.time()}")
folder.mkdir()
store.open(folder, 256)
vectors = np.random.default_rng(0).standard_normal((200_000, 256), dtype=np.float32)
store.add(np.arange(200_000), vectors)
store.search(vectors[:1], 20)
begin = now()
for i in range(200):
    store.search(vectors[i:i + 1], 20)
done(begin)
""",
}


def run(checkout: Path, code: str, home: Path) -> tuple[float, float]:
    """Return wall and CPU seconds of a task with a checkout's code."""
    env = {**os.environ, "PYTHONPATH": str(checkout)}
    words = [sys.executable, "-c", START + code]
    ended = subprocess.run(words, env=env, cwd=home, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"with {checkout}:\n{ended.stderr[-3000:]}")
    wall, cpu = [line for line in ended.stdout.splitlines() if line.startswith("took")][-1].split()[1:]
    return float(wall), float(cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs=2, type=Path, metavar=("OLD", "NEW"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = []
    for task, code in TASKS.items():
        with tempfile.TemporaryDirectory() as home:
            pairs = [
                [run(checkout.resolve(), code, Path(home)) for checkout in options.checkouts]
                for _ in range(options.rounds + 1)
            ][1:]  # the first round warms up
        cells = [task]
        for unit in (0, 1):
            ratios = sorted(new[unit] / old[unit] for old, new in pairs)
            old, new = (statistics.median(pair[side][unit] for pair in pairs) for side in (0, 1))
            cells += [f"{old:.2f}", f"{new:.2f}", f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"]
        rows.append(cells)
        print(*cells, flush=True)
    head = ("task", "old, s", "new, s", "ratio", "old, CPU s", "new, CPU s", "ratio")
    text = (
        "# Two versions, in turn\n\nMedians over the rounds; the ratio is new to old, round by round: its median, and "
        "its range.\n\n"
    )
    write("two_versions", {"rows": rows}, text + table(head, rows))


if __name__ == "__main__":
    main()
