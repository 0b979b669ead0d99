"""Approximate search with faiss; the vectors themselves stay in a memory-mapped file."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np

from zsbir.arguments import Count, Natural
from zsbir.errors import ZsbirError, needing
from zsbir.search.stores import STORES
from zsbir.search.stores.base import Ids, Vectors, padded
from zsbir.search.stores.exact import FileStore

Kind = Literal["flat", "hnsw", "ivf-pq"]

_TAIL = 65_536
"""Rows that an IVF-PQ index need not have seen: they are compared exactly, and coded together once they are more."""


@STORES.register("faiss")
class FaissStore(FileStore):
    """Approximate search with faiss (flat, HNSW or IVF-PQ); candidates are scored again exactly.

    Args:
        kind: ``"hnsw"`` is a graph in memory, fast and near exact; ``"ivf-pq"`` keeps all on disk, memory-mapped, and
            is built in bounded memory; ``"flat"`` is faiss's own exact search.
        links: HNSW: links of a node.
        build_effort: HNSW: candidates looked at while building (efConstruction).
        effort: Candidates looked at in a search: efSearch of HNSW, lists probed of IVF-PQ.
        lists: IVF-PQ: number of lists; 0: twice the square root of the number of vectors, at most 16,384.
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
        with needing("the store faiss", "zsbir[index]"):
            self._faiss: Any = importlib.import_module("faiss")

    def open(self, folder: Path, dim: int) -> None:
        """See `Store.open`."""
        if self.kind == "ivf-pq" and dim % self.code_bytes:
            raise ZsbirError(f"faiss store: code_bytes={self.code_bytes} does not divide the width {dim}")
        super().open(folder, dim)
        self._index: Any = None
        self._alive: tuple[Any, Any] = (None, None)
        if self._kept.is_file():
            try:
                read = self._inverted.read if self.kind == "ivf-pq" else self._faiss.read_index
                self._index = read(str(self._kept))
            except RuntimeError as error:
                raise ZsbirError(
                    f"{self._kept} is damaged ({str(error).splitlines()[-1]}): delete it, and zsbir makes it again"
                ) from None
        if self._index is not None and self._index.ntotal > len(self.row_ids):
            self._index = None  # of rows that are lost

    @property
    def _inverted(self) -> Any:
        return importlib.import_module("zsbir.search.stores._inverted")

    @property
    def _kept(self) -> Path:
        """The index's file; it knows rows by their place, so it is another one after the rows were compacted."""
        return self._folder / f"{self.kind}{f'-{self.generation}' * bool(self.generation)}.faiss"

    def finish(self) -> None:
        """Bring the faiss index up to date with the vectors and write it."""
        before = self.generation
        super().finish()
        if before != self.generation:
            self._index = None
            for old in self._folder.glob(f"{self.kind}*"):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        total, index, faiss = len(self.row_ids), self._index, self._faiss
        seen = 0 if index is None else index.ntotal
        if self.kind == "ivf-pq":
            if total >= self._inverted.SMALLEST and (index is None or total - seen > _TAIL):
                self._index = self._inverted.grow(index, self, self._kept, self.lists, self.code_bytes)
        elif seen < total:
            if index is None and self.kind == "flat":
                self._index = faiss.IndexFlatIP(self._width)
            elif index is None:
                self._index = faiss.IndexHNSWFlat(self._width, self.links, faiss.METRIC_INNER_PRODUCT)
                self._index.hnsw.efConstruction = self.build_effort
            for start in range(seen, total, 65536):
                self._index.add(np.ascontiguousarray(self.rows[start : start + 65536]))
            self._inverted.write(self._index, self._kept)

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        """See `Store.search`; rows that the index has not seen yet are compared exactly."""
        index, seen = self._index, 0 if self._index is None else self._index.ntotal
        scores, ids = self.nearest(queries, k, start=seen)
        if seen:
            wanted = min(seen, k if self.kind == "flat" else k * self.rescore)
            found = index.search(np.ascontiguousarray(queries, np.float32), wanted, params=self._parameters(wanted))
            rows = np.asarray(found[1], dtype=np.int64)
            near, near_ids = self.rows[np.maximum(rows, 0)], self.row_ids[np.maximum(rows, 0)]
            rescored = np.einsum("qcd,qd->qc", near, queries).astype(np.float32)
            rescored[(rows < 0) | (near_ids < 0)] = -np.inf
            scores, ids = np.concatenate([scores, rescored], axis=1), np.concatenate([ids, near_ids], axis=1)
        return padded(scores, ids, k)

    def _parameters(self, wanted: int) -> Any:
        faiss, selector = self._faiss, {}
        if self.dead:
            state = self.generation, self.dead, len(self.row_ids)
            if self._alive[0] != state:
                self._alive = state, np.packbits(self.row_ids >= 0, bitorder="little")
            selector["sel"] = faiss.IDSelectorBitmap(self._alive[1])
        if self.kind == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=max(self.effort, wanted), **selector)
        if self.kind == "ivf-pq":
            return faiss.SearchParametersIVF(nprobe=self.effort, **selector)
        return faiss.SearchParameters(**selector)
