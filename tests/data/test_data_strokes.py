import json

import numpy as np
import pytest

from tests.data.data_trees import write_drawings
from zsbir.data.images import load_image
from zsbir.data.strokes import StrokeStyle, count_drawings, draw_strokes, load_drawing
from zsbir.errors import ZsbirError

FRAME = [[[0, 255, 255, 0, 0], [0, 0, 255, 255, 0]]]


def dark(image):
    return np.argwhere(np.asarray(image.convert("L")) < 128)


@pytest.mark.parametrize("size", [32, 224, 301])
def test_drawing_has_the_wanted_size_and_place(size):
    image = draw_strokes(FRAME, StrokeStyle(size, line_width=2, margin=0.1))
    assert image.size == (size, size)
    found = dark(image)
    assert abs(found.min() - 0.1 * size) <= 2
    assert abs(found.max() - 0.9 * size) <= 2
    assert np.asarray(image)[size // 2, size // 2].tolist() == [255, 255, 255]


@pytest.mark.parametrize("width", [1, 4, 9.5])
def test_line_width_is_in_pixels(width):
    image = draw_strokes([[[20, 230], [128, 128]]], StrokeStyle(256, line_width=width))
    ink = (255 - np.asarray(image.convert("L"))[:, 128].astype(float)).sum() / 255
    assert abs(ink - width) <= 0.5


def test_raw_drawings_are_scaled_to_the_square():
    raw = [[[1000.5, 3000.25], [-50, 900], [0, 17]]]
    found = dark(draw_strokes(raw, StrokeStyle(128, margin=0.05)))
    assert found[:, 1].max() - found[:, 1].min() > 110


def test_a_dot_is_drawn():
    assert len(dark(draw_strokes([[[100], [100]]], StrokeStyle(64, 4)))) > 5
    assert len(dark(draw_strokes([[[700, 700], [700, 700]]], StrokeStyle(64, 4)))) > 3


def test_file_of_many(tmp_path):
    path = write_drawings(tmp_path / "cat.ndjson", 3)
    assert count_drawings(str(path)) == 3
    first, last = load_image(f"{path}#0"), load_image(f"{path}#2")
    assert (np.asarray(first) != np.asarray(last)).any()
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert count_drawings(str(path)) == 3
    assert (np.asarray(load_image(f"{path}#2")) == np.asarray(last)).all()
    write_drawings(path, 5)
    assert count_drawings(str(path)) == 5


@pytest.mark.parametrize(
    "line",
    ["no json", "[]", "{}", '{"drawing": []}', '{"drawing": [[[1, 2], [3]]]}', '{"drawing": [[["a"], ["b"]]]}',
     '{"drawing": [[[NaN], [1]]]}'],
)  # fmt: skip
def test_broken_drawings_are_named(tmp_path, line):
    path = tmp_path / "cat.ndjson"
    path.write_text(line + "\n")
    with pytest.raises(ZsbirError, match=r"cat\.ndjson#0"):
        load_drawing(f"{path}#0")


def test_missing_drawings_are_named(tmp_path):
    path = write_drawings(tmp_path / "cat.ndjson", 2)
    for number in ("2", "-1", "x"):
        with pytest.raises(ZsbirError, match="cat.ndjson#" + number):
            load_drawing(f"{path}#{number}")
    with pytest.raises(ZsbirError, match=r"none\.ndjson"):
        load_drawing(f"{tmp_path}/none.ndjson#0")


def test_wrong_style():
    for style in ({"size": 0}, {"line_width": 0}, {"margin": 0.5}):
        with pytest.raises(ZsbirError, match=f"stroke style: {next(iter(style))}="):
            StrokeStyle(**style)


SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 50">'
    '<path d="M10 25 H90" stroke="black" fill="none" stroke-width="2"/></svg>'
)


def test_svg(tmp_path):
    path = tmp_path / "a.svg"
    path.write_text(SVG)
    image = load_image(path)
    assert image.size == (256, 256)
    column = np.asarray(image.convert("L"))[:, 128].astype(float)
    assert column[0] == 255
    assert abs((255 - column).sum() / 255 - 5.12) < 0.5
    assert abs(np.flatnonzero(column < 128).mean() - 127.5) <= 1
    wide = load_drawing(str(path), StrokeStyle(128, line_width=10))
    assert abs((255 - np.asarray(wide.convert("L"))[:, 64].astype(float)).sum() / 255 - 10) < 0.5


def test_broken_svg(tmp_path):
    path = tmp_path / "a.svg"
    for text in ("", "<svg>", "no"):
        path.write_text(text)
        with pytest.raises(ZsbirError, match=r"a\.svg"):
            load_image(path)


def test_json_lines_are_quickdraws(tmp_path):
    path = tmp_path / "cat.ndjson"
    path.write_text(json.dumps({"word": "cat", "recognized": True, "key_id": "5", "drawing": FRAME}) + "\n")
    assert load_drawing(f"{path}#0").mode == "RGB"
