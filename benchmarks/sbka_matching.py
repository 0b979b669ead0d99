"""Where one-to-many matching helps and where it hurts: M, K, models, seeds and all matchers on the same embeddings.

    python benchmarks/sbka_matching.py --root ../shared/data/pacs6 --cache FOLDER

Embeddings: the reference features (tests/reference), OpenMoji and, with --root, a folder of sketch/CLASS and
photo/CLASS images (two folds of its classes: one half seen, the other unseen). For both image sets, the features of a
frozen ImageNet network, and a linear head trained on them with the seen classes; for the folder also SBKA itself
(student and teacher, both phases) on EfficientNet-Lite0, trained on the seen classes of each fold.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _results import RESULTS, table, write
from torch.nn import functional as F

import zsbir
from zsbir.backbones.lite0 import packaged_weights
from zsbir.data.base import Dataset
from zsbir.evaluation.scoring import evaluate_embeddings
from zsbir.matchers import MATCHERS
from zsbir.methods.embedding import embed_split
from zsbir.types import Embeddings, Split

Pair = tuple[Embeddings, Embeddings]
REFERENCE = Path(__file__).parents[1] / "tests" / "reference" / "sbka_matching.npz"
MATCHER_NAMES = ("cosine", "euclidean", "query-expansion", "k-reciprocal", "diffusion")
PROTOCOLS = ("sbka", "standard")


def reference() -> Pair:
    """Return the reference features."""
    with np.load(REFERENCE) as data:
        queries = Embeddings(torch.from_numpy(data["queries"]), data["query_labels"], domain="sketch")
        return queries, Embeddings(torch.from_numpy(data["gallery"]), data["gallery_labels"])


def features(method: Any, dataset: Dataset, split: Split, file: Path | None) -> Pair:
    """Embed a split, or read what an earlier run stored."""
    if file is not None and file.is_file():
        with np.load(file) as data:
            sketches, photos = (torch.from_numpy(data[name]) for name in ("sketches", "photos"))
    else:
        found = embed_split(method, dataset, split)
        sketches, photos = found[0].vectors, found[1].vectors
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(file, sketches=sketches.numpy(), photos=photos.numpy())
    return (
        Embeddings(sketches, split.sketches.labels, split.classes, domain="sketch"),
        Embeddings(photos, split.photos.labels, split.classes),
    )


def trained_head(seen: Pair, unseen: Pair, steps: int = 300, width: int = 128) -> Pair:
    """Train one linear layer on the seen classes (supervised contrastive, sketch against photo) and apply it."""
    torch.manual_seed(0)
    mean = torch.cat([e.vectors for e in seen]).mean(0)
    scale = torch.cat([e.vectors for e in seen]).std()
    head = torch.nn.Linear(seen[0].vectors.shape[1], width)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3, weight_decay=1e-3)

    def apply(vectors: torch.Tensor) -> torch.Tensor:
        return F.normalize(head((vectors - mean) / scale), dim=1)

    labels = [torch.from_numpy(np.asarray(e.labels)) for e in seen]
    for _ in range(steps):
        rows = [torch.randint(len(label), (96,)) for label in labels]
        sketch, photo = (apply(e.vectors[r]) for e, r in zip(seen, rows, strict=True))
        same = (labels[0][rows[0]][:, None] == labels[1][rows[1]]).float()
        terms = []
        for logits, target in ((sketch @ photo.T, same), (photo @ sketch.T, same.T)):
            positive = target.sum(1)
            terms.append(
                -((F.log_softmax(logits / 0.1, 1) * target).sum(1) / positive.clamp_min(1))[positive > 0].mean()
            )
        optimizer.zero_grad()
        (terms[0] + terms[1]).backward()
        optimizer.step()
    with torch.inference_mode():
        queries, gallery = (
            Embeddings(apply(e.vectors), e.labels, e.classes, domain=domain)
            for e, domain in zip(unseen, ("sketch", "photo"), strict=True)
        )
    return queries, gallery


def trained_sbka(root: Path, unseen: tuple[str, ...], seed: int, options: argparse.Namespace) -> Pair:
    """Train SBKA on the other classes, as published but for batch size and epochs, and embed the unseen ones."""
    file = options.cache / f"sbka_{'-'.join(unseen)}_{seed}.npz" if options.cache else None
    data = zsbir.DATASETS.build("folder", root=str(root), unseen=list(unseen))
    torch.manual_seed(seed)
    method = zsbir.build(
        "sbka",
        classes=data.train.classes,
        backbone="tf_efficientnet_lite0",
        weights=str(packaged_weights()),
        image_size=options.size,
        warmup=options.epochs // 2 - 1,
        wordnet=options.wordnet,
    )
    if file is None or not file.is_file():
        recipe = replace(method.recipe, epochs=options.epochs, batch_size=options.batch_size)
        zsbir.Trainer(
            method, data, recipe=recipe, seed=seed, workers=0, select_on="none", progress=False, device="cpu"
        ).fit()
    return features(method, data, data.test, file)


def image_sets(root: Path | None, cache: Path | None) -> Iterator[tuple[str, Pair, Pair]]:
    """Yield name, features of the seen and of the unseen classes."""

    def stored(name: str) -> Path | None:
        return cache / f"{name}.npz" if cache else None

    def frozen(size: int) -> Any:
        return zsbir.build("frozen", backbone={"name": "lite0", "image_size": size}, pretrained=True)

    emoji = zsbir.DATASETS.build("openmoji", validation=0)
    yield (
        "openmoji (60 unseen)",
        features(frozen(96), emoji, emoji.train, stored("openmoji_seen")),
        features(frozen(96), emoji, emoji.test, stored("openmoji_unseen")),
    )
    if root is None:
        return
    names = sorted(path.name for path in (root / "photo").iterdir())
    data = zsbir.DATASETS.build("folder", root=str(root), unseen=names[1::2])
    halves = [
        features(frozen(160), data, part, stored(f"{root.name}_{i}")) for i, part in enumerate((data.train, data.test))
    ]
    for fold, (seen, unseen) in enumerate((halves, halves[::-1])):
        yield f"{root.name} fold {fold + 1} ({', '.join(unseen[1].classes)} unseen)", seen, unseen


def score(pair: Pair, **spec: Any) -> dict[str, float]:
    """Return mAP@all by protocol."""
    queries, gallery = pair
    found = evaluate_embeddings(
        queries.vectors, queries.labels, gallery.vectors, gallery.labels, PROTOCOLS, (100,), spec
    )
    return {name: found[name]["mAP@all"] for name in PROTOCOLS}


def over_seeds(pair: Pair, seeds: int, **spec: Any) -> dict[str, Any]:
    """Return mean and standard deviation over the matcher's seeds."""
    runs = [score(pair, **spec, seed=seed) for seed in range(seeds)]
    values = {name: [run[name] for run in runs] for name in PROTOCOLS}
    return {
        **spec,
        "seeds": seeds,
        "mean": {name: float(np.mean(v)) for name, v in values.items()},
        "std": {name: float(np.std(v)) for name, v in values.items()},
    }


def cells(pair: Pair, seeds: int, wide: bool) -> dict[str, Any]:
    """Score one-to-one, the grid of M and K, the automatic K, the models, and the other matchers."""
    classes = len(np.unique(pair[1].labels))
    photos = len(pair[1])
    grid = []
    # Full covariances of many clusters take long: there the grid is k-means', and full has one cell.
    for m in (2, 4):
        for k in sorted({max(2, classes // 2), classes, min(2 * classes, photos // 2)}):
            model = "k-means" if wide else "full"
            grid.append(over_seeds(pair, seeds, name="one-to-many", subspaces=m, clusters=k, model=model))
    models = [
        over_seeds(pair, 1 if wide and model == "full" else seeds, name="one-to-many", clusters=classes, model=model)
        for model in ("full", "diagonal", "spherical", "k-means")
    ]
    auto = {}
    for rule in ("silhouette", "bic"):
        matcher: Any = MATCHERS.build("one-to-many", choose=rule, model="k-means" if wide else "full").fit(pair[1])
        auto[rule] = {
            "rule": rule,
            **over_seeds(
                pair, seeds, name="one-to-many", clusters=len(matcher.codebook.codewords[0]), model=matcher.model
            ),
        }
    others = {name: score(pair, name=name) for name in MATCHER_NAMES}
    others["kmeans-pq"] = score(pair, name="kmeans-pq", subspaces=8, clusters=min(256, photos // 2))
    return {"classes": classes, "photos": photos, "grid": grid, "models": models, "auto": auto, "others": others}


def section(name: str, found: dict[str, Any]) -> str:
    """Return one set of embeddings as Markdown."""
    base = found["others"]["cosine"]

    def row(label: str, means: dict[str, float], spread: dict[str, float] | None = None) -> list[str]:
        out = [label]
        for protocol in PROTOCOLS:
            around = f" ± {spread[protocol]:.3f}" if spread else ""
            out += [f"{means[protocol]:.3f}{around}", f"{means[protocol] - base[protocol]:+.3f}"]
        return out

    rows = [row("one-to-one (cosine, the order of the distance of unit vectors)", base)]
    rows += [
        row(f"one-to-many M={g['subspaces']} K={g['clusters']} {g['model']}", g["mean"], g["std"])
        for g in found["grid"]
    ]
    rows += [
        row(f"M=2 K={m['clusters']} {m['model']} ({m['seeds']} seeds)", m["mean"], m["std"]) for m in found["models"]
    ]
    rows += [
        row(f"M=2 K={a['clusters']} chosen by {rule}, {a['model']}", a["mean"], a["std"])
        for rule, a in found["auto"].items()
    ]
    rows += [row(other, means) for other, means in found["others"].items() if other != "cosine"]
    best = max(found["grid"], key=lambda g: g["mean"]["sbka"])
    head = ["matcher", "mAP@all sbka", "gain", "mAP@all standard", "gain"]
    return (
        f"\n## {name}: {found['classes']} classes, {found['photos']} photos\n\n"
        + table(head, rows)
        + f"\nOracle: chosen on the test labels: M={best['subspaces']} K={best['clusters']}, "
        f"{best['mean']['sbka']:.3f} (sbka).\n"
    )


def conclusion(results: dict[str, Any]) -> str:
    """Return, from the figures, where the default helps and where it hurts."""
    lines = []
    for name, found in results.items():
        base = found["others"]["cosine"]["sbka"]
        gain = found["auto"]["silhouette"]["mean"]["sbka"] - base
        grid = [g["mean"]["sbka"] - base for g in found["grid"]]
        hurt = sum(value < 0 for value in grid)
        word = "helps" if gain > 0.005 else "hurts" if gain < -0.005 else "changes little"
        lines.append(
            f"- {name}: K by silhouette {word} ({gain:+.3f}); of {len(grid)} cells of the grid {hurt} are worse than "
            f"one-to-one ({min(grid):+.3f} to {max(grid):+.3f})."
        )
    return "\n".join(lines) + "\n"


def publish(results: dict[str, Any], options: argparse.Namespace) -> None:
    """Write what there is so far."""
    text = (
        "# One-to-many matching: where it helps and where it hurts\n\nmAP@all, mean ± standard deviation over seeds "
        "of the k-means start; gains against one-to-one on the same unit vectors (one-to-many normalises; "
        "`euclidean` does not). All matchers but cosine, euclidean and query-expansion are "
        "transductive: fitted on the gallery. "
        f"SBKA trained: EfficientNet-Lite0, the published recipe with {options.epochs} epochs of batches of "
        f"{options.batch_size} at {options.size} px, where there is such a section.\n\n"
        + conclusion(results)
        + "".join(section(name, found) for name, found in results.items())
    )
    keys = ("seeds", "trainings", "epochs", "batch_size", "size")
    write("sbka_matching", {"settings": {key: getattr(options, key) for key in keys}, "results": results}, text)


def main() -> None:
    """Run and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, help="folder with sketch/CLASS and photo/CLASS images")
    parser.add_argument("--cache", type=Path, help="folder that keeps the features between runs")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--trainings", type=int, default=1, help="seeds of SBKA's training")
    parser.add_argument("--epochs", type=int, default=6, help="of SBKA; the teacher's head is fixed in the first half")
    parser.add_argument("--batch-size", type=int, default=42)
    parser.add_argument("--size", type=int, default=160, help="side of SBKA's input in pixels")
    parser.add_argument("--wordnet", default="/usr/share/wordnet", help="folder of WordNet's files")
    parser.add_argument("--resume", action="store_true", help="keep the sections that the results file has")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    results: dict[str, Any] = {}
    if options.resume:
        results = json.loads((RESULTS / "sbka_matching.json").read_text(encoding="utf-8"))["results"]

    def add(name: str, make: Callable[..., Pair], *arguments: Any, wide: bool = True) -> None:
        if name not in results:
            results[name] = cells(make(*arguments), options.seeds, wide)
            publish(results, options)

    add("reference features", reference, wide=False)
    for name, seen, unseen in image_sets(options.root, options.cache):
        add(f"{name}, frozen lite0", tuple, unseen)
        add(f"{name}, trained head", trained_head, seen, unseen)
        for seed in range(options.trainings if options.root and "fold" in name else 0):
            add(f"{name}, SBKA trained, seed {seed}", trained_sbka, options.root, unseen[1].classes, seed, options)


if __name__ == "__main__":
    main()
