"""Masks on disk: found by content, computed once, whole after a crash."""

import multiprocessing

import numpy as np
import pytest
import torch

from zsbir.errors import ZsbirError
from zsbir.maskers import MASKERS
from zsbir.maskers.base import MaskRequest
from zsbir.maskers.store import MaskStore

GRID = (3, 5)


class Counting(MASKERS.get("none")):
    """Keeps patches by the photo's and the name's own numbers, and counts the photos it sees."""

    seen = 0

    def forward(self, request):
        self.seen += len(request.images)
        base = (request.images.sum((1, 2, 3)) * 255).round().long() + torch.tensor(
            [len(n) for n in request.class_names]
        )
        return (base[:, None] + torch.arange(request.shape[1])) % 3 > 0


def masker(**spec):
    made = Counting()
    made.spec = {"name": "counting", **spec}
    return made


def photo(number):
    return np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)


def read(file):
    return photo(int(file.split("-")[-1]))


FILES = [f"virtual-{i}" for i in range(7)]
NAMES = ["cat", "dog", "horse", "cat", "dog", "horse", "cat"]


def direct(made, file, name):
    images = torch.from_numpy(read(file)).permute(2, 0, 1)[None].float() / 255
    return made(MaskRequest(images, [name], GRID))[0].numpy()


def test_masks_are_those_of_the_masker_and_computed_once(tmp_path):
    store = MaskStore(masker(), GRID, tmp_path)
    assert store.precompute(FILES, NAMES, read, batch_size=3) == 7
    assert store.masker.seen == 7
    for file, name in zip(FILES, NAMES, strict=True):
        assert np.array_equal(store(file), direct(masker(), file, name))
    again = MaskStore(masker(), GRID, tmp_path)
    assert again.precompute(FILES, NAMES, read) == 0
    assert again.masker.seen == 0
    assert np.array_equal(again(FILES[3]), store(FILES[3]))


def test_key_is_masker_grid_preparation_content_and_class(tmp_path):
    store = MaskStore(masker(ratio=0.5), GRID, tmp_path)
    store.precompute(FILES[:2], NAMES[:2], read)
    names = {store.file, MaskStore(masker(ratio=0.7), GRID, tmp_path).file,
               MaskStore(masker(ratio=0.5), (5, 3), tmp_path).file,
               MaskStore(masker(ratio=0.5), GRID, tmp_path, {"size": 64}).file}  # fmt: skip
    assert len(names) == 4
    assert store.precompute(["moved-0"], NAMES[:1], read) == 0  # the same pixels elsewhere
    assert store.precompute(["moved-0"], ["zebra"], read) == 1  # the same pixels as another class
    assert store.precompute(FILES[:1], NAMES[:1], lambda f: photo(99)) == 1  # other pixels under the same name
    assert np.array_equal(store(FILES[0]), direct(masker(), "x-99", "cat"))


def test_weights_file_counts_by_its_content(tmp_path):
    weights = tmp_path / "clip.pt"
    weights.write_bytes(b"one")
    first = MaskStore(masker(weights=str(weights)), GRID, tmp_path).file
    weights.write_bytes(b"two")
    assert MaskStore(masker(weights=str(weights)), GRID, tmp_path).file != first


def test_unchanged_files_are_not_read_again(tmp_path):
    file = tmp_path / "photo-1"
    file.write_bytes(b"x")
    store = MaskStore(masker(), GRID, tmp_path / "masks")
    store.precompute([str(file)], ["cat"], read)

    def never(name):
        raise AssertionError(name)

    again = MaskStore(masker(), GRID, tmp_path / "masks")
    assert again.precompute([str(file)], ["cat"], never) == 0
    assert again(str(file)).shape == (15,)
    file.write_bytes(b"longer")
    with pytest.raises(AssertionError):
        again.precompute([str(file)], ["cat"], never)


def test_broken_photos_are_named_or_left_out(tmp_path):
    def broken(file):
        if file == FILES[1]:
            raise ZsbirError(f"{file} is broken")
        return read(file)

    store = MaskStore(masker(), GRID, tmp_path)
    with pytest.raises(ZsbirError, match="virtual-1 is broken"):
        store.precompute(FILES, NAMES, broken)
    skipped = []
    assert store.precompute(FILES, NAMES, broken, skip=lambda f, e: skipped.append(f)) == 6
    assert skipped == [FILES[1]]
    with pytest.raises(ZsbirError, match="no mask of virtual-1"):
        store(FILES[1])


@pytest.mark.filterwarnings("ignore:.*starts anew")
def test_a_damaged_store_is_filled_again(tmp_path):
    store = MaskStore(masker(), GRID, tmp_path)
    store.precompute(FILES[:4], NAMES[:4], read)
    store._store.close()
    file = store.file
    file.write_bytes(file.read_bytes()[:-5000])
    again = MaskStore(masker(), GRID, tmp_path)
    again.precompute(FILES, NAMES, read)
    for file, name in zip(FILES, NAMES, strict=True):
        assert np.array_equal(again(file), direct(masker(), file, name))


def test_objects_reach_maskers_that_need_them(tmp_path):
    store = MaskStore(MASKERS.build("oracle"), (2, 2), tmp_path)
    mask = np.zeros((8, 8), dtype=bool)
    mask[:4, 4:] = True
    store.precompute(FILES[:1], NAMES[:1], read, lambda f: mask)
    assert store(FILES[0]).tolist() == [False, True, False, False]
    with pytest.raises(ZsbirError, match="true object masks"):
        store.precompute(FILES[1:2], NAMES[1:2], read, lambda f: None)
    with pytest.raises(ZsbirError, match="cannot be stored"):
        MaskStore(MASKERS.build("attention"), (2, 2), tmp_path)


def _fill(root):
    torch.set_num_threads(1)
    MaskStore(masker(), GRID, root).precompute(FILES, NAMES, read, batch_size=2)


def test_two_processes_take_turns(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill, args=(tmp_path,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    store = MaskStore(masker(), GRID, tmp_path)
    assert store.precompute(FILES, NAMES, read) == 0
