"""The published settings of SBKA."""

from __future__ import annotations

from dataclasses import dataclass

from zsbir.methods.base import Recipe


@dataclass(frozen=True)
class Preset:
    """The published settings for a dataset.

    Attributes:
        warmup: Last epoch, from 0, in which the teacher's head is fixed.
        sketch_share: Share of sketches in a batch.
        batch_size: Images a batch.
        prior: Weight of the semantic similarity; 0: none.
        teacher_lr: Learning rate of the teacher's head.
    """

    warmup: int
    sketch_share: float
    batch_size: int
    prior: float
    teacher_lr: float

    def recipe(self) -> Recipe:
        """Return the training settings."""
        return Recipe(
            epochs=20, batch_size=self.batch_size, sampling="mixed", sketch_share=self.sketch_share, optimizer="adam",
            lr=1e-4, weight_decay=5e-4, schedule="exponential", decay=1e-3, augment="affine", augment_probability=0.7,
        )  # fmt: skip


PRESETS: dict[str, Preset] = {
    "sketchy": Preset(warmup=9, sketch_share=1 / 3, batch_size=210, prior=0.3, teacher_lr=1e-4),
    "tuberlin": Preset(warmup=5, sketch_share=1 / 10, batch_size=210, prior=0.3, teacher_lr=5e-5),
    "quickdraw": Preset(warmup=3, sketch_share=1 / 10, batch_size=110, prior=0.0, teacher_lr=1e-4),
}
