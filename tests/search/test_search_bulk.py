"""Indexes are merged, photos removed by the folder, and an index exchanged while another process searches in it."""

import shutil

import numpy as np
import pytest

import zsbir
from tests.search.pictures import picture
from zsbir.cli import main
from zsbir.errors import ZsbirError
from zsbir.search import bulk
from zsbir.search.bulk import merge_indexes
from zsbir.search.index import Index


@pytest.fixture
def halves(method, photos, tmp_path):
    """Two indexes that have three photos in common, and one of everything."""
    a = Index.build(method, photos / "deep", tmp_path / "a")
    b = Index.build(method, photos, tmp_path / "b")
    b.remove(photos / "deep" / "er")
    (photos / "broken.png").write_bytes(b"no image")
    b.update()
    b.remove(photos / "deep" / "er")
    whole = Index.build(method, photos, tmp_path / "whole")
    yield tmp_path / "a", tmp_path / "b", whole
    for one in (a, b, whole):
        one.close()


def equal(found, expected, sketch):
    one, two = found.search(sketch, 12), expected.search(sketch, 12)
    assert [hit.path for hit in one] == [hit.path for hit in two]
    np.testing.assert_allclose([hit.score for hit in one], [hit.score for hit in two], atol=1e-6)


def test_merged_is_what_one_index_of_all_would_be(halves, photos, tmp_path, capsys):
    a, b, whole = halves
    assert main(["index", "--merge", str(a), str(b), "-o", str(tmp_path / "c")]) == 0
    assert "12 photos in" in capsys.readouterr().out
    merged = Index.load(tmp_path / "c")
    equal(merged, whole, picture(5))
    assert merged.skipped() == whole.skipped() != []
    assert merged.catalog.sources() == sorted([str(photos), str(photos / "deep")])
    assert merged.update().same == 12 + 6  # each of the two folders looks at its own
    merged.close()
    assert main(["index", "--merge", str(b), "-o", str(a)]) == 0  # into one that exists
    joined = Index.load(a)
    equal(joined, whole, picture(5))
    joined.close()


def test_a_merge_that_was_stopped_goes_on(halves, tmp_path, monkeypatch):
    a, b, whole = halves
    monkeypatch.setattr(bulk, "_AT_ONCE", 2)
    add, calls = Index.extend, []

    def stopped(index, parts):
        def some():
            for number, part in enumerate(parts):
                if calls and number == 2:
                    raise KeyboardInterrupt
                yield part
            calls.append(1)

        add(index, some())

    monkeypatch.setattr(Index, "extend", stopped)
    with pytest.raises(KeyboardInterrupt):
        merge_indexes([a, b], tmp_path / "c")
    monkeypatch.setattr(Index, "extend", add)
    half = Index.load(tmp_path / "c")  # whole in itself
    assert len(half) == len(half.store) == 10
    half.store.add(np.array([900]), half.vector(picture(1))[None])  # as if stopped between vector and catalogue
    half.close()
    merged = merge_indexes([a, b], tmp_path / "c")
    equal(merged, whole, picture(5))
    assert len(merged.store) == 12
    merged.close()


def test_what_merging_refuses(halves, method, photos, tmp_path, capsys):
    a, b, _ = halves
    other = zsbir.build("frozen", backbone="tiny")
    for parameter in other.parameters():
        parameter.data.mul_(1.5)
    Index.build(other.eval(), photos / "deep", tmp_path / "other").close()
    with pytest.raises(ZsbirError, match="another model"):
        merge_indexes([a, tmp_path / "other"], tmp_path / "c")
    assert not (tmp_path / "c").exists()
    with pytest.raises(ZsbirError, match="itself"):
        merge_indexes([a, b], a)
    for more in ([str(photos)], ["--prune"], ["--model", "doodle"], ["--remove", "x"]):
        assert main(["index", "--merge", str(a), str(b), "-o", str(tmp_path / "c"), *more]) == 2
    capsys.readouterr()


def test_photos_and_folders_are_removed(index, photos, tmp_path, capsys):
    folder = str(index.folder)
    (photos / "deep.png").write_bytes((photos / "00.png").read_bytes())
    index.add([photos / "deep.png"])  # not below deep/
    command = ["index", "-o", folder, "--remove", str(photos / "deep"), str(photos / "01.png"), "/nowhere"]
    assert main(command) == 0
    assert "7 photos removed" in capsys.readouterr().out
    assert main(command) == 2  # all of them are gone
    assert "holds nothing of what --remove names" in capsys.readouterr().err
    left = Index.load(folder)
    assert {hit.path for hit in left.search(picture(3), 99)} == {
        str(photos / name) for name in ("00.png", "02.png", "03.png", "04.png", "05.png", "deep.png")
    }
    assert len(left.store.row_ids) == 6  # compacted
    left.close()


def test_an_index_is_exchanged_while_it_is_searched(index, method, photos, tmp_path):
    """Renaming is at once: who has the old one open goes on with it, who opens the name gets the new one."""
    before = index.search(picture(4), 12)
    Index.build(method, photos / "deep", tmp_path / "new").close()
    index.folder.rename(tmp_path / "old")
    (tmp_path / "new").rename(index.folder)
    assert index.search(picture(4), 12) == before
    fresh = Index.load(index.folder)
    assert len(fresh.search(picture(4), 12)) == 6
    fresh.close()
    shutil.rmtree(tmp_path / "old")
    assert index.search(picture(4), 12) == before
