import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.data_trees import picture, write_drawings
from zsbir.data import DATASETS
from zsbir.data.cache import ImageCache, fill_cache
from zsbir.data.images import load_image
from zsbir.data.loading import ImageSource
from zsbir.data.preprocess import Preprocess, way
from zsbir.errors import ZsbirError

SIZE = 8


def expected(path, how="squash", size=SIZE):
    return way(how)(load_image(path), size)


@pytest.fixture
def files(tmp_path):
    return [str(picture(tmp_path / f"data/{i}.png", i)) for i in range(5)]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def test_same_pixels_and_no_second_decoding(files, folder):
    cache = ImageCache(folder, SIZE)
    for _ in range(2):
        for file in files:
            assert (cache.get(file) == expected(file)).all()
    assert cache.made == 5
    again = ImageCache(folder, SIZE)
    assert (again.get(files[3]) == expected(files[3])).all()
    assert again.made == 0
    assert not again.get(files[3]).flags.writeable


def test_size_preparation_and_variant_are_kept_apart(files, folder):
    for size, how, variant in ((8, "squash", ""), (9, "squash", ""), (8, "crop-pad", ""), (8, "squash", "thick")):
        cache = ImageCache(folder, size, how, variant=variant)
        assert (cache.get(files[0]) == expected(files[0], how, size)).all()
        assert cache.made == 1


def test_settings_that_make_no_square_are_refused_at_once(folder):
    with pytest.raises(ZsbirError, match="no way 'stretch'"):
        ImageCache(folder, SIZE, "stretch")
    with pytest.raises(ZsbirError, match="size=0 must be a whole number of at least 1"):
        ImageCache(folder, 0)


def test_equal_files_share_a_square(files, folder, tmp_path):
    copy = tmp_path / "data/copy.png"
    copy.write_bytes(Path(files[0]).read_bytes())
    cache = ImageCache(folder, SIZE)
    cache.get(files[0])
    assert (cache.get(str(copy)) == expected(files[0])).all()
    assert cache.made == 1


def test_changed_file_is_read_again(files, folder):
    cache = ImageCache(folder, SIZE)
    old = cache.get(files[0]).copy()
    picture(Path(files[0]), 77)
    os.utime(files[0], ns=(1, 1))
    assert (cache.get(files[0]) == expected(files[0])).all()
    assert (cache.get(files[0]) != old).any()
    assert (ImageCache(folder, SIZE).get(files[0]) == expected(files[0])).all()


def test_touched_file_is_not_decoded_again(files, folder):
    cache = ImageCache(folder, SIZE)
    cache.get(files[0])
    os.utime(files[0], ns=(1, 1))
    cache.get(files[0])
    assert cache.made == 1


@pytest.mark.filterwarnings("ignore:.*starts anew")
@pytest.mark.parametrize("damage", ["flip", "cut", "tail", "empty", "torn", "gone"])
def test_damage_is_noticed_and_repaired(files, folder, damage):
    first = ImageCache(folder, SIZE)
    for file in files:
        first.get(file)
    first.store.close()  # and so writes what is in the log
    (path,) = folder.glob("*.sqlite")
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[content.index(expected(files[0]).transpose(2, 0, 1).tobytes()) + 5] ^= 0x40
    elif damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "tail":
        content = content[:-1000]
    elif damage == "empty":
        content = b""
    elif damage == "torn":
        content += b"abc"
    path.write_bytes(content)
    if damage == "gone":
        path.unlink()
    for _ in range(2):
        cache = ImageCache(folder, SIZE)
        for file in files:
            assert (cache.get(file) == expected(file)).all()
    assert cache.made == 0, "the second opening finds everything repaired"


def test_missing_and_broken_sources(files, folder, tmp_path):
    cache = ImageCache(folder, SIZE)
    with pytest.raises(ZsbirError, match=r"none\.png"):
        cache.get(str(tmp_path / "none.png"))
    (tmp_path / "bad.png").write_bytes(b"bad")
    with pytest.raises(ZsbirError, match=r"bad\.png"):
        cache.get(str(tmp_path / "bad.png"))
    cache.get(files[0])
    Path(files[0]).unlink()
    with pytest.raises(ZsbirError, match="no image file"):
        cache.get(files[0])


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ZsbirError, match="choose another"):
        ImageCache(tmp_path / "file/cache", SIZE)


def read_all(cache, files):
    return [cache.get(file).copy() for file in files]


def test_many_processes_at_once(files, folder):
    cache = pickle.loads(pickle.dumps(ImageCache(folder, SIZE)))  # as a worker gets it
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        results = [pool.submit(read_all, cache, order) for order in (files, files[::-1], files[2:] + files[:2])]
        for order, result in zip((files, files[::-1], files[2:] + files[:2]), results, strict=True):
            for file, pixels in zip(order, result.result(), strict=True):
                assert (pixels == expected(file)).all()
    later = ImageCache(folder, SIZE)
    read_all(later, files)
    assert later.made == 0


def test_another_writer_is_seen(files, folder):
    one, two = ImageCache(folder, SIZE), ImageCache(folder, SIZE)
    one.get(files[0])
    two.get(files[1])
    assert (one.get(files[1]) == expected(files[1])).all()
    assert (two.get(files[0]) == expected(files[0])).all()
    assert (one.made, two.made) == (1, 1)


def test_drawings(tmp_path, folder):
    path = write_drawings(tmp_path / "cat.ndjson", 3)
    cache = ImageCache(folder, 32)
    for number in range(3):
        assert (cache.get(f"{path}#{number}") == expected(f"{path}#{number}", size=32)).all()
    assert cache.made == 3


def test_fill_and_use_by_the_loader(pets, folder):
    data = DATASETS.build("folder", root=pets, unseen="dog")
    bad = pets / "photo/cat/p1.jpg"
    bad.write_bytes(b"bad")
    made, total, problems = fill_cache(data, folder, SIZE, "crop-pad", "squash", workers=2)
    assert (made, total, len(problems)) == (19, 20, 1)
    assert "p1.jpg" in problems[0]
    assert fill_cache(data, folder, SIZE, "crop-pad", "squash", workers=1)[0] == 0
    look = Preprocess(SIZE, (0.5,) * 3, (0.5,) * 3, sketch="crop-pad")
    plain = ImageSource(data, look)
    cached = ImageSource(data, look, cache=folder)
    for domain in ("sketch", "photo"):
        file = str(data.test.of(domain).file(1))
        assert (plain.image(file, domain) == cached.image(file, domain)).all()


def test_object_masks_are_not_in_the_way(pets, folder):
    data = DATASETS.build("folder", root=pets, unseen="dog")
    data.object_mask = lambda record: np.eye(10, 12, dtype=bool)
    look = Preprocess(SIZE, (0.5,) * 3, (0.5,) * 3)
    assert ImageSource(data, look, cache=folder).mask(str(data.test.photos.file(0))).shape == (SIZE, SIZE)


def test_a_dataset_that_opens_otherwise(files, folder):
    cache = ImageCache(folder, 4, open=lambda record: Image.new("RGB", (2, 2), (1, 2, 3)), variant="mine")
    assert (cache.get(files[0]) == (1, 2, 3)).all()
