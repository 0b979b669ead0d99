"""The nouns of WordNet 3.0 from its database files: senses, hypernyms, path similarity. No package is needed.

The files ``data.noun`` and ``index.noun`` come with WordNet's database (Debian: ``apt install wordnet-base``, folder
``/usr/share/wordnet``; otherwise https://wordnet.princeton.edu). Their format is described in wndb(5WN).
"""

from __future__ import annotations

from collections import deque
from functools import cached_property
from pathlib import Path

from zsbir.errors import ZsbirError

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
