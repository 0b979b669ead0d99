"""Data at real file counts: opening, memory, checking; loader throughput against torchvision's ImageFolder.

The trees have the published numbers of classes and files, with tiny images of different content and equal size (so that
the duplicate check must read them all). Everything is measured in one run on one machine.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PUBLISHED = {
    "sketchy-25": {"sketch": (55252, 15229), "photo": (68401, 17101)},
    "quickdraw-30": {"sketch": (800, 92291), "photo": (800, 54151)},
}
FOLDERS = {
    "sketchy-25": ("256x256/sketch/tx_000000000000_ready", "256x256/photo/tx_000000000000_ready", "zeroshot1"),
    "quickdraw-30": ("sketches", "images", "zeroshot"),
}
OPEN = """
import json, re, sys, time
from zsbir.data import DATASETS
import zsbir.data.datasets.published
def peak():
    # Not ru_maxrss, which a child inherits from its parent.
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) / 1024
before, start, cpu = peak(), time.perf_counter(), time.process_time()
data = DATASETS.build(sys.argv[1], root=sys.argv[2], source=sys.argv[3])
seconds, after, cpu = time.perf_counter() - start, peak(), time.process_time() - cpu
start = time.perf_counter()
data.manifest_hash
files = sum(len(split.sketches) + len(split.photos) for split in data.parts.values())
print(json.dumps({"seconds": seconds, "cpu_s": cpu, "peak_mb": after, "growth_mb": after - before, "files": files,
    "source": data.reading.source, "hash_s": time.perf_counter() - start}))
"""


def write_tree(root: Path, name: str) -> None:
    """Write a benchmark's folders, images and list files."""
    from zsbir.data.datasets.published import published

    facts = published(name)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for domain, where, ending in (("sketch", FOLDERS[name][0], "png"), ("photo", FOLDERS[name][1], "jpg")):
        sample = root / f"sample.{ending}"
        root.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(sample)
        content, number = sample.read_bytes(), 0
        sample.unlink()
        for side, part, total in zip(("seen", "unseen"), ("train", "test"), PUBLISHED[name][domain], strict=True):
            lines = []
            for label, own in enumerate(facts[side]):
                folder = root / where / own
                folder.mkdir(parents=True, exist_ok=True)
                count = total // len(facts[side]) + (label < total % len(facts[side]))
                for _ in range(count):
                    number += 1
                    path = f"{where}/{own}/n{number:08d}_{number % 997}.{ending}"
                    # Decoders stop at the end marker: what follows makes each file another one.
                    (root / path).write_bytes(content + number.to_bytes(8, "little"))
                    lines.append(f"{path} {label}\n")
            lists = root / FOLDERS[name][2]
            lists.mkdir(exist_ok=True)
            (lists / facts["lists"][f"{domain}_{part}"]["file"]).write_text("".join(lines))


def scale(name: str, folder: Path, repeats: int) -> dict[str, Any]:
    """Measure opening and checking one benchmark's tree."""
    root = folder / name
    if not root.exists():
        write_tree(root, name)
    result: dict[str, Any] = {}
    for source in ("lists", "folders"):
        runs = []
        for _ in range(repeats):
            out = subprocess.run([sys.executable, "-c", OPEN, name, root, source], check=True, capture_output=True)
            runs.append(json.loads(out.stdout))
        best = {key: statistics.median(run[key] for run in runs) for key in runs[0] if key != "source"}
        result[f"open from {source}"] = {key: round(value, 3) for key, value in best.items()}
        start, before = time.perf_counter(), _cpu_of_children()
        call = [sys.executable, "-m", "zsbir", "datasets", "check", name, "--root", str(root), "--source", source]
        out = subprocess.run([*call, "--json"], capture_output=True, check=False)
        report = json.loads(out.stdout)
        result[f"check from {source}"] = {
            "seconds": round(time.perf_counter() - start, 2),
            "cpu_s": round(_cpu_of_children() - before, 2),
            "files": report["checked"],
            "ok": report["ok"],
        }
    return result


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def throughput(root: Path, cache: Path, workers: int, batch: int, size: int, repeats: int, most: int) -> dict[str, Any]:
    """Measure images per second to normalised float batches: torchvision, zsbir decoding, zsbir with its cache."""
    import torch
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    from zsbir.data import DATASETS
    from zsbir.data.batches import to_batch
    from zsbir.data.loading import ImageSource, StepLoader, Steps
    from zsbir.data.preprocess import Preprocess
    from zsbir.data.sampling import Plan

    data = DATASETS.build("folder", root=root, unseen=1)
    half, look = batch // 2, Preprocess(size, (0.5,) * 3, (0.5,) * 3)
    split = data.train
    steps = min(len(split.sketches), len(split.photos), most // 2) // half
    torch.set_num_threads(1)

    def rows(records: Any) -> Any:
        order = np.random.default_rng(0).permutation(len(records))[: steps * half]
        return order.reshape(steps, half).astype(np.int64)

    plan = Plan(rows(split.sketches), rows(split.photos))
    change = [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(look.mean, look.std)]
    images = ImageFolder(str(root), transforms.Compose(change))
    used = {str(split.sketches.file(int(i))) for i in plan.sketch.ravel()}
    used |= {str(split.photos.file(int(i))) for i in plan.photo.ravel()}
    same = torch.utils.data.Subset(images, [i for i, (path, _) in enumerate(images.samples) if path in used])
    options: dict[str, Any] = {"persistent_workers": True, "prefetch_factor": 2} if workers else {}
    plain = torch.utils.data.DataLoader(same, batch, shuffle=True, num_workers=workers, **options)

    def step_loader(folder: Path | None) -> StepLoader:
        source = ImageSource(data, look, cache=folder)
        return StepLoader(Steps(split, source, lambda epoch: plan), workers=workers)

    decoding, cached = step_loader(None), step_loader(cache)

    def ours(loader: StepLoader, epoch: int) -> int:
        batches = (to_batch(raw, split.classes) for raw in loader.epoch(epoch))
        return sum(len(look.normalise(images)) for step in batches for images in (step.sketch, step.photo))

    runs = {
        "torchvision ImageFolder": lambda epoch: sum(len(x) for x, _ in plain),
        "zsbir, decoding": lambda epoch: ours(decoding, epoch),
        "zsbir, cache": lambda epoch: ours(cached, epoch),
    }
    return {"workers": workers, "batch": batch, "images": len(same), "size": size, **rates(runs, repeats)}


def rates(runs: dict[str, Callable[[int], int]], repeats: int) -> dict[str, Any]:
    """Run every loader in turn, once to start its workers and fill its cache, then `repeats` times."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for epoch in range(repeats + 1):
        for name, run in runs.items():
            start, used = time.perf_counter(), time.process_time()
            count = run(epoch)
            found[name].append(count / (time.perf_counter() - start))
            cpu[name].append(1000 * (time.process_time() - used) / count)
    later = {name: statistics.median(values[1:]) for name, values in found.items()}
    return {
        "images_per_s": {name: round(rate) for name, rate in later.items()},
        "cpu_ms_per_image_of_this_process": {name: round(statistics.median(v[1:]), 2) for name, v in cpu.items()},
        "first_epoch_images_per_s": {name: round(values[0]) for name, values in found.items()},
        "ratio": {name: round(rate / later["torchvision ImageFolder"], 2) for name, rate in later.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("../shared/data/pacs6"), help="images for the throughput")
    parser.add_argument(
        "--folder", type=Path, help="where the trees are made and kept, or lie already; default: nowhere"
    )
    parser.add_argument("--images", type=int, default=2000, help="most images an epoch of the throughput")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=224)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or temporary
        counts = {name: scale(name, Path(folder), min(options.repeats, 3)) for name in PUBLISHED}
        loaders = [
            throughput(
                options.root,
                Path(temporary) / f"cache{workers}",
                workers,
                64,
                options.size,
                options.repeats,
                options.images,
            )
            for workers in (0, 2)
        ]
        report(counts, loaders)


def report(counts: dict[str, Any], loaders: list[dict[str, Any]]) -> None:
    """Write results/data.json and data.md."""
    from _results import machine, table, write

    rows = []
    for name, found in counts.items():
        for what, values in found.items():
            memory = f"{values['peak_mb']:.0f} (+{values['growth_mb']:.0f})" if "peak_mb" in values else ""
            rows.append([name, what, f"{values['files']:,}", values["seconds"], values["cpu_s"], memory])
    text = "Opening and checking, without decoding; peak memory of the process and its growth while opening.\n\n"
    text += table(["tree", "what", "files", "seconds", "CPU s", "peak MB"], rows)
    text += "\nFrom files to normalised float batches, images per second (median over epochs; first: with filling).\n\n"
    text += "CPU: milliseconds an image in the main process, which without workers is all there is.\n\n"
    rows = [
        [
            found["workers"],
            name,
            rate,
            found["ratio"][name],
            found["cpu_ms_per_image_of_this_process"][name],
            found["first_epoch_images_per_s"][name],
        ]
        for found in loaders
        for name, rate in found["images_per_s"].items()
    ]
    text += table(["workers", "loader", "images/s", "ratio", "CPU ms", "first epoch"], rows)
    write("data", {"machine": machine(), "priority": os.nice(0), "scale": counts, "throughput": loaders}, text)


if __name__ == "__main__":
    main()
