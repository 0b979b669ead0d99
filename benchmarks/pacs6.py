"""Real sketches and photos, three unseen classes: does anything beat frozen features with the domain means removed?

python benchmarks/pacs6.py --root FOLDER      # <root>/{sketch,photo}/<class>/*, with an elephant, a giraffe and a horse
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _matching_common import machine

import zsbir
from zsbir.engine.embedding import embed_split
from zsbir.evaluation import evaluate_embeddings
from zsbir.methods.base import Method
from zsbir.types import Embeddings

UNSEEN = "elephant,giraffe,horse"


def score(queries: Embeddings, gallery: Embeddings) -> float:
    found = evaluate_embeddings(queries.vectors, queries.labels, gallery.vectors, gallery.labels, ks=())
    return float(found["standard"]["mAP@all"])


def centred(side: Embeddings) -> Embeddings:
    return Embeddings(side.vectors - side.vectors.mean(dim=0), side.labels, side.classes)


def frozen(dataset: Any, pool: str, size: int) -> dict[str, float]:
    backbone = zsbir.BACKBONES.build("timm", model="tf_efficientnet_lite0", image_size=size, pool=pool)
    source = zsbir.BACKBONES.build("lite0", pretrained=True, image_size=size)
    backbone.net.load_state_dict(source.net.state_dict())
    backbone.mean, backbone.std = source.mean, source.std
    plain = zsbir.build("frozen", backbone=backbone)
    seen = embed_split(plain, dataset, dataset.train, workers=2, batch_size=16)
    queries, gallery = embed_split(plain, dataset, dataset.test, workers=2, batch_size=16)
    rows = {
        "frozen": score(queries, gallery),
        "means removed, measured on seen classes": 0.0,
        "means removed, measured on the test images (transductive)": score(centred(queries), centred(gallery)),
    }
    for remove in (0, 4, 8, 16):
        method = zsbir.build("frozen", backbone=backbone, center=True, remove=remove)
        method.align(seen[0].vectors, seen[1].vectors)
        name = "means removed, measured on seen classes" if not remove else f"means and {remove} directions removed"
        rows[name] = score(*(aligned(method, side) for side in (queries, gallery)))
    return {f"{name}, {pool} pooling": value for name, value in rows.items()}


def aligned(method: Method, side: Embeddings) -> Embeddings:
    vectors = side.vectors - method.get_buffer("means")[int(side.domain == "photo")]
    directions = method.get_buffer("directions")
    return Embeddings(vectors - vectors @ directions.T @ directions, side.labels, side.classes, domain=side.domain)


def trained(dataset: Any, seed: int, size: int, steps: int, lr: float, ratio: float) -> float:
    torch.manual_seed(seed)
    method = zsbir.build(
        "dann",
        backbone={"name": "lite0", "pretrained": True, "image_size": size},
        shared=True,
        unit=True,
        batch_negatives=True,
        margin=0.2,
        domain_loss_ratio=ratio,
        schedule="constant",
    )
    recipe = zsbir.Recipe(epochs=1, batch_size=16, samples_per_epoch=16 * steps, lr=lr, augment="affine")
    trainer = zsbir.Trainer(method, dataset, recipe=recipe, seed=seed, workers=1, progress=False)
    trainer.fit()
    return score(*embed_split(method, dataset, dataset.test, workers=1, batch_size=16))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--train-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=3e-5)
    options = parser.parse_args()
    start = time.monotonic()
    dataset = zsbir.DATASETS.build("folder", root=options.root, unseen=UNSEEN)
    rows: dict[str, str] = {}
    for pool in ("avg", "max"):
        rows.update({k: f"{v:.3f}" for k, v in frozen(dataset, pool, options.size).items()})
        print(rows, flush=True)
    for ratio in (0.0, 0.5):
        size = options.train_size
        runs = [trained(dataset, s, size, options.steps, options.lr, ratio) for s in range(options.seeds)]
        name = f"dann, one tower, all layers trained at {size} px, domain loss × {ratio}"
        spread = f" ± {np.std(runs, ddof=1):.3f}" if len(runs) > 1 else " (one seed)"
        rows[name] = f"{np.mean(runs):.3f}{spread}"
        print(name, rows[name], flush=True)
    counts = np.bincount(dataset.test.photos.labels)
    write(rows, float((counts**2).sum() / counts.sum() ** 2), options, time.monotonic() - start)


def write(rows: dict[str, str], chance: float, options: argparse.Namespace, seconds: float) -> None:
    date = datetime.date.today().isoformat()
    command = (
        f"python benchmarks/pacs6.py --root FOLDER --seeds {options.seeds} --steps {options.steps} "
        f"--train-size {options.train_size}"
    )
    where = (
        f"{date}, `{command}`; {torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}; "
        f"{seconds:.0f} s in all. GPU: not measured."
    )
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    text = (
        f"# Real sketches and photos: unseen {UNSEEN}, seen dog, guitar, house\n\n"
        f"mAP@all, protocol `standard`, cosine; ImageNet EfficientNet-Lite0, frozen rows at {options.size} px. Chance "
        f"{chance:.3f}. Training: {options.steps} steps of 16 triplets, lr {options.lr}, {options.seeds} seed(s). "
        "Directions: largest differences of the domains' covariances, measured on the seen classes without labels; how "
        f"many was looked at on these test classes.\n\n| | mAP@all |\n|---|---|\n{table}\n\n{where}\n"
    )
    results = Path(__file__).parent / "results"
    (results / "pacs6.md").write_text(text)
    record = {"command": command, "date": date, "machine": machine(), "seconds": round(seconds), "chance": chance}
    (results / "pacs6.json").write_text(json.dumps({**record, "rows": rows}, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
