"""An authors' checkpoint is evaluated like a run of one's own."""

import json

import pytest
import torch
from torchvision.models import densenet121

import zsbir
from tests.engine.conftest import CLASSES, draw
from zsbir import cli


@pytest.fixture(scope="module")
def dann(tmp_path_factory):
    """Data, and DANN's ``last.pth.tar``."""
    root = tmp_path_factory.mktemp("dann")
    for domain in ("sketch", "photo"):
        for name, colour in CLASSES.items():
            (root / "data" / domain / name).mkdir(parents=True)
            for i in range(2):
                draw(name, None if domain == "sketch" else colour, i).save(root / "data" / domain / name / f"{i}.png")
    state = {f"net.{k}": v for k, v in densenet121(weights=None).features.state_dict().items()}
    torch.save({"iteration": 1, "image_model": state, "sketch_model": state}, root / "last.pth.tar")
    return root


def evaluate(root, *words):
    return cli.main(
        ["evaluate", "--method", "dann", "--weights", str(root / "last.pth.tar"), "--dataset", "folder",
         "--root", str(root / "data"), "--set-data", "unseen=2", "--no-html", "--workers", "0", "--resamples", "0",
         "--device", "cpu", "--protocol", "sbka", *map(str, words)]
    )  # fmt: skip


def test_a_checkpoint_becomes_a_run_with_a_report(dann, tmp_path, capsys):
    assert evaluate(dann, "--out", tmp_path / "run") == 0
    assert "loaded: photo, sketch; as it was: domain" in capsys.readouterr().out
    report = json.loads((tmp_path / "run" / "evaluation" / "report.json").read_text(encoding="utf-8"))
    assert "sbka" in json.dumps(report)
    assert "the authors' checkpoint: " in json.dumps(report)
    method = zsbir.load(tmp_path / "run")
    assert method.preprocess.mean == (0.0, 0.0, 0.0)  # built as published
    images = torch.rand(1, 3, 224, 224)
    expected = torch.load(dann / "last.pth.tar", weights_only=True)["image_model"]["net.conv0.weight"]
    assert torch.equal(method.photo.backbone.net.features.conv0.weight, expected)
    assert method.eval().embed(images, "photo").vector.shape == (1, 1024)
    assert cli.main(["evaluate", str(tmp_path / "run"), "--no-html", "--workers", "0", "--resamples", "0"]) == 0
    assert evaluate(dann, "--out", tmp_path / "run") == 2
    assert "already holds a run" in capsys.readouterr().err


def test_what_is_missing_is_named(dann, tmp_path, capsys):
    assert cli.main(["evaluate", "--method", "dann"]) == 2
    assert "name the dataset to evaluate it on with --dataset" in capsys.readouterr().err
    assert evaluate(dann, tmp_path) == 2
    assert "not both" in capsys.readouterr().err
