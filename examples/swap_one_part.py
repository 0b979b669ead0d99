"""Swap one part of a method, by name, and compare on the same data and the same seed.

python swap_one_part.py        # a few seconds: far too short to say which masker is best
python swap_one_part.py 50     # 50 epochs
"""

import sys
from dataclasses import replace

import torch

import zsbir

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 2
dataset = zsbir.DATASETS.build("openmoji", categories=40, unseen=10, validation=5)

for masker in ("none", {"name": "random", "ratio": 0.7}, {"name": "random", "ratio": 0.3}, "oracle"):
    torch.manual_seed(0)
    method = zsbir.build("puxim", backbone="tiny", masker=masker, layers=1)
    recipe = replace(method.recipe, epochs=epochs, samples_per_epoch=128, lr=1e-3)
    zsbir.Trainer(method, dataset, recipe=recipe, select_on="none", workers=0, progress=False).fit()
    queries, gallery = zsbir.embed_split(method, dataset, dataset.test)
    report = zsbir.Evaluator(matcher=method.matcher).evaluate(queries, gallery)
    low, high = report.intervals["standard"]["mAP@all"]["classes"]
    spec = ", ".join(f"{key}={value}" for key, value in method.masker.spec.items())
    print(f"{spec}: mAP@all {report.results['standard']['mAP@all']:.3f} (over classes {low:.3f} to {high:.3f})")
