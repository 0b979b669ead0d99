"""The plots of a report, as PNG for the self-contained page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zsbir.errors import ZsbirError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from zsbir.evaluation.result import Report


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of `width` x `height` inches that opens no window.

    Raises:
        ZsbirError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ZsbirError('report.html needs matplotlib: pip install "zsbir[report]", or ask for no HTML') from None
    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def curve(report: Report) -> Figure:
    """Precision over recall, interpolated, mean over queries."""
    figure = new_figure(5, 3.6)
    axes = figure.add_subplot()
    axes.plot(report.curve["recall"], report.curve["precision"], marker="o", markersize=3)
    axes.set(xlabel="recall", ylabel="precision (interpolated)", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    return figure


def class_bars(report: Report) -> Figure:
    """The first protocol's AP (or acc@1) of each class, best first."""
    protocol = report.protocols[0].name
    classes = report.per_class[protocol]
    metric = next(iter(report.results[protocol]))
    ordered = sorted(classes, key=lambda name: -classes[name][metric])
    figure = new_figure(7, 1 + 0.2 * len(ordered))
    axes = figure.add_subplot()
    axes.barh(range(len(ordered)), [classes[name][metric] for name in ordered], color="#4c78a8")
    axes.set_yticks(range(len(ordered)), ordered, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel=f"{metric} ({protocol})", xlim=(0, 1))
    axes.axvline(report.results[protocol][metric], color="black", linewidth=1, linestyle="--")
    return figure


def confusion(report: Report) -> Figure:
    """Which classes the first photos of each class are of."""
    rows = np.flatnonzero(report.confusion.any(axis=1))
    columns = np.flatnonzero(report.confusion.any(axis=0))
    side = 2.5 + 0.17 * max(len(rows), len(columns))
    figure = new_figure(side + 1, side)
    axes = figure.add_subplot()
    image = axes.imshow(report.confusion[np.ix_(rows, columns)], vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(columns)), [report.classes[i] for i in columns], rotation=90, fontsize=7)
    axes.set_yticks(range(len(rows)), [report.classes[i] for i in rows], fontsize=7)
    axes.set(xlabel="class of the first 10 photos", ylabel="class of the sketch")
    figure.colorbar(image, ax=axes, label="share")
    return figure


def histogram(report: Report) -> Figure:
    """How the scores of relevant and irrelevant pairs are distributed."""
    data: dict[str, Any] = report.histogram
    figure = new_figure(5, 3.6)
    axes = figure.add_subplot()
    for kind, colour in (("relevant", "#1a9641"), ("irrelevant", "#d73027")):
        axes.stairs(data[kind], data["edges"], fill=True, alpha=0.5, color=colour, label=kind)
    axes.set(xlabel="score", ylabel="share of the pairs")
    axes.legend()
    return figure


def save_figure(figure: Figure, file: Path) -> None:
    """Write a figure in the format that the file's name ends in.

    Raises:
        ZsbirError: If it cannot be written there, or in that format.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ZsbirError(f"the picture {file} cannot be written: {reason}") from None


def figure_uri(figure: Figure) -> str:
    """Return a figure as a ``data:`` address."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return _uri(buffer.getvalue(), "png")


def image_uri(image: Image.Image) -> str:
    """Return a picture as a ``data:`` address (JPEG)."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=85)
    return _uri(buffer.getvalue(), "jpeg")


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
