"""Photos found by drawing: queries to hits."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zsbir.arguments import Count, fits
from zsbir.errors import ZsbirError
from zsbir.files import replaced
from zsbir.matchers import MATCHERS
from zsbir.matchers.base import Matcher
from zsbir.search.catalog import Catalog
from zsbir.search.model import Embedder
from zsbir.search.query import Query, open_query
from zsbir.search.stores.base import Ids, Store, Vectors, padded
from zsbir.types import Domain, Embeddings


class SharedLock:
    """Readers run together; a writer runs alone, and new readers wait for it. No thread takes it twice."""

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._readers, self._written = 0, False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the lock together with other readers."""
        with self._state:
            self._state.wait_for(lambda: not self._written)
            self._readers += 1
        try:
            yield
        finally:
            with self._state:
                self._readers -= 1
                self._state.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock alone."""
        with self._state:
            self._state.wait_for(lambda: not self._written)
            self._written = True
            self._state.wait_for(lambda: self._readers == 0)
        try:
            yield
        finally:
            with self._state:
                self._written = False
                self._state.notify_all()


@dataclass(frozen=True)
class Hit:
    """A photo that was found.

    Attributes:
        path: Full path of the file.
        score: Higher is better; the cosine in [-1, 1] unless another matcher was asked for.
        id: Its number in the index.
    """

    path: str
    score: float
    id: int


class Searching:
    """What an index is searched with; safe from many threads at once, also while another one changes it.

    Args:
        embedder: Makes vectors of queries.
        catalog: The photos by id.
        store: Their vectors.
        matchers: The folder of fitted matchers, one folder each.
    """

    def __init__(self, embedder: Embedder, catalog: Catalog, store: Store, matchers: Path) -> None:
        self.embedder, self.catalog, self.store = embedder, catalog, store
        self._lock, self._matchers = SharedLock(), matchers
        self._fitted: dict[str, tuple[Matcher, Ids]] = {}

    def __len__(self) -> int:
        return len(self.catalog)

    def search(
        self,
        query: Query | None = None,
        k: int = 10,
        *,
        text: str | None = None,
        mix: float = 0.5,
        matcher: str | Mapping[str, Any] | Matcher | None = None,
        candidates: int = 1000,
        folder: str | Path | None = None,
    ) -> list[Hit]:
        """Find photos.

        Args:
            query: A sketch: an RGB image, a file (PNG, JPEG, SVG, ``name.ndjson#17``), or a list of strokes.
            k: How many are wanted.
            text: Words, alone or together with the sketch.
            mix: Weight of the text, in [0, 1], where both are given.
            matcher: Name, mapping or instance; None: cosine.
            candidates: How many photos the other matchers look at: the nearest by cosine.
            folder: Only photos below it.

        Raises:
            ZsbirError: If neither a sketch nor a text is given, or one cannot be used.
        """
        return self.nearest(self.vector(query, text, mix), k, matcher, candidates, folder)

    def search_many(self, queries: Sequence[Query], k: int = 10, **options: Any) -> list[list[Hit]]:
        """Find photos for several sketches; `options` as for `search`."""
        return [self.search(query, k, **options) for query in queries]

    def vector(self, query: Query | None = None, text: str | None = None, mix: float = 0.5) -> Vectors:
        """Return the (D,) unit vector of a sketch, a text or both."""
        if not 0 <= mix <= 1:
            raise ZsbirError(f"mix={mix} must be between 0 (the sketch alone) and 1 (the text alone)")
        parts: list[Vectors] = []
        if query is not None:
            parts.append((1 - mix if text else 1) * self.embedder.images([open_query(query)], "sketch")[0])
        if text:
            parts.append((mix if query is not None else 1) * self.embedder.texts([text])[0])
        if not parts:
            raise ZsbirError("there is nothing to search for: give a sketch, a text or both")
        total = np.sum(parts, axis=0)
        return np.asarray(total / max(float(np.linalg.norm(total)), 1e-12), dtype=np.float32)

    def nearest(
        self,
        vector: Vectors,
        k: int = 10,
        matcher: str | Mapping[str, Any] | Matcher | None = None,
        candidates: int = 1000,
        folder: str | Path | None = None,
    ) -> list[Hit]:
        """Find the photos nearest to a (D,) unit vector, all or those below a folder; the rest as for `search`."""
        if not fits(k, Count):
            raise ZsbirError(f"k={k!r} must be a whole number, at least 1")
        under = None if folder is None else str(Path(folder).absolute()).rstrip(os.sep) + os.sep
        wanted, total = k, len(self)
        while True:
            with self._lock.reading():
                scores, ids = self._scores(vector[None], wanted, matcher, candidates)
                found = [self.catalog.entry(number) for number in ids.tolist()]
            hits = [
                Hit(photo.path, score, number)
                for photo, score, number in zip(found, scores.tolist(), ids.tolist(), strict=True)
                if photo is not None and (under is None or photo.path.startswith(under))
            ]
            if under is None or len(hits) >= k or wanted >= total:
                return hits[:k]
            wanted = min(4 * wanted, total)

    def like(self, photo: int, k: int = 10, folder: str | Path | None = None) -> list[Hit]:
        """Find photos like one of the index, given by its id; that one itself is left out."""
        if self.catalog.entry(photo) is None:
            raise ZsbirError(f"there is no photo {photo} in the index")
        with self._lock.reading():
            vector = self.store.vectors(np.array([photo], dtype=np.int64))[0]
        return [hit for hit in self.nearest(vector, k + 1, folder=folder) if hit.id != photo][:k]

    def fitted_matchers(self) -> list[str]:
        """Return the names of the matchers that `fit_matcher` keeps here."""
        return sorted(record.parent.name for record in self._matchers.glob("*/matcher.json"))

    def _scores(
        self, queries: Vectors, k: int, matcher: str | Mapping[str, Any] | Matcher | None, candidates: int
    ) -> tuple[Vectors, Ids]:
        """Return the best scores (k',) and ids (k',) of one query (1, D), falling, with k' <= k."""
        if matcher is None or matcher == "cosine":
            scores, ids = self.store.search(queries, k)
            return scores[0][ids[0] >= 0], ids[0][ids[0] >= 0]
        if isinstance(matcher, str) and (self._matchers / _safe(matcher)).is_dir():
            fitted, ids = self._saved(matcher)
        else:
            _, near = self.store.search(queries, max(k, candidates))
            ids = np.sort(near[0][near[0] >= 0])  # clusterings then do not depend on the query
            if not len(ids):
                return np.zeros(0, np.float32), ids
            fitted = MATCHERS.build(matcher).fit(_embeddings(self.store.vectors(ids), "photo"))
        found = fitted.scores(_embeddings(queries, "sketch")).float().cpu().numpy()
        scores, best = padded(found, ids[None], min(k, len(ids)))
        return scores[0], best[0]

    def _fit(self, matcher: str | Mapping[str, Any]) -> None:
        """Fit a matcher on all photos and keep it; raises ZsbirError if it cannot be saved, or fitted on these."""
        made = MATCHERS.build(matcher)
        ids = np.sort(self.store.ids())
        made.fit(_embeddings(self.store.vectors(ids), "photo"))
        with replaced(self._matchers / _safe(made.spec["name"])) as new:
            made.save(new)
            np.save(new / "ids.npy", ids)
        self._fitted.pop(made.spec["name"], None)

    def _saved(self, name: str) -> tuple[Matcher, Ids]:
        if name not in self._fitted:
            folder = self._matchers / _safe(name)
            self._fitted[name] = Matcher.load(folder), np.load(folder / "ids.npy", allow_pickle=False)
        matcher, ids = self._fitted[name]
        if not np.array_equal(ids, np.sort(self.store.ids())):
            raise ZsbirError(f"the photos changed since the matcher {name!r} was fitted on this index: fit it again")
        return matcher, ids


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


def _embeddings(vectors: Vectors, domain: Domain) -> Embeddings:
    labels = np.full(len(vectors), -1, dtype=np.int64)
    return Embeddings(torch.from_numpy(np.array(vectors)), labels, domain=domain)
