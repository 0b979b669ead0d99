import contextlib
import dataclasses
import io
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.search.pictures import picture
from zsbir.search.uploads import Limits, RefusedError, decode, decode_strokes, decode_upload

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">{}</svg>'
LINE = '<path d="M10 10L90 90" stroke="#000" stroke-width="6" fill="none"/>'


def coded(kind, image=None, **options):
    stream = io.BytesIO()
    (image or picture(1)).save(stream, kind, **options)
    return stream.getvalue()


VALID = {
    "png": coded("PNG"),
    "jpeg": coded("JPEG"),
    "progressive": coded("JPEG", progressive=True),
    "webp": coded("WEBP"),
    "palette": coded("PNG", picture(1).convert("P")),
    "alpha": coded("PNG", picture(1).convert("RGBA")),
    "svg": SVG.format(LINE).encode(),
    "svg-declared": b'<?xml version="1.0"?>\n<!-- drawn -->\n' + SVG.format(LINE).encode(),
}


def bomb():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    body = zlib.compress(b"\0" * 1_000_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", VALID)
def test_good_files_are_taken(name):
    image = decode_upload(VALID[name])
    assert image.mode == "RGB"
    assert np.asarray(image).std() > 1


def test_svg_is_drawn_where_it_says():
    pixels = np.asarray(decode_upload(VALID["svg"]).convert("L"))
    assert pixels[256, 256] < 50
    assert pixels[400, 100] == 255


BAD = {
    "empty": (b"", 400),
    "text": (b"hello", 415),
    "html": (b"<html><svg></svg></html>", 415),
    "gif": (coded("GIF"), 415),
    "pickle": (b"\x80\x04cos\nsystem\n.", 415),
    "truncated png": (VALID["png"][:-30], 400),
    "truncated jpeg": (VALID["jpeg"][:-30], 400),
    "truncated webp": (VALID["webp"][:-30], 400),
    "png then zip": (VALID["png"] + b"PK\x03\x04", 400),
    "jpeg then html": (VALID["jpeg"] + b"<script>", 400),
    "webp then more": (VALID["webp"] + b"MZ", 400),
    "bomb": (bomb(), 413),
    "too long": (VALID["png"] + bytes(8_000_000), 413),
    "svg script": (SVG.format("<script>alert(1)</script>").encode(), 400),
    "svg handler": (SVG.format('<path onload="x()" d="M0 0"/>').encode(), 400),
    "svg image": (SVG.format('<image href="file:///etc/passwd"/>').encode(), 400),
    "svg hidden image": (SVG.format('<defs><image href="http://a/b.png"/></defs>').encode(), 400),
    "svg use": (SVG.format('<g id="a"/><use href="#a"/>').encode(), 400),
    "svg link": (SVG.format('<a href="http://a">x</a>').encode(), 400),
    "svg fill url": (SVG.format('<path fill="url(http://a/b#c)" d="M0 0"/>').encode(), 400),
    "svg style url": (SVG.format('<path style="fill:URL(file:///x)" d="M0 0"/>').encode(), 400),
    "svg style": (SVG.format("<style>@import 'http://a'</style>").encode(), 400),
    "svg foreign": (SVG.format("<foreignObject/>").encode(), 400),
    "svg entity": (b'<!DOCTYPE svg [<!ENTITY a "aa">]>' + VALID["svg"], 400),
    "svg inner entity": (b"<svg><!DOCTYPE a></svg>", 400),
    "svg style sheet": (b"<svg xmlns='http://www.w3.org/2000/svg'><?xml-stylesheet href='a'?></svg>", 400),
    "svg cut": (VALID["svg"][:-4], 400),
    "svg many": (SVG.format("<g/>" * 6000).encode(), 413),
    "svg deep": (SVG.format("<g>" * 99 + "</g>" * 99).encode(), 400),
    "svg latin": (b"<svg>\xff</svg>", 400),
    "svg long": (SVG.format(" " * 1_000_001).encode(), 413),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused(name):
    data, status = BAD[name]
    with pytest.raises(RefusedError) as caught:
        decode_upload(data)
    assert caught.value.status == status
    assert len(str(caught.value)) < 250


def test_pixel_limit_is_checked_before_decoding(monkeypatch):
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(RefusedError, match="pixels"):
        decode(VALID["png"], dataclasses.asdict(Limits(pixels=100)))


def test_strokes():
    image = decode_strokes([[[10, 200], [10, 200]], [[0], [0], [1]]])
    assert np.asarray(image).min() < 50


@pytest.mark.parametrize(
    "strokes",
    [None, {}, [], [[]], [[[1], []]], [[["a"], [1]]], [[[1, 2], [1]]], [[[float("nan")], [1]]], [[[1e400], [1]]],
     [[[True], [1]]], [[[1], [1], [1], [1]]], [[[], []]], "abc", [[[[1]], [[1]]]], [[[10**400], [1]]]],
)  # fmt: skip
def test_bad_strokes(strokes):
    with pytest.raises(RefusedError):
        decode_strokes(strokes)


def test_too_many_points():
    with pytest.raises(RefusedError) as caught:
        decode_strokes([[[0] * 200, [0] * 200]], Limits(points=100))
    assert caught.value.status == 413


def never_crashes(data):
    with contextlib.suppress(RefusedError):
        assert decode_upload(data, Limits(pixels=1_000_000)).mode == "RGB"


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(VALID)), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8))
def test_fuzz_changed_bytes(name, changes):
    data = bytearray(VALID[name])
    for at, value in changes:
        data[at % len(data)] = value
    never_crashes(bytes(data))


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF0000WEBP", b"<svg "]), st.binary(max_size=300)
)
def test_fuzz_invented_bytes(start, rest):
    never_crashes(start + rest)


NUMBERS = st.floats() | st.integers() | st.sampled_from(["1e999", "-0", "", "NaN", "100%", "1e-300"])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["path", "line", "rect", "circle", "polygon", "g"]),
            st.dictionaries(
                st.sampled_from(["width", "height", "r", "stroke-width", "x1", "transform", "d", "points"]),
                NUMBERS,
                max_size=4,
            ),
        ),
        max_size=6,
    ),
    NUMBERS,
)
def test_fuzz_svg(shapes, side):
    body = "".join(
        "<{} stroke='#000' {}/>".format(tag, " ".join(f"{k}='{v}'" for k, v in given.items())) for tag, given in shapes
    )
    never_crashes(f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {side} 9'>{body}</svg>".encode())


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3), st.lists, max_leaves=20)
)
def test_fuzz_strokes(strokes):
    with contextlib.suppress(RefusedError):
        decode_strokes(strokes)


def test_comments_before_the_drawing_take_no_time():
    began = time.perf_counter()
    with pytest.raises(RefusedError):
        decode_upload(b"<!---->" * 4000 + b"<!")
    assert decode_upload(b"<!---->" * 4000 + VALID["svg"]).mode == "RGB"
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    "shapes",
    [
        '<path d="M0 0' + "".join(f"L{i % 97} {i % 89}" for i in range(90_000)) + '" stroke="#000"/>',
        '<g opacity=".9">' * 45 + '<circle r="9"/>' * 4000 + "</g>" * 45,
    ],
)
def test_a_costly_drawing_is_ended(shapes):
    limits = Limits(seconds=0.3)
    began = time.perf_counter()
    with contextlib.suppress(RefusedError):
        decode_upload(SVG.format(shapes).encode(), limits)
    assert time.perf_counter() - began < 5
    assert decode_upload(VALID["svg"]).mode == "RGB"  # by another process


def test_memory_is_limited():
    with pytest.raises(RefusedError, match="memory"):
        decode_upload(coded("PNG", Image.new("RGB", (4000, 4000))), Limits(memory=20 << 20))
    assert decode_upload(VALID["png"]).mode == "RGB"
