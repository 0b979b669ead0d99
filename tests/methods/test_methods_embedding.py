"""One way from images to embeddings, whatever the images are given as."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

import zsbir
from zsbir.errors import ZsbirError
from zsbir.methods.embedding import apply, embed
from zsbir.types import Paths, Records

SIZE = 32


@pytest.fixture(scope="module")
def method():
    torch.manual_seed(0)
    return zsbir.build("frozen", backbone={"name": "tiny", "image_size": SIZE})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(7):
        Image.fromarray(rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


def test_paths_pictures_arrays_and_tensors_give_the_same(method, files):
    pictures = [Image.open(file) for file in files]
    arrays = [np.array(picture) for picture in pictures]
    tensors = [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]
    expected = torch.cat([method.embed(batch(method, picture), "photo").vector for picture in pictures]).detach()
    for images in (files, [str(file) for file in files], pictures, arrays, tensors, [t / 255 for t in tensors]):
        for options in ({}, {"batch_size": 2}, {"batch_size": 2, "workers": 2}):
            found = method.encode_photos(images, **options)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    one = expected[:1]
    for image in (files[0], str(files[0]), pictures[0], arrays[0], tensors[0]):
        torch.testing.assert_close(method.encode_sketches(image), one, atol=1e-6, rtol=1e-5)
    same = np.stack([arrays[0], arrays[0]])
    torch.testing.assert_close(method.encode_photos(same), one.expand(2, -1), atol=1e-6, rtol=1e-5)


def batch(method, picture):
    return torch.from_numpy(method.preprocess.pixels(picture, "photo")).permute(2, 0, 1)[None] / 255


def test_records_keep_labels_and_names_without_what_was_skipped(method, files, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"none")
    paths = [*map(str, files[:3]), str(broken), *map(str, files[3:])]
    labels = np.arange(8, dtype=np.int64)
    records = Records(tmp_path, Paths(paths), labels)
    with pytest.raises(ZsbirError, match=r"broken\.png"):
        embed(method, records, "photo")
    for workers in (0, 2):
        skipped = {}
        found = embed(
            method, records, "photo", classes=tuple("abcdefgh"), batch_size=3, workers=workers,
            skip=skipped.__setitem__,
        )  # fmt: skip
        assert list(skipped) == [3]
        assert found.labels.tolist() == [0, 1, 2, 4, 5, 6, 7]
        assert list(found.paths) == [path for path in paths if path != str(broken)]
        assert found.classes == tuple("abcdefgh")
        torch.testing.assert_close(found.vectors, method.encode_photos(files), atol=1e-6, rtol=1e-5)


def test_the_mode_comes_back_and_threads_end_when_the_caller_stops(method, files):
    method.train()
    for rows, _ in apply(method, lambda images: images.mean(), files, "photo", batch_size=1, workers=2):
        assert rows == [0]
        assert not method.training
        break
    assert method.training
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]
    assert len(embed(method, [], "photo")) == 0


GOOD = torch.zeros(1, 3, SIZE, SIZE)


@pytest.mark.parametrize(
    ("images", "domain", "message"),
    [
        (GOOD, "skecth", "no domain 'skecth'. Did you mean 'sketch'"),
        (GOOD, None, "no domain None"),
        (GOOD.byte(), "photo", "float32 images in"),
        (GOOD.double(), "photo", "float32 images in"),
        (GOOD * torch.nan, "photo", r"in \[0, 1\], and these go from nan"),
        (GOOD + 200, "photo", "go from 200 to 200: divide bytes by 255"),
        (GOOD - 2, "photo", "do not normalise"),
        (GOOD[0], "photo", r"\(B, 3, 32, 32\), not \(3, 32, 32\)"),
        (GOOD.permute(0, 2, 3, 1), "photo", r"not \(1, 32, 32, 3\)"),
        (GOOD[:, :1], "photo", r"not \(1, 1, 32, 32\)"),
        (GOOD[..., :16], "photo", r"not \(1, 3, 32, 16\)"),
        (GOOD.numpy(), "photo", "not ndarray; encode_sketches"),
        (Image.new("RGB", (32, 32)), "photo", "not Image; encode_sketches"),
        ([GOOD], "photo", "not list"),
    ],
)
def test_embed_refuses_what_it_does_not_take(method, images, domain, message):
    with torch.no_grad(), pytest.raises(ZsbirError, match=message):
        method.embed(images, domain)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (3, "not int"),
        (None, "not NoneType"),
        ({"a": 1}, "not dict"),
        ([3], "not int"),
        ("nowhere.png", r"no image file nowhere\.png"),
        (np.zeros((4, 4, 3)), r"\(H, W, 3\) uint8, and this is \(4, 4, 3\) float64"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\) uint8"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (torch.zeros(1, 4, 4), r"\(3, H, W\), and this is \(1, 4, 4\)"),
        (torch.full((3, 4, 4), 255.0), "goes from 255 to 255"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64"),
    ],
)
def test_encode_refuses_what_is_no_image(method, images, message):
    with pytest.raises(ZsbirError, match=message):
        method.encode_photos(images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"workers": -1}, "workers=-1"),
        ({"device": "gpu"}, "no device 'gpu': say 'cpu'"),
    ],
)
def test_options_are_checked(method, files, options, message):
    with pytest.raises(ZsbirError, match=message):
        method.encode_photos(files, **options)


def test_load_checks_the_device(method, tmp_path):
    method.save(tmp_path / "saved")
    with pytest.raises(ZsbirError, match="no device 'gpu'"):
        zsbir.load(tmp_path / "saved", device="gpu")
    assert zsbir.load(tmp_path / "saved", device="auto").preprocess == method.preprocess
