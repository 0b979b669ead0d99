"""Reading for embedding: lazily, on a GPU's decoder, in bfloat16, and without looking at values that are known."""

import numpy as np
import pytest
import torch
from PIL import Image

import zsbir
from zsbir.data import jpeg
from zsbir.data.images import load_image
from zsbir.data.preprocess import WAYS
from zsbir.errors import ZsbirError
from zsbir.methods import _reading
from zsbir.methods.embedding import embed

CPU = torch.device("cpu")


def photo(seed, width=90, height=60):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def files(tmp_path):
    """Photos as JPEG files of several kinds, a PNG, and one that is damaged."""
    photo(0).save(tmp_path / "a.jpg", quality=95)
    photo(1, 40, 80).convert("L").save(tmp_path / "grey.JPEG", quality=95)
    photo(2).save(tmp_path / "b.png")
    photo(3).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(4).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    return [tmp_path / name for name in ("a.jpg", "grey.JPEG", "b.png", "cmyk.jpg", "turned.jpg")]


@pytest.fixture
def method():
    torch.manual_seed(0)
    return zsbir.build("frozen", backbone={"name": "tiny", "image_size": 32}).eval()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("how", ["squash", "bicubic"])
def test_a_square_decoded_as_on_a_gpu_is_that_of_the_cpu(how, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "photo.jpg"
    photo(orientation).save(file, exif=exif, quality=95)
    found = jpeg.squares([jpeg.encoded(file.read_bytes())] * 2, 32, how, CPU)
    assert found.shape == (2, 3, 32, 32)
    assert found.dtype == torch.uint8
    expected = torch.from_numpy(WAYS[how](load_image(file), 32)).permute(2, 0, 1)
    assert int((found[1].int() - expected.int()).abs().max()) <= 3
    assert float((found[1].float() - expected.float()).abs().mean()) < 0.5


def test_only_whole_rgb_and_grey_jpeg_files_go_to_the_gpu(files, monkeypatch):
    assert [jpeg.encoded(file.read_bytes()) is not None for file in files] == [True, True, False, False, True]
    whole = files[0].read_bytes()
    assert jpeg.encoded(whole[:-40]) is None
    assert jpeg.encoded(whole[:20] + b"\xff\xd9") is None
    assert jpeg.encoded(b"") is None
    monkeypatch.setattr(jpeg, "MOST_PIXELS", 90 * 60 - 1)
    assert jpeg.encoded(whole) is None


@pytest.mark.parametrize("workers", [0, 2])
def test_embedding_decodes_on_the_device_what_it_can(workers, files, method, monkeypatch):
    decoded, real = [], jpeg.squares
    monkeypatch.setattr(_reading, "squares", lambda images, *rest: decoded.append(len(images)) or real(images, *rest))
    expected = embed(method, files, "photo").vectors
    found = embed(method, files, "photo", decode="device", workers=workers, batch_size=4)
    assert decoded == [2, 1]
    assert torch.nn.functional.cosine_similarity(found.vectors, expected).min() > 0.999
    content = [file.read_bytes() for file in files]
    torch.testing.assert_close(embed(method, content, "photo", decode="device").vectors, found.vectors)


def test_a_file_that_the_gpu_cannot_decode_is_named_and_the_others_are_there(files, method):
    whole = files[0].read_bytes()
    damaged = files[0].with_name("damaged.jpg")
    damaged.write_bytes(whole[:400] + bytes(len(whole) - 402) + whole[-2:])
    missing = files[0].with_name("missing.jpg")
    skipped = {}
    found = embed(
        method, [files[0], damaged, files[1], missing], "photo", decode="device", skip=skipped.__setitem__
    )  # fmt: skip
    on_cpu = {}
    embed(method, [files[0], damaged, files[1], missing], "photo", skip=on_cpu.__setitem__)
    assert skipped == on_cpu
    assert str(missing) in skipped[3]
    assert len(found) == 4 - len(skipped)
    with pytest.raises(ZsbirError, match="there is no image file"):
        embed(method, [missing], "photo", decode="device")


def test_a_decoder_that_fails_leaves_the_batch_to_the_cpu(files, method, monkeypatch):
    def fail(*_):
        raise RuntimeError("nvJPEG")

    monkeypatch.setattr(_reading, "squares", fail)
    found = embed(method, files, "photo", decode="device").vectors
    torch.testing.assert_close(found, embed(method, files, "photo").vectors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decode": "gpu"}, "decode='gpu' must be 'cpu' or 'device'"),
        ({"precision": "fp16"}, "precision='fp16' must be 'no' or 'bf16'"),
        ({"decode": "device", "cache": "c"}, "leaves a GPU nothing to decode"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message, files, method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZsbirError, match=message):
        embed(method, files, "photo", **options)


def test_a_way_or_a_dataset_of_its_own_needs_the_cpu(files):
    cropped = zsbir.build("frozen", backbone="tiny", preprocess={"sketch": "crop-pad"})
    with pytest.raises(ZsbirError, match="cannot prepare a sketch by 'crop-pad'"):
        embed(cropped, files, "sketch", decode="device")

    class Opens(zsbir.Dataset):
        def open(self, record):
            return load_image(record)

    with pytest.raises(ZsbirError, match="Opens opens its files itself"):
        embed(cropped, files, "photo", decode="device", dataset=Opens.__new__(Opens))


def test_an_iterator_is_read_no_further_than_needed(files, method):
    taken = []

    def images():
        for number in range(200):
            taken.append(number)
            yield files[number % 3]

    stream = zsbir.methods.embedding.apply(method, len, images(), "photo", batch_size=4)
    assert next(stream) == ([0, 1, 2, 3], 4)
    assert len(taken) == 4
    stream.close()
    taken.clear()
    found = embed(method, images(), "photo", batch_size=7, workers=2)
    assert len(found) == 200
    assert not len(found.paths)
    torch.testing.assert_close(found.vectors[:3], embed(method, files[:3], "photo").vectors)


def test_bf16_computes_in_bfloat16_and_gives_float32(files, method):
    seen = []
    method.trunk.register_forward_hook(lambda module, _, output: seen.append(output.vector.dtype))
    whole = embed(method, files, "photo").vectors
    found = embed(method, files, "photo", precision="bf16").vectors
    assert found.dtype == torch.float32
    assert torch.bfloat16 in seen or not torch.equal(found, whole)
    assert torch.nn.functional.cosine_similarity(found, whole).min() > 0.99


def test_values_of_files_are_not_looked_at_and_those_of_tensors_are(files, method, monkeypatch):
    looked, real = [], torch.aminmax
    monkeypatch.setattr(torch, "aminmax", lambda *a, **k: looked.append(1) or real(*a, **k))
    embed(method, files, "photo")
    assert not looked
    with torch.no_grad(), pytest.raises(ZsbirError, match="divide bytes by 255"):
        method.embed(torch.full((1, 3, 32, 32), 255.0), "photo")
    assert looked
