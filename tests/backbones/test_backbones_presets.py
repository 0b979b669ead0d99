"""Short names of pretrained networks stand for networks that exist."""

import open_clip
import pytest
import timm

import zsbir
from zsbir import backbones
from zsbir.errors import ZsbirError


@pytest.mark.parametrize("name", ["clip", "siglip2", "dinov2", "dinov3"])
def test_each_stands_for_published_weights(name):
    preset = backbones.PRESETS[name]
    if preset["name"] == "open-clip":
        assert (preset["model"], preset["tag"]) in open_clip.list_pretrained()
    else:
        assert preset["model"] in timm.list_pretrained()
    assert name not in zsbir.BACKBONES  # a short name, no entry


def test_a_preset_builds_what_it_stands_for_and_yields_to_what_is_said(monkeypatch):
    small = {"dinov2": {"name": "timm", "model": "test_vit", "image_size": 64}}
    monkeypatch.setattr(backbones, "PRESETS", small)
    method = zsbir.build("frozen", backbone="dinov2")
    assert (method.backbone.spec["model"], method.preprocess.size) == ("test_vit", 64)
    assert zsbir.build("frozen", backbone={"name": "dinov2", "image_size": 32}).preprocess.size == 32
    with pytest.raises(ZsbirError, match="dinov2"):
        zsbir.BACKBONES.build("dinov22")
