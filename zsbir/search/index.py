"""An index: photos found by drawing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from zsbir.data.scan import photo_files
from zsbir.errors import ZsbirError
from zsbir.files import replaced, write_json
from zsbir.matchers.base import Matcher
from zsbir.methods.base import Method, load
from zsbir.methods.saving import save
from zsbir.search.catalog import Catalog, Entry
from zsbir.search.locks import SharedLock
from zsbir.search.matching import Matching
from zsbir.search.model import Embedder, find_model, fingerprint
from zsbir.search.query import Query, open_query
from zsbir.search.record import RECORD, describe, read_record
from zsbir.search.scan import Changes, compare
from zsbir.search.stores import STORES
from zsbir.search.stores.base import Store, Vectors
from zsbir.search.writer import Writer


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


class Index:
    """Photos, their vectors and the model that made them, in one folder.

    Made by `Index.build` or `Index.load`. Searching is safe from many threads at once, also while another one changes
    the index. One process at a time changes it; a second one is refused.

    Attributes:
        folder: Where it is.
        record: What ``index.json`` says: model, preprocessing, store, versions.
    """

    def __init__(self, folder: Path, record: dict[str, Any], embedder: Embedder) -> None:
        self.folder, self.record, self.embedder = folder, record, embedder
        self.catalog = Catalog(folder / "photos.sqlite")
        self.store: Store = STORES.build(record["store"])
        (folder / "store").mkdir(exist_ok=True)
        self.store.open(folder / "store", record["dim"])
        self._lock = SharedLock()
        self._writer = Writer(folder, self.catalog, self.store, record["dim"], self._lock)
        self._matching = Matching(folder / "matchers", self.store)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def build(
        cls,
        model: Method | str | Path | None,
        photos: str | Path,
        out: str | Path | None = None,
        *,
        store: str | Mapping[str, Any] = "exact",
        device: str = "cpu",
        batch_size: int = 8,
        workers: int = 2,
        progress: bool = False,
        links: bool = False,
    ) -> Index:
        """Index a folder or list of photos.

        Args:
            model: A method, a run folder, a name (see `find_model`), or None for the default.
            photos: What to index, see `zsbir.data.scan.photo_files`.
            out: A folder that does not exist yet; None: a temporary one, until `save`.
            store: Name or mapping, see `STORES`.
            device: Where the model runs.
            batch_size: Images a step.
            workers: Threads that decode.
            progress: Show a bar.
            links: Follow links that lead out of the folder.

        Raises:
            ZsbirError: If `out` exists, there are no photos that can be read, or the model's weights are not there.
        """
        if next(iter(photo_files(photos)), None) is None:
            raise ZsbirError(f"{photos} holds no image file")
        index = cls.new(model, out, store, device, progress)
        index.update(photos, batch_size=batch_size, workers=workers, progress=progress, links=links)
        if not len(index):
            (_, reason), *_ = index.skipped()
            index.close()
            shutil.rmtree(index.folder, ignore_errors=True)
            raise ZsbirError(f"none of the image files of {photos} can be decoded; the first: {reason}")
        return index

    @classmethod
    def new(
        cls, model: Method | str | Path | None, out: str | Path | None, store: str | Mapping[str, Any], device: str,
        progress: bool,
    ) -> Index:  # fmt: skip
        """Return an empty index with a copy of the model; arguments as for `build`."""
        temporary = None if out is not None else tempfile.TemporaryDirectory(prefix="zsbir-index-")
        folder = Path(temporary.name) / "index" if temporary else Path(str(out))
        if (folder / RECORD).exists() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
            what = "is an index: load it to add photos" if (folder / RECORD).exists() else "exists and is no index"
            raise ZsbirError(f"{folder} {what}; or give another name")
        say = print if progress else lambda line: None
        embedder = Embedder(model if isinstance(model, Method) else find_model(model, device, say), device)
        record = describe(embedder, STORES.build(store))
        with replaced(folder) as new:
            save(embedder.method, new / "model")
            write_json(new / RECORD, record)
        index = cls(folder, record, embedder)
        index._temporary = temporary
        return index

    @classmethod
    def load(
        cls,
        folder: str | Path,
        model: Method | str | Path | None = None,
        device: str = "cpu",
        *,
        repair: bool = False,
    ) -> Index:
        """Open an index.

        Args:
            folder: What `build` or `save` wrote.
            model: The model for queries; None: the copy in the index.
            device: Where the model runs.
            repair: Open it although vectors are lost: `update` embeds those photos again.

        Raises:
            ZsbirError: If it is no index, is damaged, or `model` is not the one that made it.
        """
        folder = Path(folder)
        record = read_record(folder)
        given = model if isinstance(model, Method) else load(folder / "model") if model is None else find_model(model)
        if fingerprint(given) != record["fingerprint"]:
            name = record["model"].get("name")
            raise ZsbirError(
                f"{folder} was made by another model ({name!r}): its vectors cannot be compared with this one's"
            )
        index = cls(folder, record, Embedder(given, device))
        without = len(index) - len(index.store)
        if without > 0 and not repair:
            index.close()
            raise ZsbirError(
                f"{folder} lacks the vectors of {without} photos: `zsbir index -o {folder}` embeds them again"
            )
        return index

    def __len__(self) -> int:
        return len(self.catalog)

    def update(
        self,
        photos: str | Path | None = None,
        *,
        batch_size: int = 8,
        workers: int = 2,
        progress: bool = False,
        prune: bool = False,
        links: bool = False,
    ) -> Changes:
        """Add the photos of a folder or list, and follow what changed in it; photos of others stay as they are.

        Photos that are in already are not embedded again. Those that vanished from the folder are removed, unless that
        is more than a tenth of its photos, or the folder itself is away: a disk may not be mounted. Then they are kept,
        see `Changes.kept`, and `prune` removes them. It may be stopped at any moment and called again. Files that
        cannot be read are skipped: see `skipped`.

        Args:
            photos: See `photo_files`; None: every folder and list that was indexed before.
            batch_size: Images a step.
            workers: Threads that decode.
            progress: Show a bar.
            prune: Remove all photos that are away.
            links: Follow links that lead out of the folder.

        Returns:
            What was found to have changed.

        Raises:
            ZsbirError: If there is no such folder or list, or another process is changing the index.
        """
        with self._writer.writing():
            if lost := self._writer.repair():
                self.add(lost, batch_size=batch_size, workers=workers)
            sources = self.catalog.sources() if photos is None else [str(Path(photos).absolute())]
            total = Changes()
            for source in sources:
                changes = self._writer.look(source, prune, links)
                self._writer.apply(changes, source, self.embedder, batch_size, workers, progress)
                for part in fields(Changes):
                    setattr(total, part.name, getattr(total, part.name) + getattr(changes, part.name))
        return total

    def add(self, photos: str | Path | Iterable[str | Path], *, batch_size: int = 8, workers: int = 2) -> Changes:
        """Add image files, or those of a folder; those that are in are embedded again only if their content changed."""
        if isinstance(photos, (str, Path)):
            photos = photo_files(photos)
        files = [str(Path(photo).absolute()) for photo in photos]
        with self._writer.writing():
            changes = compare(files, self.catalog.entries())
            self._writer.apply(changes, "", self.embedder, batch_size, workers, False)
        return changes

    def extend(self, parts: Iterable[tuple[Sequence[Entry], Vectors, Sequence[tuple[str, str]]]]) -> None:
        """Add photos that are embedded already: entries, their (n, D) unit vectors, and skipped files with reasons."""
        with self._writer.writing():
            self._writer.extend(parts)

    def remove(self, photos: Iterable[str | Path]) -> int:
        """Remove photos by path; returns how many were in the index."""
        names = [photos] if isinstance(photos, (str, Path)) else photos
        found = [self.catalog.id_of(str(Path(photo).absolute())) for photo in names]
        ids = [number for number in found if number is not None]
        with self._writer.writing():
            self._writer.remove(ids)
        return len(ids)

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
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise ZsbirError(f"k={k!r} must be a whole number, at least 1")
        under = None if folder is None else str(Path(folder).absolute()).rstrip(os.sep) + os.sep
        wanted, total = k, len(self)
        while True:
            with self._lock.reading():
                scores, ids = self._matching.search(vector[None], wanted, matcher, candidates)
                paths = [self.catalog.path(number) for number in ids.tolist()]
            hits = [
                Hit(path, score, number)
                for path, score, number in zip(paths, scores.tolist(), ids.tolist(), strict=True)
                if path is not None and (under is None or path.startswith(under))
            ]
            if under is None or len(hits) >= k or wanted >= total:
                return hits[:k]
            wanted = min(4 * wanted, total)

    def like(self, photo: int, k: int = 10, folder: str | Path | None = None) -> list[Hit]:
        """Find photos like one of the index, given by its id; that one itself is left out."""
        if self.catalog.path(photo) is None:
            raise ZsbirError(f"there is no photo {photo} in the index")
        with self._lock.reading():
            vector = self.store.vectors(np.array([photo], dtype=np.int64))[0]
        return [hit for hit in self.nearest(vector, k + 1, folder=folder) if hit.id != photo][:k]

    def fit_matcher(self, matcher: str | Mapping[str, Any]) -> None:
        """Fit a matcher on the whole index and keep it there: `search` then uses it by its name, on all photos."""
        with self._writer.writing(), self._lock.reading():
            self._matching.fit(matcher)

    def fitted_matchers(self) -> list[str]:
        """Return the names of the matchers that `fit_matcher` keeps here."""
        return sorted(record.parent.name for record in self.folder.glob("matchers/*/matcher.json"))

    def skipped(self) -> list[tuple[str, str]]:
        """Return the files that could not be read, each with the reason."""
        return self.catalog.skipped()

    def save(self, folder: str | Path | None = None) -> None:
        """Write everything to disk; with `folder`, as a copy there, which takes the place of what is there."""
        with self._lock.writing():
            self.store.flush()
            self.catalog.checkpoint()
            if folder is not None and Path(folder).absolute() != self.folder.absolute():
                with replaced(Path(folder)) as new:
                    shutil.copytree(
                        self.folder, new, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*-wal", "*-shm")
                    )

    def close(self) -> None:
        """Let go of the files; a temporary index is deleted."""
        self.store.close()
        self.catalog.close()
        if self._temporary is not None:
            self._temporary.cleanup()
