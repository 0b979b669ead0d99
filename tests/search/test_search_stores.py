import importlib.util

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zsbir.errors import ZsbirError
from zsbir.search.stores import STORES

DIM = 16
# Milvus Lite exists for Linux and macOS alone, so it is no part of the extra `test`; CI installs it.
NO_MILVUS = pytest.mark.skipif(
    importlib.util.find_spec("milvus_lite") is None, reason="the extra 'milvus' is not installed (none for Windows)"
)
SPECS = [
    {"name": "exact"},
    {"name": "exact", "chunk": 7},
    {"name": "faiss", "kind": "flat"},
    {"name": "faiss", "kind": "hnsw"},
    {"name": "faiss", "kind": "ivf-pq", "code_bytes": 8},
    pytest.param({"name": "milvus"}, marks=NO_MILVUS),
]


def unit(n, seed=0, dim=DIM):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def oracle(held, queries, k):
    ids = np.array(sorted(held))
    scores = queries @ np.array([held[i] for i in ids]).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), ids[order]


@pytest.fixture(params=SPECS, ids=lambda spec: "-".join(str(v) for v in spec.values()))
def spec(request):
    return request.param


def opened(spec, folder):
    folder.mkdir(exist_ok=True)
    store = STORES.build(spec)
    store.open(folder, DIM)
    return store


def test_life_of_a_store(spec, tmp_path):
    vectors, queries = unit(60), unit(5, seed=1)
    store = opened(spec, tmp_path / "s")
    scores, ids = store.search(queries, 3)
    assert (ids == -1).all()
    assert np.isneginf(scores).all()
    store.add(np.arange(40), vectors[:40])
    store.add(np.arange(40, 60), vectors[40:])
    held = dict(enumerate(vectors))
    store.remove(np.array([3, 7, 999]))
    del held[3], held[7]
    held[5] = unit(1, seed=9)[0]
    store.add(np.array([5]), held[5][None])
    store.flush()
    store.finish()
    for _ in range(2):  # the second time as read back from disk
        scores, ids = store.search(queries, 10)
        expected_scores, expected = oracle(held, queries, 10)
        assert np.array_equal(ids, expected)
        np.testing.assert_allclose(scores, expected_scores, atol=1e-5)
        assert sorted(store.ids()) == sorted(held)
        np.testing.assert_allclose(store.vectors(np.array([5, 50])), [held[5], held[50]], atol=1e-6)
        scores, ids = store.search(queries[:1], 100)
        assert (ids[0] >= 0).sum() == len(held)
        store.close()
        store = opened(spec, tmp_path / "s")
    store.close()


def test_compaction_keeps_what_is_alive(spec, tmp_path):
    vectors = unit(50)
    store = opened(spec, tmp_path / "s")
    store.add(np.arange(50), vectors)
    store.remove(np.arange(30))
    store.finish()
    _, ids = store.search(vectors[40:41], 50)
    assert ids[0, 0] == 40
    assert sorted(i for i in ids[0] if i >= 0) == list(range(30, 50))
    store.add(np.array([3]), vectors[3:4])
    assert store.search(vectors[3:4], 1)[1][0, 0] == 3
    store.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(["add", "remove", "finish", "reopen"]), st.integers(0, 30)), max_size=20),
    st.integers(1, 12),
)
def test_exact_is_a_dictionary(tmp_path_factory, steps, k):
    folder = tmp_path_factory.mktemp("store")
    store = opened({"name": "exact", "chunk": 5}, folder)
    held = {}
    for number, (what, at) in enumerate(steps):
        if what == "add":
            ids = np.arange(at, at + 4)
            vectors = unit(4, seed=number)
            store.add(ids, vectors)
            held.update(zip(ids.tolist(), vectors, strict=True))
        elif what == "remove":
            store.remove(np.arange(at, at + 6))
            held = {i: v for i, v in held.items() if not at <= i < at + 6}
        elif what == "finish":
            store.finish()
        else:
            store = opened({"name": "exact", "chunk": 5}, folder)
    assert sorted(store.ids().tolist()) == sorted(held)
    if held:
        queries = unit(3, seed=99)
        scores, ids = store.search(queries, k)
        expected_scores, expected = oracle(held, queries, k)
        assert np.array_equal(ids[:, : expected.shape[1]], expected)
        np.testing.assert_allclose(scores[:, : expected.shape[1]], expected_scores, atol=1e-5)


def test_interrupted_append_leaves_whole_rows(tmp_path):
    store = opened({"name": "exact"}, tmp_path)
    store.add(np.arange(4), unit(4))
    with open(tmp_path / "vectors.f32", "ab") as stream:
        stream.write(b"half a row and more" * 7)
    store = opened({"name": "exact"}, tmp_path)
    assert store.ids().tolist() == [0, 1, 2, 3]
    store.add(np.array([9]), unit(1, seed=3))
    np.testing.assert_allclose(store.vectors(np.array([9])), unit(1, seed=3))


def kept_rows(store):
    return store.ids().tolist(), store.vectors(store.ids())


@pytest.mark.parametrize("stopped_at", ["vectors-1.f32", "ids-1.new", "ids-1.i64"])
def test_a_compaction_that_is_stopped_loses_nothing(stopped_at, tmp_path, monkeypatch):
    """Whatever is there when the machine stops, the living rows are whole, and those who search are not disturbed."""
    vectors, store = unit(50), opened({"name": "exact"}, tmp_path)
    store.add(np.arange(50), vectors)
    store.remove(np.arange(30))
    reader = opened({"name": "exact"}, tmp_path)

    def stop(path, *rest, **more):
        raise KeyboardInterrupt

    if stopped_at == "ids-1.i64":
        monkeypatch.setattr(type(tmp_path), "unlink", stop)  # the new files count, the old ones are still there
    elif stopped_at == "ids-1.new":
        monkeypatch.setattr(type(tmp_path), "replace", stop)
    else:
        monkeypatch.setattr("os.fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        store.finish()
    monkeypatch.undo()
    assert (tmp_path / stopped_at).is_file()
    store = opened({"name": "exact"}, tmp_path)
    for one in (store, reader):
        assert kept_rows(one)[0] == list(range(30, 50))
        np.testing.assert_array_equal(kept_rows(one)[1], vectors[30:])
    store.remove(np.arange(30, 45))
    store.finish()
    assert sum(file.suffix == ".i64" for file in tmp_path.iterdir()) == 1
    assert opened({"name": "exact"}, tmp_path).ids().tolist() == list(range(45, 50))


def test_rows_marked_in_the_old_way_stay_removed(tmp_path):
    store = opened({"name": "exact"}, tmp_path)
    store.add(np.arange(3, 9), unit(6))
    marks = np.memmap(tmp_path / "ids.i64", "<i8", "r+")
    marks[2] = -1
    marks.flush()
    store = opened({"name": "exact"}, tmp_path)
    assert store.ids().tolist() == [3, 4, 6, 7, 8]
    np.testing.assert_array_equal(store.vectors(np.array([8, 3])), unit(6)[[5, 0]])
    store.remove(np.array([5, 7]))
    assert len(store) == 4


def test_what_a_long_file_costs_in_memory_does_not_grow_with_it(tmp_path):
    """Looking up ids, removing and adding touch a few places of the file."""
    import tracemalloc

    store = opened({"name": "exact"}, tmp_path)
    for start in range(0, 400_000, 100_000):
        store.add(np.arange(start, start + 100_000), np.zeros((100_000, DIM), np.float32))
    tracemalloc.start()
    store.add(np.array([400_000]), unit(1))
    store.remove(np.arange(5, 400_000, 40_000))
    np.testing.assert_array_equal(store.vectors(np.array([400_000])), unit(1))
    assert tracemalloc.get_traced_memory()[1] < 100_000  # 8 bytes an id would be 3.2 MB
    tracemalloc.stop()


def blobs(count):
    rng = np.random.default_rng(0)
    vectors = np.repeat(unit(200), count // 200, axis=0) + 0.1 * rng.standard_normal((count, DIM)).astype(np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def recall(store, vectors, every=400):
    held = dict(zip(store.ids().tolist(), store.vectors(store.ids()), strict=True))
    _, ids = store.search(vectors[::every], 10)
    _, expected = oracle(held, vectors[::every], 10)
    return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, expected, strict=True)])


def test_ivf_pq_is_filled_in_blocks_and_goes_on_after_a_stop(tmp_path, monkeypatch):
    from zsbir.search.stores import _inverted

    spec = {"name": "faiss", "kind": "ivf-pq", "code_bytes": 8, "lists": 32, "effort": 16}
    vectors, written = blobs(12_000), []
    monkeypatch.setattr(_inverted, "BLOCK", 5_000)
    monkeypatch.setattr("zsbir.search.stores.faiss._TAIL", 100)
    write = _inverted.write

    def stopping(index, file):
        if len(written) == 2:  # the trained index and one block
            raise KeyboardInterrupt
        write(index, file)
        written.append(file.name)

    store = opened(spec, tmp_path / "s")
    store.add(np.arange(12_000), vectors)
    monkeypatch.setattr(_inverted, "write", stopping)
    with pytest.raises(KeyboardInterrupt):
        store.finish()
    assert written == ["32.trained", "0-5000-32.block"]
    store = opened(spec, tmp_path / "s")
    assert recall(store, vectors) == 1  # without an index all are compared
    monkeypatch.setattr(_inverted, "write", lambda index, file: (write(index, file), written.append(file.name)))
    store.finish()
    assert written[2:] == ["5000-10000-32.block", "10000-12000-32.block", "ivf-pq.faiss"]
    assert store._index.ntotal == 12_000
    assert recall(store, vectors) > 0.9
    assert not list((tmp_path / "s").glob("*.building"))

    reader, more = opened(spec, tmp_path / "s"), unit(150, seed=5)
    store.add(np.arange(12_000, 12_090), more[:90])
    store.finish()
    assert store._index.ntotal == 12_000  # few enough to be compared
    assert store.search(more[89:90], 1)[1][0, 0] == 12_089
    store.add(np.arange(12_090, 12_150), more[90:])
    store.finish()
    assert written[-2:] == ["12000-12150-32.block", "ivf-pq.faiss"]  # neither trained nor coded again
    assert recall(reader, vectors) > 0.9  # its lists are still there
    store.remove(np.arange(0, 12_000, 2))
    store.finish()
    store = opened(spec, tmp_path / "s")
    assert store.generation == 1
    assert store.search(more[149:], 1)[1][0, 0] == 12_149
    assert recall(store, vectors) > 0.9
    assert len(list((tmp_path / "s").glob("*.lists"))) == len(list((tmp_path / "s").glob("*.faiss"))) == 0


def test_an_index_can_be_moved(tmp_path):
    spec = {"name": "faiss", "kind": "ivf-pq", "code_bytes": 8, "lists": 32, "effort": 16}
    store, vectors = opened(spec, tmp_path / "s"), blobs(12_000)
    store.add(np.arange(12_000), vectors)
    store.finish()
    (tmp_path / "s").rename(tmp_path / "t")
    moved = opened(spec, tmp_path / "t")
    assert moved._index.ntotal == 12_000
    assert recall(moved, vectors) > 0.9


def test_wrong_width(tmp_path):
    store = opened({"name": "exact"}, tmp_path)
    with pytest.raises(ZsbirError, match="width 16"):
        store.add(np.arange(2), unit(2, dim=8))


def test_faiss_settings(tmp_path):
    with pytest.raises(ZsbirError, match="kind='tree' must be 'flat', 'hnsw' or 'ivf-pq'"):
        STORES.build("faiss", kind="tree")
    with pytest.raises(ZsbirError, match="does not divide"):
        opened({"name": "faiss", "kind": "ivf-pq", "code_bytes": 5}, tmp_path)


def test_hnsw_and_ivf_pq_recall(tmp_path):
    vectors = blobs(12_000)
    for name, more in {"hnsw": {}, "ivf-pq": {"code_bytes": 8, "lists": 64, "effort": 16}}.items():
        store = opened({"name": "faiss", "kind": name, **more}, tmp_path / name)
        store.add(np.arange(len(vectors)), vectors)
        store.finish()
        assert recall(store, vectors) > 0.9, name
