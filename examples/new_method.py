"""A new method in about 40 lines: registered by name, trained, saved and evaluated as any other.

python new_method.py        # a few seconds
python new_method.py 20     # 20 epochs
"""

import sys

import torch
from torch.nn import functional as F

import zsbir
from zsbir.backbones import BACKBONES
from zsbir.data.preprocess import Preprocess
from zsbir.engine.selection import mean_average_precision
from zsbir.methods.base import Method
from zsbir.types import Batch, Domain, Features


@zsbir.METHODS.register("contrast")
class Contrast(Method):
    """One network for both domains; a sketch must find its photo among all photos of the batch (InfoNCE)."""

    matcher = "cosine"
    recipe = zsbir.Recipe(epochs=3, batch_size=32, lr=1e-3)

    def __init__(self, backbone="tiny", temperature: float = 0.1) -> None:
        super().__init__()
        self.backbone = BACKBONES.build(backbone)
        self.temperature = temperature
        self.preprocess = Preprocess.of(self.backbone)

    def embed(self, images: torch.Tensor, domain: Domain) -> Features:
        return Features(F.normalize(self.backbone(self.preprocess.normalise(images)).vector, dim=1))

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        sketch = self.embed(batch.sketch, "sketch").vector
        photo = self.embed(batch.photo, "photo").vector
        same = (batch.label[:, None] == batch.photo_label[None, :]).float()
        logits = sketch @ photo.T / self.temperature
        return {"contrast": F.cross_entropy(logits, same / same.sum(dim=1, keepdim=True))}


dataset = zsbir.DATASETS.build("openmoji", categories=40, unseen=10, validation=5)
torch.manual_seed(0)
method = zsbir.build("contrast", temperature=0.2)
epochs = int(sys.argv[1]) if len(sys.argv) > 1 else method.recipe.epochs
recipe = zsbir.Recipe(epochs=epochs, batch_size=32, lr=1e-3)
trainer = zsbir.Trainer(method, dataset, recipe=recipe, select_on="none", workers=0, progress=False)
before = mean_average_precision(method, dataset, dataset.test)
trainer.fit()
after = mean_average_precision(method, dataset, dataset.test)
print(f"{method.spec}: mAP@all {before:.3f} before, {after:.3f} after, on unseen classes")

method.save("contrast")
again = zsbir.load("contrast")
queries, gallery = zsbir.embed_split(again, dataset, dataset.test)
print(zsbir.Evaluator(["standard", "sbka"], metrics=["mAP", "P@k"], ks=(10,)).evaluate(queries, gallery).table())
