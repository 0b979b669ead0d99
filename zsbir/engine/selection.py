"""Which checkpoint is the best: how an epoch is scored, and when to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from zsbir.data.base import Dataset
from zsbir.errors import ZsbirError
from zsbir.evaluation import evaluate_embeddings
from zsbir.methods.base import Method
from zsbir.methods.embedding import apply, embed_split
from zsbir.types import Split

SelectOn = Literal["validation", "accuracy", "test", "none"]


class Selection:
    """Scores epochs and remembers the best.

    Args:
        method: What is scored.
        dataset: Its parts are what it is scored on.
        on: ``"validation"``: mAP@all on the held-out seen classes (``"none"`` where the dataset has none);
            ``"accuracy"``: how many held-out sketches of the training classes are classified correctly, as published
            with SBKA; ``"test"``: mAP@all on the unseen classes, which is not honest; ``"none"``.
        every: Epochs between scores.
        patience: Stop after this many scores without a better one; None: never.

    Raises:
        ZsbirError: If the method or the dataset lacks what ``"accuracy"`` needs.

    Attributes:
        best: The best score so far, or None.
        best_epoch: The number of epochs done when it was reached.
        figure: What the score is called in ``metrics.jsonl``.
    """

    def __init__(
        self, method: Method, dataset: Dataset, on: SelectOn, every: int = 1, patience: int | None = None
    ) -> None:
        held = len(dataset.validation.classes)
        if on == "validation" and held == 1:
            raise ZsbirError(
                "one held-out class cannot rank anything, its score is always 1: hold out at least two (--validation 2)"
            )
        self.on: SelectOn = on if on != "validation" or dataset.validation.classes else "none"
        self.method, self.dataset, self.every, self.patience = method, dataset, every, patience
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.figure = "seen_accuracy" if self.on == "accuracy" else f"{self.on}_mAP@all"
        if self.on == "accuracy" and type(method).classify is Method.classify:
            raise ZsbirError(f"select_on=accuracy needs a classifier, but {type(method).__name__} has none")
        if self.on == "accuracy" and not len(dataset.seen_test.sketches):
            raise ZsbirError(
                "select_on=accuracy needs sketches of the training classes that are kept out of training: give the "
                "dataset hold_out=0.1 (--set-data hold_out=0.1)"
            )

    def due(self, epochs: int) -> bool:
        """Return whether to score after this number of epochs."""
        early = self.on == "accuracy" and epochs <= self.method.select_from
        return self.on != "none" and epochs % self.every == 0 and not early

    def score(
        self, method: Method, device: torch.device | str, workers: int = 0, cache: str | Path | None = None
    ) -> float:
        """Return the score, in [0, 1], of the method that trains, or of the average of its weights."""
        options: dict[str, Any] = {"device": device, "workers": workers, "cache": cache}
        if self.on == "accuracy":
            return accuracy(method, self.dataset, **options)
        return mean_average_precision(method, self.dataset, self._split(), **options)

    def offer(self, score: float, epochs: int) -> bool:
        """Note a score; return whether it is the best so far."""
        if self.best is not None and score <= self.best:
            return False
        self.best, self.best_epoch = score, epochs
        return True

    def out_of_patience(self, epochs: int) -> bool:
        """Return whether it is time to stop."""
        if self.patience is None or self.best_epoch is None:
            return False
        return epochs - self.best_epoch >= self.patience * self.every

    def describe(self, score: float) -> str:
        """Return a score as a phrase."""
        if self.on == "accuracy":
            held = len(self.dataset.seen_test.sketches)
            return f"accuracy on {held} held-out sketches of seen classes {score:.4f}"
        return f"mAP@all on {len(self._split().classes)} {self.on} classes {score:.4f}"

    def share(self, device: torch.device) -> None:
        """Give every process the best of the first one: all must stop at the same epoch."""
        held = [-1.0 if self.best is None else self.best, float(self.best_epoch or 0)]
        shared = torch.tensor(held, dtype=torch.float64, device=device)
        torch.distributed.broadcast(shared, 0)
        if shared[0] >= 0:
            self.best, self.best_epoch = shared[0].item(), int(shared[1])

    def _split(self) -> Split:
        return self.dataset.validation if self.on == "validation" else self.dataset.test


def mean_average_precision(method: Method, dataset: Dataset, split: Split, **options: Any) -> float:
    """Return mAP@all (protocol ``standard``, the method's matcher) of a split; `options` as for `embed_split`."""
    queries, gallery = embed_split(method, dataset, split, **options)
    results = evaluate_embeddings(
        queries.vectors, queries.labels, gallery.vectors, gallery.labels, ks=(), matcher=method.matcher
    )
    return float(results["standard"]["mAP@all"])


def accuracy(method: Method, dataset: Dataset, **options: Any) -> float:
    """Return the share of the held-out sketches of seen classes that the method puts into their class, in [0, 1].

    Args:
        method: With `classify`; its classes are those of the dataset's training part.
        dataset: With sketches in ``seen_test``.
        **options: As for `zsbir.methods.embedding.apply`.

    Raises:
        ZsbirError: If a file cannot be read, or the method has no classifier.
    """
    records, right = dataset.seen_test.sketches, 0
    for rows, logits in apply(method, method.classify, records, "sketch", dataset=dataset, **options):
        right += int((logits.argmax(dim=1).cpu().numpy() == records.labels[rows]).sum())
    return right / len(records)
