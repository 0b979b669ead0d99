"""The loop: it learns, stops cleanly, resumes exactly, and loses nothing."""

import json

import pytest
import torch

import zsbir
from zsbir.engine.trainer import Trainer
from zsbir.errors import ZsbirError


def test_losses_fall_and_every_step_is_logged(shapes, small_dann, recipe, tmp_path, rows):
    longer = zsbir.Recipe(**{**recipe.__dict__, "epochs": 8, "augment": "none"})
    Trainer(small_dann(), shapes, recipe=longer, out=tmp_path / "run", workers=0, progress=False).fit()
    steps = [row for row in rows(tmp_path / "run") if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 8 * 3 + 1))
    triplet = [row["triplet"] for row in steps]
    assert sum(triplet[-6:]) < 0.8 * sum(triplet[:6])
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["method"]["name"] == "dann"
    assert run["recipe"]["epochs"] == 8
    assert run["classes"]["test"] == ["bar"]


def test_workers_do_not_change_the_run(shapes, small_dann, recipe, tmp_path, rows):
    for workers in (0, 2):
        out = tmp_path / str(workers)
        Trainer(small_dann(), shapes, recipe=recipe, out=out, workers=workers, progress=False).fit()
    assert rows(tmp_path / "0") == rows(tmp_path / "2")


def test_best_is_chosen_on_held_out_seen_classes(five_shapes_root, small_dann, recipe, tmp_path, rows):
    data = zsbir.DATASETS.build("folder", root=five_shapes_root, unseen="bar", validation=2)
    trainer = Trainer(small_dann(), data, recipe=recipe, out=tmp_path / "run", workers=0, progress=False)
    trainer.fit()
    scores = [row["validation_mAP@all"] for row in rows(tmp_path / "run") if "validation_mAP@all" in row]
    assert len(scores) == 3
    assert trainer.best == max(scores)
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()


def test_loss_that_is_not_finite_names_the_term_and_the_files(shapes, small_dann, recipe, tmp_path):
    method = small_dann()
    next(method.parameters()).data.fill_(float("nan"))
    with pytest.raises(ZsbirError, match=r"loss term 'triplet' is nan at step 1 .*\.png"):
        Trainer(method, shapes, recipe=recipe, out=tmp_path / "run", workers=0, progress=False).fit()


def test_bad_image_is_skipped_and_counted_up_to_a_limit(shapes_root, small_dann, recipe, tmp_path):
    import shutil

    root = tmp_path / "data"
    shutil.copytree(shapes_root, root)
    for name in ("0.png", "1.png"):
        (root / "photo" / "cross" / name).write_bytes(b"no image")
    data = zsbir.DATASETS.build("folder", root=root, unseen="bar")
    trainer = Trainer(small_dann(), data, recipe=recipe, out=tmp_path / "a", workers=0, progress=False)
    trainer.fit()
    assert len(trainer.bad_images.messages) == 2
    with pytest.raises(ZsbirError, match=r"(?s)2 images cannot be read, more than --max-bad-images 1:.*cross"):
        Trainer(
            small_dann(), data, recipe=recipe, out=tmp_path / "b", workers=0, max_bad_images=1, progress=False
        ).fit()


def test_run_folder_is_never_overwritten(shapes, small_dann, recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("mine")
    with pytest.raises(ZsbirError, match="is not empty"):
        Trainer(small_dann(), shapes, recipe=recipe, out=tmp_path / "run", workers=0, progress=False).fit()
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["precious.txt"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_asked_for_and_absent(shapes, small_dann):
    with pytest.raises(ZsbirError, match="torch finds no CUDA device here"):
        Trainer(small_dann(), shapes, device="cuda")


def test_batch_larger_than_the_data(shapes, small_dann):
    with pytest.raises(ZsbirError, match="one batch needs 100 sketches, and an epoch has 18: lower batch_size"):
        Trainer(small_dann(), shapes, recipe=zsbir.Recipe(batch_size=100))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_training_on_cuda(shapes, small_dann, recipe, tmp_path, precision):
    method = small_dann()
    Trainer(method, shapes, recipe=recipe, out=tmp_path / "run", precision=precision, progress=False).fit()
    assert next(method.parameters()).device.type == "cuda"


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_image_ends_an_embedding_with_one_sentence(shapes_root, small_dann, tmp_path, workers):
    from zsbir.methods.embedding import embed

    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ZsbirError) as caught:
        embed(small_dann(), [broken], "photo", workers=workers)
    assert str(caught.value).startswith("cannot decode the image")
    assert "\n" not in str(caught.value)
