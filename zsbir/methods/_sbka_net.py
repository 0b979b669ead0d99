"""Parts of SBKA: a timm classifier split into trunk and head, and the published settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import timm
from torch import Tensor, nn

from zsbir.backbones.weights import fetch, load_weights, wanted
from zsbir.errors import ZsbirError
from zsbir.methods.base import Recipe
from zsbir.registry import close_matches


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
            epochs=20,
            batch_size=self.batch_size,
            sampling="mixed",
            sketch_share=self.sketch_share,
            optimizer="adam",
            lr=1e-4,
            weight_decay=5e-4,
            schedule="exponential",
            decay=1e-3,
            augment="affine",
            augment_probability=0.7,
        )


PRESETS: dict[str, Preset] = {
    "sketchy": Preset(warmup=9, sketch_share=1 / 3, batch_size=210, prior=0.3, teacher_lr=1e-4),
    "tuberlin": Preset(warmup=5, sketch_share=1 / 10, batch_size=210, prior=0.3, teacher_lr=5e-5),
    "quickdraw": Preset(warmup=3, sketch_share=1 / 10, batch_size=110, prior=0.0, teacher_lr=1e-4),
}


class Classifier(nn.Module):
    """A timm classifier, in two steps: the vector before its head, and the head's logits.

    Args:
        model: timm name, such as ``"convnextv2_tiny.fcmae_ft_in1k"``.
        pretrained: Load timm's weights (needs the network once).
        weights: A local file with the weights, head included, instead.

    Raises:
        ZsbirError: For an unknown model, one without a linear head, or weights that cannot be loaded.

    Attributes:
        dim: Width of the vector.
        labels: Number of the head's labels.
        image_size: Side of the input in pixels that the weights were trained at.
        mean: Per channel, of images in [0, 1], as the weights expect.
        std: Likewise.
    """

    def __init__(self, model: str, pretrained: bool = False, weights: str | None = None) -> None:
        super().__init__()
        if not timm.is_model(model.split(".")[0]):
            raise ZsbirError(f"timm has no model {model!r}. {close_matches(model, timm.list_models())}")
        net: Any = (
            fetch(lambda: timm.create_model(model, pretrained=True), f"timm's {model}")
            if wanted(pretrained) and weights is None
            else timm.create_model(model)
        )
        if weights is not None:
            load_weights(net, weights)
        head = net.get_classifier()
        if not isinstance(head, nn.Linear):
            raise ZsbirError(f"sbka needs a model with a linear classifier; timm's {model} has {type(head).__name__}")
        self.dim = head.in_features
        self.labels = head.out_features
        config: Any = net.pretrained_cfg
        self.image_size: int = config["input_size"][-1]
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        self.net = net

    @property
    def head(self) -> Any:
        """The pretrained classifier's last layer, an ``nn.Linear``."""
        return self.net.get_classifier()

    def forward(self, images: Tensor) -> Tensor:
        """Return the (B, dim) vectors before the head of (B, 3, H, W) float32 normalised images."""
        vector: Tensor = self.net.forward_head(self.net.forward_features(images), pre_logits=True)
        return vector.flatten(1)
