"""Choose the images of each training step: index plans, a pure function of the split, the seed and the epoch.

A plan is drawn as a whole and then sliced, so that it does not depend on the number of workers or processes, and a
run that was stopped goes on with exactly the step it would have done next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from zsbir.errors import ZsbirError
from zsbir.types import Labels, Split

Anchor = Literal["sketch", "class"]
"""Whether sketches or classes are drawn evenly as a triplet's anchor."""


@dataclass(frozen=True, eq=False)
class Plan:
    """One epoch: row ``t`` of each array is step ``t``.

    Attributes:
        sketch: (T, Bs) int64 positions in ``split.sketches``.
        photo: (T, Bp) int64 positions in ``split.photos``.
        negative: (T, Bs) int64 positions in ``split.photos``, or None.
    """

    sketch: Labels
    photo: Labels
    negative: Labels | None = None

    def __len__(self) -> int:
        return len(self.sketch)

    def share(self, rank: int, world: int) -> Plan:
        """Return the columns of one process of `world`: equal, contiguous shares of every step."""

        def columns(rows: Labels) -> Labels:
            width = rows.shape[1] // world
            return rows[:, rank * width : (rank + 1) * width]

        return Plan(
            columns(self.sketch), columns(self.photo), None if self.negative is None else columns(self.negative)
        )


class ByClass:
    """Draws random members of given classes in constant time each, without scanning lists of files.

    Args:
        labels: (n,) int64 label of each record.
        count: The number of classes.
    """

    def __init__(self, labels: Labels, count: int) -> None:
        self._order = np.argsort(labels, kind="stable")
        self.sizes = np.bincount(labels, minlength=count)
        self._starts = np.cumsum(self.sizes) - self.sizes

    def draw(self, classes: Labels, rng: np.random.Generator) -> Labels:
        """Return one random record of each class in `classes` (any shape)."""
        offset = (rng.random(classes.shape) * self.sizes[classes]).astype(np.int64)
        drawn: Labels = self._order[self._starts[classes] + offset]
        return drawn


def triplet_plan(
    split: Split,
    batch_size: int,
    seed: int,
    epoch: int,
    samples: int | None = None,
    negative_weights: npt.NDArray[np.floating] | None = None,
    anchor: Anchor = "sketch",
) -> Plan:
    """Draw an epoch of (sketch anchor, photo of its class, photo of another class).

    Args:
        split: What to draw from; every class needs sketches and photos.
        batch_size: Triplets a step; what does not fill a last step is left out.
        seed: The run's seed.
        epoch: From 0; another epoch is another draw.
        samples: Triplets an epoch; None: every sketch once. More than there are sketches: sketches repeat.
        negative_weights: (C, C) weights for the negative class (row: class of the anchor; the diagonal is ignored),
            or None for uniform.
        anchor: ``"sketch"``: every sketch as often as any other, so large classes come more often; ``"class"``: a
            class first, all alike, then one of its sketches.

    Returns:
        A plan with ``negative``.

    Raises:
        ZsbirError: If the split has fewer than two classes, or fewer sketches than one batch needs.
    """
    rng = np.random.default_rng([seed, epoch, 1])
    count = len(split.classes)
    if count < 2:
        raise ZsbirError(f"triplets need at least 2 classes; the training part has {count}")
    wanted = len(split.sketches) if samples is None else samples
    steps = _steps(wanted, batch_size, "sketches")
    if anchor == "class":
        drawable = np.unique(split.sketches.labels)
        drawn = drawable[rng.integers(len(drawable), size=(steps, batch_size))]
        anchors = ByClass(split.sketches.labels, count).draw(drawn, rng)
    else:
        anchors = _cycle(len(split.sketches), wanted, rng)[: steps * batch_size].reshape(steps, batch_size)
    photos = ByClass(split.photos.labels, count)
    label = split.sketches.labels[anchors]
    return Plan(anchors, photos.draw(label, rng), photos.draw(_other_class(label, count, negative_weights, rng), rng))


def mixed_plan(
    split: Split, batch_size: int, sketch_share: float, seed: int, epoch: int, samples: int | None = None
) -> Plan:
    """Draw an epoch of batches that mix sketches and photos, each domain shuffled and taken without repetition.

    Args:
        split: What to draw from.
        batch_size: Images a step, both domains together.
        sketch_share: Share of sketches in a batch, in (0, 1).
        seed: The run's seed.
        epoch: From 0.
        samples: Images an epoch; None: until the shorter of the two domains is used up.

    Returns:
        A plan without ``negative``.

    Raises:
        ZsbirError: If a domain has too few images for one batch.
    """
    rng = np.random.default_rng([seed, epoch, 2])
    sketches = min(max(round(batch_size * sketch_share), 1), batch_size - 1)
    photos = batch_size - sketches
    possible = min(_steps(len(split.sketches), sketches, "sketches"), _steps(len(split.photos), photos, "photos"))
    steps = possible if samples is None else max(samples // batch_size, 1)
    return Plan(
        _cycle(len(split.sketches), steps * sketches, rng).reshape(steps, sketches),
        _cycle(len(split.photos), steps * photos, rng).reshape(steps, photos),
    )


def balanced_plan(split: Split, classes: int, per_class: int, seed: int, epoch: int, steps: int) -> Plan:
    """Draw class-balanced batches: `classes` classes, and `per_class` sketches and photos of each.

    Args:
        split: What to draw from.
        classes: Classes a step, drawn without repetition; at most as many as there are.
        per_class: Sketches, and photos, of each; a class with fewer repeats some.
        seed: The run's seed.
        epoch: From 0.
        steps: Steps an epoch.

    Returns:
        A plan whose sketch and photo columns have the same classes.
    """
    rng = np.random.default_rng([seed, epoch, 3])
    count = len(split.classes)
    chosen = np.stack([rng.permutation(count)[:classes] for _ in range(steps)]).repeat(per_class, axis=1)
    return Plan(
        ByClass(split.sketches.labels, count).draw(chosen, rng), ByClass(split.photos.labels, count).draw(chosen, rng)
    )


def _cycle(size: int, wanted: int, rng: np.random.Generator) -> Labels:
    """Return `wanted` of ``range(size)``: whole shuffles one after the other."""
    drawn = [rng.permutation(size) for _ in range(-(-wanted // size))]
    return np.concatenate(drawn)[:wanted]


def _steps(available: int, needed: int, what: str) -> int:
    if available < needed:
        raise ZsbirError(
            f"one batch needs {needed} {what}, and an epoch has {available}: lower batch_size (--batch-size)"
        )
    return available // needed


def _other_class(
    label: Labels, count: int, weights: npt.NDArray[np.floating] | None, rng: np.random.Generator
) -> Labels:
    """Return for each label another class: uniform, or by the weights of the label's row."""
    if weights is None:
        other = rng.integers(count - 1, size=label.shape)
        return other + (other >= label)
    table = np.array(weights, dtype=np.float64)
    np.fill_diagonal(table, 0.0)
    total = table.sum(axis=1)
    if table.shape != (count, count) or not np.isfinite(table).all() or (table < 0).any() or (total <= 0).any():
        raise ZsbirError(f"negative weights must be a finite, non-negative ({count}, {count}) table with no empty row")
    bounds = np.cumsum(table / total[:, None], axis=1)
    bounds[:, -1] = np.inf  # rounding must not leave a draw of 0.999... without a class
    draw = rng.random(label.shape)
    other = np.empty_like(label)
    for c in np.unique(label):
        where = label == c
        other[where] = np.searchsorted(bounds[c], draw[where], side="right")
    # The infinite bound can only name the anchor's own class if that is the last one: take the last with weight.
    last = np.array([np.flatnonzero(row)[-1] for row in table])
    return np.where(table[label, other] > 0, other, last[label])
