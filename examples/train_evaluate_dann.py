"""Train DANN on seen classes, test it on unseen ones.

python train_evaluate_dann.py        # a few seconds
python train_evaluate_dann.py 10     # 10 epochs
"""

import sys

import torch

import zsbir

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
dataset = zsbir.DATASETS.build("openmoji", categories=40, unseen=10, validation=5)
backbone = {"name": "lite0", "pretrained": True, "image_size": 96}  # ImageNet weights from a package

torch.manual_seed(0)
method = zsbir.build(
    "dann",
    backbone=backbone,
    freeze="backbone",  # a head on frozen features: each image goes through the backbone once
    pool="model",
    head=[256],
    unit=True,
    margin=0.2,
    batch_negatives=True,
    domain_loss_ratio=0.02,
    grl_threshold_epoch=epochs,
)
recipe = zsbir.Recipe(epochs=epochs, batch_size=32, lr=1e-3)
trained = zsbir.Trainer(method, dataset, recipe=recipe, select_on="none", workers=0, progress=False).fit()

frozen = zsbir.METHODS.build("frozen", backbone=backbone)
for name, model in {"ImageNet features": frozen, "DANN": trained}.items():
    queries, gallery = zsbir.embed_split(model, dataset, dataset.test)
    report = zsbir.Evaluator("standard", matcher=model.matcher).evaluate(queries, gallery)
    score, chance = report.results["standard"]["mAP@all"], report.chance["standard"]
    print(f"{name}: mAP@all {score:.3f} on {len(dataset.test.classes)} unseen classes (chance {chance:.3f})")
