"""The model that comes with zsbir."""

import pytest
import torch
from PIL import Image, ImageDraw

import zsbir
from zsbir.backbones.weights import read_tensors
from zsbir.methods.base import PACKAGED

MODEL = zsbir.__path__[0] + "/models/doodle/model.safetensors"


@pytest.fixture(scope="module")
def doodle():
    return zsbir.load(PACKAGED)


def drawing(side, box):
    image = Image.new("RGB", (side, side), "white")
    ImageDraw.Draw(image).ellipse(box, outline="black", width=4)
    return image


def test_it_is_filled_with_what_training_gave(doodle):
    stored = read_tensors(MODEL)
    assert {name for name in doodle.state_dict() if not name.startswith("backbone.")} == set(stored)
    assert torch.equal(doodle.head.linear.weight.half(), stored["head.linear.weight"])
    assert doodle.head.standard["sketch"].seen > 0
    untrained = zsbir.build(PACKAGED, pretrained=False)
    assert not torch.equal(untrained.head.linear.weight, doodle.head.linear.weight)


def test_where_a_drawing_lies_and_how_large_it_is_hardly_matters(doodle):
    full, corner = drawing(224, (10, 10, 213, 213)), drawing(448, (20, 30, 223, 233))
    box = Image.new("RGB", (224, 224), "white")
    ImageDraw.Draw(box).rectangle((10, 80, 213, 140), outline="black", width=4)
    same, other = doodle.encode_sketches([full, corner, box])[[0, 0]], doodle.encode_sketches([corner, box])
    near, far = torch.nn.functional.cosine_similarity(same, other).tolist()
    assert near > 0.95
    assert far < near - 0.1


def test_a_saved_doodle_is_the_same_model(doodle, tmp_path):
    doodle.save(tmp_path / "mine")
    image = drawing(224, (30, 30, 200, 200))
    again = zsbir.load(tmp_path / "mine")
    assert torch.equal(again.encode_sketches(image), doodle.encode_sketches(image))
