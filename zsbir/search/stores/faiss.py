"""Approximate search with faiss; the vectors themselves stay in a memory-mapped file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from zsbir.arguments import Count, Natural
from zsbir.errors import ZsbirError
from zsbir.search.stores import STORES
from zsbir.search.stores.base import Ids, Store, Vectors
from zsbir.search.stores.exact import padded
from zsbir.search.vector_file import VectorFile

Kind = Literal["flat", "hnsw", "ivf-pq"]


@STORES.register("faiss")
class FaissStore(Store):
    """Approximate search with faiss (flat, HNSW or IVF-PQ); candidates are scored again exactly.

    Args:
        kind: ``"hnsw"`` is a graph in memory, fast and near exact; ``"ivf-pq"`` needs little memory; ``"flat"`` is
            faiss's own exact search.
        links: HNSW: links of a node.
        build_effort: HNSW: candidates looked at while building (efConstruction).
        effort: Candidates looked at in a search: efSearch of HNSW, lists probed of IVF-PQ.
        lists: IVF-PQ: number of lists; 0: four times the square root of the number of vectors.
        code_bytes: IVF-PQ: bytes a vector is coded in; it must divide the width.
        rescore: How many times k candidates are fetched and scored exactly. None: 4, and 32 for IVF-PQ, whose codes
            alone mix up near neighbours.
    """

    def __init__(
        self,
        kind: Kind = "hnsw",
        links: Count = 32,
        build_effort: Count = 80,
        effort: Count = 96,
        lists: Natural = 0,
        code_bytes: Count = 64,
        rescore: Count | None = None,
    ) -> None:
        self.kind, self.links, self.build_effort, self.effort = kind, links, build_effort, effort
        self.lists, self.code_bytes = lists, code_bytes
        self.rescore = rescore if rescore is not None else 32 if kind == "ivf-pq" else 4
        self._faiss = _import()

    def open(self, folder: Path, dim: int) -> None:
        """See `Store.open`."""
        if self.kind == "ivf-pq" and dim % self.code_bytes:
            raise ZsbirError(f"faiss store: code_bytes={self.code_bytes} does not divide the width {dim}")
        self._folder, self._dim = folder, dim
        self._file = VectorFile(folder, dim)
        self._index: Any = None
        kept = folder / f"{self.kind}.faiss"
        if kept.is_file():
            try:
                self._index = self._faiss.read_index(str(kept))
            except RuntimeError as error:
                raise ZsbirError(
                    f"{kept} is damaged ({str(error).splitlines()[-1]}): delete it, it is rebuilt"
                ) from None
        self._catch_up()

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """See `Store.add`."""
        self._file.append(ids, vectors)

    def remove(self, ids: Ids) -> None:
        """See `Store.remove`."""
        self._file.kill(ids)

    def flush(self) -> None:
        """See `Store.flush`: the vectors; the faiss index is made from them in `finish`."""
        self._file.sync()

    def finish(self) -> None:
        """Bring the faiss index up to date with the vectors and write it."""
        if 3 * self._file.dead > len(self._file.row_ids):
            self._file.compact()
            self._index = None
        self._catch_up()
        if self._index is not None:
            kept = self._folder / f"{self.kind}.faiss"
            part = kept.with_name(kept.name + ".new")
            self._faiss.write_index(self._index, str(part))
            part.replace(kept)

    def ids(self) -> Ids:
        """See `Store.ids`."""
        return self._file.ids()

    def vectors(self, ids: Ids) -> Vectors:
        """See `Store.vectors`."""
        return np.asarray(self._file.rows[self._file.rows_of(ids)], dtype=np.float32)

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        """See `Store.search`."""
        if self._index is None or self._index.ntotal != len(self._file.row_ids):
            self._catch_up()
        total = len(self._file.row_ids)
        if not total:
            return padded(np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64), k)
        wanted = min(total, k if self.kind == "flat" else k * self.rescore)
        _, rows = self._index.search(np.ascontiguousarray(queries, np.float32), wanted, params=self._parameters(wanted))
        rows = np.asarray(rows, dtype=np.int64)
        vectors = self._file.rows[np.maximum(rows, 0)]
        scores = np.einsum("qcd,qd->qc", vectors, queries).astype(np.float32)
        scores[(rows < 0) | (self._file.row_ids[rows] < 0)] = -np.inf
        return padded(scores, self._file.row_ids[rows], k)

    def _parameters(self, wanted: int) -> Any:
        faiss, selector = self._faiss, {}
        if self._file.dead:
            alive = np.packbits(self._file.row_ids >= 0, bitorder="little")
            selector["sel"] = faiss.IDSelectorBitmap(alive)
        if self.kind == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=max(self.effort, wanted), **selector)
        if self.kind == "ivf-pq" and isinstance(self._index, faiss.IndexIVF):
            return faiss.SearchParametersIVF(nprobe=self.effort, **selector)
        return faiss.SearchParameters(**selector)

    def _catch_up(self) -> None:
        """Add the rows that the faiss index has not seen; make a new one where it cannot be continued."""
        total = len(self._file.row_ids)
        if self._index is not None and (self._index.ntotal > total or self._grown(total)):
            self._index = None
        if self._index is None and total:
            self._index = self._new(total)
        if self._index is not None:
            for start in range(self._index.ntotal, total, 65536):
                self._index.add(np.ascontiguousarray(self._file.rows[start : start + 65536]))

    def _grown(self, total: int) -> bool:
        """Tell whether an IVF-PQ index was trained on so little that it is worth training again."""
        return self.kind == "ivf-pq" and total > 4 * max(self._index.ntotal, 1)

    def _new(self, total: int) -> Any:
        faiss, inner = self._faiss, self._faiss.METRIC_INNER_PRODUCT
        # Coding needs samples to learn from: below that, a flat index is both smaller and exact.
        if self.kind == "flat" or (self.kind == "ivf-pq" and total < 39 * 256):
            return faiss.IndexFlatIP(self._dim)
        if self.kind == "hnsw":
            index = faiss.IndexHNSWFlat(self._dim, self.links, inner)
            index.hnsw.efConstruction = self.build_effort
            return index
        lists = self.lists or min(int(4 * total**0.5), total // 39)
        index = faiss.IndexIVFPQ(faiss.IndexFlatIP(self._dim), self._dim, lists, self.code_bytes, 8, inner)
        sample = np.random.default_rng(0).permutation(total)[: max(256 * 39, 64 * lists)]
        index.train(np.ascontiguousarray(self._file.rows[np.sort(sample)]))
        return index


def _import() -> Any:
    try:
        import faiss
    except ImportError:
        raise ZsbirError("the store faiss needs faiss: run `pip install 'zsbir[index]'`") from None
    return faiss
