"""Real sketches and photos, three unseen classes: does anything beat frozen features with the domain means removed?

    python benchmarks/pacs6.py --root FOLDER      # <root>/{sketch,photo}/<class>/*, with elephant, giraffe, horse

Frozen features: as they are, with the domains' means and more removed, photos as edge maps, sketches embedded with
BatchNorm statistics of sketches. All of it is measured on seen classes without labels, unless a row says otherwise.
The column "held-out seen" is what settings may be chosen on: each seen class in turn, its sketches against the photos
of all seen classes, with everything measured on the other two. The column "20 splits" takes every choice of three of
the six classes as unseen. Last, DANN trained on the seen classes at a low rate, all layers, fixed BatchNorm statistics.

Features are kept in --cache by view; --view NAME computes one view alone (so that several processes share the work).
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _results import table, write
from torch import Tensor
from torch.nn import functional as F

import zsbir
from zsbir.data.base import Dataset
from zsbir.evaluation import evaluate_embeddings
from zsbir.methods.base import Method
from zsbir.methods.embedding import embed, embed_split
from zsbir.types import Domain

UNSEEN = "elephant,giraffe,horse"
SHARE = 0.3
"""Of the sketches' BatchNorm statistics; the better of 0.3 and 1 on the held-out seen classes."""
Rows = dict[str, float]


@dataclass
class Views:
    """Vectors (n, D) by view (``sketch``, ``photo``, ``edges``, ``adapted 0``, ...), and labels by domain."""

    vectors: dict[str, Tensor]
    labels: dict[str, np.ndarray]

    def of(self, view: str) -> np.ndarray:
        """Return the labels of a view's rows."""
        return self.labels["photo" if view in ("photo", "edges") else "sketch"]

    def only(self, classes: Any) -> Views:
        """Return the rows of some classes."""
        vectors = {view: rows[np.isin(self.of(view), classes)] for view, rows in self.vectors.items()}
        return Views(vectors, {domain: own[np.isin(own, classes)] for domain, own in self.labels.items()})


def compute(view: str, dataset: Dataset, size: int) -> dict[str, np.ndarray]:
    """Return a view's vectors of the seen and the unseen classes: the mean and the maximum over the last map, (n, 2D).

    Args:
        view: ``sketch``, ``photo``, ``edges``, ``adapted SEED`` (statistics of all seen classes' sketches) or
            ``without CLASS`` (statistics of the other seen classes' sketches, seed 0).
        dataset: The six classes.
        size: Side of the input in pixels.
    """
    kind, _, rest = view.partition(" ")
    domain: Domain = "photo" if kind in ("photo", "edges") else "sketch"
    options: dict[str, Any] = {"edges": {"photos": "edges"}}.get(kind, {})
    if kind in ("adapted", "without"):
        options = {"sketch_norms": SHARE}
    method: Any = zsbir.build("frozen", backbone={"name": "lite0", "pretrained": True, "image_size": size}, **options)
    if options.get("sketch_norms"):
        unseen = UNSEEN if kind == "adapted" else f"{UNSEEN},{rest}"
        part = zsbir.DATASETS.build("folder", root=dataset.train.sketches.root, unseen=unseen, validation=0)
        method.fit(part, seed=int(rest) if kind == "adapted" else 0)
    found = {}
    for part, split in (("seen", dataset.train), ("unseen", dataset.test)):
        if kind == "without" and part == "unseen":
            continue
        tokens = embed(method, split.of(domain), domain, dataset=dataset, batch_size=32, tokens=True).tokens
        assert tokens is not None
        found[part] = torch.cat([tokens.mean(dim=1), tokens.amax(dim=1)], dim=1).numpy()
    return found


def stored(view: str, dataset: Dataset, options: argparse.Namespace) -> dict[str, Tensor]:
    """Return what `compute` gives, from the cache if it is there."""
    file = options.cache / f"{view.replace(' ', '_')}_{options.size}.npz" if options.cache else None
    if file is None or not file.is_file():
        found = compute(view, dataset, options.size)
        if file is None:
            return {part: torch.from_numpy(rows) for part, rows in found.items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **found)
    with np.load(file) as data:
        return {part: torch.from_numpy(data[part]) for part in data.files}


def score(queries: Tensor, query_labels: np.ndarray, gallery: Tensor, gallery_labels: np.ndarray) -> float:
    """Return mAP@all, protocol ``standard``, cosine."""
    found = evaluate_embeddings(queries, query_labels, gallery, gallery_labels, ks=())
    return float(found["standard"]["mAP@all"])


def deviations(vectors: Tensor) -> Tensor:
    """Return what `frozen` divides by with ``scale=True``."""
    std = vectors.std(dim=0)
    return std + 0.1 * std.mean()


def rows_of(measured: Views, unseen: Views, asked: Any = None, directions: tuple[int, ...] = (4, 8, 16)) -> Rows:
    """Return mAP@all of every way to use frozen vectors.

    Args:
        measured: What means and directions are measured on.
        unseen: Queries and gallery.
        asked: Labels of the queries to take; None: all.
        directions: How many directions to remove, a row each.
    """
    centred = {view: rows - measured.vectors[view].mean(dim=0) for view, rows in unseen.vectors.items()}
    scaled = {view: rows / deviations(measured.vectors[view]) for view, rows in centred.items()}
    rows: Rows = {}

    def put(name: str, queries: Tensor, gallery: Tensor) -> None:
        labels = unseen.labels["sketch"]
        take = np.ones(len(labels), dtype=bool) if asked is None else np.isin(labels, asked)
        rows[name] = score(queries[take], labels[take], gallery, unseen.labels["photo"])

    put("frozen", unseen.vectors["sketch"], unseen.vectors["photo"])
    s, p, e = centred["sketch"], centred["photo"], centred["edges"]
    put("means removed", s, p)
    if asked is None:
        own = {view: unseen.vectors[view] - unseen.vectors[view].mean(dim=0) for view in ("sketch", "photo")}
        put("means of the test images themselves removed (transductive)", own["sketch"], own["photo"])
    if directions:
        gap = torch.cov(measured.vectors["sketch"].double().T) - torch.cov(measured.vectors["photo"].double().T)
        values, vectors = torch.linalg.eigh(gap)
    for count in directions:
        d = vectors[:, values.abs().topk(count).indices].float()
        put(f"means and {count} directions removed", s - s @ d @ d.T, p - p @ d @ d.T)
    both = F.normalize(p, dim=1) + F.normalize(e, dim=1)
    scaled_both = F.normalize(scaled["photo"], dim=1) + F.normalize(scaled["edges"], dim=1)
    put("means removed, scaled", scaled["sketch"], scaled["photo"])
    put("photos as edge maps, means removed", s, e)
    put("photos and their edge maps, means removed", s, both)
    put("photos and their edge maps, means removed, scaled", scaled["sketch"], scaled_both)
    for view in [view for view in centred if view.startswith(("adapted", "without"))]:
        put(f"sketches' BatchNorm statistics, means removed [{view}]", centred[view], p)
        put(f"sketches' BatchNorm statistics, means removed, scaled [{view}]", scaled[view], scaled["photo"])
        put(f"all three: statistics, edge maps, scaled [{view}]", scaled[view], scaled_both)
    return rows


def folded(many: list[Rows]) -> dict[str, list[float]]:
    """Return the values by name, with what stands in brackets left out."""
    found: dict[str, list[float]] = {}
    for rows in many:
        for name, value in rows.items():
            found.setdefault(name.partition(" [")[0], []).append(value)
    return found


def columns(dataset: Dataset, pool: str, options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Return the three columns: held-out seen classes, the unseen classes, the 20 splits."""
    width = slice(0, 1280) if pool == "avg" else slice(1280, None)

    def view(name: str, part: str) -> Tensor:
        return stored(name, dataset, options)[part][:, width]

    plain = ("sketch", "photo", "edges")
    adapted = [f"adapted {seed}" for seed in range(options.seeds)]
    parts = {}
    for part, split, shift in (("seen", dataset.train, 0), ("unseen", dataset.test, 3)):
        labels = {"sketch": split.sketches.labels + shift, "photo": split.photos.labels + shift}
        parts[part] = Views({name: view(name, part) for name in (*plain, *adapted)}, labels)
    held = []
    for label, name in enumerate(dataset.train.classes):
        vectors = {key: parts["seen"].vectors[key] for key in plain}
        if options.seeds:
            vectors["without"] = view(f"without {name}", "seen")
        fold = Views(vectors, parts["seen"].labels)
        held.append(rows_of(fold.only([i for i in range(3) if i != label]), fold, [label]))
    every = Views(
        {name: torch.cat([parts["seen"].vectors[name], parts["unseen"].vectors[name]]) for name in plain},
        {d: np.concatenate([parts["seen"].labels[d], parts["unseen"].labels[d]]) for d in ("sketch", "photo")},
    )
    splits = []
    for unseen in itertools.combinations(range(6), 3):
        seen = [i for i in range(6) if i not in unseen]
        splits.append(rows_of(every.only(seen), every.only(unseen), directions=()))
    return {
        "held-out seen": folded(held),
        "unseen": folded([rows_of(parts["seen"], parts["unseen"])]),
        "20 splits": folded(splits),
    }


def trained(dataset: Dataset, seed: int, ratio: float, options: argparse.Namespace) -> list[float]:
    """Train DANN; return mAP@all before and after, each plain and with the seen classes' means removed."""
    torch.manual_seed(seed)
    method: Method = zsbir.build(
        "dann", backbone={"name": "lite0", "pretrained": True, "image_size": options.train_size}, shared=True,
        pool="model", unit=True, batch_negatives=True, margin=0.2, domain_loss_ratio=ratio, schedule="constant",
    )  # fmt: skip
    recipe = replace(
        method.recipe, epochs=1, batch_size=16, samples_per_epoch=16 * options.steps, lr=options.lr, fixed_norm=True
    )
    found = []
    for train in (False, True):
        if train:
            zsbir.Trainer(
                method, dataset, recipe=recipe, seed=seed, workers=0, select_on="none", progress=False, device="cpu"
            ).fit()
        seen, unseen = (embed_split(method, dataset, part, batch_size=32) for part in (dataset.train, dataset.test))
        s, p = (side.vectors for side in unseen)
        means = [side.vectors.mean(dim=0) for side in seen]
        labels = [side.labels for side in unseen]
        found += [score(s, labels[0], p, labels[1]), score(s - means[0], labels[0], p - means[1], labels[1])]
    return found


def said(values: list[float], spread: bool = True) -> str:
    """Return the mean, and the standard deviation of more than one value."""
    around = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 and spread else ""
    return f"{np.mean(values):.3f}{around}"


def frozen_table(found: dict[str, dict[str, list[float]]]) -> str:
    """Return a pooling's columns as Markdown."""
    base = found["20 splits"]["means removed"]
    lines = []
    for name, values in found["unseen"].items():
        splits = found["20 splits"].get(name)
        wins = "" if splits is None else f"{sum(a > b for a, b in zip(splits, base, strict=True))} of 20"
        held = found["held-out seen"].get(name)
        lines.append([name, "" if held is None else said(held, False), said(values),
                      "" if splits is None else said(splits, False), wins])  # fmt: skip
    return table(["", "held-out seen", "unseen", "20 splits", "better than means removed"], lines)


def main() -> None:
    """Run and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="folder that keeps the features between runs")
    parser.add_argument("--view", help="compute this view into the cache, and nothing else")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seeds", type=int, default=3, help="0: no statistics of sketches, no training")
    parser.add_argument("--train-size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=30, help="of DANN's training, 16 triplets each; 0: none")
    parser.add_argument("--lr", type=float, default=1e-5)
    options = parser.parse_args()
    dataset = zsbir.DATASETS.build("folder", root=options.root, unseen=UNSEEN)
    if options.view:
        stored(options.view, dataset, options)
        return
    pools = {}
    for pool in ("avg", "max"):
        pools[pool] = columns(dataset, pool, options)
        publish(dataset, pools, {}, options)
    runs: dict[str, list[list[float]]] = {}
    for ratio in (0.0, 0.5) if options.steps and options.seeds else ():
        runs[f"domain loss × {ratio}"] = [trained(dataset, seed, ratio, options) for seed in range(options.seeds)]
        publish(dataset, pools, runs, options)


def publish(dataset: Dataset, pools: dict[str, Any], runs: dict[str, Any], options: argparse.Namespace) -> None:
    """Write what there is so far."""
    counts = np.bincount(dataset.test.photos.labels)
    chance = float((counts**2).sum() / counts.sum() ** 2)
    text = (
        f"# Real sketches and photos: unseen {UNSEEN}, seen {','.join(dataset.train.classes)}\n\nmAP@all, protocol "
        f"`standard`, cosine; ImageNet EfficientNet-Lite0 at {options.size} px, not trained. Chance {chance:.3f}. "
        "Means, directions (largest differences of the domains' covariances) and BatchNorm statistics are measured on "
        f"the seen classes without labels; where there are rows of the latter, {SHARE} of them comes from sketches. "
        "*Held-out seen*: each seen class in turn, its sketches against the photos of all seen classes, all measured "
        "on the other two: what a setting may be chosen on. *20 splits*: every three of the six classes as unseen.\n"
    )
    for pool, found in pools.items():
        text += f"\n## {pool} pooling\n\n" + frozen_table(found)
    if runs:
        head = ["", "frozen", "frozen, means removed", "trained", "trained, means removed"]
        lines = [[name, *(said([run[i] for run in many]) for i in range(4))] for name, many in runs.items()]
        text += (
            f"\n## DANN trained on the three seen classes\n\nOne tower, all layers, fixed BatchNorm statistics, "
            f"{options.train_size} px, {options.steps} steps of 16 triplets, lr {options.lr:g}, {options.seeds} seeds, "
            f"unseen classes.\n\n" + table(head, lines)
        )
    values = {
        "chance": chance,
        "frozen": pools,
        "trained": runs,
        "settings": {"lr": options.lr, "steps": options.steps},
    }
    write("pacs6", values, text)


if __name__ == "__main__":
    main()
