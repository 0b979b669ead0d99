"""The difference between the domains, measured on seen classes without labels, and removed from the features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zsbir.errors import ZsbirError


class Alignment(nn.Module):
    """Brings the features of different domains together; it can be part of any method, and is saved with the weights.

    Args:
        width: Width of the features, D.
        views: Names of the kinds of features; `remove` compares the variances of the first two, the domains.
        center: Subtract each view's mean.
        scale: Divide by each view's standard deviation, dimension by dimension, as one BatchNorm layer a domain would.
            A tenth of the mean deviation is added, so that no small deviation is divided by.
        remove: How many directions to project out besides: the eigenvectors of ``cov(first) − cov(second)`` with the
            largest absolute eigenvalues, by which a linear classifier could tell the domains apart.

    Raises:
        ZsbirError: For more directions than dimensions, or `remove` with `scale` or more than two views.

    Attributes:
        measured: Whether `measure` was called, or a measured state loaded.
    """

    means: Tensor
    deviations: Tensor
    directions: Tensor
    done: Tensor

    def __init__(
        self,
        width: int,
        views: Sequence[str] = ("sketch", "photo"),
        center: bool = False,
        scale: bool = False,
        remove: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= remove < width:
            raise ZsbirError(f"remove={remove} must be at least 0 and below the {width} dimensions of the features")
        if remove and scale:
            raise ZsbirError("remove projects out directions of the plain features: give remove or scale, not both")
        if remove and len(views) > 2:
            raise ZsbirError(f"remove compares two domains in one space, not {', '.join(views)}")
        self.views, self.center, self.scale, self.remove = tuple(views), center, scale, remove
        self.measured = False
        self.register_buffer("means", torch.zeros(len(views), width) if self.active else None)
        self.register_buffer("deviations", torch.ones(len(views), width) if scale else None)
        self.register_buffer("directions", torch.zeros(remove, width) if remove else None)
        self.register_buffer("done", torch.zeros((), dtype=torch.bool) if self.active else None)

    @property
    def active(self) -> bool:
        """Whether it changes the features, and so must be measured."""
        return self.center or self.scale or bool(self.remove)

    def forward(self, vector: Tensor, view: str) -> Tensor:
        """Return the aligned features of (B, D) features of one view.

        Raises:
            ZsbirError: If it was never measured.
        """
        if not self.active:
            return vector
        if not self.measured:
            raise ZsbirError(
                "the alignment (center, scale, remove) of this model was never measured on seen classes: run "
                "`zsbir train frozen --dataset NAME --set ...`, or call method.fit(dataset)"
            )
        row = self.views.index(view)
        if self.center:
            vector = vector - self.means[row]
        if self.scale:
            vector = vector / self.deviations[row]
        return vector - vector @ self.directions.T @ self.directions if self.remove else vector

    @torch.no_grad()
    def measure(self, features: Mapping[str, Tensor]) -> None:
        """Measure the features (n, D) of each view, of *seen* classes.

        Raises:
            ZsbirError: If a view is missing or unknown, or has fewer than two rows.
        """
        if set(features) != set(self.views) or any(len(rows) < 2 for rows in features.values()):
            counts = ", ".join(f"{len(rows)} of {view}" for view, rows in features.items()) or "nothing"
            raise ZsbirError(f"an alignment of {', '.join(self.views)} needs at least two of each, not {counts}")
        if not self.active:
            return
        sides = [features[view].float() for view in self.views]
        self.means.copy_(torch.stack([side.mean(dim=0) for side in sides]))
        if self.scale:
            deviations = torch.stack([side.std(dim=0) for side in sides])
            self.deviations.copy_(deviations + 0.1 * deviations.mean(dim=1, keepdim=True))
        if self.remove:
            first, second = (torch.cov(side.double().T) for side in sides)
            values, vectors = torch.linalg.eigh(first - second)
            self.directions.copy_(vectors[:, values.abs().topk(self.remove).indices].T)
        self.done.fill_(True)
        self.measured = True

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.measured = self.active and bool(self.done)
