import builtins
import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest

from zsbir.data import DATASETS
from zsbir.errors import ZsbirError
from zsbir.plugins.openmoji import drawings

TINY = {"categories": 6, "unseen": 2, "validation": 2, "samples": 2, "size": 32}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("openmoji")


@pytest.fixture(scope="module")
def tiny(cache):
    return DATASETS.build("openmoji", **TINY, cache=str(cache))


def digests(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*.png"))}


def test_parts_are_disjoint_and_complete(tiny):
    parts = [tiny.train, tiny.validation, tiny.test]
    assert [len(part.classes) for part in parts] == [2, 2, 2]
    assert len({name for part in parts for name in part.classes}) == 6
    for part in parts:
        assert len(part.sketches) == len(part.photos) == 2 * len(part.classes)
        assert np.array_equal(np.bincount(part.photos.labels), np.full(len(part.classes), 2))


def test_sketches_are_ink_and_photos_are_not(tiny):
    for part in (tiny.train, tiny.validation, tiny.test):
        for index in range(len(part.sketches)):
            drawn = np.asarray(tiny.open(str(part.sketches.file(index))))
            shot = np.asarray(tiny.open(str(part.photos.file(index))))
            assert drawn.shape == shot.shape == (32, 32, 3)
            assert (drawn > 240).mean() > 0.3  # paper
            assert (drawn < 128).mean() > 0.01  # ink
            assert np.ptp(drawn.astype(int), axis=2).max() == 0  # no colour
            assert (shot > 240).all(axis=2).mean() < 0.5
            assert shot.std() > 10


def test_object_masks(tiny):
    split = tiny.train
    for index in range(len(split.photos)):
        record = str(split.photos.file(index))
        mask = tiny.object_mask(record)
        assert mask.shape == (32, 32)
        assert mask.dtype == bool
        assert 0.02 < mask.mean() < 0.9
    assert tiny.object_mask(str(split.sketches.file(0))) is None
    with pytest.raises(ZsbirError, match="not an image of this dataset"):
        tiny.object_mask("/elsewhere/photo/a/000.png")


def test_second_time_nothing_is_rendered(tiny, cache, monkeypatch):
    monkeypatch.setattr("zsbir.plugins.openmoji._build", lambda *_: pytest.fail("rendered again"))
    again = DATASETS.build("openmoji", **TINY, cache=str(cache))
    assert again.train.classes == tiny.train.classes
    assert [path.name for path in cache.iterdir()] == [tiny.root.name]  # no temporary folder is left


def test_split_does_not_render(tiny, cache, monkeypatch):
    monkeypatch.setattr("zsbir.plugins.openmoji._build", lambda *_: pytest.fail("rendered again"))
    other = DATASETS.build("openmoji", **{**TINY, "unseen": 3, "validation": 0}, cache=str(cache))
    assert (len(other.train.classes), len(other.test.classes)) == (3, 3)


def test_deterministic_when_two_build_at_once(tiny, tmp_path):
    built = []
    threads = [
        threading.Thread(target=lambda: built.append(DATASETS.build("openmoji", **TINY, cache=str(tmp_path))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 2
    assert digests(built[0].root) == digests(tiny.root)
    assert [path.name for path in tmp_path.iterdir()] == [tiny.root.name]


def test_seed_changes_the_pictures(tiny, tmp_path):
    other = DATASETS.build("openmoji", **{**TINY, "samples": 1}, seed=1, cache=str(tmp_path))
    assert set(digests(other.root).values()).isdisjoint(digests(tiny.root).values())


def test_enough_categories_with_distinct_names():
    found = drawings()
    names = [name for _, name in found]
    assert len(found) >= 500
    assert len(set(names)) == len(names)
    assert {"penguin", "bicycle", "umbrella"} <= set(names)
    assert not any("clock face" in name or "symbol" in name for name in names)


@pytest.mark.parametrize("wrong", [{"categories": 2, "unseen": 2}, {"samples": 0}, {"size": 8}, {"seed": -1}])
def test_impossible_settings(wrong, tmp_path):
    with pytest.raises(ZsbirError, match=f"openmoji.*{[*wrong][-1]}="):
        DATASETS.build("openmoji", **{**TINY, **wrong}, cache=str(tmp_path))


def test_too_many_categories(tmp_path):
    with pytest.raises(ZsbirError, match="fewer than categories=2000"):
        DATASETS.build("openmoji", categories=2000, cache=str(tmp_path))


def test_missing_package(monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest):
        if name == "resvg_py":
            raise ImportError("gone", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ZsbirError, match=r"pip install 'zsbir\[openmoji\]'"):
        drawings()


def test_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ZsbirError, match="the cache cannot be written to"):
        DATASETS.build("openmoji", **TINY, cache=str(tmp_path / "file"))


def test_default_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = DATASETS.build("openmoji", **{**TINY, "samples": 1})
    assert made.root.parent == tmp_path / "zsbir" / "openmoji"
