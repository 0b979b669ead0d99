"""The hash of a dataset's contents: what it depends on, and that a file is read once."""

import os

import pytest

from zsbir.data import DATASETS, content
from zsbir.data.base import CHANGED
from zsbir.data.check import check_dataset
from zsbir.data.manifest import write_manifest


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "WORTH_KEEPING", 1)
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    for name, held in (("a/1.png", b"one"), ("a/2.png", b"two"), ("a/d.ndjson", b"x\ny\n")):
        (root / name).write_bytes(held)
    return root


def read_files(monkeypatch):
    seen, real = [], content._digest
    monkeypatch.setattr(content, "_digest", lambda file: seen.append(file) or real(file))
    return seen


def test_depends_on_names_and_contents_and_nothing_else(files, tmp_path):
    names = ["a/1.png", "a/2.png", "a/d.ndjson#0", "a/d.ndjson#1"]
    first = content.content_hash(files, names)
    assert content.content_hash(files, names[::-1]) == first
    assert content.content_hash(files, names[:3]) == first  # a file of drawings counts as a whole
    (files / "a/1.png").touch()
    moved = files.rename(tmp_path / "moved")
    assert content.content_hash(moved, names) == first
    os.utime(moved / "a/2.png", (1, 1))
    (moved / "a/2.png").write_bytes(b"two!"[:3])
    assert content.content_hash(moved, names) == first
    (moved / "a/2.png").write_bytes(b"TWO")  # the same size
    assert content.content_hash(moved, names) != first
    (moved / "a/2.png").rename(moved / "a/3.png")
    assert content.content_hash(moved, ["a/1.png", "a/3.png"]) != content.content_hash(moved, ["a/1.png", "a/2.png"])


def test_a_file_is_read_once_until_it_changes(files, monkeypatch):
    names = ["a/1.png", "a/2.png"]
    first, seen = content.content_hash(files, names), read_files(monkeypatch)
    assert content.content_hash(files, names) == first
    assert seen == []
    (files / "a/1.png").write_bytes(b"other")
    assert content.content_hash(files, names) != first
    assert seen == [f"{files}/a/1.png"]
    content.content_hash(files, ["a/d.ndjson"])
    content.content_hash(files, [*names, "a/d.ndjson"])  # what was not asked for in between is still known
    assert len(seen) == 2


def test_missing_files_and_a_broken_or_unwritable_memory_do_no_harm(files, tmp_path, monkeypatch):
    first = content.content_hash(files, ["a/1.png", "a/none.png"])
    (tmp_path / "cache/zsbir/hashes.sqlite").write_bytes(b"broken" * 999)
    with pytest.warns(UserWarning, match="is damaged .* starts anew"):
        assert content.content_hash(files, ["a/1.png", "a/none.png"]) == first
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert content.content_hash(files, ["a/1.png", "a/none.png"]) == first


def test_few_files_are_not_remembered(files, tmp_path, monkeypatch):
    monkeypatch.setattr(content, "WORTH_KEEPING", 4)
    content.content_hash(files, ["a/1.png", "a/2.png"])
    assert not (tmp_path / "cache").exists()


def test_other_contents_than_the_split_file_was_written_for_are_said(pets, tmp_path):
    data = DATASETS.build("folder", root=pets, unseen=1)
    written = data.manifest()
    write_manifest(written, tmp_path / "split.json")
    assert written["sha256"] == data.manifest_hash
    photo = next((pets / "photo").rglob("*.*"))
    held = photo.read_bytes()
    photo.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
    again = DATASETS.build("folder", root=pets, split=tmp_path / "split.json")
    with pytest.warns(UserWarning, match="not those that the split file was written for"):
        assert again.manifest_hash != data.manifest_hash
    assert check_dataset("folder", again, workers=1).errors[0] == CHANGED
    assert not check_dataset("folder", DATASETS.build("folder", root=pets, unseen=1), workers=1).errors
