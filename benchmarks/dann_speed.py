"""DANN's training step against a plain loop as published: same model, batch and device, in one run.

The plain loop decodes in the loop itself (no workers), in float32, and for every item scans the list of files for those
of the wanted class. Ours is zsbir's loader with workers, indexed sampling, and the trainer's step.

    python benchmarks/dann_speed.py --root ../shared/data/pacs6 --backbone tiny --size 96
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _results import write
from PIL import Image

import zsbir
from zsbir.data.batches import to_batch
from zsbir.data.loading import ImageSource, StepLoader, Steps
from zsbir.data.sampling import Plan, triplet_plan
from zsbir.types import Batch, Records, Split


def step(method: Any, optimizer: Any, batch: Batch) -> None:
    optimizer.zero_grad()
    sum(method(batch).values()).backward()
    optimizer.step()


def plain_batches(split: Any, size: int, rows: int, device: str, seed: int) -> Any:
    """Yield batches as the published loader makes them: one item after the other, a list scan for each photo."""
    rng = np.random.default_rng(seed)
    photos = [(split.photos.file(i), split.classes[split.photos.labels[i]]) for i in range(len(split.photos))]

    def read(path: Path) -> torch.Tensor:
        image = Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255

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


def our_batches(loader: StepLoader, split: Any, device: str) -> Any:
    epoch = 0
    while True:
        for raw in loader.epoch(epoch):
            yield to_batch(raw, split.classes, device)
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


def listed(split: Split, photos: int) -> Split:
    """Return the split with its list of photos repeated to `photos` entries; the files are the same."""
    rows = np.resize(np.arange(len(split.photos)), photos)
    longer = Records(split.photos.root, split.photos.paths.take(rows), split.photos.labels[rows])
    return Split(split.sketches, longer, split.classes)


def compare(dataset: Any, split: Split, a: argparse.Namespace) -> dict[str, Any]:
    """Return images a second of the three loops, taking turns, and of the step alone."""
    torch.manual_seed(0)
    method = zsbir.build("dann", backbone={"name": a.backbone, "image_size": a.size}).to(a.device).train()
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-4)
    with tempfile.TemporaryDirectory() as folder:
        loops = {"plain": plain_batches(split, a.size, a.batch, a.device, 0)}
        for name in ("zsbir", "zsbir, image cache"):
            source = ImageSource(dataset, method.preprocess)
            steps = Steps(split, source, lambda epoch: triplet_plan(split, a.batch, 0, epoch))
            if "cache" in name:
                source.use_cache(folder)
                for _ in StepLoader(Steps(dataset.train, source, lambda e: fill_plan(dataset.train, a.batch)), 0).epoch(
                    0
                ):
                    pass  # filled, as from the second epoch on
            loops[name] = our_batches(StepLoader(steps, a.workers, pin=a.device == "cuda"), split, a.device)
        rates: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(a.rounds):
            for name, batches in loops.items():
                for _ in range(3):  # the workers are started, and what they had ready is used up
                    step(method, optimizer, next(batches))
                rates[name].append(rate(method, optimizer, batches, a.steps, a.batch, a.device))
        one = next(plain_batches(split, a.size, a.batch, a.device, 0))
        rates["the step alone"] = [
            rate(method, optimizer, itertools.repeat(one), a.steps, a.batch, a.device) for _ in range(a.rounds)
        ]
    plain = np.median(rates["plain"])
    return {
        "photos_listed": len(split.photos),
        "images_per_second": rates,
        "ratios": {name: float(np.median(r) / plain) for name, r in rates.items()},
    }


def fill_plan(split: Split, rows: int) -> Plan:
    """Return steps that touch every file once, to fill a cache."""
    sketches, photos = (np.resize(np.arange(len(r)), rows * -(-len(r) // rows)).reshape(-1, rows)
                        for r in (split.sketches, split.photos))  # fmt: skip
    steps = max(len(sketches), len(photos))
    return Plan(np.resize(sketches, (steps, rows)), np.resize(photos, (steps, rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="../shared/data/pacs6")
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="the loops take turns")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--photos", type=int, default=60000, help="length of the second list of photos")
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args()
    dataset = zsbir.DATASETS.build("folder", root=a.root, unseen="elephant,giraffe,horse")
    found = [compare(dataset, split, a) for split in (dataset.train, listed(dataset.train, a.photos))]
    lines = "".join(
        f"| {each['photos_listed']:,} | {loop} | {', '.join(f'{x:.0f}' for x in r)} | {each['ratios'][loop]:.2f}× |\n"
        for each in found
        for loop, r in each["images_per_second"].items()
    )
    text = (
        "# A training step of DANN\n\n`plain` works as published: it decodes in the loop, in float32, and scans the "
        "list of photos for each item. The longer list has about as many photos as Sketchy's seen classes (the same "
        f"files, repeated). Backbone `{a.backbone}` at {a.size} px, {a.batch} triplets, {a.workers} workers, "
        f"{a.device}.\n\n| photos in the list | loop | images/s (rounds) | median, against plain |\n"
        f"|---|---|---|---|\n{lines}"
    )
    write(f"dann_speed_{a.backbone}_{a.device}", {"settings": vars(a), "lists": found}, text)


if __name__ == "__main__":
    main()
