"""However a run ends, going on ends in the weights and the rows of one that was never stopped; or it is refused."""

import contextlib
import os
import shutil
import signal

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

import zsbir
from tests.engine.conftest import same_weights
from zsbir.engine import trainer as trainer_module
from zsbir.engine.trainer import Trainer
from zsbir.errors import ZsbirError


@pytest.fixture
def held_out(five_shapes_root):
    return zsbir.DATASETS.build("folder", root=five_shapes_root, unseen="bar", validation=2)


@pytest.fixture
def in_step(monkeypatch):
    """Do something inside the n-th step from now on, counted from 0."""

    def at(number, action):
        real, calls = trainer_module.to_batch, iter(range(1000))

        def counted(*args, **options):
            if next(calls) == number:
                action()
            return real(*args, **options)

        monkeypatch.setattr(trainer_module, "to_batch", counted)

    return at


@pytest.mark.parametrize(("accumulate", "stops_after"), [(1, 5), (2, 5), (4, 6)])
def test_ctrl_c_finishes_the_step_and_resumes_exactly(
    shapes, small_dann, recipe, tmp_path, rows, in_step, accumulate, stops_after
):
    options = {"workers": 0, "progress": False, "accumulate": accumulate}
    whole = Trainer(small_dann(), shapes, recipe=recipe, out=tmp_path / "whole", **options).fit()
    first = Trainer(small_dann(), shapes, recipe=recipe, out=tmp_path / "cut", **options)
    in_step(4, lambda: signal.raise_signal(signal.SIGINT))  # the second of the second epoch's three
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    torch.manual_seed(12345)  # whatever the process did before must not matter
    resumed = Trainer.resume(tmp_path / "cut", progress=False)
    assert resumed.workers == 0
    assert resumed.step == stops_after
    assert same_weights(whole, resumed.fit())
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_sigterm_writes_a_checkpoint_and_exits_with_143(shapes, small_dann, recipe, tmp_path, in_step, capsys):
    in_step(1, lambda: signal.raise_signal(signal.SIGTERM))
    trainer = Trainer(small_dann(), shapes, recipe=recipe, out=tmp_path / "run", workers=0, progress=False)
    with pytest.raises(SystemExit) as ended:
        trainer.fit()
    assert ended.value.code == 143
    assert f"go on with: zsbir train --resume {tmp_path / 'run'}" in capsys.readouterr().err
    assert Trainer.resume(tmp_path / "run", progress=False).step == 2
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_ctrl_c_before_the_first_step_can_be_resumed(shapes, small_dann, recipe, tmp_path, rows, monkeypatch):
    whole = Trainer(small_dann(), shapes, recipe=recipe, out=tmp_path / "whole", workers=0, progress=False).fit()
    trainer = Trainer(small_dann(), shapes, recipe=recipe, out=tmp_path / "cut", workers=0, progress=False)

    monkeypatch.setattr(trainer.method, "on_epoch", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    resumed = Trainer.resume(tmp_path / "cut", progress=False)
    assert resumed.step == 0
    assert same_weights(whole, resumed.fit())
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


@pytest.mark.parametrize("place", ["score", "offer", "_save_last"])
def test_end_around_a_validation_loses_and_doubles_nothing(
    held_out, small_dann, recipe, tmp_path, rows, monkeypatch, place
):
    """Killed (an exception) behind the row of a validation, or stopped (a signal) in the middle of the scoring."""
    options = {"workers": 0, "progress": False, "save_every": 1}
    whole = Trainer(small_dann(), held_out, recipe=recipe, out=tmp_path / "whole", **options).fit()
    cut = Trainer(small_dann(), held_out, recipe=recipe, out=tmp_path / "cut", **options)
    owner = cut if place == "_save_last" else cut.selection
    real, calls = getattr(owner, place), iter(range(1000))

    def ended(*args):
        if cut.epoch == (2 if place == "_save_last" else 1) and cut.step == 2 * cut.steps_per_epoch:
            if place == "score":
                signal.raise_signal(signal.SIGINT)
            raise RuntimeError("the plug was pulled")
        return real(*args)

    monkeypatch.setattr(owner, place, ended)
    with pytest.raises(KeyboardInterrupt if place == "score" else RuntimeError):
        cut.fit()
    assert next(calls) == 0
    again = Trainer.resume(tmp_path / "cut", progress=False)
    assert again.step == 2 * again.steps_per_epoch
    assert same_weights(whole, again.fit())
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert same_weights(zsbir.load(tmp_path / "cut"), zsbir.load(tmp_path / "whole"))


def begun(shapes, method, recipe, out):
    """A run with a checkpoint in the middle."""
    trainer = Trainer(method, shapes, recipe=recipe, out=out, workers=0, progress=False, save_every=4)
    real = trainer._save_last

    def end():
        real()
        if trainer.step == 4:
            raise RuntimeError("the plug was pulled")

    trainer._save_last = end
    with pytest.raises(RuntimeError, match="pulled"):
        trainer.fit()
    return out / "last"


@pytest.mark.parametrize("damage", ["missing", "one missing", "shape", "whole numbers", "name", "no file", "state"])
def test_optimiser_state_that_does_not_fit_is_refused(shapes, small_dann, recipe, tmp_path, damage):
    last = begun(shapes, small_dann(), recipe, tmp_path / "run")
    file = last / "optimizer.safetensors"
    tensors = load_file(file)
    if damage == "missing":
        tensors = {k: v for k, v in tensors.items() if not k.startswith("0.")}
    elif damage == "one missing":
        del tensors["0.exp_avg"]
    elif damage == "shape":
        tensors["0.exp_avg"] = torch.zeros(1)
    elif damage == "whole numbers":
        tensors["0.step"] = torch.tensor(3)
    elif damage == "name":
        tensors["999.exp_avg"] = torch.zeros(3)
    save_file(tensors, file)
    if damage == "no file":
        file.unlink()
    if damage == "state":
        (last / "state.json").write_text('{"epoch": "one"}')
    with pytest.raises(ZsbirError) as caught:
        Trainer.resume(tmp_path / "run", progress=False)
    assert str(last) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_average_that_does_not_fit_is_refused(shapes, small_dann, recipe, tmp_path):
    averaged = zsbir.Recipe(**{**recipe.__dict__, "ema": 0.9})
    file = begun(shapes, small_dann(), averaged, tmp_path / "run") / "average.safetensors"
    tensors = load_file(file)
    tensors[next(iter(tensors))] = torch.zeros(3)
    save_file(tensors, file)
    with pytest.raises(ZsbirError, match=r"average.safetensors do not fit the method 'dann': size mismatch"):
        Trainer.resume(tmp_path / "run", progress=False)


def test_changed_dataset_is_refused_with_what_changed(shapes_root, small_dann, recipe, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(shapes_root, root)
    data = zsbir.DATASETS.build("folder", root=root, unseen="bar")
    begun(data, small_dann(), recipe, tmp_path / "run")
    (root / "photo" / "cross" / "0.png").rename(root / "photo" / "circle" / "9.png")
    with pytest.raises(ZsbirError, match=r"the dataset has changed since .*1 files are gone \(.*cross/0.png"):
        Trainer.resume(tmp_path / "run", progress=False)


def test_moved_run_and_moved_dataset_go_on(shapes_root, small_dann, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(shapes_root, "data")
    begun(zsbir.DATASETS.build("folder", root="data", unseen="bar"), small_dann(), recipe, tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    shutil.move("run", "elsewhere/run")
    monkeypatch.chdir("/")
    assert Trainer.resume(tmp_path / "elsewhere" / "run", progress=False).step == 4
    shutil.move(tmp_path / "data", tmp_path / "elsewhere" / "data")
    resumed = Trainer.resume(tmp_path / "elsewhere" / "run", root=tmp_path / "elsewhere" / "data", progress=False)
    resumed.fit()
    assert resumed.epoch == 3


def test_two_at_once_and_folders_that_cannot_be_written_are_refused(shapes, small_dann, recipe, tmp_path):
    run = tmp_path / "run"
    begun(shapes, small_dann(), recipe, run)
    with FileLock(run / ".lock"), pytest.raises(ZsbirError, match="is being trained by another process"):
        Trainer.resume(run, progress=False).fit()
    (run / ".lock").unlink(missing_ok=True)
    (run / ".lock").mkdir()
    with pytest.raises(ZsbirError, match="cannot be written"):
        Trainer.resume(run, progress=False).fit()


def test_failed_start_leaves_no_folder(shapes, small_dann, recipe, tmp_path, in_step):
    def fail():
        raise ValueError("nothing works")

    in_step(0, fail)
    trainer = Trainer(small_dann(), shapes, recipe=recipe, out=tmp_path / "run", workers=0, progress=False)
    with pytest.raises(ValueError, match="nothing works"):
        trainer.fit()
    assert not (tmp_path / "run").exists()


def test_killed_worker_is_told_in_a_sentence(shapes, small_dann, recipe, tmp_path, in_step):
    trainer = Trainer(small_dann(), shapes, recipe=recipe, out=tmp_path / "run", workers=1, progress=False)

    def kill():
        os.kill(trainer.loader._loader._iterator._workers[0].pid, signal.SIGKILL)

    in_step(3, kill)
    with pytest.raises(ZsbirError, match=r"decodes images was killed at step \d.* --resume .*run --workers 0"):
        trainer.fit()
    assert Trainer.resume(tmp_path / "run", workers=0, progress=False).step == 3


def test_losses_read_later_are_the_same_rows(shapes, small_dann, recipe, tmp_path, rows, in_step):
    for later in (0, 2):
        out = tmp_path / str(later)
        trainer = Trainer(small_dann(), shapes, recipe=recipe, out=out, workers=0, progress=False)
        trainer.figures.later = later
        trainer.fit()
    assert rows(tmp_path / "0") == rows(tmp_path / "2")
    method = small_dann()
    trainer = Trainer(method, shapes, recipe=recipe, out=tmp_path / "nan", workers=0, progress=False)
    trainer.figures.later = 2
    in_step(3, lambda: next(method.parameters()).data.fill_(float("nan")))
    with pytest.raises(ZsbirError, match=r"is nan at step 4 of epoch 2; the checkpoint of step 3 is in .*nan/last"):
        trainer.fit()
    assert [row["step"] for row in rows(tmp_path / "nan")] == [1, 2, 3]


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the processor wait for a GPU: reading or giving it a number, data-dependent shapes."""

    waits = ("lift_fresh", "_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name.removeprefix("aten::") not in self.waits, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["dann", "puxim", "sbka"])
def test_no_step_waits_for_the_device(shapes, name, monkeypatch):
    options = {"dann": {"backbone": {"name": "tiny", "image_size": 32, "width": 8}},
               "puxim": {"backbone": {"name": "vit_tiny_patch16_224", "image_size": 32}, "masker": "none"},
               "sbka": {"backbone": "test_efficientnet", "image_size": 32, "prior": 0.0}}[name]  # fmt: skip
    mixed = {"sampling": "mixed"} if name == "sbka" else {}
    recipe = zsbir.Recipe(epochs=1, batch_size=6, clip=1.0, ema=0.9, augment="affine", **mixed)
    trainer = Trainer({"name": name, **options}, shapes, recipe=recipe, workers=0, progress=False)
    trainer.figures.later = 100
    real = trainer._one_step
    steps = []

    def watched(*args):
        with NoWaiting() if steps else contextlib.nullcontext():  # the first step may set something up
            steps.append(real(*args))
        return steps[-1]

    monkeypatch.setattr(trainer, "_one_step", watched)
    trainer.fit()
    assert len(steps) >= 2
