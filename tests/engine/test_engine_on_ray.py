"""Ray as the scheduler: the same result as one process, and nothing twice after a kill."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.engine.test_engine_sources import encoded, pack
from zsbir.cli import main
from zsbir.engine.shards import read_parts
from zsbir.errors import ZsbirError
from zsbir.search.bulk import index_embeddings
from zsbir.search.index import Index

pytest.importorskip("ray", reason="the extra 'ray' is not installed")
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
SETTINGS = ["--batch-size", "4", "--workers", "0", "--device", "cpu"]


@pytest.fixture
def tars(tmp_path):
    """Four tar files of six images each, one of them broken."""
    folder = tmp_path / "tars"
    folder.mkdir()
    for number in range(4):
        members = [(f"{number}-{n}.png", encoded(10 * number + n)) for n in range(6)]
        if number == 2:
            members[3] = ("2-3.png", b"no image")
        pack(folder / f"{number}.tar", members)
    return folder


@pytest.fixture
def model(small_dann, tmp_path):
    small_dann().save(tmp_path / "model")
    return tmp_path / "model"


def test_ray_equals_one_process_also_after_a_kill(tars, model, tmp_path):
    def embed(out, *more):
        return ["embed", str(model), "--photos", f"{tars}/*.tar", "-o", str(tmp_path / out), *SETTINGS, *more]

    assert main(embed("one")) == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "zsbir", *embed("ray", "--engine", "ray", "--actors", "1")], env=ENV,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if list((tmp_path / "ray" / "parts" / "gallery").glob("00000*.json")):
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)  # driver and actors at once
    process.wait()
    done = subprocess.run(
        [sys.executable, "-m", "zsbir", *embed("ray", "--engine", "ray", "--actors", "2")], env=ENV,
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "23 vectors" in done.stdout
    for name in ("gallery.safetensors", "gallery.json", "manifest.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes(), name


def test_an_index_of_the_parts_finds_what_an_index_of_the_files_finds(photo_files, model, tmp_path):
    direct = Index.build(str(model), photo_files, tmp_path / "b")
    assert main(["embed", str(model), "--photos", str(photo_files), "-o", str(tmp_path / "v"), *SETTINGS]) == 0
    assert (
        main(["index", "--from-embeddings", str(tmp_path / "v"), "--model", str(model), "-o", str(tmp_path / "a")]) == 0
    )
    again = ["index", "--from-embeddings", str(tmp_path / "v"), "-o", str(tmp_path / "a")]
    assert main(again) == 0  # what is in is passed over
    parts = Index.load(tmp_path / "a")
    assert len(parts) == len(parts.store) == len(direct)
    sketch = str(next(photo_files.rglob("*.png")))
    found, expected = (index.search(sketch, 5) for index in (parts, direct))
    assert [hit.path for hit in found] == [hit.path for hit in expected]
    assert np.allclose([hit.score for hit in found], [hit.score for hit in expected], atol=1e-5)


@pytest.fixture
def photo_files(shapes_root):
    return shapes_root / "photo"


def test_what_an_index_of_parts_refuses(photo_files, model, small_dann, tmp_path):
    with pytest.raises(ZsbirError, match=r"holds no manifest\.json"):
        read_parts(tmp_path)
    assert main(["embed", str(model), "--photos", str(photo_files), "-o", str(tmp_path / "v"), *SETTINGS]) == 0
    other = small_dann(head=(5,))
    with pytest.raises(ZsbirError, match="another model"):
        index_embeddings(other, tmp_path / "v", tmp_path / "index")
    assert not (tmp_path / "index").exists()
    command = ["index", str(photo_files), "--from-embeddings", str(tmp_path / "v"), "-o", str(tmp_path / "index")]
    assert main(command) == 2


def test_options_that_do_not_belong_together(photo_files, model, tmp_path):
    start = ["embed", str(model), "--photos", str(photo_files), "-o", str(tmp_path / "v")]
    assert main([*start, "--actors", "3"]) == 2
    assert main([*start, "--engine", "ray", "--shard", "1/2"]) == 2
    assert main([*start, "--engine", "ray", "--actors", "0"]) == 2
