"""Which queries a report or a picture shows: the best, median and worst ones, ones drawn by chance, ones named."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import numpy.typing as npt

from zsbir.errors import ZsbirError
from zsbir.types import Labels


@dataclass(frozen=True)
class Shown:
    """What is shown of a report's queries.

    Attributes:
        examples: How many of the best, of the median and of the worst queries by AP.
        random: How many further ones drawn by chance.
        queries: Files of further ones, see `find_queries`.
        top: How many photos of each.
    """

    examples: int = 3
    random: int = 0
    queries: tuple[str, ...] = ()
    top: int = 10

    def __post_init__(self) -> None:
        if min(self.examples, self.random) < 0 or self.top < 1:
            raise ZsbirError(
                f"a report shows at least 1 photo of 0 or more queries, not top={self.top} of examples="
                f"{self.examples} and random={self.random}"
            )

    def choose(
        self, ap: npt.NDArray[np.float64], evaluated: Labels, paths: Sequence[str], count: int, seed: int
    ) -> list[tuple[int, str, float | None]]:
        """Return the position, a note and the AP of each query to show, none twice.

        Args:
            ap: (q,) AP of the evaluated queries.
            evaluated: (q,) their positions.
            paths: The files of all queries; empty if they are not known.
            count: How many queries there are.
            seed: Of the random ones.

        Raises:
            ZsbirError: If a file is none of the queries.
        """
        chosen = best_median_worst(ap, evaluated, self.examples) if self.examples else []
        known = {int(query): float(value) for query, value in zip(evaluated, ap, strict=True)}
        taken = {query for query, _, _ in chosen}
        named = [query for query in dict.fromkeys(find_queries(paths, self.queries)) if query not in taken]
        drawn = draw_queries(count, self.random, seed, {*taken, *named})
        for note, some in (("chosen", named), ("random", drawn)):
            chosen += [(query, note, known.get(query)) for query in some]
        return chosen


def best_median_worst(ap: npt.NDArray[np.float64], query: Labels, each: int = 3) -> list[tuple[int, str, float | None]]:
    """Choose the best, median and worst queries by AP, `each` of each, none twice.

    >>> best_median_worst(np.array([0.1, 0.9, 0.5]), np.array([0, 1, 2]), each=1)
    [(1, 'best', 0.9), (2, 'median', 0.5), (0, 'worst', 0.1)]
    """
    order = np.argsort(-ap, kind="stable")
    each = min(each, len(order) // 3) or min(1, len(order))
    middle = max(0, len(order) // 2 - each // 2)
    picks = {"best": order[:each], "median": order[middle : middle + each], "worst": order[len(order) - each :]}
    chosen: dict[int, tuple[int, str, float | None]] = {}
    for note, places in picks.items():
        for place in places:
            chosen.setdefault(int(place), (int(query[place]), note, float(ap[place])))
    return list(chosen.values())


def draw_queries(count: int, wanted: int, seed: int, without: Collection[int] = ()) -> list[int]:
    """Return the positions of `wanted` of `count` queries (all, if there are fewer), none twice, none of `without`.

    >>> draw_queries(100, 3, 0) == draw_queries(100, 3, 0), draw_queries(3, 5, 0, without=[0, 2])
    (True, [1])
    """
    order: list[int] = np.random.default_rng(seed).permutation(count).tolist()
    return [place for place in order if place not in without][:wanted]


def find_queries(paths: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Return the positions of the queries with these files.

    Args:
        paths: The files of all queries, as their embeddings have them.
        wanted: A file each: as in `paths`, its end (``cat/7.png``, ``7.png``), or the full path to it.

    Raises:
        ZsbirError: If a file is none of the queries (the nearest names are given), or fits several.

    >>> find_queries(["sketch/cat/1.png", "sketch/dog/1.png"], ["data/sketch/dog/1.png", "cat/1.png"])
    [1, 0]
    """
    parts = {path: PurePath(path).parts for path in paths} if wanted else {}
    return [_find(paths, parts, name) for name in wanted]


def _find(paths: Sequence[str], parts: dict[str, tuple[str, ...]], name: str) -> int:
    asked = PurePath(name).parts
    fits: list[tuple[int, bool, int]] = []
    for place, path in enumerate(paths):
        own = parts[path]
        shared = min(len(own), len(asked))
        if shared and own[-shared:] == asked[-shared:]:
            fits.append((shared, len(own) == len(asked), place))
    # The one that agrees farthest, and of those the one that is no longer than what was asked for.
    best = max((fit[:2] for fit in fits), default=(0, False))
    found = [place for *fit, place in fits if tuple(fit) == best]
    if len(found) == 1:
        return found[0]
    if found:
        some = ", ".join(paths[place] for place in found[:3])
        raise ZsbirError(f"the sketch {name} could be {len(found)} of the queries ({some}, ...): give more of its path")
    if not paths:
        raise ZsbirError(f"the sketch {name} cannot be found: these embeddings do not know their files")
    near = difflib.get_close_matches(name, paths, 3, 0.0) if len(paths) <= 20_000 else [*paths[:3]]
    raise ZsbirError(
        f"the sketch {name} is none of the {len(paths)} queries, which are called {', '.join(near)}; to search with "
        "any other drawing, use `zsbir index` and `zsbir search`"
    )
