"""What chooses the best checkpoint, and what else of a run can be set: fills, speed options, trackers."""

import json

import numpy as np
import pytest
import torch

import zsbir
from zsbir.data.batches import RawBatch, to_batch
from zsbir.engine import devices
from zsbir.engine.logging import memory_gb
from zsbir.engine.selection import Selection, accuracy
from zsbir.engine.speed import Speed
from zsbir.engine.trainer import Trainer
from zsbir.errors import ZsbirError


@pytest.fixture
def held_out(shapes_root):
    return zsbir.DATASETS.build("folder", root=shapes_root, unseen="bar", hold_out=0.34)


def sbka(data, warmup):
    torch.manual_seed(0)
    return zsbir.build(
        "sbka", classes=data.train.classes, backbone="test_efficientnet", image_size=32, prior=0.0, warmup=warmup
    )


def test_accuracy_on_held_out_sketches_selects_after_the_warmup(held_out, tmp_path, rows):
    method = sbka(held_out, warmup=0)
    recipe = zsbir.Recipe(epochs=3, batch_size=6, sampling="mixed", lr=1e-3)
    trainer = Trainer(
        method, held_out, recipe=recipe, out=tmp_path / "run", select_on="accuracy", workers=0, progress=False
    )
    trainer.fit()
    scores = {row["epoch"]: row["seen_accuracy"] for row in rows(tmp_path / "run") if "seen_accuracy" in row}
    assert sorted(scores) == [2, 3]  # the first epoch is the warm-up's
    assert trainer.best == max(scores.values())
    kept = zsbir.load(tmp_path / "run" / "best")
    part = held_out.seen_test.sketches
    assert accuracy(kept, held_out, batch_size=2) == trainer.best
    images = [np.asarray(held_out.open(str(part.file(i))).resize((32, 32), 2)) for i in range(len(part))]
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        right = kept.classify(x).argmax(1) == torch.from_numpy(part.labels)
    assert right.float().mean().item() == pytest.approx(trainer.best)


def test_accuracy_needs_a_classifier_and_held_out_sketches(shapes, held_out, small_dann):
    with pytest.raises(ZsbirError, match="needs a classifier, but DANN has none"):
        Selection(small_dann(), held_out, "accuracy")
    with pytest.raises(ZsbirError, match="hold_out=0.1"):
        Selection(sbka(shapes, 0), shapes, "accuracy")


def test_patience_counts_scores_without_a_better_one(five_shapes_root, small_dann):
    data = zsbir.DATASETS.build("folder", root=five_shapes_root, unseen="bar", validation=2)
    selection = Selection(small_dann(), data, "validation", every=2, patience=2)
    assert [selection.due(n) for n in range(1, 5)] == [False, True, False, True]
    assert selection.offer(0.5, 2)
    assert not selection.offer(0.5, 4)
    assert not selection.out_of_patience(5)
    assert selection.out_of_patience(6)


@pytest.mark.parametrize(("fill", "corner"), [(0.0, 0.0), (1.0, 1.0), (None, 102 / 255)])
def test_fill_of_the_augmentation(fill, corner):
    images = torch.full((1, 3, 8, 8), 102, dtype=torch.uint8)
    half = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]])  # the image at half its size
    label = torch.zeros(1, dtype=torch.int64)
    names = ("sketch", "photo")
    raw = RawBatch(
        {n: images.clone() for n in names}, dict.fromkeys(names, label), dict.fromkeys(names, half), {}, {}, {}, []
    )
    batch = to_batch(raw, ("a",), sketch_fill=fill, photo_fill=fill)
    for part in (batch.sketch, batch.photo):
        assert part[0, 0, 0, 0].item() == pytest.approx(corner, abs=1e-6)
        assert part[0, 0, 4, 4].item() == pytest.approx(102 / 255, abs=1e-6)


def test_augmentation_runs_where_the_method_does():
    """Bytes are moved first: the warp then meets tensors of the device alone, or torch refuses."""
    images = {n: torch.zeros(2, 3, 8, 8, dtype=torch.uint8) for n in ("sketch", "photo")}
    label = {n: torch.zeros(2, dtype=torch.int64) for n in images}
    warp = {n: torch.zeros(2, 2, 3) for n in images}
    raw = RawBatch(images, label, warp, {"photo": torch.zeros(2, 8, 8, dtype=torch.bool)}, {}, {}, [])
    batch = to_batch(raw, ("a",), device="meta")
    assert {t.device.type for t in (batch.sketch, batch.photo, batch.label, batch.photo_object)} == {"meta"}


def test_speed_options_are_checked_and_change_nothing_but_speed(shapes, small_dann, recipe):
    with pytest.raises(ZsbirError, match=r"speed has no argument 'chanels_last'\. Did you mean 'channels_last'"):
        Speed(chanels_last=True)
    with pytest.raises(ZsbirError, match="compile=1 must be True or False"):
        Speed(compile=1)
    options = Speed(channels_last=True, checkpointing=True, fused=False)
    ends = []
    for speed in (None, options, Speed.auto()):
        method = small_dann(domain_loss_ratio=0.0)  # its BatchNorm would amplify rounding
        trainer = Trainer(method, shapes, recipe=recipe, workers=0, progress=False, speed=speed)
        ends.append(trainer.fit().state_dict())
    for name, value in ends[0].items():
        for end in ends[1:]:
            assert torch.allclose(value, end[name], atol=1e-4), name


def test_missing_and_unknown_trackers_are_named(shapes, small_dann, monkeypatch):
    with pytest.raises(ZsbirError, match=r"no tracker 'tensorbord'\. Did you mean 'tensorboard'"):
        Trainer(small_dann(), shapes, track="tensorbord")
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [])
    with pytest.raises(ZsbirError, match=r"'tensorboard' is not installed: pip install 'zsbir\[track\]'"):
        devices.check_trackers(["tensorboard"])


def test_tracker_gets_what_the_log_gets(shapes, small_dann, recipe, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    Trainer(small_dann(), shapes, recipe=recipe, out=out, workers=0, progress=False, track=["tensorboard"]).fit()
    events = EventAccumulator(str(next(out.rglob("events.*")).parent))
    events.Reload()
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    seen = {e.step: e.value for e in events.Scalars("loss")}
    assert seen == {row["step"]: pytest.approx(row["loss"], rel=1e-5) for row in logged}
    assert Trainer.resume(out, progress=False).fit() is not None


def test_memory_is_the_process_own():
    before = memory_gb(torch.device("cpu"))
    block = np.ones(40_000_000)  # 0.32 GB
    assert memory_gb(torch.device("cpu")) - before == pytest.approx(block.nbytes / 1e9, abs=0.1)
