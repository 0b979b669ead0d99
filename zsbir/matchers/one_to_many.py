"""One-to-many cluster matching (SBKA, arXiv 2312.10320): a query is compared with the clusters that photos belong to.

The gallery's vectors are split into M sub-spaces, each is clustered into K codewords, and a photo becomes the M
codewords nearest to it. With q_m and c_m(g) the parts of query and photo,

    distance(q, g) = w · Σ_m ‖q_m − c_m(g)‖² + (1 − w) · ‖q − g‖₂

A photo far from its cluster is thus pulled towards it, which helps where clusters are classes. The clusters are fitted
on the gallery itself: the matching is transductive, and every report says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from zsbir.arguments import Count, Proportion
from zsbir.errors import ZsbirError
from zsbir.matchers import MATCHERS
from zsbir.matchers._codebook import Codebook, Model, fit_codebook
from zsbir.matchers._kmeans import Rule, choose_clusters
from zsbir.matchers.base import Fitted, Matcher, normalise, same_width
from zsbir.registry import close_matches, spec_of
from zsbir.types import Embeddings

GRIDS: dict[str, tuple[tuple[int, ...], range]] = {
    "sketchy-25": ((2, 4), range(22, 29)),
    "sketchy-21": ((2, 4), range(18, 25)),
    "tuberlin-30": ((2, 4), range(27, 34)),
    "quickdraw-30": ((2,), range(27, 34)),
}
"""M and K that the published results come from, by dataset (SBKA, arXiv 2312.10320, released code).

The authors report the best cell, chosen on the labels of the test set.
"""


@MATCHERS.register("one-to-many")
class OneToMany(Matcher):
    """Cluster matching (SBKA): queries against the clusters that photos belong to; transductive.

    Args:
        subspaces: M, how many parts a vector is split into; it must divide the width. Published: 2 or 4.
        clusters: K, codewords a sub-space; ``"auto"`` chooses one K for all on the gallery, without labels.
        model: What is fitted: a Gaussian mixture with ``"full"`` (published), ``"diagonal"`` or ``"spherical"``
            covariance, or ``"k-means"``.
        weight: Share of the codeword distance in the fused one, in [0, 1]. Published: 0.8. The published code adds
            *squared* distances to codewords and *plain* distances to photos; so does this.
        normalise: Bring vectors to length 1 first. The weight means the same for every model only then.
        choose: How ``"auto"`` rates a K: ``"silhouette"`` or ``"bic"``. Both find too few clusters where classes
            have few photos.
        most_clusters: Largest K that ``"auto"`` tries.
        seed: Of the k-means start.
        max_iter: Most EM iterations.
        tol: EM stops when the mean log density changes by less.
        reg: Added to each variance.
        precision: ``"float32"`` or ``"float64"``, of fit and scores.
        sweep: Name of a published grid of M and K (see `GRIDS`). Such a matcher stands for all of its `variants`;
            choosing among them by a score uses the test labels.

    Raises:
        ZsbirError: For a value out of range.
    """

    transductive: ClassVar[bool] = True
    codebook = Fitted[Codebook]()
    codes = Fitted[Tensor]()
    _vectors = Fitted[Tensor]()

    def __init__(
        self,
        subspaces: Count = 2,
        clusters: Count | Literal["auto"] = "auto",
        model: Model = "full",
        weight: Proportion = 0.8,
        normalise: bool = True,
        choose: Rule = "silhouette",
        most_clusters: Count = 64,
        seed: int = 0,
        max_iter: Count = 100,
        tol: float = 1e-3,
        reg: float = 1e-6,
        precision: Literal["float32", "float64"] = "float32",
        sweep: str | None = None,
    ) -> None:
        if sweep is not None and sweep not in GRIDS:
            raise ZsbirError(f"there is no sweep {sweep!r}. {close_matches(sweep, list(GRIDS))}")
        self.grid = None if sweep is None else GRIDS[sweep]
        self.subspaces, self.clusters, self.model = subspaces, clusters, model
        self.weight, self.normalise, self.precision = weight, normalise, precision
        self.choose, self.most_clusters, self.seed = choose, most_clusters, seed
        self.em: dict[str, Any] = {"max_iter": max_iter, "tol": tol, "reg": reg}
        self._chosen = ""

    def variants(self) -> list[OneToMany]:
        """Return one matcher for each M and K of the sweep, or just this one if there is none."""
        if self.grid is None:
            return [self]
        more = {k: v for k, v in spec_of(self).items() if k not in ("name", "sweep", "subspaces", "clusters")}
        return [OneToMany(m, k, **more) for m in self.grid[0] for k in self.grid[1]]

    def fit(self, gallery: Embeddings) -> OneToMany:
        """Choose K, fit the codebook and encode the gallery; degenerate fits give a warning.

        Raises:
            ZsbirError: If M does not divide the width, the gallery is empty, or the matcher stands for a sweep.
        """
        if self.grid is not None:
            raise ZsbirError(
                "a sweep is many matchers: evaluate each of variants(), which chooses on the test labels, "
                "or leave sweep out and give subspaces and clusters"
            )
        vectors = self._prepare(gallery)
        if not len(vectors):
            raise ZsbirError("one-to-many: the gallery is empty")
        notes = []
        if self.clusters == "auto":
            clusters, _ = choose_clusters(vectors, self.choose, self.most_clusters, self.seed)
            self._chosen = f"chosen by {self.choose} on the gallery without labels"
        else:
            clusters, self._chosen = min(self.clusters, len(vectors)), "given"
            if clusters < self.clusters:
                notes = [f"clusters={self.clusters} but only {clusters} photos: one cluster a photo"]
        codebook, more = fit_codebook(vectors, self.subspaces, clusters, self.model, self.seed, **self.em)
        for note in notes + more:
            warnings.warn(f"one-to-many: {note}", stacklevel=2)
        self._take(codebook, vectors)
        return self

    def apply(self, codebook: Codebook, gallery: Embeddings) -> OneToMany:
        """Take a ready codebook instead of fitting one, and encode the gallery with it."""
        same_width(gallery, codebook.width)
        self._chosen = "given"
        self._take(codebook, self._prepare(gallery))
        return self

    def add(self, photos: Embeddings) -> OneToMany:
        """Append photos to the fitted gallery: they are encoded, and the codewords stay as they are."""
        same_width(photos, self.codebook.width)
        new = self._prepare(photos).to(self._vectors)
        self.codes = torch.cat([self.codes, self.codebook.encode(new)])
        if self.weight < 1:
            self._vectors = torch.cat([self._vectors, new])
        self._index()
        return self

    def scores(self, queries: Embeddings) -> Tensor:
        """Return (q, n) negated fused distances, on the gallery's device."""
        same_width(queries, self.codebook.width)
        asked = self._prepare(queries).to(self._vectors)
        table = self.codebook.table(asked)
        total = table[:, 0].index_select(1, self._distinct[:, 0])  # Σ_m ‖q_m − c_m‖² for each different code
        for m in range(1, table.shape[1]):
            total += table[:, m].index_select(1, self._distinct[:, m])
        near = (total * -self.weight).index_select(1, self._place)
        if self.weight == 1:
            return near
        # Moved to the gallery's mean, products lose less to rounding.
        asked = asked - self._shift
        plain = torch.addmm(self._squares, asked, self._moved.T, alpha=-2)
        plain.add_(asked.square().sum(1, keepdim=True)).clamp_(min=0).sqrt_()
        return near.add_(plain, alpha=self.weight - 1)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what `save` writes: the smallest integer type for codes, vectors only if they are scored."""
        small = torch.uint8 if self.codebook.codewords.shape[1] <= 256 else torch.int32
        tensors = {"codewords": self.codebook.codewords, "codes": self.codes.to(small)}
        if self.weight < 1:
            tensors["vectors"] = self._vectors
        return tensors, {"chosen": self._chosen}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self.codebook = Codebook(tensors["codewords"])
        self.codes = tensors["codes"].long()
        if not 0 <= int(self.codes.min()) <= int(self.codes.max()) < self.codebook.codewords.shape[1]:
            raise IndexError("its codes name codewords that it does not have")
        self._vectors = tensors["vectors"] if self.weight < 1 else self.codebook.codewords.new_zeros(1, 1)
        self._chosen = str(values["chosen"])
        self._index()

    def describe(self) -> str:
        """Return one line: M, K and how it was chosen, the model, and that it was fitted on the gallery."""
        name = getattr(self, "spec", {"name": "one-to-many"})["name"]
        if self.grid is not None:
            parts, counts = self.grid
            cells = f"M in {', '.join(map(str, parts))}; K in {counts[0]}–{counts[-1]}"
            return f"{name}({cells}); transductive: fitted on the gallery"
        count = self.codebook.codewords.shape[1] if "codebook" in vars(self) else self.clusters
        how = self._chosen or ("to be chosen" if self.clusters == "auto" else "given")
        return (
            f"{name}(M={self.subspaces}, K={count} {how}, model={self.model}, weight={self.weight}, "
            f"seed={self.seed}); transductive: fitted on the gallery"
        )

    def _prepare(self, embeddings: Embeddings) -> Tensor:
        vectors = embeddings.vectors.to(getattr(torch, self.precision))
        return normalise(vectors) if self.normalise else vectors

    def _take(self, codebook: Codebook, vectors: Tensor) -> None:
        self.codebook = Codebook(codebook.codewords.to(vectors))
        self.codes = self.codebook.encode(vectors)
        self._vectors = vectors if self.weight < 1 else vectors.new_zeros(1, 1)
        self._index()

    def _index(self) -> None:
        """Prepare what every call of `scores` needs: the different codes, and the photos moved to their mean."""
        self._distinct, self._place = self.codes.unique(dim=0, return_inverse=True)
        self._shift = self._vectors.mean(0)
        self._moved = self._vectors - self._shift
        self._squares = self._moved.square().sum(1)
