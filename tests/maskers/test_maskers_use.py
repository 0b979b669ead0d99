"""Maskers in use: pictures, the command, and training with stored masks."""

import numpy as np
import pytest
import torch
from PIL import Image

import zsbir
from zsbir.cli import main
from zsbir.engine.masks import stored_masks, use_stored_masks
from zsbir.errors import ZsbirError
from zsbir.maskers.picture import MARGIN, mask_picture


@pytest.fixture
def root(tmp_path):
    """Three classes with four sketches and photos each; the photo's object is a bright square."""
    rng = np.random.default_rng(0)
    for domain in ("photo", "sketch"):
        for name in ("cat", "dog", "owl"):
            folder = tmp_path / "data" / domain / name
            folder.mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "data"


def dataset(root):
    return zsbir.DATASETS.build("folder", root=str(root), unseen="owl")


def method(masker="random"):
    return zsbir.build("puxim", backbone={"name": "tiny", "image_size": 32}, masker=masker, layers=1, hidden=16)


def trainer(root, made, out=None, **recipe):
    from dataclasses import replace

    changed = replace(made.recipe, **{"epochs": 2, "batch_size": 2, "samples_per_epoch": 4, **recipe})
    return zsbir.Trainer(made, dataset(root), recipe=changed, out=out, workers=0, device="cpu", progress=False)


def test_training_reads_stored_masks_and_runs_no_masker(root, tmp_path):
    made = method()
    training = trainer(root, made)
    store = use_stored_masks(training, tmp_path / "masks")
    made.masker.forward = None  # any use of it would fail
    training.fit()
    raw = next(training.loader.epoch(0))
    for name in ("photo", "negative"):
        for row, file in enumerate(raw.files[name]):
            assert np.array_equal(raw.keep[name][row].numpy(), store(file))
    assert stored_masks(made, dataset(root), tmp_path / "masks").file == store.file


def test_stored_masks_refuse_what_cannot_be(root, tmp_path):
    with pytest.raises(ZsbirError, match="warped photo"):
        use_stored_masks(trainer(root, method(), augment="affine"), tmp_path)
    with pytest.raises(ZsbirError, match="has no masker"):
        stored_masks(zsbir.build("frozen", backbone="tiny"), dataset(root), tmp_path)


def test_checkpoint_round_trip(root, tmp_path):
    made = method()
    trainer(root, made, out=tmp_path / "run").fit()
    loaded = zsbir.load(tmp_path / "run")
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded.embed(images, "photo").vector, made.embed(images, "photo").vector)
    out = tmp_path / "masks.png"
    assert main(["masks", str(tmp_path / "run"), str(root / "photo"), "--out", str(out), "--limit", "2"]) == 0
    assert Image.open(out).size[0] == 3 * 32 + 4 * MARGIN


def test_picture_shows_what_is_kept():
    photos = np.full((1, 32, 32, 3), 200, dtype=np.uint8)
    keep = torch.tensor([[True, False, False, False]])
    picture = np.asarray(mask_picture(photos, torch.tensor([[1.0, 0.0, 0.0, 0.0]]), keep, (2, 2), ["x"]))
    top = picture.shape[0] - 32 - MARGIN
    right = picture[top : top + 32, 3 * MARGIN + 64 : 3 * MARGIN + 96]
    assert (right[2:14, 2:14] == 200).all()  # kept
    assert (right[18:, 18:].mean()) < 100  # masked
    heat = picture[top : top + 32, 2 * MARGIN + 32 : 2 * MARGIN + 64].astype(int)
    assert heat[4, 4, 0] > heat[28, 28, 0]  # yellow over blue


def test_command(root, tmp_path, capsys):
    out = tmp_path / "a.png"
    arguments = ["masks", "random", str(root / "photo"), "--backbone", "tiny", "--out", str(out), "--set", "ratio=0.5"]
    assert main(arguments) == 0
    assert "8 photos, 44 % of the patches kept" in capsys.readouterr().out
    assert main(["masks", "oracle", str(root / "photo"), "--backbone", "tiny"]) == 2
    assert "true object masks" in capsys.readouterr().err
    assert main(["masks", "random", str(root / "absent")]) == 2
    assert "no photo or folder" in capsys.readouterr().err
