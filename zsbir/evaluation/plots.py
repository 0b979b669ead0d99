"""The plots of a report: each a size and a function that draws on matplotlib axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from zsbir.errors import needing
from zsbir.files import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Plot(NamedTuple):
    """A plot of `width` x `height` inches."""

    width: float
    height: float
    draw: Callable[[Axes], None]


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of `width` x `height` inches that opens no window.

    Raises:
        ZsbirError: If matplotlib is not installed.
    """
    with needing("a plot", "zsbir[report]"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def drawn(plots: Sequence[Plot]) -> Figure:
    """Return a figure of all plots, two in a row."""
    columns = min(2, len(plots))
    rows = math.ceil(len(plots) / columns)
    figure = new_figure(columns * max(p.width for p in plots), rows * max(p.height for p in plots))
    for place, plot in enumerate(plots, start=1):
        plot.draw(figure.add_subplot(rows, columns, place))
    return figure


def curve(recall: Sequence[float], precision: Sequence[float], axes: Axes) -> None:
    """Draw precision over recall, interpolated, mean over queries."""
    axes.plot(recall, precision, marker="o", markersize=3)
    axes.set(xlabel="recall", ylabel="precision (interpolated)", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)


def class_bars(values: Mapping[str, float], mean: float, label: str, axes: Axes) -> None:
    """Draw one metric of each class, best first."""
    ordered = sorted(values, key=lambda name: -values[name])
    axes.barh(range(len(ordered)), [values[name] for name in ordered], color="#4c78a8")
    axes.set_yticks(range(len(ordered)), ordered, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel=label, xlim=(0, 1))
    axes.axvline(mean, color="black", linewidth=1, linestyle="--")


def confusion(share: npt.NDArray[np.float64], classes: Sequence[str], axes: Axes) -> None:
    """Draw which classes the first photos of each class are of; rows and columns without any are left out."""
    rows, columns = (np.flatnonzero(share.any(axis=axis)).tolist() for axis in (1, 0))
    image = axes.imshow(share[np.ix_(rows, columns)], vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(columns)), [classes[i] for i in columns], rotation=90, fontsize=7)
    axes.set_yticks(range(len(rows)), [classes[i] for i in rows], fontsize=7)
    axes.set(xlabel="class of the first 10 photos", ylabel="class of the sketch")
    axes.get_figure().colorbar(image, ax=axes, label="share")  # type: ignore[union-attr]


def histogram(data: Mapping[str, Any], axes: Axes) -> None:
    """Draw how the scores of relevant and irrelevant pairs are distributed."""
    for kind, colour in (("relevant", "#1a9641"), ("irrelevant", "#d73027")):
        axes.stairs(data[kind], data["edges"], fill=True, alpha=0.5, color=colour, label=kind)
    axes.set(xlabel="score", ylabel="share of the pairs")
    axes.legend()


def save_figure(figure: Figure, file: Path) -> None:
    """Write a figure in the format that the file's name ends in.

    Raises:
        ZsbirError: If it cannot be written there, or in that format.
    """
    with writing("picture", file):
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file)
