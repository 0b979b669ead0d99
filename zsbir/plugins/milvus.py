"""Vectors in Milvus: a file on this machine (Milvus Lite), or a cluster by its address."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from zsbir.arguments import Count
from zsbir.errors import ZsbirError, needing
from zsbir.search.stores.base import Ids, Store, Vectors, padded

_PAGE = 1000


class MilvusStore(Store):
    """Vectors in Milvus, in a file (Milvus Lite) or a cluster by address: for more than one machine holds.

    Args:
        uri: Address of a cluster such as ``http://host:19530``; None: a file in the index. A token is read from the
            environment's ``MILVUS_TOKEN``: it is never written into the index.
        collection: Name of the collection.
        kind: ``"flat"`` (exact) or ``"hnsw"``.
        effort: HNSW: candidates looked at in a search.
    """

    def __init__(
        self,
        uri: str | None = None,
        collection: str = "zsbir",
        kind: Literal["flat", "hnsw"] = "flat",
        effort: Count = 96,
    ) -> None:
        self.uri, self.collection, self.kind, self.effort = uri, collection, kind, effort

    def open(self, folder: Path, dim: int) -> None:
        """See `Store.open`."""
        import os

        with needing("the store milvus", "zsbir[milvus]"):
            from pymilvus import DataType, MilvusClient, MilvusException
        self._dim = dim
        address = self.uri or str(folder / "milvus.db")
        try:
            self._client: Any = MilvusClient(address, token=os.environ.get("MILVUS_TOKEN", "") if self.uri else "")
            if not self._client.has_collection(self.collection):
                schema = self._client.create_schema(auto_id=False)
                schema.add_field("id", DataType.INT64, is_primary=True)
                schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
                index = self._client.prepare_index_params()
                # An explicit index: without one the first search after an insert is slow.
                more = {"M": 32, "efConstruction": 80} if self.kind == "hnsw" else {}
                index.add_index("vector", index_type=self.kind.upper(), metric_type="IP", params=more)
                self._client.create_collection(
                    self.collection, schema=schema, index_params=index, consistency_level="Strong"
                )
            self._client.load_collection(self.collection)
        except MilvusException as error:
            raise ZsbirError(f"Milvus at {address} cannot be used: {error.message}") from None

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """See `Store.add`."""
        if vectors.shape[1:] != (self._dim,):
            raise ZsbirError(f"the index holds vectors of width {self._dim}, and got {vectors.shape}")
        for start in range(0, len(ids), _PAGE):
            part = zip(ids[start : start + _PAGE].tolist(), vectors[start : start + _PAGE], strict=True)
            self._client.upsert(self.collection, [{"id": i, "vector": vector.tolist()} for i, vector in part])

    def remove(self, ids: Ids) -> None:
        """See `Store.remove`."""
        for start in range(0, len(ids), _PAGE):
            self._client.delete(self.collection, ids=ids[start : start + _PAGE].tolist())

    def flush(self) -> None:
        """See `Store.flush`."""
        self._client.flush(self.collection)

    def ids(self) -> Ids:
        """See `Store.ids`."""
        pages = self._client.query_iterator(self.collection, batch_size=_PAGE, output_fields=["id"])
        found: list[int] = []
        while rows := pages.next():
            found += [row["id"] for row in rows]
        pages.close()
        return np.array(sorted(found), dtype=np.int64)

    def vectors(self, ids: Ids) -> Vectors:
        """See `Store.vectors`."""
        held: dict[int, Any] = {}
        for start in range(0, len(ids), _PAGE):
            rows = self._client.get(self.collection, ids=ids[start : start + _PAGE].tolist(), output_fields=["vector"])
            held |= {row["id"]: row["vector"] for row in rows}
        return np.array([held[i] for i in ids.tolist()], dtype=np.float32).reshape(len(ids), self._dim)

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        """See `Store.search`; Milvus gives at most 16,384 at once."""
        params = {"ef": max(self.effort, k)} if self.kind == "hnsw" else {}
        rows = self._client.search(
            self.collection, data=queries.tolist(), limit=min(k, 16_384), search_params={"params": params}
        )
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        for row, hits in enumerate(rows):
            scores[row, : len(hits)] = [hit["distance"] for hit in hits]
            ids[row, : len(hits)] = [hit["id"] for hit in hits]
        return padded(scores, ids, k)

    def close(self) -> None:
        """See `Store.close`."""
        self._client.close()
