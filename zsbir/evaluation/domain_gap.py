"""How far apart the embeddings of sketches and photos are, whatever they show.

Two measures, neither of which looks at a class label: how well a fresh linear classifier tells the domains apart, and
how far apart their means are. Methods that align domains (gradient reversal, centring) should lower both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zsbir.errors import ZsbirError
from zsbir.types import Embeddings

RIDGE = 0.1
"""Ridge penalty of the domain classifier, on features scaled to variance 1."""


@dataclass(frozen=True)
class DomainGap:
    """The domain gap of a set of embeddings.

    Attributes:
        accuracy: Balanced accuracy, in [0, 1], of a linear classifier on embeddings it has not seen, mean over folds:
            0.5 at chance, 1 if the domains can be told apart without fail.
        accuracy_std: Its standard deviation over the folds.
        mean_distance: Euclidean distance of the two domains' means, in units of the embedding.
        relative_distance: The same, divided by the root mean square distance of an embedding from its domain's mean.
        sketches: Number of sketches used.
        photos: Number of photos used.
    """

    accuracy: float
    accuracy_std: float
    mean_distance: float
    relative_distance: float
    sketches: int
    photos: int

    def describe(self) -> str:
        """Return one line for reports."""
        return (
            f"domain gap: a fresh linear classifier tells sketch from photo embeddings with balanced accuracy "
            f"{self.accuracy:.3f} ± {self.accuracy_std:.3f} (chance 0.5); distance of the domain means "
            f"{self.mean_distance:.3f} ({self.relative_distance:.3f} of the spread within a domain)"
        )


def domain_gap(sketches: Tensor, photos: Tensor, folds: int = 5, most: int = 2000, seed: int = 0) -> DomainGap:
    """Measure the gap between two domains' embeddings.

    The classifier is a ridge regression on ±1 targets with both domains weighing the same, fitted in closed form on
    all folds but one and tested on that one.

    Args:
        sketches: (n, D) float, n at least `folds`.
        photos: (m, D) float, m at least `folds`.
        folds: Number of folds, at least 2.
        most: Embeddings used of each domain; more are subsampled.
        seed: Seed of the subsample and of the folds.

    Raises:
        ZsbirError: If a domain has too few embeddings or the widths differ.

    >>> x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    >>> domain_gap(x, x + 20).accuracy
    1.0
    """
    if sketches.ndim != 2 or photos.ndim != 2 or sketches.shape[1] != photos.shape[1]:
        raise ZsbirError(f"the domain gap needs (n, D) and (m, D), not {[*sketches.shape]} and {[*photos.shape]}")
    least = min(len(sketches), len(photos))
    if folds < 2 or least < folds:
        raise ZsbirError(f"the domain gap needs at least {max(folds, 2)} embeddings of each domain; there are {least}")
    generator = torch.Generator().manual_seed(seed)
    # Shuffled, so that every fold has all classes.
    chosen = [torch.randperm(len(side), generator=generator)[:most] for side in (sketches, photos)]
    sides = [side[rows.to(side.device)].double() for side, rows in zip((sketches, photos), chosen, strict=True)]
    accuracies = torch.stack([_accuracy(sides, fold, folds) for fold in range(folds)])
    means = [side.mean(dim=0) for side in sides]
    spread = torch.cat([(side - mean).square().sum(dim=1) for side, mean in zip(sides, means, strict=True)])
    distance = torch.linalg.vector_norm(means[0] - means[1])
    return DomainGap(
        accuracy=float(accuracies.mean()),
        accuracy_std=float(accuracies.std()),
        mean_distance=float(distance),
        relative_distance=float(distance / spread.mean().sqrt().clamp(min=1e-12)),
        sketches=len(sides[0]),
        photos=len(sides[1]),
    )


def gap_of(sketches: Embeddings, photos: Embeddings, seed: int = 0) -> DomainGap | None:
    """Return the gap between two sides of an evaluation, with 5 folds or fewer; None for sides too small for it."""
    folds = min(5, len(sketches), len(photos))
    return domain_gap(sketches.vectors.cpu(), photos.vectors.cpu(), folds, seed=seed) if folds >= 2 else None


def _accuracy(sides: list[Tensor], fold: int, folds: int) -> Tensor:
    """Return the balanced accuracy on one fold of a classifier fitted on the others."""
    test = [side[fold::folds] for side in sides]
    rows = [torch.cat([side[k::folds] for k in range(folds) if k != fold]) for side in sides]
    weight = torch.cat([row.new_full((len(row),), 0.5 / len(row)) for row in rows])
    target = torch.cat([row.new_full((len(row),), sign) for row, sign in zip(rows, (-1.0, 1.0), strict=True)])
    train = torch.cat(rows)
    centre = weight @ train
    scale = (weight @ (train - centre).square()).sqrt().clamp(min=1e-12)
    direction = _ridge((train - centre) / scale, target, weight)
    sketch, photo = (((side - centre) / scale) @ direction for side in test)
    # A score of 0 (embeddings that are all alike) is a guess.
    right = [(sketch < 0).double() + 0.5 * (sketch == 0), (photo > 0).double() + 0.5 * (photo == 0)]
    return (right[0].mean() + right[1].mean()) / 2


def _ridge(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Return the (D,) solution of Σ weight·(x·w − y)² + RIDGE·‖w‖², in the smaller of its two forms."""
    root = weight.sqrt()
    x, y = x * root[:, None], y * root
    wide = x.shape[1] > len(x)
    square = x @ x.T if wide else x.T @ x
    solved: Tensor = torch.linalg.solve(square + RIDGE * torch.eye(len(square)).to(x), y if wide else x.T @ y)
    return x.T @ solved if wide else solved
