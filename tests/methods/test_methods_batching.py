"""How many images are embedded at once is found on a GPU; here one is played."""

import pytest
import torch

from zsbir.engine import devices
from zsbir.engine.speed import Speed
from zsbir.errors import ZsbirError
from zsbir.methods import _batching
from zsbir.methods._batching import BatchSize
from zsbir.methods.embedding import embed


def sized_for(device, size=None, method=None):
    return BatchSize(size, torch.device(device), torch.nn.Identity() if method is None else method)


def run(sized, count, fits):
    """Embed `count` images on a GPU that holds `fits` at once; returns the sizes of the pieces, and all rows."""
    seen = []

    def call(images):
        if len(images) > fits:
            raise torch.OutOfMemoryError
        seen.append(len(images))
        return images

    done = 0
    while done < count:
        size = min(sized(), count - done)
        pieces = list(sized.pieces(call, torch.arange(done, done + size)))
        assert [start for start, _ in pieces] == [int(rows[0]) - done for _, rows in pieces]
        assert torch.cat([rows for _, rows in pieces]).tolist() == list(range(done, done + size))
        done += size
    return seen


def test_it_doubles_while_memory_is_free(monkeypatch):
    monkeypatch.setattr(_batching, "used_memory", lambda device: (sized.size * 10, 3000))
    sized = sized_for("cuda")
    assert run(sized, 1000, 10_000) == [64, 128, 256, 256, 256, 40]
    monkeypatch.setattr(_batching, "used_memory", lambda device: (0, 3000))
    sized = sized_for("cuda")
    assert max(run(sized, 9000, 10_000)) == 1024


def test_it_halves_when_memory_is_out_and_stays(monkeypatch):
    monkeypatch.setattr(_batching, "used_memory", lambda device: (0, 3000))
    assert run(sized_for("cuda"), 600, 100) == [64, 64, 64, *[64] * 6, 24]
    assert run(sized_for("cuda"), 20, 5) == [5, 5, 5, 5]
    with pytest.raises(torch.OutOfMemoryError):
        run(sized_for("cuda"), 4, 0)


def test_what_was_found_is_kept_for_the_next_job_of_the_same_method(monkeypatch):
    monkeypatch.setattr(_batching, "used_memory", lambda device: (0, 3000))
    method = torch.nn.Identity()
    assert run(sized_for("cuda", method=method), 200, 100) == [64, 64, 64, 8]
    assert run(sized_for("cuda", method=method), 100, 10_000) == [64, 36], "it is not tried again"
    assert run(sized_for("cuda"), 200, 10_000) == [64, 128, 8], "another method has a size of its own"
    assert sized_for("cpu", method=method).size == 32


def test_a_size_that_was_given_and_the_one_of_a_processor_are_fixed():
    assert run(sized_for("cpu"), 70, 99) == [32, 32, 6]
    assert run(sized_for("cuda", 50), 70, 99) == [50, 20]
    with pytest.raises(torch.OutOfMemoryError):
        run(sized_for("cuda", 50), 70, 49)


def test_rows_stay_with_their_vectors_when_a_batch_is_cut(monkeypatch, tmp_path):
    import zsbir

    monkeypatch.setattr(_batching, "used_memory", lambda device: (0, 1))
    method = zsbir.build("frozen", backbone="tiny").eval()
    images = [torch.full((3, 40, 40), number * 20, dtype=torch.uint8) for number in range(8)]
    whole = embed(method, images, "photo")
    made, real = [], type(method).embed

    def small(self, batch, domain):
        made.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError
        return real(self, batch, domain)

    monkeypatch.setattr(type(method), "embed", small)
    monkeypatch.setattr(
        "zsbir.methods.embedding.BatchSize", lambda size, device, method: sized_for("cuda", method=method)
    )
    cut = embed(method, images, "photo")
    assert made == [8, 4, 2, 2, 2, 2]
    torch.testing.assert_close(cut.vectors, whole.vectors, atol=1e-6, rtol=1e-5)
    with pytest.raises(ZsbirError, match="batch_size=0"):
        embed(method, images, "photo", batch_size=0)


@pytest.mark.parametrize(
    ("cuda", "capability", "precision"), [(False, None, "no"), (True, (7, 5), "no"), (True, (9, 0), "bf16")]
)
def test_what_auto_takes_on_each_device(cuda, capability, precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert devices.auto_precision("auto") == precision
    assert devices.auto_precision("cpu") == "no"
    assert Speed.auto() == Speed(channels_last=True, fused=True, tf32=True, compile=False, checkpointing=False)
