"""The report: numbers, each with its definition, and how to keep, read and show them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from zsbir.evaluation import plots
from zsbir.evaluation.comparison import save_per_query
from zsbir.evaluation.domain_gap import DomainGap
from zsbir.evaluation.measure import PerQuery, Results
from zsbir.evaluation.overview import TopPhotos
from zsbir.evaluation.pictures import Opener, as_address, thumbnail
from zsbir.evaluation.protocols import Protocol
from zsbir.evaluation.statistics import OVER
from zsbir.files import writing

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.figure import Figure

SCHEMA = "zsbir-report-1"


class Grid(NamedTuple):
    """A table of text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return it as a Markdown table."""
        lines = ["| " + " | ".join(row) + " |" for row in (self.head, *self.rows)]
        lines.insert(1, "|---" * len(self.head) + "|")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """What an evaluation found.

    Attributes:
        protocols: Their definitions, in the order asked for.
        results: ``{protocol: {metric: value in [0, 1]}}``.
        intervals: ``{protocol: {metric: {"queries": [low, high], "classes": [low, high]}}}``, 95 % bootstrap.
        per_class: ``{protocol: {class: {metric: value}}}``.
        counts: queries, evaluated, excluded, gallery, classes.
        matcher: The matcher in a line.
        notes: What a reader must know: overlaps, subsampling, transductive matchers, queries left out.
        classes: The class names.
        per_query: The metrics of each query.
        setting: ``"zero-shot"``, ``"generalised"``, ...
        chance: ``{protocol: mAP@all of a random order}``.
        curve: ``{"recall": [...], "precision": [...]}``, interpolated, mean over queries.
        confusion: (C, C) share of each class among the first photos of each class.
        histogram: Distribution of relevant and irrelevant scores.
        top: The first photos of the best, median and worst queries, and of those asked for.
        query_paths: Files of the evaluated queries; empty if not known.
        meta: Where both sides come from.
        groups: Further results by name, such as ``{"seen": {protocol: {metric: value}}}`` of the generalised setting.
        domain_gap: How far apart the embeddings of sketches and photos are; None where it was not measured.
        baseline: Results of the same backbone without training, if they are known.
    """

    protocols: tuple[Protocol, ...]
    results: Results
    intervals: dict[str, dict[str, dict[str, list[float]]]]
    per_class: dict[str, dict[str, dict[str, float]]]
    counts: dict[str, int]
    matcher: str
    notes: tuple[str, ...]
    classes: tuple[str, ...]
    per_query: PerQuery
    setting: str = "zero-shot"
    chance: dict[str, float] = field(default_factory=dict)
    curve: dict[str, list[float]] = field(default_factory=dict)
    confusion: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    histogram: dict[str, Any] = field(default_factory=dict)
    top: tuple[TopPhotos, ...] = ()
    query_paths: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, Results] = field(default_factory=dict)
    domain_gap: DomainGap | None = None
    baseline: Results = field(default_factory=dict)

    def __repr__(self) -> str:
        protocol, metric = self._lead()
        c = self.counts
        return (
            f"<Report {metric} {self.results[protocol][metric]:.4f} ({protocol}), {self.setting}, {c['evaluated']} "
            f"sketches against {c['gallery']} photos, {c['classes']} classes>"
        )

    def _repr_html_(self) -> str:
        return _template("cell.html").render(report=self, grid=results_grid)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the per-query values as JSON values; the schema is in ``docs/report-schema.md``."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        del values["per_query"], values["query_paths"]
        return {"schema": SCHEMA} | values | {
            "protocols": {p.name: {**asdict(p), "definition": p.describe()} for p in self.protocols},
            "notes": list(self.notes),
            "classes": list(self.classes),
            "confusion": np.round(self.confusion, 6).tolist(),
            "domain_gap": self.domain_gap and asdict(self.domain_gap),
            "top": list(map(asdict, self.top)),
        }  # fmt: skip

    def table(self) -> str:
        """Return the results of all protocols side by side, as a Markdown table."""
        return results_grid(self.results).markdown()

    def plot(self) -> Figure:
        """Return a matplotlib figure of all plots: classes, precision over recall, scores and confusion.

        Raises:
            ZsbirError: If matplotlib is missing.
        """
        return plots.drawn(list(self._plots().values()))

    def save(
        self,
        folder: str | Path,
        html: bool = True,
        open_sketch: Opener | None = None,
        open_photo: Opener | None = None,
        figures: Mapping[str, Figure] | None = None,
        title: str = "zsbir evaluation",
    ) -> Path:
        """Write ``report.json``, ``report.md``, ``per_query.safetensors`` (+ ``.json``) and ``report.html``.

        Args:
            folder: Made if need be.
            html: Whether to write the HTML page, which needs matplotlib (``pip install "zsbir[report]"``).
            open_sketch: Opens a sketch by the path that the embeddings have; None: the page has no images.
            open_photo: Likewise for photos; None: the same function.
            figures: Further figures for the page by heading, such as a map of the embeddings.
            title: Heading of page and Markdown, such as the run's name.

        Returns:
            The folder.

        Raises:
            ZsbirError: If matplotlib is missing and `html` is set, or the folder cannot be written.
        """
        target = Path(folder)
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        files = {"report.json": text, "report.md": self.markdown(title)}
        if html:
            files["report.html"] = self.html(open_sketch, open_photo, figures, title)
        averages = {p.name: p.average for p in self.protocols}
        about = {"classes": self.classes, "paths": self.query_paths, "averages": averages, "setting": self.setting}
        with writing("report", target):
            target.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                (target / name).write_text(content, encoding="utf-8")
            save_per_query(self.per_query, target, **about)
        return target

    def html(
        self,
        open_sketch: Opener | None = None,
        open_photo: Opener | None = None,
        figures: Mapping[str, Figure] | None = None,
        title: str = "zsbir evaluation",
    ) -> str:
        """Return the report as one HTML page that needs no other file and no network; arguments as in `save`."""
        shown: dict[str, list[TopPhotos]] = {"Best, median and worst": [], "Asked for": []}
        for row in self.top:
            shown["Asked for" if row.note in ("chosen", "random") else "Best, median and worst"].append(row)
        return _template("report.html").render(
            report=self,
            grid=results_grid,
            figure=lambda figure: as_address(figure.savefig, "png"),
            title=title,
            shown=shown,
            pictures=open_sketch is not None,
            sketch=partial(thumbnail, open_sketch),
            photo=partial(thumbnail, open_photo or open_sketch),
            figures=dict(figures or {}),
            plots={name: plots.drawn([plot]) for name, plot in self._plots().items()},
        )

    def markdown(self, title: str = "zsbir evaluation") -> str:
        """Return the report as Markdown: results side by side, intervals, notes, definitions, classes."""
        parts = [f"# {title}", self.summary()]
        if self.notes:
            parts += ["## Notes", _listed(self.notes)]
        parts += ["## Results", self.table()]
        for name, results in self.groups.items():
            parts += [f"### {name}", results_grid(results).markdown()]
        if self.intervals:
            parts += ["## 95 % bootstrap intervals", self.interval_grid().markdown()]
        parts += ["## Definitions", _listed(self.definitions()), "## Classes", self.class_grid().markdown()]
        return "\n\n".join(parts) + "\n"

    def summary(self) -> str:
        """Return in a few sentences what was evaluated, and what its score is to be compared with."""
        c = self.counts
        gap = "" if self.domain_gap is None else f" {self.domain_gap.describe().capitalize()}."
        return (
            f"Setting: {self.setting}. {c['evaluated']} of {c['queries']} sketches against {c['gallery']} photos, "
            f"{c['classes']} classes. Matcher: {self.matcher}. {'. '.join(self.beside())}.{gap}"
        )

    def beside(self) -> list[str]:
        """Return for each protocol a line with what its first metric is to be compared with."""
        lines = []
        for name, values in self.results.items():
            metric, value = next(iter(values.items()))
            said = [f"{name}: {metric} {value:.4f}"]
            for side, (low, high) in self.intervals.get(name, {}).get(metric, {}).items():
                said.append(f"95 % interval over {side} {low:.4f} to {high:.4f}")
            if metric in self.baseline.get(name, {}):
                said.append(f"backbone without training {self.baseline[name][metric]:.4f}")
            if name in self.chance and metric in ("mAP@all", "acc@1"):
                said.append(f"random order {self.chance[name]:.4f}")
            lines.append("; ".join(said))
        return lines

    def definitions(self) -> list[str]:
        """Return the definition of each protocol, and of what they share, in a line each."""
        lines = [f"{p.name}: {p.describe()}. Used by: {p.used_by}." for p in self.protocols]
        return [*lines, "R@k, MRR and nDCG are the same under every protocol but for the mean; values are in [0, 1]."]

    def interval_grid(self) -> Grid:
        """Return each metric with its intervals."""
        rows = [
            [protocol, metric, f"{self.results[protocol][metric]:.4f}",
             *(f"{found[over][0]:.4f} to {found[over][1]:.4f}" for over in OVER)]
            for protocol, metrics in self.intervals.items()
            for metric, found in metrics.items()
        ]  # fmt: skip
        return Grid(["protocol", "metric", "value", "over queries", "over classes"], rows)

    def class_grid(self) -> Grid:
        """Return the metrics of each class under the first protocol, best first."""
        protocol, metric = self._lead()
        classes = sorted(self.per_class[protocol].items(), key=lambda item: -item[1][metric])
        rows = [[name, *(f"{value:.4f}" for value in values.values())] for name, values in classes]
        return Grid([f"class ({protocol})", *classes[0][1]], rows)

    def _lead(self) -> tuple[str, str]:
        """Return the protocol and the metric that the report goes by: the first of each."""
        protocol = self.protocols[0].name
        return protocol, next(iter(self.results[protocol]))

    def _plots(self) -> dict[str, plots.Plot]:
        protocol, metric = self._lead()
        values = {name: found[metric] for name, found in self.per_class[protocol].items()}
        bars = partial(plots.class_bars, values, self.results[protocol][metric], f"{metric} ({protocol})")
        found = {"per class": plots.Plot(7, 1 + 0.2 * len(values), bars)}
        if self.curve:
            found["precision-recall"] = plots.Plot(
                5, 3.6, partial(plots.curve, self.curve["recall"], self.curve["precision"])
            )
        if self.histogram:
            found["scores"] = plots.Plot(5, 3.6, partial(plots.histogram, self.histogram))
        if self.confusion.size:
            side = 2.5 + 0.17 * max(np.count_nonzero(self.confusion.any(axis=axis)) for axis in (0, 1))
            found["confusion"] = plots.Plot(side + 1, side, partial(plots.confusion, self.confusion, self.classes))
        return found


@cache
def _template(name: str) -> Template:
    """Return an HTML template, which escapes text."""
    from jinja2 import Environment, FileSystemLoader

    folder = FileSystemLoader(Path(__file__).parent / "templates")
    return Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(name)


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def results_grid(results: Mapping[str, Mapping[str, float | str]]) -> Grid:
    """Return values by protocol side by side; a metric that a protocol does not define is a dash.

    >>> print(results_grid({"sbka": {"mAP@all": 0.5, "P@100": 0.25}, "puxim": {"mAP@all": 0.75}}).markdown())
    | metric | sbka | puxim |
    |---|---|---|
    | mAP@all | 0.5000 | 0.7500 |
    | P@100 | 0.2500 | – |
    """
    metrics = dict.fromkeys(metric for values in results.values() for metric in values)
    found = [[values.get(metric, "–") for values in results.values()] for metric in metrics]
    text = [[value if isinstance(value, str) else f"{value:.4f}" for value in row] for row in found]
    return Grid(["metric", *results], [[metric, *row] for metric, row in zip(metrics, text, strict=True)])
