"""The contrastive baseline, and the stored outputs of frozen layers that it trains on."""

import math
import signal

import pytest
import torch

import zsbir
from zsbir.data.loading import ImageSource
from zsbir.engine import trainer as trainer_module
from zsbir.engine.trainer import Trainer
from zsbir.errors import ZsbirError
from zsbir.losses import supervised_contrastive_loss
from zsbir.methods.embedding import embed_split
from zsbir.methods.features import StoredFeatures

NET = {"name": "timm", "model": "test_efficientnet", "image_size": 32, "pool": "stages"}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def build(**options):
    torch.manual_seed(0)
    return zsbir.build("contrastive", backbone=NET, head=8, **options)


def test_the_loss_is_khoslas():
    z = torch.nn.functional.normalize(torch.randn(5, 3), dim=1)
    label, t = torch.tensor([0, 1, 0, 1, 0]), 0.3
    total = 0.0
    for i in range(5):
        others = [a for a in range(5) if a != i]
        below = sum(math.exp(z[i] @ z[a] / t) for a in others)
        positives = [p for p in others if label[p] == label[i]]
        total -= sum(math.log(math.exp(z[i] @ z[p] / t) / below) for p in positives) / len(positives)
    assert supervised_contrastive_loss(z, label, t).item() == pytest.approx(total / 5, rel=1e-5)


@pytest.mark.parametrize("tune", [0, 1, 2, 3])
def test_what_frozen_stages_give_stands_for_the_image(tune):
    method = build(tune=tune).eval()
    images = torch.rand(2, 3, 32, 32)
    trunk = method.backbone
    stored = trunk.lower(method.preprocess.normalise(images))
    assert stored.ndim == (4 if tune else 2)
    torch.testing.assert_close(method.embed(stored, "photo").vector, method.embed(images, "photo").vector)


@pytest.mark.parametrize("tune", [0, 2])
def test_training_from_stored_features_equals_training_from_images(shapes, tune, monkeypatch):
    recipe = zsbir.Recipe(epochs=2, batch_size=6, sampling="balanced", lr=1e-2, fixed_norm=True)
    results = []
    for stores in (True, False):
        method = build(tune=tune)
        trainer = Trainer(method, shapes, recipe=recipe, workers=0, progress=False)
        if not stores:
            monkeypatch.setattr(trainer_module, "store_features", lambda *_: None)
        trainer.fit()
        assert (method.stored is not None) is stores
        results.append(method)
    queries = [embed_split(method, shapes, shapes.test)[0].vectors for method in results]
    torch.testing.assert_close(queries[0], queries[1], atol=5e-3, rtol=0)  # stored in half precision
    start = embed_split(build(tune=tune), shapes, shapes.test)[0].vectors
    assert not torch.allclose(start, queries[0], atol=5e-3)


def test_stored_features_are_found_again_and_depend_on_the_frozen_weights(shapes, tmp_path, monkeypatch):
    method = build().eval()
    source = ImageSource(shapes, method.preprocess)
    files = [str(shapes.train.photos.file(i)) for i in range(3)]
    StoredFeatures(method.trunk, method.preprocess, folder=tmp_path).fill(source, files, "photo")
    monkeypatch.setattr(method.backbone, "lower", None)  # any use of it fails
    again = StoredFeatures(method.trunk, method.preprocess, folder=tmp_path)
    again.fill(source, files, "photo")
    assert again(files[0], "photo").shape == (method.backbone.dim,)
    with pytest.raises(ZsbirError, match="could not be read"):
        again(files[0], "sketch")
    with torch.no_grad():
        next(method.backbone.parameters()).add_(1)
    with pytest.raises(ZsbirError, match="could not be read"):
        StoredFeatures(method.trunk, method.preprocess, folder=tmp_path)(files[0], "photo")


def test_frozen_stages_keep_their_mode_and_weights():
    method = build(tune=2).train()
    parts = method.backbone._parts()
    assert [all(m.training for m in part.children()) for part in parts] == [False] * (len(parts) - 2) + [True] * 2
    assert all(p.requires_grad == (part in parts[-2:]) for part in parts for p in part.parameters())
    with pytest.raises(ZsbirError, match="stages"):
        build(tune=99)
    with pytest.raises(ZsbirError, match="no stages"):
        zsbir.build("contrastive", backbone={"name": "tiny", "image_size": 32}, tune=1)


def test_the_kept_features_are_part_of_the_embedding():
    images = torch.rand(3, 3, 32, 32)
    method = build(keep=0.5).eval()
    vector = method.embed(images, "sketch").vector
    assert vector.shape == (3, 8 + method.backbone.dim)
    torch.testing.assert_close(vector.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(vector[:, 8:].norm(dim=1) / vector[:, :8].norm(dim=1), torch.full((3,), 0.5))


def test_what_are_no_files_is_not_stored_and_a_missing_file_is_left_out(shapes, tmp_path):
    method = build()
    stored = StoredFeatures(method.trunk, method.preprocess, folder=tmp_path)
    files = [str(shapes.train.photos.file(0)), str(tmp_path / "away.png")]
    assert stored.takes(files)
    assert not stored.takes(["photo/17"])
    assert not stored.takes([])
    stored.fill(ImageSource(shapes, stored.preprocess), files, "photo")
    assert stored(files[0], "photo").ndim == 1
    with pytest.raises(ZsbirError, match="could not be read"):
        stored(files[1], "photo")


def test_augmented_images_are_not_stored(shapes):
    recipe = zsbir.Recipe(epochs=1, batch_size=6, sampling="balanced", augment="affine", fixed_norm=True)
    trainer = Trainer(build(), shapes, recipe=recipe, workers=0, progress=False)
    assert trainer.fit().stored is None


def test_a_signal_ends_the_storing_of_features(shapes, tmp_path, monkeypatch):
    trainer = Trainer(build(), shapes, recipe=zsbir.Recipe(epochs=1, batch_size=6, sampling="balanced"), workers=0,
                      out=tmp_path / "run", progress=False)  # fmt: skip
    seen = []
    monkeypatch.setattr(StoredFeatures, "_add", lambda *_: (seen.append(1), signal.raise_signal(signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert len(seen) == 1
    assert (tmp_path / "run" / "last" / "model.safetensors").is_file()
