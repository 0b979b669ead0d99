"""Checkpoints are whole or not there, and load without network or weights files."""

import errno
import json

import pytest
from safetensors.torch import save_file

import zsbir
from tests.engine.conftest import same_weights
from zsbir.engine.trainer import Trainer
from zsbir.errors import ZsbirError
from zsbir.methods import saving
from zsbir.methods.embedding import embed
from zsbir.methods.saving import resolve


@pytest.fixture
def saved(small_dann, tmp_path):
    method = small_dann()
    method.save(tmp_path / "run" / "last")
    return method, tmp_path / "run" / "last"


def test_round_trip(saved):
    method, folder = saved
    again = zsbir.load(folder.parent)
    assert same_weights(method, again)
    assert again.spec == method.spec
    assert not again.training


def test_interrupted_writing_leaves_the_old_checkpoint(saved, small_dann, monkeypatch):
    method, folder = saved

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "save_file", full)
    with pytest.raises(ZsbirError, match="the disk is full; what was there before is intact"):
        small_dann(margin=9.0).save(folder)
    assert same_weights(method, zsbir.load(folder))
    assert [entry.name for entry in folder.parent.iterdir()] == ["last"]


def test_killed_between_the_two_renames(saved):
    method, folder = saved
    folder.rename(folder.with_name("last.previous"))
    (folder.parent / "last.incomplete").mkdir()
    assert same_weights(method, zsbir.load(folder.parent))
    method.save(folder)
    assert resolve(folder.parent) == folder
    assert (folder / "model.safetensors").is_file()


def test_missing_and_misfitting_checkpoints_are_named(saved, tmp_path):
    _, folder = saved
    with pytest.raises(ZsbirError, match="nowhere does not exist"):
        zsbir.load(tmp_path / "nowhere")
    with pytest.raises(ZsbirError, match="holds no checkpoint"):
        zsbir.load(tmp_path)
    spec = json.loads((folder / "method.json").read_text())
    spec["method"]["backbone"]["width"] = 16
    (folder / "method.json").write_text(json.dumps(spec))
    with pytest.raises(ZsbirError, match="do not fit the method 'dann'"):
        zsbir.load(folder)


def test_checkpoint_is_read_without_the_weights_it_started_from(tmp_path):
    start = tmp_path / "start.safetensors"
    save_file(zsbir.BACKBONES.build("tiny").net.state_dict(), start)
    method = zsbir.build("dann", backbone={"name": "tiny", "weights": str(start)})
    method.save(tmp_path / "model")
    start.unlink()
    loaded = zsbir.load(tmp_path / "model")
    assert loaded.spec == method.spec
    assert loaded.photo.backbone.spec["weights"] == str(start)
    with pytest.raises(ZsbirError, match="there is no weights file"):
        zsbir.build(loaded.spec)


def test_images_are_prepared_as_in_training(shapes, small_dann, tmp_path):
    recipe = zsbir.Recipe(epochs=1, batch_size=6)
    run = tmp_path / "run"
    method = small_dann(preprocess={"sketch": "crop-pad"})
    trained = Trainer(method, shapes, recipe=recipe, out=run, workers=0, progress=False).fit()
    again = zsbir.load(run)
    assert again.preprocess == method.preprocess
    assert (again.preprocess.sketch, again.preprocess.photo) == ("crop-pad", "squash")
    sketches = [str(shapes.test.sketches.file(i)) for i in range(3)]
    kept, fresh = (embed(method, sketches, "sketch").vectors for method in (trained, again))
    assert (kept == fresh).all()
    again.preprocess = small_dann().preprocess
    assert not (embed(again, sketches, "sketch").vectors == fresh).all()
