"""Which queries a report or a picture shows: the best, median and worst ones, ones drawn by chance, ones named."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from pathlib import PurePath

import numpy as np
import numpy.typing as npt

from zsbir.errors import ZsbirError
from zsbir.types import Labels

Chosen = tuple[int, str, float | None]
"""A query to show: its position, a note, and its AP if it has a relevant photo."""


def best_median_worst(ap: npt.NDArray[np.float64], query: Labels, each: int = 3) -> list[Chosen]:
    """Choose the best, median and worst queries by AP, `each` of each, none twice.

    >>> best_median_worst(np.array([0.1, 0.9, 0.5]), np.array([0, 1, 2]), each=1)
    [(1, 'best', 0.9), (2, 'median', 0.5), (0, 'worst', 0.1)]
    """
    order = np.argsort(-ap, kind="stable").tolist()
    each = min(each, len(order) // 3) or min(1, len(order))
    middle = max(0, len(order) // 2 - each // 2)
    picks = {"best": order[:each], "median": order[middle : middle + each], "worst": order[len(order) - each :]}
    notes: dict[int, str] = {}
    for note, places in picks.items():
        notes |= {place: note for place in places if place not in notes}
    return [(int(query[place]), notes[place], float(ap[place])) for place in notes]


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
    parts = [PurePath(path).parts for path in paths] if wanted else []
    return [_find(paths, parts, name) for name in wanted]


def _find(paths: Sequence[str], parts: Sequence[tuple[str, ...]], name: str) -> int:
    asked = PurePath(name).parts
    fits: dict[tuple[int, bool], list[int]] = {}
    for place, own in enumerate(parts):
        shared = min(len(own), len(asked))
        if shared and own[-shared:] == asked[-shared:]:
            fits.setdefault((shared, len(own) == len(asked)), []).append(place)
    # The longest match wins, and among equals the path that is no longer than what was asked for.
    found = fits[max(fits)] if fits else []
    if len(found) == 1:
        return found[0]
    if found:
        some = ", ".join(paths[place] for place in found[:3])
        raise ZsbirError(f"the sketch {name} could be {len(found)} of the queries ({some}, ...): give more of its path")
    if not paths:
        raise ZsbirError(f"the sketch {name} cannot be found: these embeddings do not know their files")
    near = difflib.get_close_matches(name, paths, 3, 0.0) if len(paths) <= 20_000 else [*paths[:3]]
    raise ZsbirError(
        f"the sketch {name} is none of the {len(paths)} queries (near: {', '.join(near)}); to search with another "
        "drawing, use `zsbir index` and `zsbir search`"
    )
