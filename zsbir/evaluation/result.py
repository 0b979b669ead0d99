"""The report: numbers, each with its definition, and how to keep and read them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zsbir.errors import ZsbirError
from zsbir.evaluation.details import TopPhotos
from zsbir.evaluation.domain_gap import DomainGap
from zsbir.evaluation.measure import PerQuery
from zsbir.evaluation.protocols import Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

SCHEMA = "zsbir-report-1"


@dataclass(frozen=True, eq=False)
class Report:
    """What an evaluation found.

    Attributes:
        protocols: Their definitions, in the order asked for.
        results: ``{protocol: {metric: value in [0, 1]}}``.
        intervals: ``{protocol: {metric: {"queries": [low, high], "classes": [low, high]}}}``, 95 % bootstrap.
        per_class: ``{protocol: {class: {metric: value}}}``.
        counts: queries, evaluated, excluded, gallery, classes.
        chance: ``{protocol: mAP@all of a random order}``.
        matcher: The matcher in a line.
        setting: ``"zero-shot"``, ``"generalised"``, ...
        notes: What a reader must know: overlaps, subsampling, transductive matchers, queries left out.
        classes: The class names.
        curve: ``{"recall": [...], "precision": [...]}``, interpolated, mean over queries.
        confusion: (C, C) share of each class among the first photos of each class.
        histogram: Distribution of relevant and irrelevant scores.
        top: The first photos of the best, median and worst queries, and of those asked for.
        per_query: The metrics of each query.
        query_paths: Files of the evaluated queries; empty if not known.
        meta: Where both sides come from.
        domain_gap: How far apart the embeddings of sketches and photos are; None where it was not measured.
        groups: Further results by name, such as ``{"seen": {protocol: {metric: value}}}`` of the generalised setting.
    """

    protocols: tuple[Protocol, ...]
    results: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, dict[str, list[float]]]]
    per_class: dict[str, dict[str, dict[str, float]]]
    counts: dict[str, int]
    chance: dict[str, float]
    matcher: str
    setting: str
    notes: tuple[str, ...]
    classes: tuple[str, ...]
    curve: dict[str, list[float]]
    confusion: npt.NDArray[np.float64]
    histogram: dict[str, Any]
    top: tuple[TopPhotos, ...]
    per_query: PerQuery
    query_paths: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    domain_gap: DomainGap | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the per-query values as JSON values; the schema is in ``docs/report-schema.md``."""
        return {
            "schema": SCHEMA,
            "setting": self.setting,
            "matcher": self.matcher,
            "protocols": {p.name: {**p.to_dict(), "definition": p.describe()} for p in self.protocols},
            "results": self.results,
            "groups": self.groups,
            "intervals": self.intervals,
            "chance": self.chance,
            "counts": self.counts,
            "notes": list(self.notes),
            "per_class": self.per_class,
            "classes": list(self.classes),
            "curve": self.curve,
            "confusion": np.round(self.confusion, 6).tolist(),
            "histogram": self.histogram,
            "domain_gap": None if self.domain_gap is None else self.domain_gap.to_dict(),
            "top": [shown.to_dict() for shown in self.top],
            "meta": self.meta,
        }

    def table(self) -> str:
        """Return the results of all protocols side by side, as a Markdown table."""
        return table(self.results)

    def save(
        self,
        folder: str | Path,
        html: bool = True,
        open_sketch: Callable[[str], Image.Image] | None = None,
        open_photo: Callable[[str], Image.Image] | None = None,
        figures: Mapping[str, Figure] | None = None,
    ) -> Path:
        """Write ``report.json``, ``report.md``, ``per_query.safetensors`` (+ ``.json``) and ``report.html``.

        Args:
            folder: Made if need be.
            html: Whether to write the HTML page, which needs matplotlib (``pip install "zsbir[report]"``).
            open_sketch: Opens a sketch by the path that the embeddings have; None: the page has no images.
            open_photo: Likewise for photos; None: the same function.
            figures: Further figures for the page by heading, such as a map of the embeddings.

        Returns:
            The folder.

        Raises:
            ZsbirError: If matplotlib is missing and `html` is set, or the folder cannot be written.
        """
        target = Path(folder)
        try:
            self._write(target, html, open_sketch, open_photo, figures)
        except OSError as error:
            raise ZsbirError(f"the report cannot be written to {target}: {error.strerror or error}") from error
        return target

    def _write(
        self,
        target: Path,
        html: bool,
        open_sketch: Callable[[str], Image.Image] | None,
        open_photo: Callable[[str], Image.Image] | None,
        figures: Mapping[str, Figure] | None,
    ) -> None:
        from zsbir.evaluation.per_query import save_per_query
        from zsbir.evaluation.report import html_page, markdown

        target.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        (target / "report.json").write_text(text + "\n", encoding="utf-8")
        (target / "report.md").write_text(markdown(self), encoding="utf-8")
        save_per_query(self, target)
        if html:
            (target / "report.html").write_text(html_page(self, open_sketch, open_photo, figures), encoding="utf-8")


def table(results: dict[str, dict[str, float]], names: Sequence[str] | None = None) -> str:
    """Return results by protocol as a Markdown table; a metric that a protocol does not define is a dash.

    >>> print(table({"sbka": {"mAP@all": 0.5, "P@100": 0.25}, "puxim": {"mAP@all": 0.75}}))
    | metric | sbka | puxim |
    |---|---|---|
    | mAP@all | 0.5000 | 0.7500 |
    | P@100 | 0.2500 | – |
    """
    columns = list(results) if names is None else list(names)
    rows = list(dict.fromkeys(metric for name in columns for metric in results[name]))
    lines = ["| metric | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for metric in rows:
        cells = [f"{results[name][metric]:.4f}" if metric in results[name] else "–" for name in columns]
        lines.append(f"| {metric} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
