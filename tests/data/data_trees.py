import json

import numpy as np
from PIL import Image

from zsbir.data.datasets.published import published


def picture(path, seed=0, size=(12, 10)):
    """Write a small random image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


SKETCH = {
    "sketchy": "256x256/sketch/tx_000000000000_ready",
    "tuberlin": "png_ready",
    "quickdraw": "sketches",
}
PHOTO = {
    "sketchy": "256x256/photo/tx_000000000000_ready",
    "tuberlin": "ImageResized_ready",
    "quickdraw": "images",
}


def benchmark_tree(root, name, *, lists=None, numbers=None, rename=lambda name: name, images=True):
    """Write a dataset with one sketch and two photos a class; with `lists`, the published lists in that folder."""
    facts, family = published(name), name.split("-")[0]
    text = {part: [] for part in facts["lists"]}
    test_only = published("sketchy-25") if name == "sketchy-ambiguity" else facts
    for side, part in (("seen", "train"), ("unseen", "test")):
        for domain, folder, endings in (("sketch", SKETCH, ("a.png",)), ("photo", PHOTO, ("a.jpg", "b.jpg"))):
            names, where = facts[side], folder[family]
            if name == "sketchy-ambiguity" and part == "train":
                names = test_only["seen"] if domain == "sketch" else facts["seen"]
                where = where if domain == "sketch" else "ambiguity"
            for number, own in enumerate(names):
                for ending in endings:
                    path = f"{where}/{own}/{ending}"
                    if images:
                        real = root / where / rename(own) / ending
                        real.parent.mkdir(parents=True, exist_ok=True)
                        real.write_bytes(f"{domain}{own}{ending}{where}".encode())
                    number_of = numbers or (lambda number, own: number)
                    shown = path.replace("/", "\\") if where == "ambiguity" else path
                    text[f"{domain}_{part}"].append(f"{shown} {number_of(number, own)}")
    if lists:
        (root / lists).mkdir(parents=True, exist_ok=True)
        for part, item in facts["lists"].items():
            (root / lists / item["file"]).write_text("\n".join(text[part]) + "\n")
    return root


def write_drawings(path, count=3):
    """Write a QuickDraw file with `count` drawings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"word": "x", "drawing": [[[10 * i, 200], [10, 220]], [[0, 255, 255], [0, 0, 255]]]} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
