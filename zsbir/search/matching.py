"""Other matchers than cosine over an index: on the nearest candidates, or saved and fitted on everything."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zsbir.errors import ZsbirError
from zsbir.files import replaced
from zsbir.matchers import MATCHERS
from zsbir.matchers.base import Matcher
from zsbir.search.stores.base import Ids, Store, Vectors, padded
from zsbir.types import Domain, Embeddings


class Matching:
    """Scores queries by a matcher.

    Args:
        folder: Where fitted matchers are kept, one folder each.
        store: The vectors.
    """

    def __init__(self, folder: Path, store: Store) -> None:
        self._folder, self._store = folder, store
        self._fitted: dict[str, tuple[Matcher, Ids]] = {}

    def search(
        self, queries: Vectors, k: int, matcher: str | Mapping[str, Any] | Matcher | None, candidates: int
    ) -> tuple[Vectors, Ids]:
        """Return the best scores (k',) and ids (k',) for one query (1, D), falling, with k' <= k."""
        if matcher is None or matcher == "cosine":
            scores, ids = self._store.search(queries, k)
            return scores[0][ids[0] >= 0], ids[0][ids[0] >= 0]
        if isinstance(matcher, str) and (self._folder / _safe(matcher)).is_dir():
            fitted, ids = self._saved(matcher)
        else:
            _, near = self._store.search(queries, max(k, candidates))
            ids = np.sort(near[0][near[0] >= 0])  # clusterings then do not depend on the query
            if not len(ids):
                return np.zeros(0, np.float32), ids
            fitted = MATCHERS.build(matcher).fit(_embeddings(self._store.vectors(ids), "photo"))
        found = fitted.scores(_embeddings(queries, "sketch")).float().cpu().numpy()
        scores, best = padded(found, ids[None], min(k, len(ids)))
        return scores[0], best[0]

    def fit(self, matcher: str | Mapping[str, Any]) -> None:
        """Fit a matcher on all photos and keep it under its name.

        Raises:
            ZsbirError: If this kind of matcher cannot be saved, or cannot be fitted on these photos.
        """
        made = MATCHERS.build(matcher)
        ids = np.sort(self._store.ids())
        made.fit(_embeddings(self._store.vectors(ids), "photo"))
        with replaced(self._folder / _safe(made.spec["name"])) as new:
            made.save(new)
            np.save(new / "ids.npy", ids)
        self._fitted.pop(made.spec["name"], None)

    def _saved(self, name: str) -> tuple[Matcher, Ids]:
        if name not in self._fitted:
            folder = self._folder / _safe(name)
            self._fitted[name] = Matcher.load(folder), np.load(folder / "ids.npy", allow_pickle=False)
        matcher, ids = self._fitted[name]
        if not np.array_equal(ids, np.sort(self._store.ids())):
            raise ZsbirError(f"the photos changed since the matcher {name!r} was fitted on this index: fit it again")
        return matcher, ids


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


def _embeddings(vectors: Vectors, domain: Domain) -> Embeddings:
    labels = np.full(len(vectors), -1, dtype=np.int64)
    return Embeddings(torch.from_numpy(np.array(vectors)), labels, domain=domain)
