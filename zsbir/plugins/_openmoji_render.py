"""How an OpenMoji drawing becomes sketches and photos; run as a module, it is one worker of the rendering.

A sketch is the drawing's line layer alone: every stroke is moved and turned a little by itself, the whole is posed and
warped as an unsteady hand would, with its own line width. A photo is the colour layers without the outline, posed and
recoloured, lit, with a shadow, on a textured background among other drawings.

Every image is made from its own random generator, seeded by (seed, code point, domain, sample): the result depends
neither on the number of workers nor on the order.
"""

from __future__ import annotations

import io
import json
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

VERSION = 2
"""Counts changes of the pictures; part of the cache's key."""

Floats = npt.NDArray[np.floating[Any]]

_SVG = "{http://www.w3.org/2000/svg}"
_SIDE = 72  # of every OpenMoji view box
_SHAPES = {"path", "line", "circle", "rect", "polyline", "polygon", "ellipse"}

ElementTree.register_namespace("", _SVG[1:-1])


@lru_cache(maxsize=512)
def _layers(folder: str, stem: str) -> tuple[str, str]:
    """Return the line layer and the colour layers of a drawing, each as SVG markup without the outer element."""
    root = ElementTree.fromstring((Path(folder) / f"{stem}.svg").read_text(encoding="utf-8"))
    line: list[str] = []
    colour: list[str] = []
    for child in root:
        (line if "line" in child.get("id", "").lower() else colour).append(ElementTree.tostring(child, "unicode"))
    return "".join(line), "".join(colour)


def _draw(body: str, pixels: int, transform: str = "") -> Floats:
    """Return (pixels, pixels, 4) float32 in [0, 1], not premultiplied, of SVG markup in OpenMoji's view box."""
    import resvg_py

    text = (
        f'<svg xmlns="{_SVG[1:-1]}" viewBox="0 0 {_SIDE} {_SIDE}" width="{pixels}" height="{pixels}">'
        f'<g transform="{transform}">{body}</g></svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=text, skip_system_fonts=True)
    with Image.open(io.BytesIO(bytes(png))) as image:
        return np.asarray(image.convert("RGBA"), dtype=np.float32) / 255


def coverage(folder: str, stem: str) -> tuple[float, float]:
    """Return the shares of the drawing's square that its line layer and its colour layers cover, in [0, 1]."""
    line, colour = _layers(folder, stem)
    return float(_draw(line, 36)[..., 3].mean()), float((_draw(colour, 36)[..., 3] > 0.5).mean())


def _pose(rng: np.random.Generator, scale: tuple[float, float], turn: float, shift: float, flip: bool) -> str:
    """Return a random SVG transform about the middle: turned, sheared, scaled, moved and perhaps mirrored."""
    size = rng.uniform(*scale)
    stretch = rng.uniform(0.88, 1.13)
    mirror = -1 if flip and rng.random() < 0.5 else 1
    x, y = rng.uniform(-shift, shift, 2) * _SIDE
    half = _SIDE / 2
    return (
        f"translate({half + x:.3f} {half + y:.3f}) rotate({rng.uniform(-turn, turn):.2f}) "
        f"skewX({rng.uniform(-9, 9):.2f}) scale({mirror * size * stretch:.4f} {size / stretch:.4f}) "
        f"translate({-half} {-half})"
    )


def _noise(rng: np.random.Generator, side: int, cells: int) -> Floats:
    """Return (side, side) float32 smooth noise, about standard normal, with `cells` waves across."""
    coarse = Image.fromarray(rng.standard_normal((cells + 1, cells + 1)).astype(np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)


def _jitter(rng: np.random.Generator, line: str, width: float) -> str:
    """Return the line layer with each stroke moved, turned and thickened by itself, and a few drawn twice."""
    root = ElementTree.fromstring(f'<svg xmlns="{_SVG[1:-1]}">{line}</svg>')
    for parent in list(root.iter()):
        for shape in [child for child in parent if child.tag.removeprefix(_SVG) in _SHAPES]:
            strokes = _strokes(shape)
            if strokes[0].get("fill") == "none" and rng.random() < 0.15:
                strokes.append(ElementTree.fromstring(ElementTree.tostring(strokes[0])))
            at = list(parent).index(shape)
            parent.remove(shape)
            for place, stroke in enumerate(strokes):
                factor = width * rng.uniform(0.8, 1.25)
                if stroke.get("stroke-width"):
                    stroke.set("stroke-width", f"{float(stroke.get('stroke-width', '2')) * factor:.3f}")
                x, y = rng.normal(0, 0.7, 2)
                move = f"translate({x:.3f} {y:.3f}) rotate({rng.normal(0, 1.8):.3f} {_SIDE / 2} {_SIDE / 2})"
                stroke.set("transform", f"{move} {stroke.get('transform', '')}".strip())
                parent.insert(at + place, stroke)
    return "".join(ElementTree.tostring(child, "unicode") for child in root)


def _strokes(shape: ElementTree.Element) -> list[ElementTree.Element]:
    """Split a path that is only stroked at its absolute moves, so that each stroke gets its own jitter."""
    parts = re.split(r"(?=M)", shape.get("d", ""))[1:]
    if len(parts) < 2 or shape.get("fill") != "none":
        return [shape]
    return [ElementTree.Element(shape.tag, {**shape.attrib, "d": part.strip()}) for part in parts]


def sketch(folder: str, stem: str, size: int, rng: np.random.Generator) -> Image.Image:
    """Draw one sketch: grey ink on white, mode L, size × size."""
    side = round(1.5 * size)
    line = _jitter(rng, _layers(folder, stem)[0], rng.uniform(0.6, 1.5))
    ink = _draw(line, side, _pose(rng, (0.82, 1.12), 14, 0.05, flip=True))[..., 3]
    # The hand's tremor: a slow and a fast displacement field, in pixels of the larger picture.
    field = [_noise(rng, side, 3) * side * 0.016 + _noise(rng, side, 9) * side * 0.005 for _ in range(2)]
    rows, columns = np.mgrid[0:side, 0:side]
    ink = ink[
        np.clip(np.rint(rows + field[0]), 0, side - 1).astype(np.intp),
        np.clip(np.rint(columns + field[1]), 0, side - 1).astype(np.intp),
    ]
    pressure = np.clip(0.88 + 0.12 * _noise(rng, side, 6), 0.45, 1.0)
    grey = Image.fromarray(np.rint(255 * (1 - ink * pressure * rng.uniform(0.85, 1.0))).astype(np.uint8))
    return grey.resize((size, size), Image.Resampling.BOX)


def _recolour(rng: np.random.Generator, rgb: Floats, hue: float) -> Floats:
    """Turn hues by up to `hue` (share of the circle), and change saturation, brightness and contrast."""
    image = Image.fromarray(np.rint(rgb * 255).astype(np.uint8)).convert("HSV")
    hsv = np.asarray(image).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + rng.uniform(-hue, hue) * 255) % 256
    hsv[..., 1] *= rng.uniform(0.55, 1.1)
    back = Image.fromarray(np.clip(hsv, 0, 255).astype(np.uint8), mode="HSV").convert("RGB")
    out: Floats = np.asarray(back, dtype=np.float32) / 255
    contrast, light = rng.uniform(0.7, 1.05), rng.uniform(-0.12, 0.1)
    return np.asarray(np.clip((out - 0.5) * contrast + 0.5 + light, 0, 1))


def _background(rng: np.random.Generator, side: int) -> Floats:
    """Return (side, side, 3): a gradient between two colours under noise of three scales and a pattern."""
    ends = rng.uniform(0.1, 0.95, (2, 3)).astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
    slope = np.clip(rows * np.sin(angle) + columns * np.cos(angle) + 0.5, 0, 1)[..., None]
    image = ends[0] * (1 - slope) + ends[1] * slope
    for cells, strength in ((3, 0.12), (8, 0.08), (side // 4, 0.05)):
        tint = rng.uniform(0.3, 1.0, 3).astype(np.float32)
        image = image + strength * _noise(rng, side, cells)[..., None] * tint
    kind = rng.integers(4)
    waves = rng.uniform(4, 14)
    if kind == 0:  # stripes, as of boards or blinds
        pattern = np.sin(2 * np.pi * waves * (columns * np.cos(angle) - rows * np.sin(angle)))
    elif kind == 1:  # tiles
        pattern = np.sign(np.sin(2 * np.pi * waves / 2 * rows) * np.sin(2 * np.pi * waves / 2 * columns))
    elif kind == 2:  # a horizon
        pattern = np.where(rows > rng.uniform(-0.2, 0.3), 1.5, -1.5) * np.ones_like(columns)
    else:
        pattern = np.zeros_like(rows)
    return np.asarray(np.clip(image + 0.08 * pattern[..., None], 0, 1), dtype=np.float32)


def _over(below: Floats, layer: Floats) -> Floats:
    alpha = layer[..., 3:]
    return below * (1 - alpha) + layer[..., :3] * alpha


def _blur(channel: Floats, radius: float) -> Floats:
    image = Image.fromarray(np.rint(channel * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255


@lru_cache(maxsize=512)
def _small(folder: str, stem: str) -> Image.Image:
    """Return the colour layers of a drawing, mode RGBA: one rendering serves every scene it clutters."""
    return Image.fromarray(np.rint(_draw(_layers(folder, stem)[1], 48) * 255).astype(np.uint8))


def _add_clutter(rng: np.random.Generator, scene: Floats, drawing: Image.Image) -> Floats:
    """Return the scene with a drawing in another colour, turned and scaled, centred anywhere on it."""
    side = len(scene)
    rgba = np.asarray(drawing, dtype=np.float32) / 255
    colours = _recolour(rng, rgba[..., :3], 0.5)
    turned = np.dstack([colours, rgba[..., 3] * rng.uniform(0.6, 0.95)])
    thing = Image.fromarray(np.rint(turned * 255).astype(np.uint8))
    width, height = np.rint(side * rng.uniform(0.3, 0.6) * rng.uniform(0.88, 1.13, 2)).astype(int)
    thing = thing.resize((max(4, width), max(4, height)), Image.Resampling.BILINEAR)
    thing = thing.rotate(rng.uniform(0, 360), Image.Resampling.BILINEAR, expand=True)
    layer = Image.new("RGBA", (side, side))
    x, y = rng.integers(0, side, 2)
    layer.paste(thing, (int(x) - thing.width // 2, int(y) - thing.height // 2))
    return _over(scene, np.asarray(layer, dtype=np.float32) / 255)


def photo(
    folder: str, stem: str, others: list[str], size: int, rng: np.random.Generator
) -> tuple[Image.Image, Image.Image]:
    """Return one photo (mode RGB) and its object mask (mode L, 255 on the object), size × size; `others` clutter it."""
    side = round(1.5 * size)
    scene = _background(rng, side)
    for other in rng.choice(others, int(rng.integers(2, 5))) if others else []:
        scene = _add_clutter(rng, scene, _small(folder, str(other)))
    scene = np.stack([_blur(scene[..., c], rng.uniform(0.0, 1.2)) for c in range(3)], axis=-1)
    thing = _draw(_layers(folder, stem)[1], side, _pose(rng, (0.62, 0.98), 22, 0.1, flip=True))
    thing[..., :3] = _recolour(rng, thing[..., :3], 0.08)
    # Shading and a little surface texture, so that areas of one colour do not give the drawing away.
    shade = 1 + 0.10 * _noise(rng, side, 2) + 0.05 * _noise(rng, side, side // 5)
    thing[..., :3] = np.clip(thing[..., :3] * shade[..., None], 0, 1)
    drop = np.roll(thing[..., 3], tuple(rng.integers(1, max(2, side // 16), 2)), axis=(0, 1))
    scene = scene * (1 - 0.45 * _blur(drop, side / 40)[..., None])
    scene = _over(scene, thing) * np.clip(1 + 0.12 * _noise(rng, side, 1), 0.6, 1.3)[..., None]
    scene = np.clip(scene + rng.normal(0, rng.uniform(0.005, 0.03), scene.shape), 0, 1)
    picture = Image.fromarray(np.rint(scene * 255).astype(np.uint8)).resize((size, size), Image.Resampling.BOX)
    mask = Image.fromarray(np.rint(thing[..., 3] * 255).astype(np.uint8)).resize((size, size), Image.Resampling.BOX)
    return picture, mask.point(lambda value: 255 if value > 127 else 0)


def render(job: dict[str, Any], stem: str, place: str) -> None:
    """Write all samples of one category: ``{sketch,photo,mask}/<place>/<n>.png`` under the job's folder."""
    target = Path(job["target"])
    for part in ("sketch", "photo", "mask"):
        (target / part / place).mkdir(parents=True, exist_ok=True)
    for sample in range(job["samples"]):
        rngs = [np.random.default_rng([job["seed"], int(stem, 16), domain, sample]) for domain in range(2)]
        name = f"{place}/{sample:03d}.png"
        sketch(job["folder"], stem, job["size"], rngs[0]).save(target / "sketch" / name)
        picture, mask = photo(job["folder"], stem, job["others"], job["size"], rngs[1])
        picture.save(target / "photo" / name, compress_level=3)
        mask.convert("1").save(target / "mask" / name)


def main() -> None:
    """Read a job as JSON from standard input and render it, writing a line to standard output after each category."""
    job = json.load(sys.stdin)
    for stem, place in job["categories"]:
        render(job, stem, place)
        sys.stdout.write("\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
