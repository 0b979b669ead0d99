"""How far apart the embeddings of sketches and photos are, regardless of what they show.

Two measures, neither of which looks at a class label: how well a fresh linear classifier tells the domains apart, and
how far apart their means are. Methods that align domains (gradient reversal, centring) should lower both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 0.1
"""Ridge penalty of the domain classifier, on features scaled to variance 1."""
FOLDS = 5
MOST = 2000
"""Embeddings used of each domain; more are subsampled."""


@dataclass(frozen=True)
class DomainGap:
    """The domain gap of a set of embeddings.

    Attributes:
        accuracy: Balanced accuracy, in [0, 1], of a linear classifier on embeddings it has not seen, mean over folds:
            0.5 at chance, 1 if it never mistakes one domain for the other.
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


def domain_gap(sketches: Tensor, photos: Tensor, seed: int = 0) -> DomainGap | None:
    """Measure the gap between two domains' embeddings.

    The classifier is a ridge regression on ±1 targets with both domains weighing the same, fitted in closed form on
    all folds but one and tested on that one.

    Args:
        sketches: (n, D) float.
        photos: (m, D) float.
        seed: Seed of the subsample and of the folds.

    Returns:
        The gap, by 5 folds or as many as a domain has embeddings; None if a domain has fewer than 2.

    >>> x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    >>> domain_gap(x, x + 20).accuracy
    1.0
    """
    folds = min(FOLDS, len(sketches), len(photos))
    if folds < 2:
        return None
    generator = torch.Generator().manual_seed(seed)
    # Shuffled, so that every fold has all classes.
    sides = [side.cpu()[torch.randperm(len(side), generator=generator)[:MOST]].double() for side in (sketches, photos)]
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
