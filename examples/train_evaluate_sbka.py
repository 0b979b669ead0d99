"""Train SBKA on seen classes, test it on unseen ones with one-to-one and one-to-many matching.

    python train_evaluate_sbka.py        # a few seconds
    python train_evaluate_sbka.py 20     # 20 epochs

The published network is ConvNeXtV2-Tiny, which needs a download. Here a small ImageNet classifier whose weights come in
a package takes its place: what student and teacher exchange is its last layer.
"""

import sys
from dataclasses import replace

import torch

import zsbir
from zsbir.backbones.lite0 import packaged_weights

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 2
dataset = zsbir.DATASETS.build("openmoji", categories=40, unseen=10, validation=5)

torch.manual_seed(0)
method = zsbir.build(
    "sbka",
    classes=dataset.train.classes,
    backbone="tf_efficientnet_lite0",
    weights=str(packaged_weights()),
    image_size=64,
    warmup=0,  # the teacher's last layer learns from the second epoch on
    prior=0,  # the semantic prior needs WordNet for these classes
)
recipe = replace(method.recipe, epochs=epochs, samples_per_epoch=96, batch_size=24)
recipe = replace(recipe, freeze=("student.*.blocks.[0-4].*",))  # the lower layers do not train
zsbir.Trainer(method, dataset, recipe=recipe, select_on="none", workers=0, progress=False).fit()

queries, gallery = zsbir.embed_split(method, dataset, dataset.test)
for matcher in ("euclidean", {"name": "one-to-many", "subspaces": 2, "clusters": 10, "model": "k-means"}):
    report = zsbir.Evaluator("sbka", matcher=matcher, metrics=["mAP", "P@k"], ks=(10,)).evaluate(queries, gallery)
    print(f"{report.matcher}\n{report.table()}\n")
