"""DANN, what each part does: triplet only, gradient reversal by schedule, semantic negatives; three seeds.

Heads on frozen EfficientNet-Lite0 features, so that every image goes through the backbone once and the runs differ in
nothing but the part under test. Baselines: the same features as they are, and with each domain's mean (measured on
seen classes) removed. Semantic negatives by WordNet's path lengths (`--wordnet`) and by GloVe vectors (`--glove`, a
text file with a word and its numbers on each line).

    python benchmarks/dann_ablation.py --dataset openmoji --glove glove.6B.50d.txt
    python benchmarks/dann_ablation.py --dataset pacs6 --root ../shared/data/pacs6 --glove glove.6B.50d.txt

`--add` keeps the rows that the results file has and measures the others; it refuses if the baselines differ.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _results import processor
from torch import Tensor

import zsbir
from zsbir.backbones.base import Backbone
from zsbir.data.preprocess import Preprocess
from zsbir.data.sampling import triplet_plan
from zsbir.data.word_vectors import class_weights
from zsbir.evaluation.domain_gap import domain_gap
from zsbir.evaluation.scoring import evaluate_embeddings
from zsbir.methods.embedding import embed_split
from zsbir.types import Batch, Features

RESULTS = Path(__file__).parent / "results"
UNSEEN = "elephant,giraffe,horse"
PARTS: dict[str, dict[str, object]] = {
    "triplet only": {"domain_loss_ratio": 0.0},
    "+ ramp, ratio 0.5 (published)": {"domain_loss_ratio": 0.5, "schedule": "ramp"},
    "+ step, ratio 0.5": {"domain_loss_ratio": 0.5, "schedule": "step"},
    "+ ganin, ratio 0.5": {"domain_loss_ratio": 0.5, "schedule": "ganin"},
    "+ constant, ratio 0.5": {"domain_loss_ratio": 0.5, "schedule": "constant"},
    "+ ramp, ratio 0.02": {"domain_loss_ratio": 0.02, "schedule": "ramp"},
    "+ ramp, ratio 0.02, WordNet negatives": {"domain_loss_ratio": 0.02, "schedule": "ramp", "semantic": "wordnet"},
    "+ ramp, ratio 0.02, GloVe negatives": {"domain_loss_ratio": 0.02, "schedule": "ramp", "semantic": "glove"},
    "triplet only, WordNet negatives": {"domain_loss_ratio": 0.0, "semantic": "wordnet"},
    "triplet only, GloVe negatives": {"domain_loss_ratio": 0.0, "semantic": "glove"},
    "own negative only (published)": {"domain_loss_ratio": 0.0, "batch_negatives": False},
    "own negative only, WordNet negatives": {"domain_loss_ratio": 0.0, "batch_negatives": False, "semantic": "wordnet"},
    "own negative only, GloVe negatives": {"domain_loss_ratio": 0.0, "batch_negatives": False, "semantic": "glove"},
}
"""By row the options of `dann`; a sketch is compared with all photos of the batch unless a row says otherwise."""


class Computed(Preprocess):
    """Features in place of images need no normalisation."""

    def normalise(self, images: Tensor) -> Tensor:
        """Return them as they are."""
        return images


class Ready(Backbone):
    """Passes on features that were computed before, in place of images."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.grid, self.image_size = dim, None, 1
        self.mean = self.std = (0.5, 0.5, 0.5)

    def forward(self, images: Tensor) -> Features:
        """Return the (B, dim) rows as they are."""
        return Features(images)


def measure(sketches: Tensor, photos: Tensor, labels: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    found = evaluate_embeddings(sketches, labels[0], photos, labels[1], matcher="cosine")
    gap = domain_gap(sketches, photos)
    return {
        "unseen_mAP": float(found["standard"]["mAP@all"]),
        "domain_accuracy": gap.accuracy,
        "mean_distance": gap.relative_distance,
    }


def train(seen: tuple, unseen: tuple, split: object, part: dict, weights: Tensor | None, seed: int, a: Any) -> dict:
    torch.manual_seed(seed)
    options = {"batch_negatives": True, **{k: v for k, v in part.items() if k != "semantic"}}
    method = zsbir.METHODS.get("dann")(
        backbone=Ready(seen[0].shape[1]), freeze="backbone", pool="model", head=[512], unit=True,
        margin=0.2, grl_threshold_epoch=a.epochs * 5 // 8, **options,
    )  # fmt: skip
    method.preprocess = Computed.of(method.photo.backbone)
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=3e-4)
    method.train()
    accuracy: list[float] = []
    for epoch in range(a.epochs):
        method.on_epoch(epoch, a.epochs)
        plan = triplet_plan(split, 64, seed, epoch, 64 * a.steps, None if weights is None else weights.numpy())
        for sketch, photo, negative in zip(plan.sketch, plan.photo, plan.negative, strict=True):
            label = torch.from_numpy(split.sketches.labels[sketch])
            other = torch.from_numpy(split.photos.labels[negative])
            batch = Batch(seen[0][sketch], seen[1][photo], label, label, seen[1][negative], other)
            optimizer.zero_grad()
            sum(method(batch).values()).backward()
            optimizer.step()
            accuracy.append(float(method.logged.get("domain_accuracy", float("nan"))))
    method.eval()
    with torch.no_grad():
        sketches, photos = method.embed(unseen[0], "sketch").vector, method.embed(unseen[1], "photo").vector
    found = measure(sketches, photos, unseen[2])
    return {**found, "classifier_in_training": float(np.mean(accuracy[-20:]))} if method.domain is not None else found


def meanings(a: argparse.Namespace, classes: tuple[str, ...]) -> tuple[dict[str, Tensor], str]:
    """Return the class weights by source of meaning, and what is to be said of them."""
    sources: dict[str, dict[str, str]] = {"wordnet": {"name": "wordnet", "folder": a.wordnet}}
    if a.glove:
        sources["glove"] = {"name": "file", "path": a.glove}
    found, said = {}, []
    for name, source in sources.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found[name] = class_weights(source, classes)
                said += [f"{name} lacks {str(w.message).partition(' lacks ')[2]}" for w in caught]
            except zsbir.ZsbirError as error:
                said.append(f"{name} negatives not measured: {error}")
    return found, "".join(f"{one}. " for one in said)


def kept_rows(a: argparse.Namespace, baselines: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return the rows measured before, if they were measured on the same features."""
    before = json.loads((RESULTS / f"dann_ablation_{a.dataset}.json").read_text())["rows"]
    for name, rows in baselines.items():
        if any(abs(rows[0][key] - value) > 1e-3 for key, value in before[name][0].items()):
            raise SystemExit(f"{name} is {rows[0]} now and was {before[name][0]}: measure everything, without --add")
    return before


def interval(values: list[float]) -> tuple[float, float]:
    """Return mean and half-width of the 95 % t interval of three seeds (t = 4.303) or more (normal)."""
    t = 4.303 if len(values) == 3 else 1.96
    return float(np.mean(values)), float(t * np.std(values, ddof=1) / len(values) ** 0.5)


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    names = ["unseen_mAP", "domain_accuracy", "mean_distance", "classifier_in_training"]
    lines = ["| setting | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for setting, runs in rows.items():
        cells = []
        for name in names:
            values = [run[name] for run in runs if name in run and not np.isnan(run[name])]
            mean, half = interval(values) if len(values) > 1 else (values[0] if values else float("nan"), 0.0)
            cells.append("–" if not values else f"{mean:.3f}" + (f" ± {half:.3f}" if len(values) > 1 else ""))
        lines.append(f"| {setting} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", choices=["openmoji", "pacs6"], default="openmoji")
    parser.add_argument("--root", default="../shared/data/pacs6")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6, help="steps of 64 triplets an epoch")
    parser.add_argument("--wordnet", default="/usr/share/wordnet", help="WordNet's database files")
    parser.add_argument("--glove", help="GloVe vectors as text")
    parser.add_argument("--add", action="store_true", help="keep the rows that the results file has")
    a = parser.parse_args()
    began = time.time()
    dataset = (
        zsbir.DATASETS.build("openmoji")
        if a.dataset == "openmoji"
        else zsbir.DATASETS.build("folder", root=a.root, unseen=UNSEEN.split(","))
    )
    backbone = {"name": "lite0", "pretrained": True, "image_size": a.size}
    frozen = zsbir.build("frozen", backbone=backbone)
    parts = [embed_split(frozen, dataset, part, workers=0) for part in (dataset.train, dataset.test)]
    seen, unseen = [tuple(side.vectors.clone() for side in part) for part in parts]
    labels = tuple(side.labels for side in parts[1])
    test = (*unseen, labels)
    centred = [vectors - mean.mean(dim=0) for vectors, mean in zip(unseen, seen, strict=True)]
    rows = {"frozen": [measure(*unseen, labels)], "frozen, domain means removed": [measure(*centred, labels)]}
    kept = kept_rows(a, rows) if a.add else {}
    weights, why = meanings(a, dataset.train.classes)
    for setting, part in PARTS.items():
        if part.get("semantic") and part["semantic"] not in weights:
            continue
        table_ = weights.get(str(part.get("semantic")))
        rows[setting] = kept.get(setting) or [
            train(seen, test, dataset.train, part, table_, seed, a) for seed in range(a.seeds)
        ]
        print(setting, rows[setting], flush=True)
    words = [Path(word).name if word == a.glove else word for word in sys.argv[1:]]
    command = shlex.join(["python", "benchmarks/dann_ablation.py", *words])
    record = {
        "command": command, "date": datetime.now(UTC).date().isoformat(), "cpu": processor(), "gpu": "not measured",
        "cores": os.cpu_count(), "python": platform.python_version(),
        "torch": torch.__version__, "seconds": round(time.time() - began, 1), "note": why,
        "seen_classes": len(dataset.train.classes), "unseen_classes": len(dataset.test.classes), "rows": rows,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"dann_ablation_{a.dataset}.json").write_text(json.dumps(record, indent=1) + "\n")
    text = (
        f"{table(rows)}\n\n{record['date']}, `{command}`: {a.dataset}, {len(dataset.train.classes)} seen and "
        f"{len(dataset.test.classes)} unseen classes, {a.seeds} seeds, mean ± 95 % t interval; "
        f"{a.epochs * a.steps} steps of 64 triplets. mAP@all, protocol `standard`, cosine. domain_accuracy: fresh "
        f"linear classifier (chance 0.5); mean_distance: of the domain means over the spread within a domain; "
        f"classifier_in_training: DANN's own, last 20 steps. {record['cpu']}, {record['cores']} cores (shared "
        "with other work). "
        f"GPU: not measured. {why}\n"
    )
    (RESULTS / f"dann_ablation_{a.dataset}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
