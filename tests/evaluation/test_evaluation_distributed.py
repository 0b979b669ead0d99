"""One process and several give the same result."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from zsbir.errors import ZsbirError
from zsbir.evaluation import PROTOCOLS, Evaluator
from zsbir.evaluation.distributed import gather_embeddings, measure_sharded
from zsbir.evaluation.measure import METRICS, Request, as_protocols, measure
from zsbir.evaluation.scoring import fitted_scores
from zsbir.matchers import MATCHERS
from zsbir.types import Embeddings

PROCESSES = 2


def sides(integers: bool) -> tuple[Embeddings, Embeddings]:
    """Whole numbers make exact scores with many ties; real ones make none."""
    generator = np.random.default_rng(0)
    made = []
    for count, domain in ((47, "sketch"), (83, "photo")):
        vectors = generator.integers(-2, 3, (count, 6)) if integers else generator.normal(size=(count, 6))
        labels = generator.integers(0, 5 if domain == "photo" else 6, count)
        made.append(Embeddings(torch.from_numpy(vectors.astype(np.float32)), labels, tuple("abcdef"), domain=domain))
    return made[0], made[1]


def part(side: Embeddings, index: np.ndarray) -> Embeddings:
    return Embeddings(side.vectors[torch.from_numpy(index)], side.labels[index], side.classes, domain=side.domain)


def request() -> Request:
    return Request(as_protocols(PROTOCOLS.names()), (3, 10), METRICS, (0.0, 0.5, 1.0))


def work(rank: int, file: str, results: str) -> None:
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent))
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=PROCESSES)
    sizes = {}
    for integers in (True, False):
        queries, gallery = sides(integers)
        report = Evaluator(PROTOCOLS.names(), ks=(3, 10), resamples=10).evaluate(queries, gallery)
        sizes[f"evaluator-{integers}"] = report.results["standard"]
        # Uneven shards: the first process has most of the gallery, the last most of the queries.
        left = np.array_split(np.arange(len(queries)), [12])[rank]
        right = np.array_split(np.arange(len(gallery)), [60])[rank]
        found = measure_sharded(
            part(queries, left), part(gallery, right), request(), "hamming" if integers else "cosine"
        )
        for name, values in found.values.items():
            sizes |= {f"{integers}/{name}/{metric}": v.tolist() for metric, v in values.items()}
        sizes[f"{integers}/query"] = found.query.tolist()
        sizes[f"{integers}/curve"] = found.curve.tolist()
        whole = gather_embeddings(part(queries, left))
        assert torch.equal(whole.vectors, queries.vectors)
        assert np.array_equal(whole.labels, queries.labels)
    torch.save(sizes, f"{results}-{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(work, (str(folder / "meet"), str(folder / "result")), nprocs=PROCESSES)
    return [torch.load(folder / f"result-{rank}", weights_only=True) for rank in range(PROCESSES)]


def test_every_process_has_the_same(found):
    assert found[0] == found[1]


@pytest.mark.parametrize("integers", [True, False])
def test_shared_chunks_give_the_same_bits(found, integers):
    alone = Evaluator(PROTOCOLS.names(), ks=(3, 10), resamples=10).evaluate(*sides(integers))
    assert found[0][f"evaluator-{integers}"] == alone.results["standard"]


@pytest.mark.parametrize("integers", [True, False])
def test_queries_and_gallery_split_over_processes(found, integers):
    queries, gallery = sides(integers)
    chunk = fitted_scores(MATCHERS.build("hamming" if integers else "cosine"), queries, gallery)
    alone = measure(chunk, queries.labels, gallery.labels, request())
    assert alone.excluded > 0
    assert found[0][f"{integers}/query"] == alone.query.tolist()
    assert np.allclose(found[0][f"{integers}/curve"], alone.curve, atol=1e-12)
    for name, values in alone.values.items():
        for metric, expected in values.items():
            assert found[0][f"{integers}/{name}/{metric}"] == pytest.approx(expected.tolist(), abs=1e-12)


def test_splitting_needs_processes():
    with pytest.raises(ZsbirError, match="torchrun"):
        measure_sharded(*sides(True), request())
