"""A codebook over sub-spaces: codewords, codes, and distances by table look-up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zsbir.errors import ZsbirError
from zsbir.matchers._kmeans import kmeans, nearest
from zsbir.matchers._mixture import fit_mixture

Model = Literal["full", "diagonal", "spherical", "k-means"]


@dataclass(frozen=True, eq=False)
class Codebook:
    """Codewords (M, K, D / M) of each sub-space."""

    codewords: Tensor

    @property
    def width(self) -> int:
        """D, the width of a whole vector."""
        return self.codewords.shape[0] * self.codewords.shape[2]

    def encode(self, vectors: Tensor) -> Tensor:
        """Return (n, M) int64: the nearest codeword of each (n, D) vector in each sub-space."""
        parts = split(vectors, len(self.codewords))
        return torch.stack([nearest(*pair)[0] for pair in zip(parts, self.codewords, strict=True)], dim=1)

    def table(self, queries: Tensor) -> Tensor:
        """Return (q, M, K) squared Euclidean distances of (q, D) queries to each codeword."""
        parts = torch.stack(split(queries, len(self.codewords)))
        words = self.codewords
        squared = parts.square().sum(2, keepdim=True) + words.square().sum(2)[:, None]
        return torch.baddbmm(squared, parts, words.transpose(1, 2), alpha=-2).clamp_min_(0).transpose(0, 1)


def split(vectors: Tensor, subspaces: int) -> list[Tensor]:
    """Return the (n, D / M) parts of (n, D) vectors; raises ZsbirError if M does not divide D."""
    width = vectors.shape[1]
    if width % subspaces:
        fit = [m for m in range(1, min(width, 16) + 1) if width % m == 0]
        raise ZsbirError(f"subspaces={subspaces} does not divide the {width} dimensions: use one of {fit}")
    return list(vectors.split(width // subspaces, dim=1))


def fit_codebook(
    vectors: Tensor,
    subspaces: int,
    clusters: int,
    model: Model = "full",
    seed: int = 0,
    max_iter: int = 100,
    tol: float = 1e-3,
    reg: float = 1e-6,
) -> tuple[Codebook, list[str]]:
    """Return the codebook of the (n, D) gallery, and notes for the user on what was degenerate.

    Codewords are k-means centres, or the component means of a mixture fitted by EM from that clustering.
    """
    words, notes = [], []
    for place, part in enumerate(split(vectors, subspaces)):
        where = f"sub-space {place + 1} of {subspaces}"
        part = part.contiguous()
        start = kmeans(part, clusters, seed)
        if start.empty:
            notes.append(f"{where}: {start.empty} of {clusters} clusters are empty: there are too few distinct photos")
        if model == "k-means":
            words.append(start.centers)
            continue
        mixture = fit_mixture(part, start.labels, clusters, model, max_iter, tol, reg)
        words.append(mixture.means)
        notes += [f"{where}: {note}" for note in mixture.notes]
        if not mixture.converged:
            notes.append(f"{where}: EM stopped after {max_iter} iterations without converging; raise max_iter")
    return Codebook(torch.stack(words)), notes
