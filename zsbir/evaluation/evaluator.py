"""The evaluator: embeddings in, a report out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from zsbir.errors import ZsbirError
from zsbir.evaluation import metrics as functions
from zsbir.evaluation.details import confusion_and_histogram, top_photos
from zsbir.evaluation.distributed import gather, shard
from zsbir.evaluation.domain_gap import gap_of
from zsbir.evaluation.inputs import check_embeddings
from zsbir.evaluation.measure import METRICS, PerQuery, Request, as_protocols, averages, measure
from zsbir.evaluation.protocols import Protocol
from zsbir.evaluation.result import Report
from zsbir.evaluation.scoring import fitted_scores
from zsbir.evaluation.showing import Shown
from zsbir.evaluation.statistics import bootstrap
from zsbir.matchers import MATCHERS
from zsbir.matchers.base import Matcher
from zsbir.types import Embeddings, Labels

ORACLE = "oracle: chosen on the test labels"
"""What a report says of the best cell of a sweep."""


class Evaluator:
    """Evaluates embeddings under one or several protocols.

    Args:
        protocol: Name, record, or a list of them; the first is the one that pictures and tables by class go by.
        matcher: Name, spec or instance.
        metrics: Some of ``"mAP"``, ``"P@k"``, ``"R@k"``, ``"MRR"``, ``"nDCG"``; None: all.
        ks: Cut-offs.
        resamples: Draws of the bootstrap intervals; 0: no intervals.
        examples: How many best, median and worst queries to show with their first photos, each.
        top: How many photos to show of each.
        seed: Seed of the bootstrap, of the random queries and of the sample behind confusion and histogram.
        random: How many further queries to show, drawn by chance.
        queries: Files of further queries to show, see `zsbir.evaluation.showing.find_queries`.

    >>> import numpy as np, torch
    >>> photos = Embeddings(torch.eye(3), np.array([0, 1, 2]), ("cat", "dog", "owl"))
    >>> sketches = Embeddings(torch.eye(3), np.array([0, 1, 2]), ("cat", "dog", "owl"), domain="sketch")
    >>> report = Evaluator("standard", ks=(1,)).evaluate(sketches, photos)
    >>> report.results["standard"]["mAP@all"]
    1.0
    """

    def __init__(
        self,
        protocol: str | Protocol | Sequence[str | Protocol] = "standard",
        matcher: str | Mapping[str, Any] | Matcher = "cosine",
        metrics: Sequence[str] | None = None,
        ks: Sequence[int] = (100, 200),
        resamples: int = 1000,
        examples: int = 3,
        top: int = 10,
        seed: int = 0,
        random: int = 0,
        queries: Sequence[str] = (),
    ) -> None:
        if seed < 0:
            raise ZsbirError(f"a seed must be 0 or more, not {seed}")
        self.protocols = as_protocols(protocol)
        self.matcher: Matcher = MATCHERS.build(matcher)
        self.metrics = tuple(METRICS if metrics is None else metrics)
        self.ks = tuple(ks)
        self.resamples = resamples
        self.shown = Shown(examples, random, tuple(queries), top)
        self.seed = seed

    def like(self, matcher: str | Mapping[str, Any] | Matcher, show: bool = True) -> Evaluator:
        """Return the same evaluator with another matcher; it shows no queries if `show` is not set."""
        other = copy.copy(self)
        other.matcher = MATCHERS.build(matcher)
        if not show:
            other.shown = Shown(examples=0)
        return other

    def evaluate(
        self, queries: Embeddings, gallery: Embeddings, notes: Sequence[str] = (), setting: str = "zero-shot"
    ) -> Report:
        """Evaluate sketches against photos.

        Labels are matched by class name where the two lists of classes differ. The gallery's device is computed on.

        Args:
            queries: The sketches.
            gallery: The photos.
            notes: What the report must say besides what is found here, such as a dataset's notes.
            setting: Name of the setting, see `zsbir.evaluation.settings`.

        Returns:
            The report.

        Raises:
            ZsbirError: For an empty side, widths that differ, NaN or infinite values (with their files), unknown
                labels, or no query with a relevant photo.
        """
        variants = self.matcher.variants()
        if len(variants) > 1:
            return self._best(variants, queries, gallery, notes, setting)
        left, right, classes = check_embeddings(queries, gallery)
        # Vectors stay where the gallery is: queries go there chunk by chunk.
        chunk = fitted_scores(self.matcher, left, right)
        device = chunk(np.zeros(1, dtype=np.int64)).device
        with torch.inference_mode():
            part = measure(
                chunk,
                left.labels,
                right.labels,
                Request(self.protocols, self.ks, self.metrics, functions.ideal_levels()),
                device,
                right.vectors.dtype.itemsize,
                shard(),
            )
            found = gather(part)
            confusion, histogram = confusion_and_histogram(chunk, left.labels, right.labels, len(classes), self.seed)
            shown = top_photos(chunk, left, right, self._chosen(found, left), self.shown.top)
        transductive = ["transductive: the matcher is fitted on the gallery"] if self.matcher.transductive else []
        return Report(
            protocols=tuple(self.protocols),
            results=averages(found, self.protocols),
            intervals=intervals(found, self.protocols, self.resamples, self.seed),
            per_class=_per_class(found, classes),
            counts=_counts(left.labels, right.labels, found),
            chance=_chance(left.labels, right.labels, found, self.protocols),
            matcher=describe_matcher(self.matcher),
            setting=setting,
            notes=(*notes, *transductive, *_half(queries, gallery), *found.notes),
            classes=classes,
            curve=_curve(found),
            confusion=confusion,
            histogram=histogram,
            top=shown,
            per_query=found,
            query_paths=tuple(left.paths[int(i)] for i in found.query) if len(left.paths) else (),
            meta={"queries": queries.meta, "gallery": gallery.meta},
            domain_gap=gap_of(left, right, self.seed),
        )

    def _best(
        self, variants: Sequence[Matcher], queries: Embeddings, gallery: Embeddings, notes: Sequence[str], setting: str
    ) -> Report:
        """Evaluate every cell of a sweep and return the report of the best, marked as chosen on the test labels."""
        tried: dict[str, dict[str, dict[str, float]]] = {}
        for matcher in variants:
            plain = Evaluator(self.protocols, matcher, ["mAP"], self.ks, resamples=0, examples=0, seed=self.seed)
            tried[describe_matcher(matcher)] = plain.evaluate(queries, gallery).results
        first = self.protocols[0].name
        values = [results[first]["mAP@all"] for results in tried.values()]
        best = variants[int(np.argmax(values))]
        said = f"{ORACLE}: the best mAP@all ({first}) of {len(variants)} matchers; from {min(values):.4f}"
        report = self.like(best).evaluate(queries, gallery, (*notes, said), setting)
        return replace(report, groups=tried)

    def _chosen(self, found: PerQuery, queries: Embeddings) -> list[tuple[int, str, float | None]]:
        first = found.values[self.protocols[0].name]
        key = "mAP@all" if "mAP@all" in first else next(iter(first))
        return self.shown.choose(first[key], found.query, queries.paths, len(queries), self.seed)


def intervals(
    found: PerQuery, protocols: Sequence[Protocol], resamples: int, seed: int
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return the 95 % bootstrap intervals of all means, over queries and over classes; none for 0 resamples."""
    out: dict[str, dict[str, dict[str, list[float]]]] = {}
    for protocol in protocols if resamples else ():
        values = found.values[protocol.name]
        queries = bootstrap(values, found.labels, protocol.average, "queries", resamples, seed=seed)
        over = bootstrap(values, found.labels, protocol.average, "classes", resamples, seed=seed)
        out[protocol.name] = {m: {"queries": list(queries[m]), "classes": list(over[m])} for m in values}
    return out


def describe_matcher(matcher: Matcher) -> str:
    """Return the matcher in a line."""
    return matcher.describe() if hasattr(matcher, "spec") else type(matcher).__name__


def _per_class(found: PerQuery, classes: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    present = np.unique(found.labels)
    return {
        protocol: {
            classes[c]: {metric: float(v[found.labels == c].mean()) for metric, v in values.items()} for c in present
        }
        for protocol, values in found.values.items()
    }


def _counts(queries: Labels, gallery: Labels, found: PerQuery) -> dict[str, int]:
    return {
        "queries": len(queries),
        "evaluated": len(found.query),
        "excluded": found.excluded,
        "gallery": len(gallery),
        "classes": len(np.unique(found.labels)),
    }


def _chance(queries: Labels, gallery: Labels, found: PerQuery, protocols: Sequence[Protocol]) -> dict[str, float]:
    """Return by protocol the exact mAP@all of a random order of the gallery (by the exact AP)."""
    counts = np.bincount(gallery, minlength=int(found.labels.max()) + 1)
    level = {int(c): functions.chance(len(gallery), int(counts[c])) for c in np.unique(found.labels)}
    per_query = np.array([level[int(c)] for c in found.labels])
    by_class = float(np.mean(list(level.values())))
    return {p.name: by_class if p.average == "class" else float(per_query.mean()) for p in protocols}


def _half(*sides: Embeddings) -> list[str]:
    kinds = [side.vectors.dtype for side in sides if side.vectors.dtype in (torch.float16, torch.bfloat16)]
    return [f"the embeddings are stored in {str(kinds[0]).removeprefix('torch.')}"] if kinds else []


def _curve(found: PerQuery) -> dict[str, list[float]]:
    if found.curve is None:
        return {"recall": [], "precision": []}
    return {"recall": functions.ideal_levels(), "precision": found.curve.mean(axis=0).tolist()}
