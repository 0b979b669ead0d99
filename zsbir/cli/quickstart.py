"""Train and test on data that needs no download, find real photos by real drawings, and look at the results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zsbir.cli._evaluation import openers_of

if TYPE_CHECKING:
    from zsbir.data.base import Dataset
    from zsbir.engine.trainer import Trainer
    from zsbir.evaluation.report import Report
    from zsbir.methods.base import Method


FIRST = 5  # photos a drawing


def quickstart(out: Path = Path("runs/quickstart"), seed: int = 0, workers: int = 2, epochs: int = 6) -> None:
    """Train a method on seen classes, test it on unseen ones, and find real photos by drawings (about 3 minutes).

    All data come with the package or are made on the spot; nothing is downloaded.

    Example: zsbir quickstart

    Args:
        out: A new folder for the checkpoint, metrics.json, results.png and real.png.
        seed: Seed of data, weights and training.
        workers: Processes that decode images.
        epochs: Epochs of training.
    """
    from zsbir.engine.run import refuse_taken
    from zsbir.evaluation.pictures import top_k_picture
    from zsbir.files import write_json
    from zsbir.methods import METHODS
    from zsbir.methods.base import load

    refuse_taken(out, run=False)
    print("1/5 data: drawings from OpenMoji, a line drawing as the sketch, a coloured one on clutter as the photo")
    trainer = _prepare(out, seed, workers, epochs)
    dataset, method, test = trainer.dataset, trainer.method, trainer.dataset.test
    print(f"    {len(dataset.train.classes)} seen classes, {len(test.classes)} unseen ones with {len(test.sketches)} "
          f"sketches and {len(test.photos)} photos")  # fmt: skip
    print("2/5 before training: ImageNet features, unseen classes")
    # The same backbone as it is: a fairer start than the method's own, whose heads are still random.
    before = _evaluate(METHODS.build("frozen", backbone=method.spec["backbone"]), dataset, workers)
    chance = before.chance["standard"]
    print(f"    mAP@all {_map(before):.3f}   (chance {chance:.3f})")
    print(f"3/5 training {method.spec['name']} on the seen classes")
    trainer.fit()
    print("4/5 after training, the checkpoint that is best on validation classes: the same unseen classes")
    after = _evaluate(load(out), dataset, workers)
    write_json(out / "metrics.json", {
        "protocol": "standard", "unseen_classes": len(test.classes), "chance": chance,
        "before": before.results["standard"], "after": after.results["standard"],
    })  # fmt: skip
    top_k_picture(after.top, *openers_of(dataset, test)).save(out / "results.png")
    photos = write_photos(dataset, out / "photos")
    gain = _map(after) - _map(before)
    print(f"    mAP@all {_map(after):.3f}   ({gain:+.3f}; before {_map(before):.3f}, chance {chance:.3f})")
    print("5/5 real drawings, real photos, and the packaged model doodle")
    share, classes = find_real(out)
    print(f"    {share:.0%} of the first {FIRST} photos are right   (chance {1 / classes:.0%})")
    print(f"    doodle has learned from all {classes} classes, from these photos and other drawings; of things that it")
    print("    has never seen it finds less")
    print(f"\n{out}/real.png      the drawings and their first photos: right ones green, wrong ones red")
    print(f"{out}/results.png   query sketches and their ten best photos: right ones green, wrong ones red")
    print(f"{out}/metrics.json  every figure        {out}/best, {out}/last  checkpoints\n")
    print("Now draw over the real photos, over your own, or over the unseen classes with the model just trained:")
    print(f"  zsbir serve {out}/real.index")
    print("  zsbir index PHOTOS -o my.index")
    print("  zsbir serve my.index")
    print(f"  zsbir index {out}/photos --model {out} -o {out}/photos.index   ({photos} photos)\n")
    print("Your own data, in folders my-data/sketch/CLASS/* and my-data/photo/CLASS/*:")
    print("  zsbir train contrastive --dataset folder --root my-data --unseen CLASS1,CLASS2 --recipe small-data")
    print("  zsbir evaluate runs/contrastive-folder-1")


def write_photos(dataset: Dataset, folder: Path) -> int:
    """Write the photos of the unseen classes as files, and return how many."""
    photos = dataset.test.photos
    for number in range(len(photos)):
        place = folder / dataset.test.classes[photos.labels[number]]
        place.mkdir(parents=True, exist_ok=True)
        dataset.open(str(photos.file(number))).save(place / f"{number}.png")
    return len(photos)


def find_real(out: Path) -> tuple[float, int]:
    """Find the packaged photos by the packaged drawings with `doodle`, and draw the result into ``real.png``.

    Args:
        out: An existing folder; it gets a copy of the photos, ``real``, and an index of them, ``real.index``.

    Returns:
        The share of right photos among the first `FIRST` of each drawing, and how many classes there are.
    """
    from importlib.resources import files
    from shutil import copytree

    from zsbir.evaluation.overview import TopPhotos
    from zsbir.evaluation.pictures import top_k_picture
    from zsbir.search.index import Index
    from zsbir.search.query import open_query

    samples = Path(str(files("zsbir") / "samples"))
    copytree(samples / "photos", out / "real")
    index = Index.build("doodle", out / "real", out / "real.index")
    rows = []
    for number, sketch in enumerate(sorted((samples / "sketches").iterdir())):
        hits = index.search(sketch, FIRST)
        labels = tuple(Path(hit.path).parent.name for hit in hits)
        rows.append(TopPhotos(
            number, str(sketch), sketch.stem, "", None, tuple(hit.id for hit in hits),
            tuple(hit.path for hit in hits), labels, tuple(hit.score for hit in hits),
            tuple(label == sketch.stem for label in labels),
        ))  # fmt: skip
    index.close()
    top_k_picture(rows, open_query).save(out / "real.png")
    return sum(sum(row.correct) for row in rows) / (FIRST * len(rows)), len(rows)


def _prepare(out: Path, seed: int, workers: int, epochs: int) -> Trainer:
    import torch

    import zsbir

    dataset = zsbir.DATASETS.build("openmoji", seed=seed)
    torch.manual_seed(seed)
    # Heads on frozen ImageNet features learn fast, because each image goes through the backbone once. The domain loss
    # is off: on heads alone it lowers the score (benchmarks/dann_ablation.py), whatever its weight.
    method = zsbir.build(
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
    return zsbir.Trainer(
        method, dataset, recipe=recipe, out=out, device="auto", seed=seed, workers=workers, validate_every=2
    )


def _evaluate(method: Method, dataset: Dataset, workers: int) -> Report:
    from zsbir.evaluation.evaluator import Evaluator
    from zsbir.methods.embedding import embed_split

    queries, gallery = embed_split(method, dataset, dataset.test, workers=workers, progress=True)
    return Evaluator(matcher=method.matcher, ks=(10, 100)).evaluate(queries, gallery)


def _map(report: Report) -> float:
    return float(report.results["standard"]["mAP@all"])
