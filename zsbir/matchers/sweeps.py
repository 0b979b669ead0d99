"""The grids of M and K that published results of one-to-many matching come from.

Their authors report the best cell, chosen on the test set's labels. A result from a sweep is therefore marked
`ORACLE`; an honest one takes the default ``clusters="auto"``, which looks at no label.
"""

from __future__ import annotations

from dataclasses import dataclass

from zsbir.errors import ZsbirError
from zsbir.registry import close_matches

ORACLE = "oracle: chosen on the test labels"
"""What a report says of the best cell of a sweep."""


@dataclass(frozen=True)
class Grid:
    """Values of M and K.

    Attributes:
        subspaces: Values of M.
        clusters: Values of K.
    """

    subspaces: tuple[int, ...]
    clusters: tuple[int, ...]

    def describe(self) -> str:
        """Return the grid in words.

        >>> Grid((2, 4), (22, 23)).describe()
        'M in 2, 4; K in 22–23'
        """
        values = ", ".join(map(str, self.subspaces))
        return f"M in {values}; K in {min(self.clusters)}–{max(self.clusters)}"


GRIDS: dict[str, Grid] = {
    "sketchy-25": Grid((2, 4), tuple(range(22, 29))),
    "sketchy-21": Grid((2, 4), tuple(range(18, 25))),
    "tuberlin-30": Grid((2, 4), tuple(range(27, 34))),
    "quickdraw-30": Grid((2,), tuple(range(27, 34))),
}
"""Published grids by the name of their dataset (SBKA, arXiv 2312.10320, released code)."""


def published_grid(name: str) -> Grid:
    """Return the grid called `name`.

    Raises:
        ZsbirError: If there is none; the message has the close matches.
    """
    if name not in GRIDS:
        raise ZsbirError(f"There is no sweep {name!r}. {close_matches(name, list(GRIDS))}")
    return GRIDS[name]
