"""Files: damaged ones give one sentence, odd ones are not opened."""

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from zsbir.errors import ZsbirError
from zsbir.files import open_regular, read_json, write_json, writing


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": \xff}', "utf-8"),
        (b"1" * 5000, "digits"),
    ],
)
def test_damaged_json_gives_one_sentence(tmp_path, content, reason):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ZsbirError, match=rf"a\.json cannot be read: .*{reason}"):
        read_json(tmp_path / "a.json")


def test_what_is_no_regular_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    opened = len(list(Path("/dev/fd").iterdir()))
    for file in (tmp_path / "pipe.json", "/dev/zero", tmp_path):
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(file)
    assert len(list(Path("/dev/fd").iterdir())) == opened
    with pytest.raises(ZsbirError, match="not a regular file"):
        read_json(tmp_path / "pipe.json")


def test_what_cannot_be_written_gives_one_sentence_and_leaves_nothing(tmp_path):
    with pytest.raises(ZsbirError, match="tensors cannot be written to here: .*make room"), writing("tensors", "here"):
        save_file({"x": np.zeros(2)}, tmp_path / "no folder/x.safetensors")
    (tmp_path / "a.json").mkdir()
    with pytest.raises(ZsbirError, match=r"a\.json: Is a directory"):
        write_json(tmp_path / "a.json", [1])
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
