"""Train and test on data that needs no download, and look at the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zsbir.data.base import Dataset
    from zsbir.engine.trainer import Trainer
    from zsbir.evaluation.report import Report
    from zsbir.methods.base import Method


def quickstart(out: Path = Path("runs/quickstart"), seed: int = 0, workers: int = 2, epochs: int = 6) -> None:
    """Train a method on seen classes and test it on unseen ones, with data made on the spot (about 2 minutes).

    Example: zsbir quickstart

    Args:
        out: A new folder for the checkpoint, metrics.json and results.png.
        seed: Of everything.
        workers: Processes that decode images.
        epochs: Epochs of training.
    """
    from zsbir.engine.run import refuse_taken
    from zsbir.files import write_json
    from zsbir.methods.base import load

    refuse_taken(out, "folder", "")
    print("1/4 data: drawings from OpenMoji, a line drawing as the sketch, a coloured one on clutter as the photo")
    dataset, method, trainer = _prepare(out, seed, workers, epochs)
    test = dataset.test
    print(f"    {len(dataset.train.classes)} seen classes, {len(test.classes)} unseen ones with {len(test.sketches)} "
          f"sketches and {len(test.photos)} photos")  # fmt: skip
    print("2/4 before training: ImageNet features, unseen classes")
    before = _evaluate(_untrained(method), dataset, workers)
    chance = before.chance["standard"]
    print(f"    mAP@all {_map(before):.3f}   (chance {chance:.3f})")
    print(f"3/4 training {method.spec['name']} on the seen classes")
    trainer.fit()
    print("4/4 after training, the checkpoint that is best on validation classes: the same unseen classes")
    after = _evaluate(load(out), dataset, workers)
    write_json(out / "metrics.json", {
        "protocol": "standard", "unseen_classes": len(test.classes), "chance": chance,
        "before": before.results["standard"], "after": after.results["standard"],
    })  # fmt: skip
    _picture(after, dataset, out / "results.png")
    photos = write_photos(dataset, out / "photos")
    gain = _map(after) - _map(before)
    print(f"    mAP@all {_map(after):.3f}   ({gain:+.3f}; before {_map(before):.3f}, chance {chance:.3f})")
    print(f"\n{out}/results.png   query sketches and their ten best photos: right ones green, wrong ones red")
    print(f"{out}/metrics.json  every figure        {out}/best, {out}/last  checkpoints\n")
    print(f"Now draw: find the {photos} photos of the unseen classes with the model just trained")
    print(f"  zsbir index {out}/photos --model {out} -o {out}/photos.index")
    print(f"  zsbir serve {out}/photos.index\n")
    print("Your own data, in folders my-data/sketch/CLASS/* and my-data/photo/CLASS/*:")
    print("  zsbir train dann --dataset folder --root my-data --unseen CLASS1,CLASS2 --backbone lite0")
    print("  zsbir evaluate runs/dann-folder-1")


def write_photos(dataset: Dataset, folder: Path) -> int:
    """Write the photos of the unseen classes as files, and return how many."""
    photos = dataset.test.photos
    for number in range(len(photos)):
        place = folder / dataset.test.classes[photos.labels[number]]
        place.mkdir(parents=True, exist_ok=True)
        dataset.open(str(photos.file(number))).save(place / f"{number}.png")
    return len(photos)


def _prepare(out: Path, seed: int, workers: int, epochs: int) -> tuple[Dataset, Method, Trainer]:
    import torch

    import zsbir

    dataset = zsbir.DATASETS.build("openmoji", seed=seed)
    torch.manual_seed(seed)
    # Heads on frozen ImageNet features learn fast, because each image goes through the backbone once. The domain loss
    # is off: on heads alone it lowers the score (benchmarks/dann_ablation.py), whatever its weight.
    method: Method = zsbir.build(
        "dann",
        backbone={"name": "lite0", "pretrained": True, "image_size": 96},
        freeze="backbone",
        pool="model",
        head=[512],
        unit=True,
        batch_negatives=True,
        margin=0.2,
        domain_loss_ratio=0.0,
    )
    recipe = zsbir.Recipe(epochs=epochs, batch_size=64, lr=3e-4)
    trainer = zsbir.Trainer(
        method, dataset, recipe=recipe, out=out, device="auto", seed=seed, workers=workers, validate_every=2
    )
    return dataset, method, trainer


def _untrained(method: Method) -> Method:
    """Return the same backbone as it is: a fairer start than the method's own, whose heads are still random."""
    import zsbir

    return zsbir.METHODS.build("frozen", backbone=method.spec["backbone"])


def _evaluate(method: Method, dataset: Dataset, workers: int) -> Report:
    from zsbir.evaluation.evaluator import Evaluator
    from zsbir.methods.embedding import embed_split

    queries, gallery = embed_split(method, dataset, dataset.test, workers=workers, progress=True)
    return Evaluator(matcher=method.matcher, ks=(10, 100)).evaluate(queries, gallery)


def _map(report: Report) -> float:
    return float(report.results["standard"]["mAP@all"])


def _picture(report: Report, dataset: Dataset, file: Path) -> None:
    from zsbir.evaluation.pictures import top_k_picture

    roots = dataset.test.sketches.root, dataset.test.photos.root
    picture = top_k_picture(
        report.top, lambda path: dataset.open(str(roots[0] / path)), lambda path: dataset.open(str(roots[1] / path))
    )
    picture.save(file)
