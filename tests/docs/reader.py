"""What a reader of the documentation has at hand: folders, files and variables that the code blocks speak of."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

import zsbir
from zsbir.data.manifest import write_manifest

CLASSES = ("cat", "dog", "giraffe", "horse", "owl", "saw")


def draw(file: Path, kind: int, number: int, photo: bool) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (48, 48), (90 + 9 * number, 120, 110) if photo else "white")
    fill = (200 - 30 * kind, 60 + 30 * kind, 90) if photo else None
    ImageDraw.Draw(image).regular_polygon((24, 24, 16), 3 + kind, rotation=9 * number, fill=fill, outline="black")
    image.save(file)


def files(root: Path) -> None:
    """Make the folders of the examples: sketches and photos by class, flat ones, and photos to search in."""
    for kind, name in enumerate(CLASSES):
        for number in range(4):
            draw(root / "my-data" / "sketch" / name / f"{number}.png", kind, number, False)
            draw(root / "my-data" / "photo" / name / f"{number}.png", kind, number + 4, True)
            draw(root / "flat" / "sketches" / f"{name}_{number}.png", kind, number, False)
            draw(root / "flat" / "photos" / f"{name}_{number}.png", kind, number + 4, True)
        draw(root / "my-photos" / f"{name}.jpg", kind, 0, True)
    shutil.copytree(root / "my-data", root / "pets")
    rows = [",".join((str(file.relative_to(root / "pets")), *file.parts[-3:-1])) for file in root.glob("pets/*/*/*")]
    (root / "pets/images.csv").write_text("\n".join(["path,domain,label", *sorted(rows)]) + "\n")
    dataset = zsbir.DATASETS.build("folder", root=str(root / "my-data"), unseen="giraffe,horse", validation=2)
    write_manifest(dataset.manifest(), root / "split.json")
    for name in ("PHOTOS", "MORE"):
        shutil.copytree(root / "my-photos", root / name)
    shutil.copy(root / "my-data/sketch/cat/0.png", root / "sketch.png")
    for name in ("new.jpg", "old.jpg"):
        shutil.copy(root / "my-photos" / "cat.jpg", root / name)


def variables(root: Path) -> dict[str, Any]:
    """Return the variables that a reader made before: a dataset, a method (also saved as a run), embeddings."""
    torch.manual_seed(0)
    dataset = zsbir.DATASETS.build("folder", root=str(root / "my-data"), unseen="giraffe,horse")
    backbone = {"name": "tiny", "image_size": 32}
    method = zsbir.build("puxim", backbone=backbone, masker={"name": "random", "ratio": 0.5}, layers=1)
    method.save(root / "runs" / "puxim-1")
    queries, gallery = zsbir.embed_split(method, dataset, dataset.test)
    arrays = {"sketches": queries, "photos": gallery}
    return {
        "zsbir": zsbir,
        "dataset": dataset,
        "method": method,
        "queries": queries,
        "gallery": gallery,
        "new_queries": queries,
        "new_photos": gallery,
        **{name: np.asarray(side.vectors) for name, side in arrays.items()},
        "sketch_labels": queries.labels,
        "photo_labels": gallery.labels,
    }
