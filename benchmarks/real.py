"""The table of real results: methods and baselines on real sketches and photos, from one command.

    python benchmarks/real.py --data DATA                    # everything; goes on where it was stopped
    python benchmarks/real.py --data DATA --rows frozen contrastive --seeds 3
    python benchmarks/real.py --data DATA --table            # only write the table of what is there

``DATA`` holds ``sketchy-mini``, ``tuberlin76`` and ``pacs6``. Every run trains on the seen classes with fixed settings
and is scored once on the unseen ones. The settings were chosen on seen classes held out of Sketchy-25's, see
docs/results.md. Each finished run is a file under ``--work``; what is missing in the table was not measured.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import _real_tables as tables
import numpy as np
import numpy.typing as npt
import torch
from _results import write
from torch.nn import functional as F

import zsbir
from zsbir.data import DATASETS
from zsbir.data.base import Dataset
from zsbir.engine.trainer import Trainer
from zsbir.evaluation import evaluate_embeddings
from zsbir.evaluation.evaluator import Evaluator
from zsbir.evaluation.fine_grained import fine_grained
from zsbir.evaluation.settings import generalised
from zsbir.methods.alignment import Alignment
from zsbir.methods.embedding import embed_split
from zsbir.methods.features import StoredFeatures
from zsbir.types import Embeddings, Paths, Split

Sides = tuple[Embeddings, Embeddings]

PROTOCOLS = ("standard", "sbka", "puxim", "dann")
BASELINE = "means removed"
LITE0 = {"name": "lite0", "pretrained": True}
STAGES = {**LITE0, "pool": "stages"}


@dataclass(frozen=True)
class Row:
    """One method with its settings.

    Attributes:
        method: Its name.
        options: Its arguments.
        recipe: What its recipe has otherwise.
        protocol: The paper's.
    """

    method: str
    options: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    protocol: str = "sbka"

    @property
    def trains(self) -> bool:
        """Whether it learns by gradient, and so differs from seed to seed."""
        return self.method != "frozen"


def small(method: str, epochs: int | None = None, **options: Any) -> Row:
    """Return a method in its settings for little data, with some changed."""
    given = zsbir.METHODS.get(method).recipes["small-data"]
    backbone = {**given.options["backbone"], "pretrained": True}
    recipe = {**given.recipe, **({"epochs": epochs} if epochs else {})}
    protocol = "sbka" if method == "contrastive" else method
    return Row(method, {**given.options, "backbone": backbone, **options}, recipe, protocol)


SKETCHY = ("Sketchy-25", "Sketchy-21")
EMPTY: dict[str, Any] = {"vectors": torch.zeros(0, 1), "labels": np.zeros(0, dtype=np.int64), "paths": Paths()}
HEAD = {"temperature": 0.07}
ROWS: dict[str, Callable[[], Row]] = {
    "frozen": lambda: Row("frozen", {"backbone": LITE0}),
    BASELINE: lambda: Row("frozen", {"backbone": LITE0, "center": True}),
    "means and deviations": lambda: Row("frozen", {"backbone": LITE0, "center": True, "scale": True}),
    "the same, three stages": lambda: Row("frozen", {"backbone": STAGES, "center": True, "scale": True}),
    "contrastive, last stage": lambda: Row("contrastive", {"backbone": LITE0, **HEAD}),
    "contrastive": lambda: Row("contrastive", {"backbone": STAGES, **HEAD}),
    "contrastive, features kept": lambda: small("contrastive"),
    "contrastive, two stages tuned": lambda: small("contrastive", tune=2, epochs=6),
    "dann": lambda: small("dann"),
    "sbka": lambda: small("sbka"),
    "puxim": lambda: small("puxim"),
}
PARTS: dict[str, Callable[[], Row]] = {
    "dann, reversal 0.1": lambda: small("dann", domain_loss_ratio=0.1),
    "dann, WordNet's negatives": lambda: small("dann", negatives={"name": "wordnet"}),
    "dann, features not standardised": lambda: small("dann", standardise=False),
    "sbka, without the prior": lambda: small("sbka", prior=0.0),
    "sbka, without the noise": lambda: small("sbka", noise=0.0),
    "sbka, the teacher's head fixed": lambda: small("sbka", warmup=99),
    "sbka, linear classes": lambda: small("sbka", temperature=None),
    "puxim, random masks": lambda: small("puxim", masker="random"),
    "puxim, no masks": lambda: small("puxim", reconstruction=0.0),
    "puxim, no interaction": lambda: small("puxim", interaction=0.0),
}
"""Rows with one thing changed, measured on the first column alone."""


def datasets(data: Path) -> dict[str, Callable[[], Dataset]]:
    """Return the columns."""
    mini, tuberlin = data / "sketchy-mini", data / "tuberlin76"
    source = json.loads((tuberlin / "classes.json").read_text(encoding="utf-8"))
    caltech = [name for name, about in source.items() if about["source"] == "caltech101"]
    folder = "folder"
    return {
        "Sketchy-25": lambda: DATASETS.build("sketchy-25", root=mini),
        "Sketchy-21": lambda: DATASETS.build("sketchy-21", root=mini),
        "tuberlin76": lambda: DATASETS.build(folder, root=tuberlin, unseen=caltech),
        "pacs6": lambda: DATASETS.build(folder, root=data / "pacs6", unseen="elephant,giraffe,horse"),
    }


def trained(row: Row, dataset: Dataset, seed: int) -> Callable[[Split], Sides]:
    """Return what embeds a split by a row's method, trained or measured on the seen classes."""
    torch.manual_seed(seed)
    more = {"classes": list(dataset.train.classes)} if row.method == "sbka" else {}
    method = zsbir.build(row.method, **row.options, **more)
    if row.trains:
        recipe = replace(method.recipe, **row.recipe)
        # PuXIM computes patch tokens in every step: half precision halves its time on a CPU.
        precision = "bf16" if row.method == "puxim" else "no"
        Trainer(method, dataset, recipe=recipe, seed=seed, workers=0, select_on="none", precision=precision).fit()
    else:
        method.stored = StoredFeatures(method.trunk, method.preprocess, dataset.variant)
        method.fit(dataset)
    return lambda split: embed_split(method, dataset, split)


def parts(test: Sides, seen: Sides, exact: bool) -> dict[str, float]:
    """Return mAP@all (`standard`) of the same embeddings otherwise: aligned, matched, searched for.

    Args:
        test: Sketches and photos of the unseen classes.
        seen: Of the seen ones.
        exact: Whether file names say which photo a sketch was drawn from.
    """
    queries, gallery = test
    plain = Evaluator("standard", resamples=0)
    found: dict[str, float] = {}
    for name, scale in (("means removed", False), ("means and deviations", True)):
        aligned = Alignment(gallery.vectors.shape[1], center=True, scale=scale)
        aligned.measure({"sketch": seen[0].vectors, "photo": seen[1].vectors})
        sides = (replace(side, vectors=aligned(side.vectors, side.domain)) for side in test)
        found[name] = plain.evaluate(*sides).results["standard"]["mAP@all"]
    for name, clusters in (("one-to-many, K the number of classes", len(gallery.classes)), ("one-to-many", "auto")):
        matcher = {"name": "one-to-many", "model": "k-means", "clusters": clusters}
        found[name] = plain.like(matcher).evaluate(queries, gallery).results["standard"]["mAP@all"]
    joint = generalised(plain, test, (replace(seen[0], **EMPTY), seen[1]))
    found["generalised"] = joint.results["standard"]["mAP@all"]
    if exact:
        report = fine_grained(plain, queries, gallery)
        for protocol, values in report.results.items():
            found |= {f"{metric} {protocol}": value for metric, value in values.items()}
            found[f"chance {protocol}"] = report.chance[protocol]
    return found


def average_precisions(queries: Embeddings, gallery: Embeddings) -> npt.NDArray[np.float64]:
    """Return (q,) exact AP of each query by cosine."""
    scores = F.normalize(queries.vectors, dim=1) @ F.normalize(gallery.vectors, dim=1).T
    order = scores.argsort(dim=1, descending=True).numpy()
    right = gallery.labels[order] == queries.labels[:, None]
    precision = right.cumsum(1) / np.arange(1, right.shape[1] + 1)
    return np.asarray((precision * right).sum(1) / right.sum(1))


def measure(name: str, column: str, dataset: Dataset, seed: int, work: Path) -> None:
    """Run one cell, unless it is there."""
    file = work / f"{name}--{column}--{seed}.json"
    if file.is_file():
        return
    row, start = {**ROWS, **PARTS}[name](), time.perf_counter()
    embed = trained(row, dataset, seed)
    queries, gallery = test = embed(dataset.test)
    seconds = time.perf_counter() - start
    scores = evaluate_embeddings(queries.vectors, queries.labels, gallery.vectors, gallery.labels, PROTOCOLS)
    per_query = [round(float(value), 5) for value in average_precisions(queries, gallery)]
    record = {
        "row": name, "column": column, "seed": seed, "protocol": row.protocol, "seconds": round(seconds, 1),
        "options": row.options, "recipe": row.recipe, "scores": scores, "average_precision": per_query,
        "parts": parts(test, embed(dataset.train), True) if column in SKETCHY else {},
    }  # fmt: skip
    work.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record), encoding="utf-8")
    print(f"{name}, {column}, seed {seed}: {scores['standard']['mAP@all']:.4f} in {seconds:.0f} s", flush=True)


def make_table(work: Path, columns: list[str]) -> None:
    """Write the tables of what was measured."""
    runs: tables.Runs = {}
    for file in sorted(work.glob("*.json")):
        run = json.loads(file.read_text(encoding="utf-8"))
        runs.setdefault((run["row"], run["column"]), []).append(run)
    text = tables.main(runs, ROWS, columns, BASELINE) + tables.changed(runs, PARTS, SKETCHY[0])
    text += tables.otherwise(runs, [*ROWS], SKETCHY)
    kept = [{k: v for k, v in run.items() if k != "average_precision"} for found in runs.values() for run in found]
    shown = {
        f"{name}, {column}": tables.mean(found, "standard") for (name, column), found in runs.items() if name in ROWS
    }
    write("real", {"shown": shown, "runs": kept}, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("real-runs"))
    parser.add_argument("--rows", nargs="*", choices=[*ROWS, *PARTS])
    parser.add_argument("--columns", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    columns = datasets(arguments.data)
    wanted = arguments.columns or [*columns]
    for column in () if arguments.table else wanted:
        dataset = columns[column]()
        for name in arguments.rows or [*ROWS, *(PARTS if column == SKETCHY[0] else ())]:
            for seed in range(arguments.seeds if {**ROWS, **PARTS}[name]().trains else 1):
                measure(name, column, dataset, seed, arguments.work)
    make_table(arguments.work, [*columns])


if __name__ == "__main__":
    main()
