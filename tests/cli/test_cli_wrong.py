"""Wrong command lines: one sentence with what, where and what to do, exit code 2, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

import zsbir
from zsbir import cli


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 9)).save("picture.png")
    zsbir.build("dann", backbone={"name": "tiny", "image_size": 32, "width": 8}).save("saved")
    return tmp_path


BASE = ["train", "dann", "--dataset", "folder", "--unseen", "bar", "--no-pretrained", "--backbone", "tiny", "--root"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "0"], "epochs=0 must be a whole number of at least 1"),
        (["--batch-size", "0"], "batch_size=0 must be"),
        (["--batch-size", "-4"], "batch_size=-4 must be"),
        (["--lr", "nan"], "lr=nan must be a number above 0"),
        (["--lr", "-1"], "lr=-1.0 must be"),
        (["--samples-per-epoch", "0"], "samples_per_epoch=0 must be"),
        (["--seed", "-1"], "seed=-1 must be a whole number of at least 0"),
        (["--workers", "-1"], "workers=-1 must be a whole number of at least 0"),
        (["--accumulate", "0"], "accumulate=0 must be"),
        (["--validate-every", "0"], "validate_every=0 must be"),
        (["--patience", "0"], "patience=0 must be"),
        (["--save-every", "0"], "save_every=0 must be"),
        (["--max-bad-images", "-1"], "max_bad_images=-1 must be"),
        (["--validation", "1"], "hold"),
        (["--unseen", "circle"], "--unseen is given twice"),
        (["--set", "margin=abc"], "margin='abc' must be a number"),
        (["--set", "margin=-5"], "margin=-5 must be"),
        (["--set", "margn=1"], "Did you mean 'margin'"),
        (["--recipe", "schedule=cosin"], "schedule='cosin' must be"),
        (["--recipe", "augment=afine"], "augment='afine' must be"),
        (["--recipe", "lora.rank=0"], "rank=0 must be"),
        (["--recipe", "batch=3"], "recipe has no argument 'batch'"),
        (["--weights", "picture.png"], "is neither safetensors nor a PyTorch file"),
        (["--weights", "nowhere.pth"], "there is no weights file"),
    ],
)
def test_wrong_training(words, message, shapes_root, place, capsys):
    before = sorted(file.name for file in place.iterdir())
    assert cli.main([*BASE, str(shapes_root), *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("zsbir: ")
    assert said.count("\n") == 1
    assert "weights_only" not in said
    assert sorted(file.name for file in place.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "which method?"),
        (["train", "dan"], "no method 'dan'. Did you mean 'dann'"),
        (["train", "--resume", "nowhere"], "does not exist"),
        (["train", "--resume", "saved"], "holds no run"),
        (["export", "saved", "--out", "saved"], "the folder saved is not empty: choose another with --out\n"),
        (["quickstart", "--out", "saved"], "the folder saved is not empty: choose another with --out\n"),
        (["runs", "nowhere"], "there is no folder nowhere"),
        (["list", "--import", "nowhere.py"], "is no Python file"),
        (["train", "mine", "--import", "broken.py"], "importing"),
    ],
)
def test_wrong_in_other_ways(words, message, place, capsys):
    (place / "broken.py").write_text("import there_is_no_such_module\n")
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_device_that_is_not_there(place):
    with pytest.raises(zsbir.ZsbirError, match="there is no device 'gpu'"):
        zsbir.load(place / "saved", device="gpu")


def test_checkpoint_of_a_newer_version_is_refused(place):
    file = place / "saved" / "method.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "zsbir": "9.9.9"}))
    with pytest.raises(zsbir.ZsbirError, match=r"was written by zsbir 9\.9\.9, and this is .*--upgrade"):
        zsbir.load(place / "saved")


def test_trainer_takes_names_and_refuses_wrong_values(shapes):
    data = {"name": "folder", "root": str(shapes.spec["root"]), "unseen": "bar"}
    method = {"name": "dann", "backbone": "tiny"}
    first, second = (zsbir.Trainer(method, data, recipe=zsbir.Recipe(batch_size=6), workers=0) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first.method.parameters(), second.method.parameters(), strict=True))
    for wrong in ({"select_on": "valid"}, {"workers": -1}, {"device": "gpu"}, {"precision": "half"}, {"epoch": 3}):
        with pytest.raises(zsbir.ZsbirError, match=next(iter(wrong))):
            zsbir.Trainer("dann", shapes, **wrong)


def test_a_file_of_ones_own_is_known_by_name(place, capsys):
    (place / "my_backbone_file.py").write_text(
        "from zsbir import BACKBONES\nfrom zsbir.backbones.tiny import Tiny\n\n\n"
        '@BACKBONES.register("my-own")\nclass Mine(Tiny):\n    """Mine."""\n'
    )
    assert cli.main(["list", "--json", "--import", "my_backbone_file.py"]) == 0
    assert json.loads(capsys.readouterr().out)["backbones"]["my-own"] == "Mine."


@pytest.mark.parametrize("words", [["index", "x", "-o"], ["train", "frozen", "--dataset", "folder", "--root"]])
def test_a_name_that_no_file_can_have(words, place, capsys):
    assert cli.main([*words, "n" * 3000]) == 2
    said = capsys.readouterr().err
    assert said.startswith("zsbir: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_to_the_whole_group_of_processes_ends_cleanly(shapes_root, tmp_path, number, code):
    command = [sys.executable, "-m", "zsbir", *BASE, str(shapes_root), "--out", str(tmp_path / "run"),
               "--epochs", "500", "--batch-size", "6", "--set", "backbone.image_size=32", "--workers", "2"]  # fmt: skip
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    log = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline and not (log.is_file() and log.stat().st_size):
        time.sleep(0.05)
    os.killpg(process.pid, number)
    os.killpg(process.pid, number)  # twice at once, as from a terminal and from a parent
    try:
        said = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert f"go on with: zsbir train --resume {tmp_path / 'run'}" in said
    assert zsbir.Trainer.resume(tmp_path / "run", progress=False).step > 0
