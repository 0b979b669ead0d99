"""The matcher contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from zsbir.types import Embeddings


class Matcher:
    """Scores queries against a gallery: higher is better, always.

    `fit` sees the gallery once; `scores` is then called with chunks of queries by the caller, which bounds memory.

    Attributes:
        spec: What `MATCHERS.build` recorded.
        transductive: True if `fit` learns from the gallery as a whole (it then says so in every report).
        pairwise: True if a score depends on nothing but its query and its photo and costs much memory: the gallery
            is then fitted and scored in chunks as well.
    """

    spec: dict[str, Any]
    transductive: ClassVar[bool] = False
    pairwise: ClassVar[bool] = False

    def fit(self, gallery: Embeddings) -> Matcher:
        """Take the gallery (n photos) in; returns self."""
        raise TypeError(f"{type(self).__name__} has no fit")

    def scores(self, queries: Embeddings) -> Tensor:
        """Return (q, n) float scores of a chunk of queries against the fitted gallery, on the gallery's device."""
        raise TypeError(f"{type(self).__name__} has no scores")

    def variants(self) -> Sequence[Matcher]:
        """Return the matchers this one stands for: several for a published sweep, else just itself."""
        return [self]

    def describe(self) -> str:
        """Return one line for reports: name, settings, and what was fitted on."""
        settings = ", ".join(f"{k}={v}" for k, v in self.spec.items() if k != "name")
        note = "; transductive: fitted on the gallery" if self.transductive else ""
        return f"{self.spec['name']}({settings}){note}"
