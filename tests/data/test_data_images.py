import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from zsbir.data.images import load_image
from zsbir.errors import ZsbirError


def saved(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return np.asarray(load_image(path)).astype(int)


@pytest.fixture
def rgb():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))


def test_plain_rgb(tmp_path, rgb):
    assert (saved(tmp_path, rgb, "a.png") == np.asarray(rgb)).all()


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, lambda a: np.transpose(a, (1, 0, 2))),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(np.transpose(a, (1, 0, 2)), 2)),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
def test_exif_orientation(tmp_path, rgb, orientation, undo):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (saved(tmp_path, rgb, "a.png", exif=exif) == undo(np.asarray(rgb))).all()


def test_damaged_exif_is_upright(tmp_path, rgb):
    assert saved(tmp_path, rgb, "a.jpg", exif=b"Exif\0\0MM\0\x2a\0\0\xff\xff").shape == (5, 7, 3)


def test_16_bit_grey(tmp_path):
    values = np.array([[0, 257, 65535, 32896]], dtype=np.uint16)
    for name in ("a.png", "a.tif"):
        assert (saved(tmp_path, Image.fromarray(values), name)[0, :, 0] == [0, 1, 255, 128]).all()


def test_floating_point(tmp_path):
    assert (
        saved(tmp_path, Image.fromarray(np.array([[0, 0.5, 1]], np.float32)), "a.tif")[0, :, 1] == [0, 128, 255]
    ).all()
    assert (
        saved(tmp_path, Image.fromarray(np.array([[0, 99, 255]], np.float32)), "b.tif")[0, :, 1] == [0, 99, 255]
    ).all()


def test_transparency_is_white(tmp_path):
    clear = Image.new("RGBA", (4, 3), (0, 0, 0, 0))
    clear.putpixel((1, 1), (10, 20, 30, 255))
    clear.putpixel((2, 1), (0, 0, 0, 128))
    pixels = saved(tmp_path, clear, "a.png")
    assert (pixels[0, 0] == 255).all()
    assert (pixels[1, 1] == (10, 20, 30)).all()
    assert abs(pixels[1, 2] - 127).max() <= 1
    grey = Image.new("LA", (2, 2), (0, 0))
    assert (saved(tmp_path, grey, "b.png") == 255).all()


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.new("P", (3, 2), 1)
    image.putpalette([0, 0, 0, 200, 100, 50, 7, 8, 9])
    image.putpixel((0, 0), 2)
    assert (saved(tmp_path, image, "a.png")[1, 1] == (200, 100, 50)).all()
    pixels = saved(tmp_path, image, "b.png", transparency=1)
    assert (pixels[1, 1] == 255).all()
    assert (pixels[0, 0] == (7, 8, 9)).all()


def test_rgb_with_a_transparent_colour(tmp_path):
    pixels = saved(tmp_path, Image.new("RGB", (2, 2), (1, 2, 3)), "a.png", transparency=(1, 2, 3))
    assert (pixels == 255).all()


def test_bilevel_and_cmyk(tmp_path):
    assert (saved(tmp_path, Image.new("1", (2, 2), 1), "a.png") == 255).all()
    pixels = saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.jpg")
    assert abs(pixels[4, 4] - (255, 0, 0)).max() < 10


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_animation_gives_its_first_frame(tmp_path, name):
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue")]
    pixels = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], duration=100)
    assert pixels[3, 3, 0] > 200
    assert pixels[3, 3, 2] < 50


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n1234", b"\xff\xd8\xff\xe0broken"])
def test_broken_files_are_named(tmp_path, content):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(ZsbirError, match=r"broken\.png"):
        load_image(path)


def test_missing_and_truncated(tmp_path, rgb):
    with pytest.raises(ZsbirError, match=r"no image file .*none\.png"):
        load_image(tmp_path / "none.png")
    buffer = io.BytesIO()
    rgb.resize((64, 64)).save(buffer, "JPEG")
    path = tmp_path / "cut.jpg"
    path.write_bytes(buffer.getvalue()[:-200])
    with pytest.raises(ZsbirError, match=r"cut\.jpg"):
        load_image(path)


def test_decompression_bomb_is_refused(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 1, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    )
    with pytest.raises(ZsbirError, match=r"bomb\.png.*bomb"):
        load_image(path)
