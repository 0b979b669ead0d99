"""Gaussian mixtures by EM in torch, on CPU or CUDA.

The updates, the regularisation and the stopping rule are those of scikit-learn's ``GaussianMixture``, so the same start
gives the same mixture. What makes it faster: in many dimensions a row belongs to one or two components only. Sums run
over the rows with a weight, and a component's density is evaluated over a few columns at a time, leaving out the rows
where it can no longer matter. Both leave out less than float64 rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Covariance = Literal["full", "diagonal", "spherical"]

NEGLIGIBLE = 40.0
"""A density e⁻⁴⁰ (4e-18) times that of a row's likeliest component adds nothing to its sum in float64."""
BLOCK = 64
"""Columns evaluated before the rows that a component has lost are dropped."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """A fitted Gaussian mixture of K components."""

    weights: Tensor  # (K,), sums to 1
    means: Tensor  # (K, d)
    # Upper triangular Cholesky factors of the precisions (K, d, d), or inverse deviations (K, d) or (K,).
    factors: Tensor
    covariance: Covariance
    log_likelihood: float = -math.inf  # mean log density of a row before the last update: scikit-learn's lower_bound_
    iterations: int = 0
    converged: bool = False
    notes: tuple[str, ...] = ()  # what was degenerate, and how it was handled


def _log_constants(mixture: Mixture) -> Tensor:
    """Return (K,) float64: log weight plus the normaliser of each component's density."""
    width = mixture.means.shape[1]
    factors = mixture.factors.double()
    if mixture.covariance == "full":
        factors = factors.diagonal(dim1=1, dim2=2)
    log_det = width * factors.log() if mixture.covariance == "spherical" else factors.log().sum(1)
    return mixture.weights.double().log() + log_det - 0.5 * width * math.log(2 * math.pi)


def _log_full(x: Tensor, mean: Tensor, factor: Tensor, constant: float, floor: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return which rows a component matters to, and its weighted log density there.

    The factor is upper triangular: the first columns of ``(x − mean) @ factor`` need the first columns of x alone, and
    their squares only ever add to the distance. So rows drop out as soon as the bound is under `floor` (n,).
    """
    rows, left = torch.arange(len(x), device=x.device), x
    squared = x.new_zeros(len(x))
    for start in range(0, x.shape[1], BLOCK):
        end = min(start + BLOCK, x.shape[1])
        squared = squared + ((left[:, :end] - mean[:end]) @ factor[:end, start:end]).square().sum(1)
        if floor is not None:
            alive = constant - 0.5 * squared > floor[rows]
            if int(alive.sum()) < 0.7 * len(rows):  # copying the rows that stay must pay
                rows, squared = rows[alive], squared[alive]
                left = x[rows]
    return rows, constant - 0.5 * squared


def _log_densities(x: Tensor, mixture: Mixture, first: Tensor) -> Tensor:
    """Return (n, K) weighted log densities; −inf where a component is negligible.

    (n,) `first` is a likely component of each row: it only decides how much is left out early.
    """
    components = list(zip(mixture.means, mixture.factors, _log_constants(mixture).tolist(), strict=True))
    if mixture.covariance != "full":
        columns = [constant - 0.5 * ((x - mean) * factor).square().sum(1) for mean, factor, constant in components]
        return torch.stack(columns, dim=1)
    densities = x.new_full((len(x), len(components)), -math.inf)
    floor = x.new_full((len(x),), -math.inf)
    for k, component in enumerate(components):
        own = (first == k).nonzero().flatten()
        _, value = _log_full(x[own], *component, None)
        densities[own, k] = value
        floor[own] = value - NEGLIGIBLE
    for k, component in enumerate(components):
        other = (first != k).nonzero().flatten()
        rows, value = _log_full(x[other], *component, floor[other])
        densities[other[rows], k] = value
    return densities


def log_likelihood(x: Tensor, mixture: Mixture) -> float:
    """Return the mean log density of the (n, d) rows."""
    nearest = torch.cdist(x, mixture.means).argmin(1)
    return float(_log_densities(x, mixture, nearest).logsumexp(1).double().mean())


def bic(x: Tensor, mixture: Mixture) -> float:
    """Return the Bayesian information criterion of the (n, d) rows; lower is better."""
    count, width = mixture.means.shape
    shape = {"full": count * width * (width + 1) // 2, "diagonal": count * width, "spherical": count}
    parameters = shape[mixture.covariance] + count * width + count - 1
    return -2 * len(x) * log_likelihood(x, mixture) + parameters * math.log(len(x))


def _factor(covariance: Tensor, reg: float, which: int, notes: list[str]) -> Tensor:
    """Return the upper triangular (d, d) factor of the precision, by Cholesky in float64."""
    matrix = covariance.double()
    matrix.diagonal().add_(reg)
    identity = torch.eye(len(matrix)).to(matrix)
    ridge = 0.0
    lower, failed = torch.linalg.cholesky_ex(matrix)
    while int(failed):
        ridge = max(10 * ridge, 10 * reg, 1e-10 * float(matrix.diagonal().mean()))
        lower, failed = torch.linalg.cholesky_ex(matrix + ridge * identity)
    if ridge:
        notes.append(f"component {which} is degenerate (its rows span fewer dimensions): {ridge:.1e} was added")
    inverse: Tensor = torch.linalg.solve_triangular(lower, identity, upper=False)
    return inverse.T.to(covariance.dtype)


def _component(x: Tensor, share: Tensor, previous: Tensor, covariance: Covariance) -> tuple[Tensor, Tensor, Tensor]:
    """Return total weight, mean and covariance of one component from the (n,) `share` each row has in it."""
    rows = (share > torch.finfo(share.dtype).eps * 1e-6).nonzero().flatten()
    weights = share[rows]
    total = weights.double().sum()
    points = x[rows]
    if float(total) < 1e-8:  # nothing belongs to it: stay where it was, as wide as the whole set
        mean, points, weights = previous, x, torch.ones_like(share)
    else:
        mean = (weights @ points) / total.to(x.dtype)
    away = points - mean
    scale = weights.double().sum().to(x.dtype)
    if covariance == "full":
        return total, mean, (away * weights[:, None]).T @ away / scale
    variance = weights @ away.square() / scale
    return total, mean, variance if covariance == "diagonal" else variance.mean()


def _update(x: Tensor, shares: Tensor, before: Tensor, covariance: Covariance, reg: float, notes: list[str]) -> Mixture:
    """The M step: weights, means and factors from the (n, K) responsibilities."""
    totals, means, factors = [], [], []
    for k, share in enumerate(shares.T):
        total, mean, spread = _component(x, share.contiguous(), before[k], covariance)
        if float(total) < 1e-8:
            notes.append(f"component {k} is empty: it keeps its mean and takes no weight")
        totals.append(total + 10 * torch.finfo(x.dtype).eps)
        means.append(mean)
        factors.append(_factor(spread, reg, k, notes) if covariance == "full" else (spread + reg).rsqrt())
    counts = torch.stack(totals)
    return Mixture((counts / counts.sum()).to(x.dtype), torch.stack(means), torch.stack(factors), covariance)


def fit_mixture(
    x: Tensor,
    labels: Tensor,
    clusters: int,
    covariance: Covariance = "full",
    max_iter: int = 100,
    tol: float = 1e-3,
    reg: float = 1e-6,
) -> Mixture:
    """Fit a mixture to (n, d) rows by EM, from the hard start of (n,) int64 labels in [0, K), as k-means gives it.

    It stops when the mean log density changes by less than `tol`; `reg` is added to each variance.
    """
    shift = x.mean(0)
    x = x - shift
    shares = torch.nn.functional.one_hot(labels, clusters).to(x.dtype)
    mixture = _update(x, shares, torch.zeros(clusters, x.shape[1]).to(x), covariance, reg, [])
    lower, converged, iterations, first = -math.inf, False, 0, labels
    notes: list[str] = []
    for iterations in range(1, max_iter + 1):  # noqa: B007
        densities = _log_densities(x, mixture, first)
        evidence = densities.logsumexp(1)
        before, lower = lower, float(evidence.double().mean())
        first = densities.argmax(1)
        notes = []  # of the last update: an earlier one may have healed
        mixture = _update(x, (densities - evidence[:, None]).exp_(), mixture.means, covariance, reg, notes)
        if converged := abs(lower - before) < tol:
            break
    return replace(
        mixture, means=mixture.means + shift, log_likelihood=lower, iterations=iterations, converged=converged,
        notes=tuple(notes),
    )  # fmt: skip
