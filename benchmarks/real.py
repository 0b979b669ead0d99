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

import numpy as np
import numpy.typing as npt
import torch
from _results import table, write
from torch import Tensor
from torch.nn import functional as F

import zsbir
from zsbir.data import DATASETS
from zsbir.data.base import Dataset
from zsbir.engine.trainer import Trainer
from zsbir.evaluation import evaluate_embeddings
from zsbir.evaluation.statistics import randomisation_p
from zsbir.methods.base import Method
from zsbir.methods.embedding import apply, embed_split
from zsbir.methods.features import StoredFeatures
from zsbir.types import Domain, Split

PROTOCOLS = ("standard", "sbka", "puxim", "dann")
BASELINE = "means removed"
T95 = {3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, two-sided, by number of seeds
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
        trains: Whether it learns; else its backbone's features are what is scored.
        remove: What is removed of them, by domain, as measured on seen classes: ``"means"`` or ``"deviations"`` too.
    """

    method: str
    options: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    protocol: str = "sbka"
    trains: bool = True
    remove: str = ""


def small(method: str, protocol: str, **options: Any) -> Row:
    """Return a published method in its settings for little data."""
    given = zsbir.METHODS.get(method).recipes["small-data"]
    backbone = {**given.options["backbone"], "pretrained": True}
    return Row(method, {**given.options, "backbone": backbone, **options}, dict(given.recipe), protocol)


HEAD = {"temperature": 0.07}
ROWS: dict[str, Callable[[], Row]] = {
    "frozen": lambda: Row("contrastive", {"backbone": LITE0}, trains=False),
    BASELINE: lambda: Row("contrastive", {"backbone": LITE0}, trains=False, remove="means"),
    "means and deviations": lambda: Row("contrastive", {"backbone": LITE0}, trains=False, remove="deviations"),
    "the same, three stages": lambda: Row("contrastive", {"backbone": STAGES}, trains=False, remove="deviations"),
    "contrastive, last stage": lambda: Row("contrastive", {"backbone": LITE0, **HEAD}),
    "contrastive": lambda: Row("contrastive", {"backbone": STAGES, **HEAD}),
    "contrastive, features kept": lambda: Row("contrastive", {"backbone": STAGES, **HEAD, "keep": 0.7}),
    "contrastive, two stages tuned": lambda: Row(
        "contrastive", {"backbone": STAGES, **HEAD, "tune": 2, "keep": 0.7}, {"epochs": 6}
    ),
    "dann, small-data": lambda: small("dann", "dann"),
    "dann, reversal 0.1": lambda: small("dann", "dann", domain_loss_ratio=0.1),
    "dann, WordNet's negatives": lambda: small("dann", "dann", negatives={"name": "wordnet"}),
}


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


def features(method: Method, dataset: Dataset, split: Split, domain: Domain) -> Tensor:
    """Return the (n, D) stored features of one side of a split."""
    return torch.cat([part for _, part in apply(method, lambda x: x, split.of(domain), domain, dataset=dataset)])


def embeddings(row: Row, dataset: Dataset, seed: int) -> tuple[Tensor, Tensor]:
    """Return the vectors of the unseen sketches and photos, by a row's method trained on the seen classes."""
    torch.manual_seed(seed)
    method = zsbir.build(row.method, **row.options)
    if row.trains:
        recipe = replace(method.recipe, **row.recipe)
        Trainer(method, dataset, recipe=recipe, seed=seed, workers=0, select_on="none").fit()
        queries, gallery = embed_split(method, dataset, dataset.test)
        return queries.vectors, gallery.vectors
    method.stored = StoredFeatures(method.trunk, method.preprocess, dataset.variant)
    sides: list[Tensor] = []
    domains: tuple[Domain, ...] = ("sketch", "photo")
    for domain in domains:
        vectors = features(method, dataset, dataset.test, domain)
        if row.remove:
            seen = features(method, dataset, dataset.train, domain)
            vectors = vectors - seen.mean(dim=0)
            if row.remove == "deviations":
                deviation = seen.std(dim=0)
                vectors = vectors / (deviation + 0.1 * deviation.mean())
        sides.append(vectors)
    return sides[0], sides[1]


def average_precisions(queries: Tensor, gallery: Tensor, split: Split) -> npt.NDArray[np.float64]:
    """Return (q,) exact AP of each query by cosine."""
    scores = F.normalize(queries, dim=1) @ F.normalize(gallery, dim=1).T
    order = scores.argsort(dim=1, descending=True).numpy()
    right = split.photos.labels[order] == split.sketches.labels[:, None]
    precision = right.cumsum(1) / np.arange(1, right.shape[1] + 1)
    return np.asarray((precision * right).sum(1) / right.sum(1))


def measure(name: str, column: str, dataset: Dataset, seed: int, work: Path) -> None:
    """Run one cell, unless it is there."""
    file = work / f"{name}--{column}--{seed}.json"
    if file.is_file():
        return
    row, start = ROWS[name](), time.perf_counter()
    queries, gallery = embeddings(row, dataset, seed)
    seconds = time.perf_counter() - start
    test = dataset.test
    scores = evaluate_embeddings(queries, test.sketches.labels, gallery, test.photos.labels, PROTOCOLS)
    per_query = [round(float(value), 5) for value in average_precisions(queries, gallery, test)]
    record = {
        "row": name, "column": column, "seed": seed, "protocol": row.protocol, "seconds": round(seconds, 1),
        "options": row.options, "recipe": row.recipe, "scores": scores, "average_precision": per_query,
    }  # fmt: skip
    work.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record), encoding="utf-8")
    print(f"{name}, {column}, seed {seed}: {scores['standard']['mAP@all']:.4f} in {seconds:.0f} s", flush=True)


def figure(runs: list[dict[str, Any]], protocol: str, baseline: list[dict[str, Any]]) -> str:
    """Return a cell: the mean, half the 95 % interval over seeds, and an arrow where the paired test says so."""
    values = np.array([run["scores"][protocol]["mAP@all"] for run in runs])
    text = f"{values.mean():.3f}"
    if len(values) in T95 and values.std():
        text += f" ± {T95[len(values)] * values.std(ddof=1) / len(values) ** 0.5:.3f}"
    elif runs[0]["recipe"] or len(values) == 2:
        text += f" ({len(values)} seed{'s' * (len(values) > 1)})"
    if protocol != "standard" or not baseline or runs[0]["row"] == BASELINE:
        return text
    ours = np.mean([run["average_precision"] for run in runs], axis=0)
    difference = ours - np.array(baseline[0]["average_precision"])
    p = randomisation_p(difference, np.full(len(difference), 1 / len(difference)))
    return text + ("" if p >= 0.01 else " ↑" if difference.mean() > 0 else " ↓")


def make_table(work: Path, columns: list[str]) -> None:
    """Write the table of what was measured."""
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for file in sorted(work.glob("*.json")):
        run = json.loads(file.read_text(encoding="utf-8"))
        runs.setdefault((run["row"], run["column"]), []).append(run)
    lines = []
    for name in ROWS:
        cells = []
        for column in columns:
            found = runs.get((name, column), [])
            base = runs.get((BASELINE, column), [])
            if not found:
                cells += ["not measured"] * 2
                continue
            paper = found[0]["protocol"]
            cells += [figure(found, "standard", base), f"{figure(found, paper, [])} ({paper})"]
        lines.append([name, *cells])
    head = ["unseen mAP@all", *(f"{column}, {kind}" for column in columns for kind in ("standard", "paper's"))]
    note = (
        f"\nLite0 at 224 px. ± is half the 95 % t interval over three seeds; arrows: better or worse than "
        f" {BASELINE!r}, paired randomisation test over the queries (mean over the seeds), p < 0.01.\n"
    )
    kept = [{k: v for k, v in run.items() if k != "average_precision"} for found in runs.values() for run in found]
    write("real", {"runs": kept}, table(head, lines) + note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("real-runs"))
    parser.add_argument("--rows", nargs="*", choices=[*ROWS], default=[*ROWS])
    parser.add_argument("--columns", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    columns = datasets(arguments.data)
    wanted = arguments.columns or [*columns]
    for column in () if arguments.table else wanted:
        dataset = columns[column]()
        for name in arguments.rows:
            for seed in range(arguments.seeds if ROWS[name]().trains else 1):
                measure(name, column, dataset, seed, arguments.work)
    make_table(arguments.work, [*columns])


if __name__ == "__main__":
    main()
