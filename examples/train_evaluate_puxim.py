"""Train PuXIM ("mask and match") on seen classes, test it on unseen ones.

    python train_evaluate_puxim.py       # a few seconds
    python train_evaluate_puxim.py 20    # 20 epochs

The published encoder is a ViT-B/16, the published masker CLIP Surgery (`masker="vxl"`): both need a download. Here a
small ImageNet network whose weights come in a package is the encoder, and the true object masks of the drawings are the
masker.
"""

import sys
from dataclasses import replace

import torch

import zsbir

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 2
dataset = zsbir.DATASETS.build("openmoji", categories=40, unseen=10, validation=5)
backbone = {"name": "lite0", "pretrained": True, "image_size": 64}

torch.manual_seed(0)
method = zsbir.build("puxim", backbone=backbone, masker="oracle", layers=1)
recipe = replace(method.recipe, epochs=epochs, samples_per_epoch=64, batch_size=16, lr=1e-4)
recipe = replace(recipe, freeze=("*.blocks.[0-4].*",))  # the lower layers do not train


def score(model):
    queries, gallery = zsbir.embed_split(model, dataset, dataset.test)
    evaluator = zsbir.Evaluator(["standard", "puxim"], matcher=model.matcher, metrics=["mAP", "P@k"], ks=(10,))
    return evaluator.evaluate(queries, gallery).table()


print(f"before, on {len(dataset.test.classes)} unseen classes\n{score(method)}")
zsbir.Trainer(method, dataset, recipe=recipe, select_on="none", workers=0, progress=False).fit()
print(f"\nafter {epochs} epochs\n{score(method)}")
