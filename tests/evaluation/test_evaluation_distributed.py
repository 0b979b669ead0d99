"""One process and several give the same result."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from zsbir.evaluation import PROTOCOLS, Evaluator
from zsbir.evaluation.distributed import gather_embeddings, joined_processes, own_share
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


def evaluated(integers: bool) -> dict:
    return Evaluator(PROTOCOLS.names(), ks=(3, 10), resamples=10).evaluate(*sides(integers)).to_dict()


def work(rank: int, port: int, results: str) -> None:
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent))
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(PROCESSES)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    found = {}
    with joined_processes():
        for integers in (True, False):
            queries, gallery = sides(integers)
            found[integers] = (
                Evaluator(PROTOCOLS.names(), ks=(3, 10), resamples=10).evaluate(queries, gallery).to_dict()
            )
        mine = own_share(len(queries))
        part = Embeddings(queries.vectors[torch.from_numpy(mine)], queries.labels[mine], queries.classes)
        whole = gather_embeddings(part)
        assert 0 < len(part) < len(whole)
        assert torch.equal(whole.vectors, queries.vectors)
        assert np.array_equal(whole.labels, queries.labels)
    torch.save(found, f"{results}-{rank}")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, str(folder / "result")), nprocs=PROCESSES)
    return [torch.load(folder / f"result-{rank}", weights_only=True) for rank in range(PROCESSES)]


def test_every_process_has_the_same(found):
    assert found[0] == found[1]


@pytest.mark.parametrize("integers", [True, False])
def test_shared_chunks_give_the_same_bits(found, integers):
    alone = evaluated(integers)
    assert alone["counts"]["excluded"] > 0
    assert found[0][integers] == alone
