"""PuXIM on real photos and sketches: PACS' six classes, four seen and two unseen, through the whole Trainer.

Two encoders: EfficientNet-Lite0 with ImageNet weights (a pretrained backbone that needs no hub), and `vit_tiny` from
random weights. The masker is `random`: without pretrained CLIP weights `vxl` means nothing. The pretrained encoder
trains at the published rate with its BatchNorm statistics fixed, whole, or its last two stages alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _results import table, write

import zsbir
from zsbir.data.base import Dataset
from zsbir.engine.masks import use_stored_masks
from zsbir.evaluation import evaluate_embeddings
from zsbir.methods.base import Method
from zsbir.methods.embedding import embed_split


def score(method: Method, dataset: Dataset) -> dict[str, float]:
    queries, gallery = embed_split(method, dataset, dataset.test)
    found = evaluate_embeddings(queries.vectors, queries.labels, gallery.vectors, gallery.labels, ks=(100,))
    return dict(found["standard"])


@dataclass(frozen=True)
class Plan:
    """One encoder and how it trains.

    Attributes:
        name: Its row's name.
        backbone: Its spec.
        steps: Steps of training.
        recipe: What differs from PuXIM's recipe.
        match: PuXIM's variant: ``"mask"`` or ``"non-mask"``.
    """

    name: str
    backbone: dict[str, Any]
    steps: int
    recipe: dict[str, Any]
    match: str = "mask"


def plans(steps: int, scratch_steps: int) -> list[Plan]:
    """Return the rows of the table: pretrained ones, and one from random weights."""
    lite = {"name": "lite0", "pretrained": True, "image_size": 96}
    lower = ("encoder.net.conv_stem.*", "encoder.net.bn1.*", "encoder.net.blocks.[0-4].*")
    low = {"lr": 1e-5, "fixed_norm": True}
    return [
        Plan("lite0, ImageNet weights, whole", lite, steps, low),
        Plan("lite0, ImageNet weights, last stages", lite, steps, {**low, "freeze": lower}),
        Plan("lite0, ImageNet weights, last stages, `non-mask`", lite, steps, {**low, "freeze": lower}, "non-mask"),
        Plan("vit_tiny + stem, random weights", {"name": "vit_tiny_patch16_224", "image_size": 96}, scratch_steps,
             {"lr": 3e-4}),
    ]  # fmt: skip


def one_run(dataset: Dataset, plan: Plan, batch_size: int, seed: int) -> dict[str, Any]:
    """Train once; return the unseen classes' scores before and after, and the losses at both ends."""
    torch.manual_seed(seed)
    method = zsbir.build("puxim", backbone=plan.backbone, masker="random", match=plan.match, layers=1, hidden=256)
    before = score(method, dataset)
    recipe = replace(
        method.recipe, epochs=1, batch_size=batch_size, samples_per_epoch=plan.steps * batch_size, **plan.recipe
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        trainer = zsbir.Trainer(
            method, dataset, recipe=recipe, out=out, seed=seed, workers=0, select_on="none", progress=False,
            device="cpu",
        )  # fmt: skip
        use_stored_masks(trainer, Path(folder) / "masks")
        start = time.perf_counter()
        trainer.fit()
        seconds = time.perf_counter() - start
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["triplet"] for line in lines if "triplet" in line]
    tenth = max(len(losses) // 10, 1)
    return {
        "before": before,
        "after": score(method, dataset),
        "train_s": seconds,
        "triplet_start": statistics.mean(losses[:tenth]),
        "triplet_end": statistics.mean(losses[-tenth:]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="folder with photo/ and sketch/, a class folder each")
    parser.add_argument("--unseen", default="giraffe,house")
    parser.add_argument("--steps", type=int, default=60, help="of the pretrained encoders")
    parser.add_argument("--scratch-steps", type=int, default=150, help="of the encoder from random weights")
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--encoder", choices=["pretrained", "scratch", "all"], default="all")
    args = parser.parse_args()
    dataset = zsbir.DATASETS.build("folder", root=args.root, unseen=args.unseen)
    rows: list[dict[str, Any]] = []
    for plan in plans(args.steps, args.scratch_steps):
        if args.encoder not in ("all", "scratch" if "random" in plan.name else "pretrained"):
            continue
        row: dict[str, Any] = {**asdict(plan), "runs": []}
        rows.append(row)
        for seed in range(args.seeds):
            row["runs"].append(one_run(dataset, plan, args.batch_size, seed))
            print(plan.name, seed, row["runs"][-1], file=sys.stderr, flush=True)
        publish(dataset, rows, args)


def publish(dataset: Dataset, rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Write the table of what there is so far."""

    def figures(row: dict[str, Any], *keys: str) -> str:
        values = []
        for run in row["runs"]:
            value: Any = run
            for key in keys:
                value = value[key]
            values.append(float(value))
        spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.3f}{spread}"

    lines = [
        [row["name"], row["steps"], row["recipe"]["lr"], len(row["runs"]), figures(row, "before", "mAP@all"),
         figures(row, "after", "mAP@all"), figures(row, "before", "P@100"), figures(row, "after", "P@100"),
         figures(row, "triplet_start"), figures(row, "triplet_end")]
        for row in rows
    ]  # fmt: skip
    photos = [int((dataset.test.photos.labels == c).sum()) for c in range(len(dataset.test.classes))]
    head = ["encoder", "steps", "lr", "seeds", "mAP@all before", "after", "P@100 before", "after",
            "triplet loss, first tenth", "last tenth"]  # fmt: skip
    text = (
        f"# PuXIM on PACS, four seen and two unseen classes\n\nUnseen: {', '.join(dataset.test.classes)} "
        f"({len(dataset.test.sketches)} sketches, {sum(photos)} photos), so chance is about "
        f"{sum(p * p for p in photos) / sum(photos) ** 2:.2f}. {args.batch_size} triplets a step at 96 px, masker "
        "`random` with stored masks, mean ± standard deviation over seeds, protocol `standard`, cosine. `before` is "
        "the same encoder as it was loaded: the frozen baseline.\n\n" + table(head, lines)
    )
    settings = {key: value for key, value in vars(args).items() if key != "root"}
    name = "puxim_pacs6_scratch" if args.encoder == "scratch" else "puxim_pacs6"
    write(name, {"settings": settings, "rows": rows}, text)


if __name__ == "__main__":
    main()
