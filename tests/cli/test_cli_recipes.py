"""Sets of settings by name: ``zsbir train METHOD --recipe NAME``."""

import json

import pytest
from PIL import Image, ImageDraw

from zsbir import cli


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for domain in ("sketch", "photo"):
        for corners, name in enumerate(("bar", "cross", "dot"), start=3):
            folder = tmp_path / "data" / domain / name
            folder.mkdir(parents=True)
            for i in range(3):
                image = Image.new("RGB", (32, 32), "white" if domain == "sketch" else "grey")
                ImageDraw.Draw(image).regular_polygon((16, 16, 8 + i), corners, fill="black")
                image.save(folder / f"{i}.png")
    return tmp_path / "data"


def train(root, *words):
    command = ["train", "dann", "--dataset", "folder", "--unseen", "bar", "--root", str(root), "--no-pretrained"]
    return cli.main([*command, "--out", "run", "--batch-size", "2", "--epochs", "1", "--workers", "0", *words])


def test_a_named_recipe_sets_method_and_training_and_can_be_changed(root):
    words = ("--set", "backbone.name=tiny", "backbone.image_size=32", "margin=0.3")
    assert train(root, "--recipe", "small-data", "schedule=constant", *words) == 0
    run = json.loads((root.parent / "run" / "run.json").read_text())
    assert run["method"]["shared"] == "head"
    assert run["method"]["margin"] == 0.3
    assert run["method"]["backbone"] == {"name": "tiny", "image_size": 32}
    assert run["recipe"]["optimizer"] == "adamw"
    assert run["recipe"]["schedule"] == "constant"
    assert run["recipe"]["epochs"] == 1


def test_an_unknown_recipe_is_refused_with_the_known_ones(root, capsys):
    assert train(root, "--recipe", "small-dat") != 0
    assert "small-data" in capsys.readouterr().err


def test_a_setting_of_the_backbone_is_added_to_the_recipes_own(root):
    assert train(root, "--recipe", "small-data", "--backbone", "lite0", "--set", "backbone.image_size=32") == 0
    run = json.loads((root.parent / "run" / "run.json").read_text())
    assert run["method"]["backbone"] == {"name": "lite0", "pool": "stages", "image_size": 32}


def test_two_names_for_the_backbone_are_refused(root, capsys):
    assert train(root, "--backbone", "tiny", "--set", "backbone=lite0") == 2
    assert "backbone is given twice, by --backbone and in --set" in capsys.readouterr().err
