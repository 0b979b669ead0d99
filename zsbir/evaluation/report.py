"""A report to read: Markdown, and one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING

from zsbir.evaluation import plots
from zsbir.evaluation.details import TopPhotos
from zsbir.evaluation.pictures import top_k_picture
from zsbir.evaluation.result import Report, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1150px; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { border: 1px solid #ccc; padding: .25rem .6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
.notes { background: #fff6d6; border-left: 4px solid #e0b000; padding: .5rem 1rem; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
footer { color: #666; margin-top: 2rem; font-size: 13px; }
"""

_FRAMES = "<p>Green frames are right, red ones wrong; under each photo stands its score.</p>"


def markdown(report: Report) -> str:
    """Return the report as Markdown: results side by side, intervals, notes, definitions, classes."""
    parts = [
        "# zsbir evaluation",
        _summary(report),
        *(["## Notes\n\n" + "\n".join(f"- {note}" for note in report.notes)] if report.notes else []),
        "## Results\n\n" + report.table(),
    ]
    for name, results in report.groups.items():
        parts.append(f"### {name}\n\n{table(results)}")
    if report.intervals:
        parts.append("## 95 % bootstrap intervals\n\n" + _grid(*_interval_rows(report)))
    parts.append("## Definitions\n\n" + "\n".join(_definitions(report)))
    parts.append("## Classes\n\n" + _grid(*_class_rows(report)))
    return "\n\n".join(parts) + "\n"


def html_page(
    report: Report,
    open_sketch: Callable[[str], Image.Image] | None = None,
    open_photo: Callable[[str], Image.Image] | None = None,
    figures: Mapping[str, Figure] | None = None,
) -> str:
    """Return the report as one HTML page that needs no other file and no network.

    Args:
        report: What to show.
        open_sketch: Opens a sketch by the path its embeddings have; None: the page has no images of results.
        open_photo: Likewise for photos; None: the same function.
        figures: Further figures by heading.

    Raises:
        ZsbirError: If matplotlib is missing.
    """
    body = [f"<h1>zsbir evaluation</h1><p>{escape(_summary(report))}</p>"]
    if report.notes:
        body.append('<div class="notes"><ul>' + "".join(f"<li>{escape(n)}</li>" for n in report.notes) + "</ul></div>")
    body.append("<h2>Results</h2>" + _html_results(report.results))
    body += [f"<h3>{escape(name)}</h3>{_html_results(results)}" for name, results in report.groups.items()]
    if report.intervals:
        body.append("<h2>95 % bootstrap intervals</h2>" + _html_table(*_interval_rows(report)))
    body.append(_shown(report, open_sketch, open_photo))
    for heading, figure in (figures or {}).items():
        name = escape(heading)
        body.append(f'<h2>{name}</h2><img alt="{name}" src="{plots.figure_uri(figure)}">')
    body.append('<h2>Plots</h2><div class="plots">' + "".join(_plots(report)) + "</div>")
    body.append("<h2>Classes</h2>" + _html_table(*_class_rows(report)))
    definitions = "".join(f"<li>{escape(line[2:])}</li>" for line in _definitions(report))
    body.append(f"<h2>Definitions</h2><ul>{definitions}</ul>")
    body.append("<footer>Written by zsbir.</footer>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>zsbir evaluation</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _summary(report: Report) -> str:
    c = report.counts
    level = ", ".join(f"{value:.4f} ({name})" for name, value in report.chance.items())
    gap = "" if report.domain_gap is None else f" {report.domain_gap.describe().capitalize()}."
    what = "acc@1" if report.setting == "fine-grained" else "mAP@all"
    return (
        f"Setting: {report.setting}. {c['evaluated']} of {c['queries']} sketches against {c['gallery']} photos, "
        f"{c['classes']} classes. Matcher: {report.matcher}. {what} of a random order: {level}.{gap}"
    )


def _definitions(report: Report) -> list[str]:
    lines = [f"- {p.name}: {p.describe()}. Used by: {p.used_by}." for p in report.protocols]
    others = "R@k, MRR and nDCG are the same under every protocol but for the mean; values are in [0, 1]."
    return [*lines, f"- {others}"]


def _interval_rows(report: Report) -> tuple[list[str], list[list[str]]]:
    rows = []
    for protocol, metrics in report.intervals.items():
        for metric, found in metrics.items():
            cells = [f"{found[side][0]:.4f} to {found[side][1]:.4f}" for side in ("queries", "classes")]
            rows.append([protocol, metric, f"{report.results[protocol][metric]:.4f}", *cells])
    return ["protocol", "metric", "value", "over queries", "over classes"], rows


def _class_rows(report: Report) -> tuple[list[str], list[list[str]]]:
    first = report.protocols[0].name
    classes = report.per_class[first]
    names = list(next(iter(classes.values())))
    lead = names[0]
    ordered = sorted(classes.items(), key=lambda item: -item[1][lead])
    rows = [[name, *(f"{values[metric]:.4f}" for metric in names)] for name, values in ordered]
    return [f"class ({first})", *names], rows


def _grid(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _html_table(head: list[str], rows: Iterable[list[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _html_results(results: dict[str, dict[str, float]]) -> str:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(results).splitlines()]
    return _html_table(rows[0], rows[2:])


def _shown(
    report: Report,
    open_sketch: Callable[[str], Image.Image] | None,
    open_photo: Callable[[str], Image.Image] | None,
) -> str:
    if not report.top:
        return ""
    groups: dict[str, list[TopPhotos]] = {}
    for row in report.top:
        groups.setdefault("asked for" if row.note in ("chosen", "random") else "best, median and worst", []).append(row)
    parts = [f"<h2>First photos of the queries</h2>{'' if open_sketch is None else _FRAMES}"]
    for name, rows in groups.items():
        parts.append(f"<h3>{name.capitalize()}</h3>")
        if open_sketch is None:
            cells = [
                [t.label, t.note, "" if t.ap is None else f"{t.ap:.3f}", f"{sum(t.correct)} of {len(t.correct)}"]
                for t in rows
            ]
            parts.append(_html_table(["sketch of", "", "AP", "right among the first"], cells))
        else:
            picture = top_k_picture(rows, open_sketch, open_photo)
            parts.append(f'<img alt="{name}" src="{plots.image_uri(picture)}">')
    return "".join(parts)


def _plots(report: Report) -> Iterable[str]:
    figures = {"per class": plots.class_bars(report)}
    if report.curve["recall"]:
        figures["precision-recall"] = plots.curve(report)
    if report.histogram:
        figures["scores"] = plots.histogram(report)
    if report.confusion.size:
        figures["confusion"] = plots.confusion(report)
    for name, figure in figures.items():
        yield f'<img alt="{name}" src="{plots.figure_uri(figure)}">'
