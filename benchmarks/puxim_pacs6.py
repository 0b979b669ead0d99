"""PuXIM on real photos and sketches: PACS' six classes, four seen and two unseen, through the whole Trainer.

Two encoders: EfficientNet-Lite0 with ImageNet weights (a pretrained backbone that needs no hub), and `vit_tiny` from
random weights. The masker is `random`: without pretrained CLIP weights `vxl` means nothing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from typing import Any

import torch
from _puxim_common import table, write

import zsbir
from zsbir.data.base import Dataset
from zsbir.engine.embedding import embed_split
from zsbir.engine.masks import use_stored_masks
from zsbir.evaluation import evaluate_embeddings
from zsbir.methods.base import Method


def score(method: Method, dataset: Dataset) -> dict[str, float]:
    queries, gallery = embed_split(method, dataset, dataset.test)
    found = evaluate_embeddings(queries.vectors, queries.labels, gallery.vectors, gallery.labels, ks=(100,))
    return dict(found["standard"])


def one_run(dataset: Dataset, backbone: dict[str, Any], steps: int, batch_size: int, lr: float, seed: int) -> Any:
    torch.manual_seed(seed)
    method = zsbir.build("puxim", backbone=backbone, masker="random", layers=2, hidden=256)
    before = score(method, dataset)
    recipe = replace(method.recipe, epochs=1, batch_size=batch_size, samples_per_epoch=steps * batch_size, lr=lr)
    trainer = zsbir.Trainer(
        method, dataset, recipe=recipe, seed=seed, workers=0, select_on="none", progress=False, device="cpu"
    )
    with tempfile.TemporaryDirectory() as folder:
        use_stored_masks(trainer, folder)
        start = time.perf_counter()
        trainer.fit()
    return {"before": before, "after": score(method, dataset), "train_s": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="folder with photo/ and sketch/, a class folder each")
    parser.add_argument("--unseen", default="giraffe,house")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    dataset = zsbir.DATASETS.build("folder", root=args.root, unseen=args.unseen)
    plans: list[tuple[str, dict[str, Any], float]] = [
        ("lite0, ImageNet weights, 96 px", {"name": "lite0", "pretrained": True, "image_size": 96}, 1e-4),
        ("vit_tiny + stem, random weights, 96 px", {"name": "vit_tiny_patch16_224", "image_size": 96}, 3e-4),
    ]
    rows = []
    for name, backbone, lr in plans:
        runs = [one_run(dataset, backbone, args.steps, args.batch_size, lr, seed) for seed in range(args.seeds)]
        rows.append({"encoder": name, "lr": lr, "runs": runs})
        print(name, runs, flush=True)

    def mean(row: dict[str, Any], when: str, key: str) -> str:
        return f"{statistics.mean(run[when][key] for run in row['runs']):.3f}"

    lines = [
        [row["encoder"], row["lr"], mean(row, "before", "mAP@all"), mean(row, "after", "mAP@all"),
         mean(row, "before", "P@100"), mean(row, "after", "P@100"),
         f"{statistics.mean(run['train_s'] for run in row['runs']):.0f}"]
        for row in rows
    ]  # fmt: skip
    photos = [int((dataset.test.photos.labels == c).sum()) for c in range(len(dataset.test.classes))]
    text = (
        "# PuXIM on PACS, four seen and two unseen classes\n\n"
        f"Unseen: {', '.join(dataset.test.classes)} ({len(dataset.test.sketches)} sketches, {sum(photos)} photos), so "
        f"chance is about {sum(p * p for p in photos) / sum(photos) ** 2:.2f}. {args.steps} steps of "
        f"{args.batch_size} triplets, masker "
        f"`random` with stored masks, {args.seeds} seed(s), protocol `standard`. A check that the whole path runs on "
        "real images, not a comparison of methods.\n\n"
        + table(["encoder", "lr", "mAP@all before", "after", "P@100 before", "after", "training, s"], lines)
    )
    settings = {"unseen": args.unseen, "steps": args.steps, "batch_size": args.batch_size, "seeds": args.seeds}
    write("puxim_pacs6", {"settings": settings, "rows": rows}, text)


if __name__ == "__main__":
    main()
