"""The evaluator: embeddings in, a report out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from zsbir.arguments import Natural, checked
from zsbir.evaluation import metrics as functions
from zsbir.evaluation.domain_gap import gap_of
from zsbir.evaluation.inputs import check_classes, check_embeddings
from zsbir.evaluation.measure import PerQuery, Protocols, Request, averages, measure
from zsbir.evaluation.overview import Overview
from zsbir.evaluation.protocols import Protocol
from zsbir.evaluation.report import Report
from zsbir.evaluation.scoring import fitted_scores
from zsbir.evaluation.shown import Shown
from zsbir.evaluation.statistics import bootstrap
from zsbir.matchers import MATCHERS
from zsbir.matchers.base import Matcher
from zsbir.types import Embeddings, Labels

ORACLE = "oracle: chosen on the test labels"
"""What a report says of the best cell of a sweep."""


@checked("evaluator")
class Evaluator:
    """Evaluates embeddings under one or several protocols.

    Args:
        protocol: Name, record, or a list of them; the first is the one that pictures and tables by class go by.
        matcher: Name, spec or instance.
        metrics: One or some of ``"mAP"``, ``"P@k"``, ``"R@k"``, ``"MRR"``, ``"nDCG"``; None: all.
        ks: Cut-offs, one or several.
        resamples: Draws of the bootstrap intervals; 0: no intervals.
        examples: How many best, median and worst queries to show with their first photos, each.
        top: How many photos to show of each.
        seed: Seed of the bootstrap, of the random queries and of the sample behind confusion and histogram.
        random: How many further queries to show, drawn by chance.
        queries: Files of further queries to show, see `zsbir.evaluation.shown.find_queries`.
        progress: Show bars.

    >>> import numpy as np, torch
    >>> photos = Embeddings(torch.eye(3), np.array([0, 1, 2]), ("cat", "dog", "owl"))
    >>> sketches = Embeddings(torch.eye(3), np.array([0, 1, 2]), ("cat", "dog", "owl"), domain="sketch")
    >>> report = Evaluator("standard", ks=(1,)).evaluate(sketches, photos)
    >>> report.results["standard"]["mAP@all"]
    1.0
    """

    def __init__(
        self,
        protocol: Protocols = "standard",
        matcher: str | Mapping[str, Any] | Matcher = "cosine",
        metrics: Sequence[str] | str | None = None,
        ks: Sequence[int] | int = (100, 200),
        resamples: Natural = 1000,
        examples: Natural = 3,
        top: Natural = 10,
        seed: Natural = 0,
        random: Natural = 0,
        queries: Sequence[str] = (),
        progress: bool = False,
    ) -> None:
        self.request = Request(protocol, ks, metrics, functions.ideal_levels())
        self.matcher: Matcher = MATCHERS.build(matcher)
        self.resamples = resamples
        self.shown = Shown(examples, random, tuple(queries), top)
        self.seed = seed
        self.progress = progress

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
        """Evaluate sketches against photos; the scores of each sketch are computed once.

        Labels are matched by class name where the two lists of classes differ. The gallery's device is computed on.
        Of a matcher that stands for several (a published sweep), the best is reported and marked as chosen on the
        test labels.

        Args:
            queries: The sketches.
            gallery: The photos.
            notes: What the report must say besides what is found here, such as a dataset's notes.
            setting: Name of the setting, see `zsbir.evaluation.settings`.

        Returns:
            The report.

        Raises:
            ZsbirError: For an empty side, widths that differ, NaN or infinite values (with their files), unknown
                labels, photos of one class only, or no query with a relevant photo.
        """
        left, right, _ = check_embeddings(queries, gallery)
        check_classes(right.labels)
        tried = [(matcher, *self._measured(matcher, left, right)) for matcher in self.matcher.variants()]
        means = {matcher.describe(): averages(found, self.request.protocols) for matcher, found, _ in tried}
        groups, said = {}, []
        if len(tried) > 1:
            first = self.request.protocols[0].name
            metric = next(iter(next(iter(means.values()))[first]))
            values = [results[first][metric] for results in means.values()]
            groups = means
            said = [f"{ORACLE}: the best {metric} ({first}) of {len(means)} matchers; from {min(values):.4f}"]
            tried = [tried[int(np.argmax(values))]]
        matcher, found, overview = tried[0]
        if matcher.transductive:
            said.append("transductive: the matcher is fitted on the gallery")
        report = self.report(found, self.request.protocols, left, right, [*notes, *said, *_half(queries, gallery)])
        assert found.curve is not None
        return replace(
            report,
            setting=setting,
            matcher=matcher.describe(),
            chance=_chance(right.labels, found, self.request.protocols),
            curve={"recall": list(self.request.levels), "precision": found.curve.mean(axis=0).tolist()},
            confusion=overview.confusion(),
            histogram=overview.histogram(),
            top=overview.top_photos(self.choose(found, left)),
            groups=groups,
        )

    def _measured(self, matcher: Matcher, queries: Embeddings, gallery: Embeddings) -> tuple[PerQuery, Overview]:
        # Vectors stay where the gallery is: queries go there chunk by chunk.
        overview = Overview(queries, gallery, self.shown.top, self.seed)
        kind = gallery.vectors
        scores = fitted_scores(matcher, queries, gallery)
        labels = queries.labels, gallery.labels
        found = measure(
            scores, *labels, self.request, kind.device, kind.dtype.itemsize, overview, share=True,
            progress=self.progress,
        )  # fmt: skip
        return found, overview

    def choose(self, found: PerQuery, queries: Embeddings) -> list[tuple[int, str, float | None]]:
        """Return which queries to show, by the first metric of the first protocol."""
        values = next(iter(next(iter(found.values.values())).values()))
        return self.shown.choose(values, found.query, queries.paths, len(queries), self.seed)

    def report(
        self,
        found: PerQuery,
        protocols: Sequence[Protocol],
        queries: Embeddings,
        gallery: Embeddings,
        notes: Sequence[str],
    ) -> Report:
        """Return what every setting's report holds: means, intervals and classes of the metrics found."""
        present = np.unique(found.labels)
        return Report(
            protocols=tuple(protocols),
            results=averages(found, protocols),
            intervals=self._intervals(found, protocols),
            per_class={
                protocol: {
                    queries.classes[c]: {metric: float(v[found.labels == c].mean()) for metric, v in values.items()}
                    for c in present
                }
                for protocol, values in found.values.items()
            },
            counts={
                "queries": len(queries),
                "evaluated": len(found.query),
                "excluded": found.excluded,
                "gallery": len(gallery),
                "classes": len(present),
            },
            chance={},
            matcher=self.matcher.describe(),
            setting="zero-shot",
            notes=(*notes, *found.notes),
            classes=queries.classes,
            per_query=found,
            query_paths=tuple(queries.paths[int(i)] for i in found.query) if len(queries.paths) else (),
            meta={"queries": queries.meta, "gallery": gallery.meta},
            domain_gap=gap_of(queries, gallery, self.seed),
        )

    def _intervals(
        self, found: PerQuery, protocols: Sequence[Protocol]
    ) -> dict[str, dict[str, dict[str, list[float]]]]:
        """Return the 95 % bootstrap intervals of all means, over queries and over classes; none for 0 resamples."""
        out: dict[str, dict[str, dict[str, list[float]]]] = {}
        bar = tqdm(protocols if self.resamples else (), "intervals", disable=not self.progress, leave=False)
        for p in bar:
            values = found.values[p.name]
            queries = bootstrap(values, found.labels, p.average, "queries", self.resamples, seed=self.seed)
            over = bootstrap(values, found.labels, p.average, "classes", self.resamples, seed=self.seed)
            out[p.name] = {m: {"queries": list(queries[m]), "classes": list(over[m])} for m in values}
        return out


def _chance(gallery: Labels, found: PerQuery, protocols: Sequence[Protocol]) -> dict[str, float]:
    """Return by protocol the exact mAP@all of a random order of the gallery (by the exact AP)."""
    counts = np.bincount(gallery, minlength=int(found.labels.max()) + 1)
    level = {int(c): functions.chance(len(gallery), int(counts[c])) for c in np.unique(found.labels)}
    per_query = np.array([level[int(c)] for c in found.labels])
    by_class = float(np.mean(list(level.values())))
    return {p.name: by_class if p.average == "class" else float(per_query.mean()) for p in protocols}


def _half(*sides: Embeddings) -> list[str]:
    kinds = [side.vectors.dtype for side in sides if side.vectors.dtype in (torch.float16, torch.bfloat16)]
    return [f"the embeddings are stored in {str(kinds[0]).removeprefix('torch.')}"] if kinds else []
