import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from zsbir.data import images
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


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_what_no_photo_is_stored_as_is_refused(tmp_path, mode):
    Image.new(mode, (3, 2), 70_000 if mode == "I" else 1).save(tmp_path / "a.tif")
    with pytest.raises(ZsbirError, match=r"a\.tif: images of .* are not read"):
        load_image(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
def test_bands_change_nothing(tmp_path, mode, monkeypatch):
    values = np.random.default_rng(0).integers(0, 256, (23, 17, 4), dtype=np.uint8)
    if mode == "I;16":
        image, options = Image.fromarray(values[..., 0].astype(np.uint16) * 257), {}
    else:
        image = Image.fromarray(values).convert("RGB" if mode == "P" else mode)
        image, options = (image.quantize(8), {"transparency": 3}) if mode == "P" else (image, {})
    whole = saved(tmp_path, image, "a.png", **options)
    monkeypatch.setattr(images, "_BAND", 60)
    assert (saved(tmp_path, image, "a.png", **options) == whole).all()


def test_a_jpeg_is_decoded_no_larger_than_needed(tmp_path):
    Image.new("RGB", (800, 600), (9, 90, 200)).save(tmp_path / "a.jpg")
    assert load_image(tmp_path / "a.jpg").size == (800, 600)
    assert load_image(tmp_path / "a.jpg", at_least=100).size == (200, 150)
    assert load_image(tmp_path / "a.jpg", at_least=599).size == (800, 600)
    assert load_image(tmp_path / "a.jpg", at_least=5000).size == (800, 600)
    Image.new("RGB", (800, 600)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", at_least=100).size == (800, 600)


@pytest.mark.parametrize("name", ["a.eps", "a.dds", "a.psd", "a.ico"])
def test_a_format_that_is_not_read_is_refused_whatever_its_name(tmp_path, name, monkeypatch):
    """EPS above all: Pillow hands it to Ghostscript."""
    monkeypatch.setattr(subprocess, "check_call", lambda *_: pytest.fail("a program was started"))
    content = {
        "a.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        "a.psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 4, 4, 8, 3) + bytes(14),
    }
    path = tmp_path / name
    if name in content:
        path.write_bytes(content[name])
    else:
        Image.new("RGB", (4, 4)).save(path)
    path = path.rename(tmp_path / "named.png")
    with pytest.raises(ZsbirError, match=r"named\.png: it is in none of the formats that are read"):
        load_image(path)


def test_whatever_a_decoder_raises_is_one_sentence(tmp_path, rgb, monkeypatch):
    rgb.save(tmp_path / "a.png")
    for error, message in (
        (KeyError("x"), "'x'"),
        (MemoryError(), "more memory than there is"),
        (OSError(), "OSError"),
    ):
        monkeypatch.setattr(images, "upright", lambda image, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(ZsbirError, match=rf"cannot decode the image .*a\.png: .*{message}"):
            load_image(tmp_path / "a.png")


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
    with pytest.raises(ZsbirError, match=r"bomb\.png"):
        load_image(path)


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path):
    """13,000 x 13,000 of 16 bits fit into 0.3 MB, and took 5 GB."""
    Image.fromarray(np.zeros((1000, 1000), np.uint16)).save(tmp_path / "small.png")
    content = bytearray((tmp_path / "small.png").read_bytes())
    content[16:24] = struct.pack(">II", 9000, 9000)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    (tmp_path / "large.png").write_bytes(content)
    with pytest.raises(ZsbirError, match=r"9000 x 9000 pixels are more than the 80,000,000"):
        load_image(tmp_path / "large.png")


def test_memory_of_a_large_image(tmp_path):
    """A third of a megabyte of 16-bit grey; measured in a process of its own."""
    pytest.importorskip("resource")
    Image.fromarray(np.zeros((6000, 8000), np.uint16)).save(tmp_path / "a.png")
    code = (
        "import resource, sys; from zsbir.data.images import load_image\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = used(); load_image(sys.argv[1]); print((used() - before) * 1024)"
    )
    # Started by a small process: what `ru_maxrss` counts is inherited.
    command = f"exec {sys.executable} -c '{code}' {tmp_path / 'a.png'}"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=120)
    assert int(done.stdout) < 500e6, done.stderr
