"""The plots of a report: each a size and a function that draws on matplotlib axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from zsbir.errors import ZsbirError

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
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ZsbirError('plots need matplotlib: pip install "zsbir[report]", or ask for no HTML') from None
    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def drawn(plots: Sequence[Plot]) -> Figure:
    """Return a figure of all plots, two in a row."""
    columns = min(2, len(plots))
    rows = math.ceil(len(plots) / columns)
    figure = new_figure(columns * max(p.width for p in plots), rows * max(p.height for p in plots))
    for place, plot in enumerate(plots, start=1):
        plot.draw(figure.add_subplot(rows, columns, place))
    return figure


def curve(recall: Sequence[float], precision: Sequence[float]) -> Plot:
    """Precision over recall, interpolated, mean over queries."""

    def draw(axes: Axes) -> None:
        axes.plot(recall, precision, marker="o", markersize=3)
        axes.set(xlabel="recall", ylabel="precision (interpolated)", xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)

    return Plot(5, 3.6, draw)


def class_bars(values: Mapping[str, float], mean: float, label: str) -> Plot:
    """One metric of each class, best first."""
    ordered = sorted(values, key=lambda name: -values[name])

    def draw(axes: Axes) -> None:
        axes.barh(range(len(ordered)), [values[name] for name in ordered], color="#4c78a8")
        axes.set_yticks(range(len(ordered)), ordered, fontsize=8)
        axes.invert_yaxis()
        axes.set(xlabel=label, xlim=(0, 1))
        axes.axvline(mean, color="black", linewidth=1, linestyle="--")

    return Plot(7, 1 + 0.2 * len(ordered), draw)


def confusion(share: npt.NDArray[np.float64], classes: Sequence[str]) -> Plot:
    """Which classes the first photos of each class are of."""
    rows, columns = np.flatnonzero(share.any(axis=1)).tolist(), np.flatnonzero(share.any(axis=0)).tolist()
    side = 2.5 + 0.17 * max(len(rows), len(columns))

    def draw(axes: Axes) -> None:
        image = axes.imshow(share[np.ix_(rows, columns)], vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axes.set_xticks(range(len(columns)), [classes[i] for i in columns], rotation=90, fontsize=7)
        axes.set_yticks(range(len(rows)), [classes[i] for i in rows], fontsize=7)
        axes.set(xlabel="class of the first 10 photos", ylabel="class of the sketch")
        axes.get_figure().colorbar(image, ax=axes, label="share")  # type: ignore[union-attr]

    return Plot(side + 1, side, draw)


def histogram(data: Mapping[str, Any]) -> Plot:
    """How the scores of relevant and irrelevant pairs are distributed."""

    def draw(axes: Axes) -> None:
        for kind, colour in (("relevant", "#1a9641"), ("irrelevant", "#d73027")):
            axes.stairs(data[kind], data["edges"], fill=True, alpha=0.5, color=colour, label=kind)
        axes.set(xlabel="score", ylabel="share of the pairs")
        axes.legend()

    return Plot(5, 3.6, draw)


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
