"""A map of sketch and photo embeddings: t-SNE, coloured by class, marked by domain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from zsbir.errors import ZsbirError
from zsbir.evaluation.plots import new_figure
from zsbir.types import Embeddings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def tsne(vectors: Tensor, perplexity: float = 30.0, steps: int = 500, seed: int = 0) -> Tensor:
    """Lay out vectors in the plane by exact t-SNE (van der Maaten and Hinton, JMLR 9, 2008).

    Memory and time grow with n²: meant for a few thousand vectors.

    Args:
        vectors: (n, D) float, n at least 5.
        perplexity: Effective number of neighbours; lowered to (n − 1) / 3 for few vectors.
        steps: Gradient steps; the first quarter with exaggerated attraction.
        seed: Seed of the jitter on the start, which is the first two principal components.

    Returns:
        (n, 2) float32 on the CPU, centred.

    Raises:
        ZsbirError: If there are fewer than 5 vectors.
    """
    n = len(vectors)
    if n < 5:
        raise ZsbirError(f"a map needs at least 5 embeddings; there are {n}")
    x = vectors.detach().float()
    x = x - x.mean(dim=0)
    # The first 50 principal components hold what neighbours are made of, at a fraction of the distances' cost.
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    x = (u * s)[:, :50]
    joint = _joint_probabilities(torch.cdist(x, x).square(), min(perplexity, (n - 1) / 3))
    jitter = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed)).to(x.device)
    start = x[:, :2] if x.shape[1] > 1 else torch.cat([x, torch.zeros_like(x)], dim=1)
    y = 1e-4 * (start / start.std().clamp(min=1e-12) + 0.01 * jitter)
    speed, gain = torch.zeros_like(y), torch.ones_like(y)
    rate = max(50.0, n / 12 / 4)
    for step in range(steps):
        early = step < steps // 4
        gradient = _gradient(y, joint * 12 if early else joint)
        # Per-coordinate gains, as in the authors' code: larger while the direction stays.
        gain = torch.where((gradient > 0) == (speed > 0), gain * 0.8, gain + 0.2).clamp(min=0.01)
        speed = (0.5 if early else 0.8) * speed - rate * gain * gradient
        y = y + speed
        y = y - y.mean(dim=0)
    return y.cpu()


def _joint_probabilities(squared: Tensor, perplexity: float) -> Tensor:
    """Return the (n, n) symmetric neighbour probabilities; each row's bandwidth is found by bisection."""
    n = len(squared)
    self_ = torch.eye(n, dtype=torch.bool, device=squared.device)
    low, high = torch.zeros(n, 1, device=squared.device), torch.full((n, 1), math.inf, device=squared.device)
    mean = squared.sum(dim=1, keepdim=True) / (n - 1)
    precision = 1 / mean.clamp(min=1e-12)
    target = math.log(perplexity)
    nearest = squared.masked_fill(self_, math.inf).amin(dim=1, keepdim=True)
    rows = torch.zeros_like(squared)
    for _ in range(50):
        weight = torch.exp(-(squared - nearest) * precision).masked_fill(self_, 0.0)
        rows = weight / weight.sum(dim=1, keepdim=True)
        entropy = -(rows * rows.clamp(min=1e-12).log()).sum(dim=1, keepdim=True)
        wide = entropy > target
        low, high = torch.where(wide, precision, low), torch.where(wide, high, precision)
        precision = torch.where(high.isinf(), precision * 2, (low + high) / 2)
    return (rows + rows.T) / (2 * n)


def _gradient(y: Tensor, joint: Tensor) -> Tensor:
    kernel = 1 / (1 + torch.cdist(y, y, compute_mode="donot_use_mm_for_euclid_dist").square())
    kernel.fill_diagonal_(0)
    force = (joint - kernel / kernel.sum()) * kernel
    return 4 * (force.sum(dim=1, keepdim=True) * y - force @ y)


def embedding_map(
    panels: Sequence[tuple[str, Embeddings, Embeddings]], classes: int = 10, most: int = 400, seed: int = 0
) -> Figure:
    """Draw maps side by side, such as before and after training: colour is the class, the marker the domain.

    Args:
        panels: (title, sketches, photos) each; the same classes in all of them.
        classes: How many classes are shown: the first so many.
        most: Embeddings shown of each domain; more are subsampled.
        seed: Seed of the subsample and the layout.

    Returns:
        A matplotlib figure: crosses are sketches, dots are photos.

    Raises:
        ZsbirError: If matplotlib is missing, or there are too few embeddings.
    """
    figure = new_figure(5.2 * len(panels) + 1.6, 5)
    spots = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, sketches, photos) in zip(spots, panels, strict=True):
        rng = np.random.default_rng(seed)
        sides = [_shown(side, classes, most, rng) for side in (sketches, photos)]
        places = tsne(torch.cat([side.vectors[rows].float().cpu() for side, rows in sides]), seed=seed).numpy()
        cut = len(sides[0][1])
        for (side, rows), place, marker in zip(sides, (places[:cut], places[cut:]), ("x", "o"), strict=True):
            style = {"s": 22, "cmap": "tab20", "vmin": 0, "vmax": max(classes, 20) - 1, "linewidths": 1}
            colours = side.labels[rows]
            axes.scatter(place[:, 0], place[:, 1], c=colours, marker=marker, alpha=0.75, **style)
        axes.set(title=title, xticks=[], yticks=[])
    _legend(figure, panels[0][1].classes[:classes], classes)
    return figure


def _shown(
    side: Embeddings, classes: int, most: int, rng: np.random.Generator
) -> tuple[Embeddings, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    rows = np.flatnonzero((side.labels >= 0) & (side.labels < classes))
    return side, np.sort(rng.permutation(rows)[:most])


def _legend(figure: Figure, names: Sequence[str], classes: int) -> None:
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    colours = colormaps["tab20"]
    handles = [
        Line2D([], [], color="black", marker="x", linestyle="", label="sketch"),
        Line2D([], [], color="black", marker="o", linestyle="", label="photo"),
    ]
    for i, name in enumerate(names):
        colour = colours(i / (max(classes, 20) - 1))
        handles.append(Line2D([], [], color=colour, marker="s", linestyle="", label=name[:22].lower()))
    figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False)
