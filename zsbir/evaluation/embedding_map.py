"""A map of sketch and photo embeddings in the plane: the colour is the class, the marker the domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zsbir.arguments import Natural, Range, checked
from zsbir.errors import ZsbirError
from zsbir.evaluation.domain_gap import domain_gap
from zsbir.evaluation.plots import new_figure
from zsbir.registry import close_matches
from zsbir.types import Embeddings, Labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Layout = Literal["tsne", "pca"]
MOST_CLASSES = 20
"""More colours cannot be told apart."""


@checked("map")
@dataclass(frozen=True)
class MapSettings:
    """What a map shows, and how.

    Attributes:
        classes: How many classes, spread evenly over their list, or their names; at most 20.
        most: Embeddings shown of each domain, at least 3; more are subsampled.
        layout: ``"tsne"`` (scikit-learn) or ``"pca"``.
        cosine: Whether lengths are taken out first, as cosine matchers do.
        seed: Of the subsample and the layout.
    """

    classes: Annotated[int, Range(1, MOST_CLASSES)] | Sequence[str] = 10
    most: Annotated[int, Range(3)] = 400
    layout: Layout = "tsne"
    cosine: bool = True
    seed: Natural = 0

    def __post_init__(self) -> None:
        if not isinstance(self.classes, int) and not 1 <= len(self.classes) <= MOST_CLASSES:
            raise ZsbirError(
                f"a map shows 1 to {MOST_CLASSES} classes, whose colours can be told apart, not {len(self.classes)}"
            )

    def chosen_classes(self, names: Sequence[str]) -> list[int]:
        """Return the positions of the classes shown, in the order of `names`.

        Raises:
            ZsbirError: If a class is not among `names`.
        """
        if isinstance(self.classes, int):
            spread = np.linspace(0, len(names) - 1, min(self.classes, len(names)))
            return [round(place) for place in spread.tolist()]
        for name in self.classes:
            if name not in names:
                raise ZsbirError(f"there is no class {name!r} to map. {close_matches(name, list(names))}")
        return sorted(names.index(name) for name in self.classes)

    def chosen_rows(self, labels: Labels, names: Sequence[str]) -> Labels:
        """Return the positions of the embeddings shown, sorted."""
        rows = np.flatnonzero(np.isin(labels, self.chosen_classes(names)))
        return np.sort(np.random.default_rng(self.seed).permutation(rows)[: self.most]).astype(np.int64)


def embedding_map(panels: Sequence[tuple[str, Embeddings, Embeddings]], settings: MapSettings | None = None) -> Figure:
    """Draw maps side by side, such as before and after training.

    Args:
        panels: (title, sketches, photos) each, of the same classes.
        settings: Which of them are shown, and how.

    Returns:
        The matplotlib figure; crosses are sketches, dots are photos. Below each title stands how well a fresh linear
        classifier tells sketch from photo among the embeddings shown.

    Raises:
        ZsbirError: If a package is missing, a class is unknown, or there are fewer than 5 embeddings.
    """
    settings = settings or MapSettings()
    check_layout(settings.layout)
    figure = new_figure(5.2 * len(panels) + 1.9, 5.2)
    spots = figure.subplots(1, len(panels), squeeze=False)[0]
    names = panels[0][1].classes
    colours = dict(zip(settings.chosen_classes(names), _palette(), strict=False))
    for axes, (title, *sides) in zip(spots, panels, strict=True):
        shown = [side.take(settings.chosen_rows(side.labels, names)) for side in sides]
        places = lay_out(torch.cat([side.vectors.float().cpu() for side in shown]), settings)
        parts = np.split(places, [len(shown[0])])
        for side, place, (marker, size, width) in zip(shown, parts, (("x", 26, 1.3), ("o", 20, 0)), strict=True):
            each = [colours[label] for label in side.labels.tolist()]
            axes.scatter(*place.T, c=each, marker=marker, alpha=0.8, s=size, linewidths=width)
        gap = domain_gap(shown[0].vectors, shown[1].vectors, settings.seed)
        told = "" if gap is None else f"\nsketch told from photo: {gap.accuracy:.2f} (chance 0.50)"
        axes.set_title(f"{title}{told}", fontsize=10)
        axes.set(xticks=[], yticks=[])
    _legend(figure, {names[place]: colour for place, colour in colours.items()}, settings)
    return figure


def lay_out(vectors: Tensor, settings: MapSettings) -> npt.NDArray[np.float32]:
    """Return (n, 2) places in the plane of (n, D) vectors, by the settings' layout.

    t-SNE starts from the first two principal components, with the published perplexity of 30, less for few vectors.

    Raises:
        ZsbirError: If there are fewer than 5 vectors, or the layout's package is missing.
    """
    check_layout(settings.layout)
    n = len(vectors)
    if n < 5:
        raise ZsbirError(f"a map needs at least 5 embeddings; there are {n}")
    x = torch.nn.functional.normalize(vectors.float(), dim=1) if settings.cosine else vectors.float()
    x = x - x.mean(dim=0)
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    # The first 50 principal components hold what neighbours are made of.
    x = (u * s)[:, :50]
    start = torch.nn.functional.pad(x[:, :2], (0, max(0, 2 - x.shape[1])))
    start = start / start.std(dim=0).amax().clamp(min=1e-12)
    places: npt.NDArray[np.float32] = start.numpy().astype(np.float32)
    if settings.layout == "tsne":
        from sklearn.manifold import TSNE

        perplexity, first = min(30.0, (n - 1) / 3), 1e-4 * start.numpy()
        places = TSNE(perplexity=perplexity, init=first, random_state=settings.seed).fit_transform(x.numpy())
    return places


def check_layout(layout: str) -> None:
    """Raise ZsbirError if the layout's package is not installed."""
    from importlib.util import find_spec

    if layout == "tsne" and find_spec("sklearn") is None:
        raise ZsbirError(
            "a t-SNE map needs scikit-learn: run `pip install 'zsbir[report]'`, or choose the layout 'pca'"
        )


def _palette() -> list[Any]:
    from matplotlib import colormaps

    # The ten strong colours first, then their light companions.
    return [colormaps["tab20"](number) for number in (*range(0, MOST_CLASSES, 2), *range(1, MOST_CLASSES, 2))]


def _legend(figure: Figure, colours: Mapping[str, Any], settings: MapSettings) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color="black", marker="x", linestyle="", label="sketch"),
        Line2D([], [], color="black", marker="o", linestyle="", label="photo"),
        Line2D([], [], color="none", label=""),
    ]
    for name, colour in colours.items():
        short = name if len(name) <= 22 else f"{name[:20]}..."
        handles.append(Line2D([], [], color=colour, marker="s", linestyle="", label=short))
    title = {"tsne": "t-SNE", "pca": "PCA"}[settings.layout]
    figure.legend(handles=handles, loc="outside right upper", fontsize=9, frameon=False, title=title)
