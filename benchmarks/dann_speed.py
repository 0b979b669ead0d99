"""DANN's training step against a plain loop as published: same model, batch and device, in one run.

The plain loop decodes in the loop itself (no workers), in float32, and for every item scans the list of files for those
of the wanted class. Ours is zsbir's loader with workers, indexed sampling, and the trainer's step.

    python benchmarks/dann_speed.py --root ../shared/data/pacs6 --backbone tiny --size 96
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import zsbir
from zsbir.data.batches import to_batch
from zsbir.data.loading import ImageSource, StepLoader, Steps
from zsbir.data.sampling import triplet_plan
from zsbir.types import Batch

RESULTS = Path(__file__).parent / "results"


def step(method: Any, optimizer: Any, batch: Batch) -> None:
    optimizer.zero_grad()
    sum(method(batch).values()).backward()
    optimizer.step()


def plain_batches(split: Any, size: int, method: Any, rows: int, device: str, seed: int) -> Any:
    """Yield batches as the published loader makes them: one item after the other, a list scan for each photo."""
    rng = np.random.default_rng(seed)
    photos = [(split.photos.file(i), split.classes[split.photos.labels[i]]) for i in range(len(split.photos))]

    def read(path: Path) -> torch.Tensor:
        image = Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
        return (x - torch.tensor(method.mean)[:, None, None]) / torch.tensor(method.std)[:, None, None]

    while True:
        items: list[list[torch.Tensor]] = [[], [], []]
        labels: list[list[int]] = [[], []]
        for index in rng.integers(len(split.sketches), size=rows):
            label = int(split.sketches.labels[index])
            other = int(rng.choice([c for c in range(len(split.classes)) if c != label]))
            items[0].append(read(split.sketches.file(int(index))))
            for slot, wanted in ((1, label), (2, other)):
                members = [path for path, name in photos if name == split.classes[wanted]]
                items[slot].append(read(members[rng.integers(len(members))]))
                labels[slot - 1].append(wanted)
        sketch, photo, negative = (torch.stack(part).to(device) for part in items)
        label_, other_ = (torch.tensor(part).to(device) for part in labels)
        yield Batch(sketch, photo, label_, label_, negative, other_)


def our_batches(loader: StepLoader, split: Any, method: Any, device: str) -> Any:
    epoch = 0
    while True:
        for raw in loader.epoch(epoch):
            yield to_batch(raw, split.classes, method.mean, method.std, device)
        epoch += 1


def rate(method: Any, optimizer: Any, batches: Any, steps: int, rows: int, device: str) -> float:
    """Return images a second over `steps` steps."""
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        step(method, optimizer, next(batches))
    if device == "cuda":
        torch.cuda.synchronize()
    return 3 * rows * steps / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="../shared/data/pacs6")
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="the two loops take turns")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args()
    dataset = zsbir.DATASETS.build("folder", root=a.root, unseen="elephant,giraffe,horse")
    split = dataset.train
    torch.manual_seed(0)
    method = zsbir.build("dann", backbone={"name": a.backbone, "image_size": a.size}).to(a.device).train()
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-4)
    steps = Steps(split, ImageSource(dataset, a.size), lambda epoch: triplet_plan(split, a.batch, 0, epoch))
    ours = our_batches(StepLoader(steps, a.workers, pin=a.device == "cuda"), split, method, a.device)
    plain = plain_batches(split, a.size, method, a.batch, a.device, 0)
    for batches in (plain, ours):
        step(method, optimizer, next(batches))
    rates: dict[str, list[float]] = {"plain": [], "zsbir": []}
    for _ in range(a.rounds):
        rates["plain"].append(rate(method, optimizer, plain, a.steps, a.batch, a.device))
        rates["zsbir"].append(rate(method, optimizer, ours, a.steps, a.batch, a.device))
    ratio = float(np.median(np.array(rates["zsbir"]) / np.array(rates["plain"])))
    cpu = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), ""
    )
    record = {
        "command": shlex.join(["python", "benchmarks/dann_speed.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(), "cpu": cpu, "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1), "python": platform.python_version(), "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if a.device == "cuda" else "not measured",
        "images_per_second": rates, "ratio": ratio,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    name = f"dann_speed_{a.backbone}_{a.device}"
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    text = (
        f"| loop | images/s (rounds) |\n|---|---|\n"
        f"| plain, as published | {', '.join(f'{x:.0f}' for x in rates['plain'])} |\n"
        f"| zsbir, {a.workers} workers | {', '.join(f'{x:.0f}' for x in rates['zsbir'])} |\n\n"
        f"Median ratio {ratio:.2f}. {record['date']}, `{record['command']}`; {cpu}, {record['cores']} cores shared "
        f"with other work (load {record['load']}); GPU: {record['gpu']}.\n"
    )
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
