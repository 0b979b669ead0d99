"""Two more settings: seen photos in the gallery too, and finding the very photo a sketch was drawn from.

    python generalised_and_fine_grained.py            # ImageNet features
    python generalised_and_fine_grained.py runs/my-run

The fine-grained setting needs to know which photo a sketch shows. It reads it from the file names, as Sketchy has them:
`cat/12-1.png` was drawn from `cat/12.jpg`. Here the edges of a photo stand for the sketch of it.
"""

import sys
from pathlib import Path

from PIL import Image, ImageFilter, ImageOps

import zsbir
from zsbir.evaluation.fine_grained import fine_grained
from zsbir.evaluation.settings import generalised

source = zsbir.DATASETS.build("openmoji", categories=40, unseen=10, validation=5)
for split in (source.train, source.test):
    for number, path in enumerate(split.photos.paths):
        photo = Path("pairs", path)  # photo/CLASS/003.png
        sketch = Path("pairs", "sketch", photo.parent.name, f"{photo.stem}-1.png")
        for file in (photo, sketch):
            file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.open(split.photos.file(number)).convert("RGB")
        image.save(photo)
        ImageOps.invert(image.convert("L").filter(ImageFilter.FIND_EDGES)).save(sketch)

unseen = ",".join(sorted({Path(path).parent.name for path in source.test.photos.paths}))
dataset = zsbir.DATASETS.build("folder", root="pairs", unseen=unseen, hold_out=0.25)
lite0 = {"name": "lite0", "image_size": 64}
method = zsbir.load(sys.argv[1]) if len(sys.argv) > 1 else zsbir.build("frozen", backbone=lite0, pretrained=True)
test = zsbir.embed_split(method, dataset, dataset.test)
seen = zsbir.embed_split(method, dataset, dataset.seen_test)  # seen classes, images kept out of training
evaluator = zsbir.Evaluator(matcher=method.matcher, metrics=["mAP"], resamples=0)

report = generalised(evaluator, test, seen)
for name, results in report.groups.items():
    print(f"generalised, {name}: mAP@all {results['standard']['mAP@all']:.3f}")

report = fine_grained(evaluator, *test)
for name, results in report.results.items():
    print(f"fine-grained, {name}: acc@1 {results['acc@1']:.3f} (chance {report.chance[name]:.3f})")
