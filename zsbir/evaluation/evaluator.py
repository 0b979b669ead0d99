"""The evaluator: embeddings in, a report out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from zsbir.arguments import Count, Natural, checked
from zsbir.errors import ZsbirError
from zsbir.evaluation.domain_gap import domain_gap
from zsbir.evaluation.inputs import check_embeddings
from zsbir.evaluation.measure import PerQuery, Protocols, Request, averages, measure
from zsbir.evaluation.metrics import LEVELS, chance
from zsbir.evaluation.overview import Overview
from zsbir.evaluation.protocols import Protocol
from zsbir.evaluation.report import Report
from zsbir.evaluation.scoring import fitted_scores
from zsbir.evaluation.shown import Chosen, best_median_worst, draw_queries, find_queries
from zsbir.evaluation.statistics import OVER, bootstrap
from zsbir.matchers import MATCHERS
from zsbir.matchers.base import Matcher
from zsbir.types import Embeddings, Labels

ORACLE = "oracle: chosen on the test labels"
"""What a report says of the best cell of a sweep."""


@checked("evaluator")
class Evaluator:
    """Evaluates embeddings under one or several protocols.

    Args:
        protocol: Name, record, or a list of them; pictures and tables by class show the first.
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
        top: Count = 10,
        seed: Natural = 0,
        random: Natural = 0,
        queries: Sequence[str] = (),
        progress: bool = False,
    ) -> None:
        self.request = Request(protocol, ks, metrics, LEVELS)
        self.matcher: Matcher = MATCHERS.build(matcher)
        self.resamples, self.seed, self.progress = resamples, seed, progress
        self.examples, self.random, self.queries, self.top = examples, random, tuple(queries), top

    def like(self, matcher: str | Mapping[str, Any] | Matcher, show: bool = True) -> Evaluator:
        """Return the same evaluator with another matcher; it shows no queries if `show` is not set."""
        other = copy.copy(self)
        other.matcher = MATCHERS.build(matcher)
        if not show:
            other.examples, other.random, other.queries = 0, 0, ()
        return other

    def evaluate(
        self, queries: Embeddings, gallery: Embeddings, notes: Sequence[str] = (), setting: str = "zero-shot"
    ) -> Report:
        """Evaluate sketches against photos; the scores of each sketch are computed once.

        Labels are matched by class name where the two lists of classes differ. The work is done on the gallery's
        device. For a matcher that stands for several (a published sweep), the report is of the best one and says that
        it was chosen on the test labels.

        Args:
            queries: The sketches.
            gallery: The photos.
            notes: Further notes for the report, such as a dataset's.
            setting: Name of the setting, see `zsbir.evaluation.settings`.

        Returns:
            The report.

        Raises:
            ZsbirError: For an empty side, widths that differ, NaN or infinite values (with their files), unknown
                labels, photos of one class only, or no query with a relevant photo.
        """
        left, right = check_embeddings(queries, gallery)
        if (right.labels == right.labels[0]).all():
            raise ZsbirError("all photos are of one class, so every ranking is perfect: evaluate at least two classes")
        protocols = self.request.protocols
        tried = [(matcher, *self.measure(matcher, left, right)) for matcher in self.matcher.variants()]
        means = {matcher.describe(): averages(found, protocols) for matcher, found, _ in tried}
        best, said = 0, []
        if len(tried) > 1:
            first = protocols[0].name
            metric = next(iter(next(iter(means.values()))[first]))
            values = [results[first][metric] for results in means.values()]
            best = int(np.argmax(values))
            said = [f"{ORACLE}: the best {metric} ({first}) of {len(means)} matchers; from {min(values):.4f}"]
        matcher, found, overview = tried[best]
        if matcher.transductive:
            said.append("transductive: the matcher is fitted on the gallery")
        half = [str(x.vectors.dtype)[6:] for x in (queries, gallery) if x.vectors.dtype in (torch.half, torch.bfloat16)]
        said += [f"the embeddings are stored in {kind}" for kind in half[:1]]
        assert found.curve is not None
        return replace(
            self.report(found, protocols, left, right, [*notes, *said]),
            setting=setting,
            matcher=matcher.describe(),
            chance=_chance(right.labels, found, protocols),
            curve={"recall": list(self.request.levels), "precision": found.curve.mean(axis=0).tolist()},
            confusion=overview.confusion(),
            histogram=overview.histogram(),
            top=overview.top_photos(self.choose(found, left)),
            groups=means if len(tried) > 1 else {},
        )

    def measure(
        self,
        matcher: Matcher,
        queries: Embeddings,
        gallery: Embeddings,
        request: Request | None = None,
        labels: tuple[Labels, Labels] | None = None,
    ) -> tuple[PerQuery, Overview]:
        """Return the metrics of each query and what else the scores show; `labels` say what is relevant to what."""
        overview = Overview(queries, gallery, self.top, self.seed)
        scores = fitted_scores(matcher, queries, gallery)
        # Vectors stay where the gallery is: queries go there chunk by chunk.
        found = measure(
            scores, *(labels or (queries.labels, gallery.labels)), request or self.request, gallery.vectors, overview,
            share=True, progress=self.progress,
        )  # fmt: skip
        return found, overview

    def choose(self, found: PerQuery, queries: Embeddings) -> list[Chosen]:
        """Return which queries to show, none twice: by the first metric of the first protocol, by name, by chance.

        Raises:
            ZsbirError: If a file that is asked for is none of the queries.
        """
        values = next(iter(next(iter(found.values.values())).values()))
        chosen = best_median_worst(values, found.query, self.examples) if self.examples else []
        known = dict(zip(found.query.tolist(), values.tolist(), strict=True))
        taken = [query for query, _, _ in chosen]
        named = [query for query in dict.fromkeys(find_queries(queries.paths, self.queries)) if query not in taken]
        drawn = draw_queries(len(queries), self.random, self.seed, {*taken, *named})
        notes = dict.fromkeys(named, "chosen") | dict.fromkeys(drawn, "random")
        return [*chosen, *((query, note, known.get(query)) for query, note in notes.items())]

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
            matcher=self.matcher.describe(),
            notes=(*notes, *found.notes),
            classes=queries.classes,
            per_query=found,
            query_paths=tuple(queries.paths[int(i)] for i in found.query) if len(queries.paths) else (),
            meta={"queries": queries.meta, "gallery": gallery.meta},
            domain_gap=domain_gap(queries.vectors, gallery.vectors, self.seed),
        )

    def _intervals(
        self, found: PerQuery, protocols: Sequence[Protocol]
    ) -> dict[str, dict[str, dict[str, list[float]]]]:
        """Return the 95 % bootstrap intervals of all means, over queries and over classes; none for 0 resamples."""
        out: dict[str, dict[str, dict[str, list[float]]]] = {}
        bar = tqdm(protocols if self.resamples else (), "intervals", disable=not self.progress, leave=False)
        for p in bar:
            values = found.values[p.name]
            drawn = {o: bootstrap(values, found.labels, p.average, o, self.resamples, seed=self.seed) for o in OVER}
            out[p.name] = {metric: {over: list(drawn[over][metric]) for over in OVER} for metric in values}
        return out


def _chance(gallery: Labels, found: PerQuery, protocols: Sequence[Protocol]) -> dict[str, float]:
    """Return by protocol the exact mAP@all of a random order of the gallery (by the exact AP)."""
    classes, inverse = np.unique(found.labels, return_inverse=True)
    level = np.array([chance(len(gallery), int((gallery == c).sum())) for c in classes])
    return {p.name: float((level if p.average == "class" else level[inverse]).mean()) for p in protocols}
