"""A training step of the three methods against a plain loop, and each speed option by itself.

The plain loop is what one would write by hand around the same model, batch, precision and loader: no Accelerate, no
log, no checks, the optimiser as torch builds it. The variants take turns, an epoch of a few steps each, so that what
else the machine does meets all alike; a variant's figure is the median over its epochs, without the first.

    python benchmarks/training.py --root ../shared/data/pacs6
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import timm
import torch
from _results import processor

import zsbir
from zsbir.data.batches import to_batch
from zsbir.engine.feeding import make_loader
from zsbir.engine.logging import Estimate, StepLog
from zsbir.engine.speed import Speed
from zsbir.methods.base import Method, Recipe

RESULTS = Path(__file__).parent / "results" / "training"
METHODS: dict[str, dict[str, Any]] = {
    "puxim": {"backbone": "vit_tiny_patch16_224", "masker": "random"},
    "sbka": {"backbone": "mobilenetv3_small_050", "prior": 0.0},
    "dann": {"backbone": {"name": "mobilenetv3_small_050"}},
}


@dataclass(frozen=True)
class Variant:
    """A way to run steps: the plain loop (`speed` is None), or the trainer with some options."""

    name: str
    speed: Speed | None
    workers: int
    cache: bool = False


PLAIN = "plain loop"
DEFAULT = "zsbir, as it comes"
ALL = "cache and what helps"


def variants(workers: int, best: dict[str, Any] | None = None) -> list[Variant]:
    """Return what is compared: one option changed at a time, and last all that help together."""
    slow = {0, 1, 2} - {workers}
    found = [
        Variant(PLAIN, None, workers),
        Variant(DEFAULT, Speed(), workers),
        Variant("fused=false", Speed(fused=False), workers),
        Variant("channels_last=true", Speed(channels_last=True), workers),
        Variant("compile=true", Speed(compile=True), workers),
        Variant("checkpointing=true", Speed(checkpointing=True), workers),
        *(Variant(f"workers={n}", Speed(), n) for n in sorted(slow)),
        Variant("cache", Speed(), workers, cache=True),
        Variant("cache, workers=1", Speed(), 1, cache=True),
    ]
    if best is not None:
        found.append(Variant(ALL, Speed(**best["speed"]), best["workers"], cache=True))
    return found


def build(name: str, classes: tuple[str, ...], size: int) -> Method:
    arguments = dict(METHODS[name])
    if name == "dann":
        arguments["backbone"] = {**arguments["backbone"], "image_size": size}
    else:
        arguments["image_size"] = size
    if name == "sbka":
        arguments["classes"] = classes
    torch.manual_seed(0)
    return zsbir.build(name, **arguments)


class Watch:
    """Notes how long each epoch took, and how long of it was waiting for batches."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.waits: list[float] = []

    def over(self, batches: Iterator[Any], device: torch.device) -> Iterator[Any]:
        """Yield the batches of an epoch; the time from asking for one to having it is waiting."""
        start = begun = time.perf_counter()
        waited = 0.0
        for raw in batches:
            waited += time.perf_counter() - begun
            yield raw
            if device.type == "cuda":
                torch.cuda.synchronize()
            begun = time.perf_counter()
        self.epochs.append(begun - start)
        self.waits.append(waited)


class PlainLoop:
    """The loop by hand."""

    def __init__(self, method: Method, dataset: Any, recipe: Recipe, workers: int, device: torch.device) -> None:
        self.method, self.dataset, self.device, self.epoch = method.to(device), dataset, device, 0
        self.loader = make_loader(
            method, dataset, recipe, seed=0, rank=0, world=1, workers=workers, pin=device.type == "cuda"
        )
        self.optimizer = torch.optim.Adam(method.param_groups(recipe), lr=recipe.lr, weight_decay=recipe.weight_decay)

    def run(self, watch: Watch) -> None:
        """Do an epoch."""
        self.method.train()
        for raw in watch.over(self.loader.epoch(self.epoch), self.device):
            batch = to_batch(raw, self.dataset.train.classes, self.device)
            loss = torch.stack(list(self.method(batch).values())).sum()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.epoch += 1


class OurLoop:
    """The trainer's epoch, with everything that it does in one: log, checks, schedule."""

    def __init__(self, method: Method, dataset: Any, recipe: Recipe, variant: Variant, cache: Path) -> None:
        self.trainer = zsbir.Trainer(
            method, dataset, recipe=recipe, speed=variant.speed, workers=variant.workers, select_on="none",
            progress=False,
        )  # fmt: skip
        self.device = self.trainer.device
        if variant.cache:
            self.trainer.use_cache(cache)
        self.trainer.learner.start(self.trainer.steps_per_epoch)
        self.trainer.figures.log = StepLog(cache.parent / f"{time.time_ns()}.jsonl")

    def run(self, watch: Watch) -> None:
        """Do an epoch."""
        real = self.trainer.loader.epoch
        self.trainer.loader.epoch = lambda *where: watch.over(real(*where), self.device)  # type: ignore[method-assign]
        self.trainer._one_epoch(Estimate(0, show=False))
        self.trainer.epoch += 1
        self.trainer.loader.epoch = real  # type: ignore[method-assign]


def loop_for(name: str, variant: Variant, args: argparse.Namespace, folder: Path) -> PlainLoop | OurLoop:
    dataset = zsbir.DATASETS.build("folder", root=args.root, unseen=args.unseen)
    method = build(name, dataset.train.classes, args.size)
    rows = 3 * args.batch if method.recipe.sampling == "mixed" else args.batch  # 3 × batch images either way
    recipe = replace(method.recipe, epochs=1000, batch_size=rows, samples_per_epoch=rows * args.steps)
    if variant.speed is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return PlainLoop(method, dataset, recipe, variant.workers, device)
    return OurLoop(method, dataset, recipe, variant, folder / "cache")


def fill_cache(name: str, args: argparse.Namespace, folder: Path) -> None:
    """What a first epoch would do, without the time: every training image decoded once."""
    from zsbir.data.cache import fill_cache as fill

    dataset = zsbir.DATASETS.build("folder", root=args.root, unseen=args.unseen)
    look = build(name, dataset.train.classes, args.size).preprocess
    fill(dataset, folder / "cache", args.size, look.sketch, look.photo, workers=1)


def compare(name: str, chosen: list[Variant], args: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Return images a second, the share of time waiting for data, and the ratio to the plain loop, by variant."""
    loops = {variant.name: loop_for(name, variant, args, folder) for variant in chosen}
    watches = {variant: Watch() for variant in loops}
    for number in range(args.rounds + 1):
        for variant, loop in loops.items():
            loop.run(watches[variant] if number else Watch())  # the first round compiles and fills
    images = 3 * args.batch * args.steps
    plain = statistics.median(watches[PLAIN].epochs)
    rows = {}
    for variant, watch in watches.items():
        rows[variant] = {
            "images_per_s": images / statistics.median(watch.epochs),
            "ratio": plain / statistics.median(watch.epochs),
            "waiting": sum(watch.waits) / sum(watch.epochs),
        }
        print(name, variant, {k: round(v, 3) for k, v in rows[variant].items()}, flush=True)
    return rows


def helpful(rows: dict[str, dict[str, float]], workers: int) -> dict[str, Any]:
    """Return the options that were faster by themselves than zsbir as it comes."""
    base = rows[DEFAULT]["ratio"]
    speed = {
        option: value
        for option, value in (("fused", False), ("channels_last", True), ("compile", True))
        if rows[f"{option}={str(value).lower()}"]["ratio"] > 1.02 * base
    }
    return {"speed": speed, "workers": 1 if rows["cache, workers=1"]["ratio"] > rows["cache"]["ratio"] else workers}


def peak(name: str, variant: str, args: argparse.Namespace) -> float:
    """Return the largest resident set of a process of its own that trains for some steps, in GB."""
    command = [sys.executable, __file__, "--root", str(args.root), "--peak", name, variant, "--size", str(args.size)]
    command += ["--batch", str(args.batch), "--unseen", args.unseen, "--steps", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def own_peak(name: str, variant: str, args: argparse.Namespace) -> None:
    chosen = next(v for v in variants(args.workers) if v.name == variant)
    with tempfile.TemporaryDirectory() as folder:
        loop_for(name, replace(chosen, workers=0), args, Path(folder)).run(Watch())
    # Not getrusage: its maximum is handed down from the process that started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) * 1024 / 1e9)


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fill_cache(name, args, folder)
        rows = compare(name, variants(args.workers), args, folder)
        best = helpful(rows, args.workers)
        few = [v for v in variants(args.workers, best) if v.name in (PLAIN, DEFAULT, ALL)]
        together = compare(name, few, args, folder)
    memory = {variant: peak(name, variant, args) for variant in (PLAIN, DEFAULT, "checkpointing=true")}
    return {"each": rows, "together": together, "chosen": best, "peak_gb": memory}


def table(found: dict[str, Any]) -> str:
    lines = []
    for name, result in found["methods"].items():
        lines += [
            f"# {name}", "", f"Model: `{json.dumps(METHODS[name])}`, {found['size']} px, "
            f"{3 * found['batch']} images a step, "
            f"{result['rounds']} turns of {result['steps']} steps.", "",
            "| variant | images/s | against the plain loop | waiting for data | peak memory |", "|---|--:|--:|--:|--:|",
        ]  # fmt: skip
        for row, values in result["each"].items():
            held = result["peak_gb"].get(row)
            memory = "" if held is None else f"{held:.2f} GB"
            lines.append(_line(row, values, memory))
        what = ", ".join(f"{k}={str(v).lower()}" for k, v in result["chosen"]["speed"].items())
        chosen = f"cache, workers={result['chosen']['workers']}" + (f", {what}" if what else "")
        lines += ["", f"All together ({chosen}), in turns with the plain loop:", ""]
        lines += ["| variant | images/s | against the plain loop | waiting for data | |", "|---|--:|--:|--:|--:|"]
        lines += [*(_line(row, values, "") for row, values in result["together"].items()), ""]
    lines += [
        f"GPU: {found['gpu']}.", "",
        "Commands: " + ", ".join(f"`{result['command']}`" for result in found["methods"].values()) + ".",
        f"{found['cpu']}, {found['cores']} cores, {found['versions']}, {found['date']}.",
        found["note"],
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _line(name: str, values: dict[str, float], memory: str) -> str:
    ratio, waiting = f"{values['ratio']:.2f}×", f"{100 * values['waiting']:.0f} %"
    return f"| {name} | {values['images_per_s']:.0f} | {ratio} | {waiting} | {memory} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--unseen", default="1")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--peak", nargs=2)
    args = parser.parse_args()
    if args.peak:
        own_peak(args.peak[0], args.peak[1], args)
        return
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "not measured"
    command = shlex.join(["python", "benchmarks/training.py", *sys.argv[1:]])
    methods = {}
    if RESULTS.with_suffix(".json").is_file():  # methods measured before, each in a run of its own
        methods = json.loads(RESULTS.with_suffix(".json").read_text())["methods"]
    for name in args.methods:
        methods[name] = {**measure(name, args), "steps": args.steps, "rounds": args.rounds, "command": command}
        found = {
            "methods": {name: methods[name] for name in METHODS if name in methods},
            "size": args.size, "batch": args.batch, "workers": args.workers, "gpu": gpu,
            "command": command,
            "cpu": processor(), "cores": os.cpu_count(),
            "versions": f"torch {torch.__version__}, timm {timm.__version__}",
            "date": datetime.now(UTC).date().isoformat(),
            "note": "Other jobs of low priority ran on the same two cores: ratios are from turns in one run, seconds "
            "are inflated.",
        }  # fmt: skip
        RESULTS.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        RESULTS.with_suffix(".md").write_text(table(found))


if __name__ == "__main__":
    main()
