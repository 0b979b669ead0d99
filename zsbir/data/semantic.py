"""WordNet's nouns, and class names compared with a pretrained classifier's labels by it: the semantic prior of SBKA.

Source: SAKE (arXiv 1904.03208) and SBKA (arXiv 2312.10320): 1 if class and label are the same synset or one is a
kind of the other at any depth; else the path similarity 1 / (1 + steps) if that is above 0.2, else 0.

Shipped with zsbir, so that nothing is needed for the benchmarks:

- ``tables/wordnet.json``: the synsets of each class of Sketchy, TU-Berlin and QuickDraw, checked by hand, and those of
  the 1,000 ImageNet labels. A class with several synsets takes, for each label, the value of the first synset that has
  one. For the seen classes of Sketchy-25 and TU-Berlin-30 the synsets are those that reproduce the published matrices
  exactly. Where the published values fit no single synset (``spoon``, ``fish``, ``dog`` of Sketchy) the list stands for
  the values, not for the word.
- ``tables/semantic.npz``: the similarities of those classes to ImageNet-1k.

Other classes and labels need WordNet's files ``data.noun`` and ``index.noun`` (Debian: ``apt install wordnet-base``,
folder ``/usr/share/wordnet``; otherwise https://wordnet.princeton.edu); wndb(5WN) describes their format.

Derived from WordNet 3.0, Copyright 2006 by Princeton University. All rights reserved.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import deque
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from zsbir.errors import ZsbirError

TABLES = Path(__file__).parent / "tables"
_PLURALS = (("s", ""), ("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("ses", "s"), ("xes", "x"), ("men", "man"))
"""WordNet's own rules for nouns: endings that are taken off, and what takes their place."""
LEAST = 0.2
"""Path similarities up to this count as 0."""

Matrix = npt.NDArray[np.float32]
Synset = str
"""A noun synset by its ImageNet id: ``n`` and the 8 digits of its place in WordNet 3.0, such as ``n02121620``."""


class WordNet:
    """The nouns of WordNet.

    Args:
        folder: Where ``data.noun`` and ``index.noun`` are.

    Raises:
        ZsbirError: If a file is missing or is not WordNet's.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._parents: dict[Synset, tuple[Synset, ...]] = {}
        try:
            for line in self._lines("data.noun"):
                # Offset, file number, type, number of words (hex), words with ids, number of pointers, pointers.
                part = line.split(" | ")[0].split()
                pointers = 4 + 2 * int(part[3], 16)
                links = part[pointers + 1 : pointers + 1 + 4 * int(part[pointers])]
                if len(links) != 4 * int(part[pointers]):
                    raise ValueError("fewer pointers than said")
                # @ is a hypernym, @i the class of an instance ("Eiffel Tower").
                targets = zip(links[::4], links[1::4], strict=True)
                self._parents[f"n{part[0]}"] = tuple(
                    f"n{target}" for symbol, target in targets if symbol in ("@", "@i")
                )
        except (ValueError, IndexError):
            raise ZsbirError(f"{self.folder / 'data.noun'} is not a WordNet 3.0 database file") from None
        self._distances: dict[Synset, dict[Synset, int]] = {}

    def senses(self, name: str) -> tuple[Synset, ...]:
        """Return the synsets of a noun, most frequent first; none if WordNet lacks it."""
        return self._index.get("_".join(name.lower().split()), ())

    def ancestors(self, synset: Synset) -> dict[Synset, int]:
        """Return every hypernym at any depth with its distance in steps, the synset itself (0) included."""
        if synset not in self._distances:
            found = {self._known(synset): 0}
            queue = deque([synset])
            while queue:
                current = queue.popleft()
                for parent in self._parents[self._known(current)]:
                    if parent not in found:
                        found[parent] = found[current] + 1
                        queue.append(parent)
            self._distances[synset] = found
        return self._distances[synset]

    def path_similarity(self, first: Synset, second: Synset) -> float:
        """Return 1 / (1 + steps of the shortest path over hypernyms), in (0, 1]; all nouns share a root."""
        left, right = self.ancestors(first), self.ancestors(second)
        return 1 / (1 + min(steps + right[node] for node, steps in left.items() if node in right))

    @cached_property
    def _index(self) -> dict[str, tuple[Synset, ...]]:
        index = {}
        try:
            for line in self._lines("index.noun"):
                part = line.split()
                index[part[0]] = tuple(f"n{offset}" for offset in part[-int(part[2]) :])
        except (ValueError, IndexError):
            raise ZsbirError(f"{self.folder / 'index.noun'} is not a WordNet 3.0 database file") from None
        return index

    def _lines(self, file: str) -> list[str]:
        try:
            text = (self.folder / file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ZsbirError(
                f"WordNet's {file} cannot be read in {self.folder} ({error}): give the folder of the database files "
                "(Debian: apt install wordnet-base)"
            ) from None
        return [line for line in text.splitlines() if not line.startswith("  ")]  # the licence is indented

    def _known(self, synset: Synset) -> Synset:
        if synset not in self._parents:
            raise ZsbirError(f"WordNet 3.0 has no noun synset {synset!r}")
        return synset


class SemanticPrior(NamedTuple):
    """Similarities of C classes to L labels.

    Attributes:
        similarity: (C, L) float32 in [0, 1]; a class without a known synset has a row of 0.
        missing: The classes without a prior: neither the tables nor WordNet know them.
    """

    similarity: Matrix
    missing: tuple[str, ...]


def imagenet_labels() -> tuple[Synset, ...]:
    """Return the 1,000 synsets of ImageNet-1k in the usual order of a classifier's outputs."""
    return tuple(_table()["imagenet-1k"].split())


def semantic_prior(
    classes: Sequence[str],
    labels: Sequence[Synset] | None = None,
    wordnet: str | Path | WordNet | None = None,
    dataset: str | None = None,
) -> SemanticPrior:
    """Return the similarity of every class to every label.

    Args:
        classes: Class names as datasets write them: ``"teddy_bear"``, ``"hot-air balloon"``, ``"mouse (animal)"``.
        labels: Synset ids of the classifier's labels in its order; None: ImageNet-1k.
        wordnet: Folder of WordNet's database files, or a `WordNet`, for what is not shipped; None: only the tables.
        dataset: ``"sketchy"``, ``"tuberlin"`` or ``"quickdraw"``: whose table is read first (the published matrices
            differ for some common classes); None: the first of the three that has all classes, or else most.

    Returns:
        The prior. Classes without one are in `missing`, and a warning names them.

    Raises:
        ZsbirError: For labels other than ImageNet-1k without `wordnet`, or an unknown dataset or label.
    """
    wanted = imagenet_labels() if labels is None else tuple(labels)
    net = wordnet if isinstance(wordnet, WordNet) or wordnet is None else WordNet(wordnet)
    order = _tables_for(classes, dataset)
    if net is None and wanted != imagenet_labels():
        raise ZsbirError(
            "labels other than ImageNet-1k need WordNet: give wordnet=FOLDER with data.noun and index.noun"
        )
    tables = _table()["classes"]
    rows = np.zeros((len(classes), len(wanted)), dtype=np.float32)
    missing = []
    for row, name in zip(rows, classes, strict=True):
        place = next((table for table in order if name in tables[table]), None)
        if place is not None:
            row[:] = _shipped(place, name) if net is None else first_similarity(net, tables[place][name], wanted)
        elif net is not None and (found := noun_senses(net, name)):
            row[:] = first_similarity(net, found[:1], wanted)
        else:
            missing.append(name)
    if missing:
        help_ = "" if net else " among the shipped tables; give wordnet=FOLDER to look them up"
        warnings.warn(f"no semantic prior for {len(missing)} classes{help_}: {', '.join(missing)}", stacklevel=2)
    return SemanticPrior(rows, tuple(missing))


def first_similarity(net: WordNet, synsets: Sequence[Synset], labels: Sequence[Synset]) -> Matrix:
    """Return (L,) similarities to the labels: of the first synset that has one (above 0)."""
    row = np.zeros(len(labels), dtype=np.float32)
    for synset in synsets:
        row = np.where(row > 0, row, np.array([synset_similarity(net, synset, label) for label in labels], np.float32))
    return row


def synset_similarity(net: WordNet, first: Synset, second: Synset) -> float:
    """Return 1 if one synset is the other or a kind of it, else the path similarity if above 0.2, else 0."""
    if second in net.ancestors(first) or first in net.ancestors(second):
        return 1.0
    value = net.path_similarity(first, second)
    return value if value > LEAST else 0.0


def noun_senses(net: WordNet, name: str) -> tuple[Synset, ...]:
    """Return WordNet's senses of a class name, most frequent first; none if WordNet knows none.

    The name is also tried without brackets and hyphens and in the singular, and at last by its head: what stands
    before ``with``, ``and``, ``of``, ``in`` or ``on``, and then its last words (``card file box``: ``box``).
    """
    plain = re.sub(r"[\s_-]+", " ", re.sub(r"\(.*?\)", "", name.strip().lower())).strip()
    head = re.split(r" (?:with|and|of|in|on) ", plain)[0].split()
    for words in (plain.split(), *(head[start:] for start in range(len(head)))):
        for form in filter(None, _forms("_".join(words))):
            if found := net.senses(form):
                return found
    return ()


def _forms(name: str) -> list[str]:
    singular = [name.removesuffix(old) + new for old, new in _PLURALS if name.endswith(old) and len(name) > len(old)]
    return [name, name.replace("_", "-"), name.replace("_", ""), *singular]


def _tables_for(classes: Sequence[str], dataset: str | None) -> list[str]:
    """Return the tables' names in the order in which they are read."""
    tables: dict[str, Any] = _table()["classes"]
    if dataset is not None and dataset not in tables:
        raise ZsbirError(f"there is no table of class synsets for {dataset!r}. Known: {', '.join(tables)}")
    return sorted(
        tables, key=lambda name: (name != dataset, 0 if dataset else -sum(c in tables[name] for c in classes))
    )


def _shipped(table: str, name: str) -> Matrix:
    inverse = _shipped_arrays()[table][list(_table()["classes"][table]).index(name)].astype(np.float32)
    row: Matrix = np.divide(1, inverse, out=np.zeros_like(inverse), where=inverse > 0)
    return row


@cache
def _table() -> dict[str, Any]:
    record: dict[str, Any] = json.loads((TABLES / "wordnet.json").read_text(encoding="utf-8"))
    return record


@cache
def _shipped_arrays() -> dict[str, npt.NDArray[np.uint8]]:
    """By table: (C, 1000) 1 / similarity as an integer, 0 for none."""
    with np.load(TABLES / "semantic.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
