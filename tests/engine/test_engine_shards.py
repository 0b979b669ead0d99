"""Embedding at scale: any number of processes, stopped or not, gives the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from zsbir.cli import main
from zsbir.engine.shards import Share
from zsbir.engine.trainer import Trainer
from zsbir.evaluation.embeddings import load_embeddings, load_pair
from zsbir.methods import embedding

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
SETTINGS = ["--block", "3", "--batch-size", "2", "--workers", "0", "--device", "cpu"]


@pytest.fixture
def photos(shapes_root, tmp_path):
    """A folder of 24 photos, two of them broken."""
    root = tmp_path / "photos"
    shutil.copytree(shapes_root / "photo", root)
    (root / "circle" / "1.png").write_bytes(b"no image")
    (root / "cross" / "5.png").write_bytes(b"")
    return root


@pytest.fixture
def model(small_dann, tmp_path):
    small_dann().save(tmp_path / "model")
    return tmp_path / "model"


def embed(model, photos, out, *more):
    return ["embed", str(model), "--photos", str(photos), "-o", str(out), *SETTINGS, *more]


def same_bytes(a, b):
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in ("gallery.safetensors", "gallery.json"))


def test_rows_paths_and_skipped_images_belong_together(small_dann, photos, model, tmp_path, capsys):
    assert main(embed(model, photos, tmp_path / "one")) == 0
    assert "22 vectors" in (said := capsys.readouterr().out)
    assert "cannot decode" in said
    found = load_embeddings(tmp_path / "one" / "gallery.safetensors")
    good = [str(f) for f in sorted(photos.rglob("*.png")) if f.stat().st_size > 8]
    assert list(found.paths) == good
    assert [path for path, _ in found.meta["skipped"]] == [
        str(photos / "circle" / "1.png"), str(photos / "cross" / "5.png"),
    ]  # fmt: skip
    expected = embedding.embed(small_dann(), good, "photo", batch_size=1)
    assert torch.allclose(found.vectors, expected.vectors, atol=1e-5)
    assert (found.labels == -1).all()


def test_bf16_and_the_decoder_of_the_device_give_nearly_the_same(photos, model, tmp_path, monkeypatch):
    from PIL import Image

    from zsbir.methods import _reading

    for file in list(photos.rglob("*.png"))[5:]:
        if file.stat().st_size > 8:
            Image.open(file).convert("RGB").save(file.with_suffix(".jpg"), quality=95)
            file.unlink()
    decoded, real = [], _reading.squares
    monkeypatch.setattr(_reading, "squares", lambda images, *rest: decoded.append(len(images)) or real(images, *rest))
    assert main(embed(model, photos, tmp_path / "one")) == 0
    assert not decoded
    assert main(embed(model, photos, tmp_path / "two", "--decode", "device")) == 0
    assert sum(decoded) == len(list(photos.rglob("*.jpg")))
    assert main(embed(model, photos, tmp_path / "three", "--precision", "bf16")) == 0
    one, two, three = (load_embeddings(tmp_path / name / "gallery.safetensors") for name in ("one", "two", "three"))
    assert list(one.paths) == list(two.paths) == list(three.paths)
    assert not torch.equal(three.vectors, one.vectors)
    for found in (two, three):
        assert torch.nn.functional.cosine_similarity(found.vectors, one.vectors).min() > 0.98


def test_two_processes_and_jobs_equal_one(photos, model, tmp_path, capsys):
    assert main(embed(model, photos, tmp_path / "one")) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29541"]
    command += ["-m", "zsbir", *embed(model, photos, tmp_path / "two")]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert same_bytes(tmp_path / "one", tmp_path / "two")
    assert main(embed(model, photos, tmp_path / "jobs", "--shard", "3/3")) == 0
    assert "parts not there yet: 6 of gallery" in capsys.readouterr().out
    assert not (tmp_path / "jobs" / "gallery.json").exists()
    for shard in ("1/3", "2/3"):
        assert main(embed(model, photos, tmp_path / "jobs", "--shard", shard)) == 0
    assert same_bytes(tmp_path / "one", tmp_path / "jobs")


def test_killed_and_continued_equals_uninterrupted(photos, model, tmp_path):
    assert main(embed(model, photos, tmp_path / "one")) == 0
    out = tmp_path / "killed"
    parts = out / "parts" / "gallery"
    process = subprocess.Popen([sys.executable, "-m", "zsbir", *embed(model, photos, out)], env=ENV)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not list(parts.glob("00000[1-9].json")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = 8 - len(list(parts.glob("0*.json")))
    assert left < 8
    # A block whose vectors were written, but not yet the file that says so.
    (parts / "000007.json").unlink(missing_ok=True)
    (parts / "000007.safetensors").write_bytes(b"half")
    kept = {file: file.stat().st_mtime_ns for file in parts.glob("0*.json")}
    assert main(embed(model, photos, out)) == 0
    assert same_bytes(tmp_path / "one", out)
    assert all(file.stat().st_mtime_ns == at for file, at in kept.items())


def test_run_part_with_labels_cache_and_a_list(shapes, small_dann, recipe, tmp_path):
    run = tmp_path / "run"
    Trainer(small_dann(), shapes, recipe=recipe, out=run, workers=0, progress=False).fit()
    for name, more in (("plain", []), ("cached", ["--cache", str(tmp_path / "cache")])):
        assert main(["embed", str(run), "-o", str(tmp_path / name), *SETTINGS, *more]) == 0
    queries, gallery = load_pair(tmp_path / "plain")
    assert (len(queries), len(gallery)) == (6, 6)
    assert gallery.classes == ("bar",)
    assert (gallery.labels == 0).all()
    assert gallery.meta["dataset"]["name"] == "folder"
    assert same_bytes(tmp_path / "plain", tmp_path / "cached")
    files = [str(shapes.test.sketches.file(i)) for i in (4, 2)]
    (tmp_path / "list.txt").write_text("\n".join(files))
    command = ["embed", str(run), "--photos", str(tmp_path / "list.txt"), "--domain", "sketch", "-o"]
    assert main([*command, str(tmp_path / "listed"), *SETTINGS]) == 0
    listed = load_embeddings(tmp_path / "listed" / "queries.safetensors")
    assert list(listed.paths) == files
    assert np.allclose(listed.vectors, queries.vectors[[4, 2]], atol=1e-5)


def test_another_job_in_the_folder_is_refused(photos, model, small_dann, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(embed(model, photos, out)) == 0
    assert main(["4" if word == "3" else word for word in embed(model, photos, out)]) == 2
    assert "begun with another block (3, now 4)" in capsys.readouterr().err
    assert main(embed(model, photos, out, "--precision", "bf16")) == 2
    assert "begun with another precision (no, now bf16)" in capsys.readouterr().err
    torch.manual_seed(5)
    other = small_dann(margin=2.0)
    torch.nn.init.normal_(next(other.parameters()))
    other.save(tmp_path / "other")
    assert main(embed(tmp_path / "other", photos, out)) == 2
    assert "begun with another model" in capsys.readouterr().err
    (photos / "cross" / "5.png").unlink()
    assert main(embed(model, photos, out)) == 2
    assert "begun with another list" in capsys.readouterr().err
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious.txt").write_text("mine")
    assert main(embed(model, photos, tmp_path / "taken")) == 2
    assert "holds no embeddings to go on with" in capsys.readouterr().err
    assert main(embed(model, photos, tmp_path / "new", "--shard", "9/8")) == 2
    assert "must be a number and a count" in capsys.readouterr().err


def test_damaged_part_and_nothing_readable(photos, model, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(embed(model, photos, out)) == 0
    (out / "parts" / "gallery" / "000002.safetensors").write_bytes(b"half")
    assert main(embed(model, photos, out)) == 2
    assert "000002.safetensors is damaged" in capsys.readouterr().err
    (out / "parts" / "gallery" / "000002.json").unlink()
    assert main(embed(model, photos, out)) == 0
    for file in photos.rglob("*.png"):
        file.write_bytes(b"no image")
    assert main(embed(model, photos, tmp_path / "none")) == 2
    assert "none of the 24 images can be read" in capsys.readouterr().err


def test_every_block_belongs_to_one_process():
    shares = [Share.here(f"{n}/3", {"RANK": str(r), "WORLD_SIZE": "2"}) for n in (1, 2, 3) for r in (0, 1)]
    assert {share.count for share in shares} == {6}
    assert sorted(share.index for share in shares) == list(range(6))


def test_parts_are_plain_files(photos, model, tmp_path):
    assert main(embed(model, photos, tmp_path / "one")) == 0
    parts = tmp_path / "one" / "parts" / "gallery"
    assert sorted(f.name for f in parts.iterdir())[:3] == ["000000.json", "000000.safetensors", "000001.json"]
    first = load_file(parts / "000000.safetensors")
    about = json.loads((parts / "000000.json").read_text())
    assert len(first["rows"]) + len(about["skipped"]) == about["images"] == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--batch-size", "0"], "--batch-size 0"),
        (["--threads", "0"], "--threads 0"),
        (["--workers", "-1"], "--workers -1"),
        (["--block", "0"], "--block 0"),
        (["--shard", "9/8"], "--shard"),
        (["--part", "train"], "--part"),
    ],
)
def test_what_embed_refuses(photos, model, tmp_path, capsys, more, message):
    assert main(["embed", str(model), "--photos", str(photos), "--out", str(tmp_path / "e"), *more]) == 2
    assert message in capsys.readouterr().err
    assert main(["embed", str(model), "--domain", "sketch", "--out", str(tmp_path / "e")]) == 2
    assert "--domain" in capsys.readouterr().err
