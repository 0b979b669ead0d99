import shutil

import numpy as np
import pytest
from PIL import Image, ImageDraw

import zsbir

CLASSES = {"circle": (200, 60, 60), "square": (60, 200, 60), "cross": (60, 60, 200), "bar": (200, 200, 60)}


def draw(kind: str, fill: tuple[int, int, int] | None, shift: int, size: int = 32) -> Image.Image:
    image = Image.new("RGB", (size, size), "white" if fill is None else (90 + shift * 9, 120, 110))
    pen = ImageDraw.Draw(image)
    box = (6 + shift, 6, 22 + shift, 22)
    if kind == "circle":
        pen.ellipse(box, fill=fill, outline="black")
    elif kind == "square":
        pen.rectangle(box, fill=fill, outline="black")
    elif kind == "cross":
        pen.line(box, fill=fill or "black", width=3)
        pen.line((box[2], box[1], box[0], box[3]), fill=fill or "black", width=3)
    else:
        pen.rectangle((box[0], 12, box[2], 16), fill=fill, outline="black")
    return image


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory):
    """A folder dataset: 4 classes, 6 sketches and 6 photos each, 32 pixels."""
    return write_shapes(tmp_path_factory.mktemp("shapes"), CLASSES)


def write_shapes(root, classes, count=6):
    for domain in ("sketch", "photo"):
        for name, colour in classes.items():
            folder = root / domain / name
            folder.mkdir(parents=True)
            for i in range(count):
                draw(name, None if domain == "sketch" else colour, i).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def five_shapes_root(shapes_root, tmp_path_factory):
    """A class more, so that two can be held out."""
    root = tmp_path_factory.mktemp("five") / "shapes"
    shutil.copytree(shapes_root, root)
    for domain in ("sketch", "photo"):
        shutil.copytree(root / domain / "bar", root / domain / "line")
    return root


@pytest.fixture
def shapes(shapes_root):
    return zsbir.DATASETS.build("folder", root=shapes_root, unseen="bar")


@pytest.fixture
def small_dann():
    import torch

    def make(**options):
        torch.manual_seed(0)
        return zsbir.build("dann", backbone={"name": "tiny", "image_size": 32, "width": 8}, **options)

    return make


@pytest.fixture
def recipe():
    return zsbir.Recipe(epochs=3, batch_size=6, lr=1e-3, augment="affine", schedule="cosine", warmup=2)


@pytest.fixture
def rows():
    """Read metrics.jsonl without the times."""
    import json

    def read(run):
        found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in row.items() if k != "wait_s"} for row in found]

    return read


def same_weights(a, b):
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(np.array_equal(left[k].numpy(), right[k].numpy()) for k in left)
