"""Make `zsbir/samples`: the photos and drawings that `zsbir quickstart` searches with, from CC BY datasets.

    python benchmarks/samples.py --photos TUBERLIN76/photo --quickdraw QUICKDRAW

Photos are the first of each class of Caltech-101; drawings are QuickDraw's first recognised ones of the same word after
those that `doodle` may have learned from.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from drawings import drawing
from PIL import Image

CLASSES = (
    "ant", "camera", "chair", "crab", "elephant", "guitar", "helicopter", "kangaroo", "motorbike", "saxophone",
    "scissors", "sea_turtle",
)  # fmt: skip
PHOTOS = 8
SIDE = 160
OUT = Path(__file__).parents[1] / "zsbir" / "samples"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--quickdraw", type=Path, required=True)
    arguments = parser.parse_args()
    for part in ("photos", "sketches"):
        shutil.rmtree(OUT / part, ignore_errors=True)
        (OUT / part).mkdir(parents=True)
    for name in CLASSES:
        (OUT / "photos" / name).mkdir()
        for number, file in enumerate(sorted((arguments.photos / name).iterdir())[:PHOTOS]):
            with Image.open(file) as image:
                small = image.convert("RGB")
            small.thumbnail((SIDE, SIDE))
            small.save(OUT / "photos" / name / f"{number}.jpg", quality=80, optimize=True)
        word = name.replace("_", " ")
        line = json.dumps({"word": word, "drawing": drawing(arguments.quickdraw, word)}, separators=(",", ":"))
        (OUT / "sketches" / f"{name}.ndjson").write_text(line + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
