"""Twenty things drawn with the mouse on the search page, in a real browser, before and after: the picture in the docs.

Each drawing is one that a person made for QuickDraw and that no model here was trained on: the first recognised one
after those that `doodle` learns from. Its strokes are repeated with the mouse on the page of `zsbir serve`, and the
first ten photos are read off the page. Of ten things `doodle` saw other drawings and photos in training, of ten none.

    zsbir index PHOTOS -o INDEX --model doodle      # PHOTOS/CLASS/*; and once with --model lite0
    python benchmarks/drawings.py --quickdraw QUICKDRAW --photos PHOTOS --indexes lite0=INDEX doodle=INDEX

With ``--caltech JPG`` twenty things of Caltech-101, all seen in training: their photos may be shown, so they are.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _results import table, write
from PIL import Image, ImageDraw
from playwright.sync_api import Page, sync_playwright

from zsbir.data.strokes import StrokeStyle, draw_strokes

SEEN = (
    "guitar", "chair", "banana", "scissors", "elephant", "teapot", "spider", "eyeglasses", "helicopter", "mushroom",
)  # fmt: skip
UNSEEN = (
    "giraffe", "horse", "apple", "pear", "bicycle", "violin", "hammer", "windmill", "castle", "hot air balloon",
)  # fmt: skip
THINGS = (*SEEN, *UNSEEN)
CALTECH = (
    "ant", "camera", "chair", "chandelier", "crab", "cup", "elephant", "flower", "guitar", "headphones", "helicopter",
    "kangaroo", "lobster", "motorbike", "octopus", "panda", "pizza", "saxophone", "scissors", "sea turtle",
)  # fmt: skip
CLASS = {"hot air balloon": "hot-air_balloon", "flower": "flower_with_stem", "headphones": "head-phones"}
FIRST = 12  # the drawings of each word before it, and some after those shown, `doodle` may have been trained on
HITS = 10
PHOTO = 72


def drawing(folder: Path, word: str) -> list[Any]:
    """Return the strokes of a word's first recognised drawing that was not trained on."""
    lines = (folder / f"{word}.ndjson").read_text(encoding="utf-8").splitlines()[FIRST:]
    strokes: list[Any] = next(d["drawing"] for d in map(json.loads, lines) if d["recognized"])
    return strokes


@contextmanager
def served(index: Path) -> Iterator[str]:
    """Serve an index, and give its address."""
    command = [sys.executable, "-m", "zsbir", "serve", str(index), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert server.stdout is not None
            found = next(m for line in server.stdout if (m := re.search(r"http://[\w.:]+", line)))
            yield found.group()
        finally:
            server.terminate()


def search(page: Page, strokes: list[Any]) -> list[str]:
    """Draw on the page with the mouse, and return what it says of the first photos."""
    if page.locator("#clear").is_enabled():
        page.locator("#clear").click()
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    for xs, ys, *_ in strokes:
        for number, (x, y) in enumerate(zip(xs, ys, strict=True)):
            # The middle four fifths of the canvas; the page scales what is drawn anyway.
            page.mouse.move(box["x"] + (0.1 + 0.8 * x / 255) * box["width"],
                            box["y"] + (0.1 + 0.8 * y / 255) * box["height"])  # fmt: skip
            if number == 0:
                page.mouse.down()
        page.mouse.up()
    quiet = 0
    while quiet < 4:  # the last stroke's answer is there when nothing was searched for two seconds
        page.wait_for_timeout(500)
        quiet = quiet + 1 if page.locator("#status").inner_text().endswith("photos") else 0
    return [page.locator("#results li").nth(i).locator("p").first.inner_text() for i in range(HITS)]


def run(address: str, folder: Path, words: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the first photos of every thing, as they are on the page."""
    found = {}
    with sync_playwright() as play:
        path = next(p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name)))
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.goto(address)
        for word in words:
            found[word] = search(page, drawing(folder, word))
            print(word, sum(is_right(word, hit) for hit in found[word]), "of", HITS, flush=True)
        browser.close()
    return found


def is_right(word: str, hit: str) -> bool:
    """Tell whether a photo is of a thing, by its folder."""
    return Path(hit).parent.name == CLASS.get(word, word.replace(" ", "_"))


def sheet(found: dict[str, list[str]], words: tuple[str, ...], folder: Path, photos: Path) -> Image.Image:
    """Return a picture: a row a thing, the drawing and its first photos, right ones framed green and wrong ones red."""
    gap, frame = 6, 3
    cell = PHOTO + 2 * frame + gap
    picture = Image.new("RGB", (cell * (HITS + 1) + 2 * gap, cell * len(words) + gap), "white")
    pen = ImageDraw.Draw(picture)
    for row, word in enumerate(words):
        top = gap + row * cell
        drawn = draw_strokes(drawing(folder, word), StrokeStyle(PHOTO, 2, 0.06))
        picture.paste(drawn, (gap, top + frame))
        for column, hit in enumerate(found[word]):
            left = 2 * gap + cell * (column + 1)
            colour = (40, 150, 70) if is_right(word, hit) else (200, 60, 50)
            pen.rectangle((left, top, left + PHOTO + 2 * frame - 1, top + PHOTO + 2 * frame - 1), fill=colour)
            with Image.open(photos / hit) as photo:
                picture.paste(photo.convert("RGB").resize((PHOTO, PHOTO)), (left + frame, top + frame))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickdraw", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--indexes", nargs="+", required=True, help="NAME=INDEX ..., before first")
    parser.add_argument("--caltech", type=Path)
    arguments = parser.parse_args()
    things = CALTECH if arguments.caltech else THINGS
    parts = {"all": things} if arguments.caltech else {"seen in training": SEEN, "never seen": UNSEEN, "all": things}
    found: dict[str, dict[str, list[str]]] = {}
    for pair in arguments.indexes:
        name, index = pair.split("=", 1)
        with served(Path(index)) as address:
            found[name] = run(address, arguments.quickdraw, things)
        if arguments.caltech:
            picture = sheet(found[name], things, arguments.quickdraw, arguments.photos)
            picture.save(arguments.caltech.with_stem(f"{arguments.caltech.stem}-{name}"), quality=80, optimize=True)
    right = {name: {w: sum(is_right(w, hit) for hit in hits[w]) for w in things} for name, hits in found.items()}
    lines: list[list[Any]] = [[word, *(right[name][word] for name in found)] for word in things]
    for part, words in parts.items():
        share = [f"{sum(right[name][word] for word in words) / (HITS * len(words)):.0%}" for name in found]
        lines.append([f"**{part}**", *share])
    count = sum(1 for file in arguments.photos.rglob("*") if file.is_file())
    classes = sum(1 for folder in arguments.photos.iterdir() if folder.is_dir())
    note = f"\nRight ones among the first {HITS}, of {count} photos of {classes} classes; a class has at most "
    note += f"{max(sum(1 for _ in folder.iterdir()) for folder in arguments.photos.iterdir())}.\n"
    name = "drawings_caltech" if arguments.caltech else "drawings"
    write(name, {"right": right}, table(["drawn with the mouse", *found], lines) + note)


if __name__ == "__main__":
    main()
