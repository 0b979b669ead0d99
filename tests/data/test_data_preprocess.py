from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

import zsbir
from zsbir.data.preprocess import WAYS, Preprocess, way
from zsbir.errors import ZsbirError

REFERENCE = Path(__file__).parents[1] / "reference" / "puxim_preparation.npz"


def prepare(image, size, how="squash"):
    return way(how)(image, size)


def test_squash_fills_the_square():
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))
    assert prepare(rgb, 9).shape == (9, 9, 3)
    assert (prepare(rgb.resize((6, 6)), 6) == np.asarray(rgb.resize((6, 6)))).all()


def test_crop_pad_follows_its_definition():
    sketch = np.full((200, 300, 3), 250, np.uint8)
    sketch[50:90, 100:220] = 0  # drawn box: 120 wide, 40 high; with margins 140 x 60
    prepared = prepare(Image.fromarray(sketch), 70, "crop-pad").astype(int)
    drawn = np.argwhere(prepared.sum(2) <= 300)
    top, left = drawn.min(0)
    bottom, right = drawn.max(0) + 1
    assert (right - left, bottom - top) == (60, 20)  # 120 x 40 halved
    assert (left, 70 - right, top, 70 - bottom) == (5, 5, 25, 25)
    assert prepared[0, 0, 0] == 250  # padded with the maximum value


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 33),
    st.sampled_from(sorted(WAYS)),
    st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_becomes_a_square(width, height, size, how, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = prepare(Image.fromarray(pixels), size, how)
    assert out.shape == (size, size, 3)
    assert out.dtype == np.uint8


@pytest.mark.parametrize("how", ["crop-pad", "crop-pad-released"])
def test_empty_drawing(how):
    assert (prepare(Image.new("RGB", (8, 4), "white"), 6, how) == 255).all()


def test_an_unknown_way_is_named():
    with pytest.raises(ZsbirError, match=r"no way 'stretch'.*Known: squash, bicubic, "):
        way("stretch")


def test_prepares_as_puxim_released():
    """Expected values: the released code, run on these images."""
    held = np.load(REFERENCE)
    for number in range(4):
        sketch = Image.fromarray(held[f"sketch_{number}"]).convert("RGB")
        ours = prepare(sketch, 224, "crop-pad-released")
        assert (ours == held[f"released_{number}"][..., None]).all(), number
        assert (prepare(sketch, 224, "crop-pad") != ours).any()
    assert (prepare(Image.fromarray(held["photo"]), 224, "bicubic")[::8, ::8] == held["released_photo"]).all()


def test_puxim_prepares_as_published_unless_told_otherwise(tmp_path):
    puxim = zsbir.build("puxim", backbone="test_vit", image_size=32, masker="none")
    assert (puxim.preprocess.sketch, puxim.preprocess.photo) == ("crop-pad-released", "bicubic")
    other = zsbir.build("puxim", backbone="test_vit", image_size=32, masker="none", preprocess={"photo": "squash"})
    other.save(tmp_path / "saved")
    assert zsbir.load(tmp_path / "saved").preprocess == other.preprocess
    assert (other.preprocess.sketch, other.preprocess.photo) == ("crop-pad-released", "squash")


def test_what_a_preparation_cannot_be():
    look = Preprocess(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert Preprocess(8, [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]) == look  # as it comes out of JSON
    with pytest.raises(ZsbirError, match="no way 'stretch'"):
        Preprocess(8, look.mean, look.std, sketch="stretch")
    with pytest.raises(ZsbirError, match=r"std=\(1\.0, 0\.0, 1\.0\) must be a list of numbers above 0"):
        Preprocess(8, look.mean, (1.0, 0.0, 1.0))
    with pytest.raises(ZsbirError, match=r"no argument 'skech'\. Did you mean 'sketch'"):
        zsbir.build("frozen", backbone="tiny", preprocess={"skech": "crop-pad"})
    with pytest.raises(ZsbirError, match="size is the backbone's"):
        zsbir.build("frozen", backbone="tiny", preprocess={"size": 32})


@pytest.mark.parametrize("name", ["frozen", "dann"])
def test_methods_normalise_what_they_embed_themselves(name):
    plain, grey = (
        zsbir.build(name, backbone={"name": "tiny", "image_size": 32}, preprocess=given).eval()
        for given in (None, {"mean": [0.0] * 3, "std": [1.0] * 3})
    )
    grey.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 32, 32)
    seen = grey.embed((images - 0.5) / 0.5, "photo").vector
    assert torch.allclose(plain.embed(images, "photo").vector, seen, atol=1e-6)


def test_pad_black_is_pillows_and_leaves_a_line_of_the_narrowest_image():
    rng = np.random.default_rng(0)
    for width, height, size in [(40, 30, 32), (31, 64, 17), (8, 8, 20), (90, 7, 33), (3, 5, 2)]:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        np.testing.assert_array_equal(prepare(image, size, "pad-black"), np.array(ImageOps.pad(image, (size, size))))
    line = Image.new("RGB", (2, 200), "white")
    assert prepare(line, 20, "pad-black").max() == 255
