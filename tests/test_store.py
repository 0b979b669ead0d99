"""The disk store: what was put comes back, from other processes too, and damage never gives another key's value."""

import os
import pickle
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from zsbir.errors import ZsbirError
from zsbir.store import Store

ITEMS = {bytes([i] * 16): np.random.default_rng(i).bytes(3000 + i) for i in range(40)}


def fill(store, start):
    for key in [*ITEMS][start::4]:
        store.put([(key, ITEMS[key])])
    return [store.get(key) == ITEMS[key] for key in [*ITEMS][start::4]]


def test_values_come_back_and_are_replaced(tmp_path):
    store = Store(tmp_path / "a/b.sqlite")
    assert store.get(b"k") is None
    store.put([(b"k", b"one"), (b"l", b"")])
    store.put([(b"k", b"two")])
    assert (store.get(b"k"), store.get(b"l")) == (b"two", b"")
    assert Store(tmp_path / "a/b.sqlite").get(b"k") == b"two"


def test_processes_and_threads_share_it(tmp_path):
    store = Store(tmp_path / "b.sqlite")
    store.put([(b"k", b"v")])  # a connection that a fork must not use
    for context in (get_context("fork"), get_context("spawn")):
        with ProcessPoolExecutor(2, context) as pool:
            assert all(all(found) for found in pool.map(fill, [store] * 2, (0, 1)))
    with ThreadPoolExecutor(2) as pool:
        assert all(all(found) for found in pool.map(fill, [store] * 2, (2, 3)))
    assert all(store.get(key) == value for key, value in ITEMS.items())
    assert pickle.loads(pickle.dumps(store)).get(b"k") == b"v"


def test_random_damage_loses_values_but_never_mixes_them(tmp_path):
    file = tmp_path / "b.sqlite"
    store = Store(file)
    store.put(ITEMS.items())
    store.close()
    sound = file.read_bytes()
    rng = np.random.default_rng(0)
    lost = 0
    for turn in range(60):
        content = bytearray(sound)
        if turn % 3 == 0:
            content = content[: rng.integers(1, len(content))]
        else:
            start = int(rng.integers(len(content)))
            length = int(rng.integers(1, 4 if turn % 3 == 1 else 20000))
            content[start : start + length] = rng.bytes(len(content[start : start + length]))
        for ending in ("-wal", "-shm"):
            (tmp_path / f"b.sqlite{ending}").unlink(missing_ok=True)
        file.write_bytes(content)
        with warnings.catch_warnings(action="ignore"):
            store = Store(file)
            for key, value in [*ITEMS.items()] * 2:  # twice: what is put before the damage is met is lost with it
                found = store.get(key)
                assert found in (None, value)
                lost += found is None
                store.put([(key, value)])
            assert all(store.get(key) == value for key, value in ITEMS.items())
        store.close()
    assert lost > 60


def test_a_damaged_file_is_said_and_rebuilt(tmp_path):
    (tmp_path / "b.sqlite").write_bytes(b"no database" * 1000)
    with pytest.warns(UserWarning, match=r"the image cache .*b.sqlite is damaged .* and starts anew"):
        store = Store(tmp_path / "b.sqlite", "image cache")
    store.put([(b"k", b"v")])
    assert store.get(b"k") == b"v"


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ZsbirError, match="choose another place"):
        Store(tmp_path / "file/b.sqlite")
    (tmp_path / "folder.sqlite").mkdir()
    with pytest.raises(ZsbirError, match="the store .*folder.sqlite cannot be used"):
        Store(tmp_path / "folder.sqlite")


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator writes everywhere")
def test_a_read_only_store_is_read(tmp_path):
    Store(tmp_path / "b.sqlite").put([(b"k", b"v")])
    (tmp_path / "b.sqlite").chmod(0o444)
    store = Store(tmp_path / "b.sqlite")
    assert store.get(b"k") == b"v"
    with pytest.raises(ZsbirError, match="readonly"):
        store.put([(b"k", b"w")])
