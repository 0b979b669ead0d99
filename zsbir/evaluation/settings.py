"""Settings: what is searched by what, besides plain zero-shot (unseen sketches against unseen photos)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
import torch
from torch import Tensor

from zsbir.errors import ZsbirError
from zsbir.evaluation.domain_gap import gap_of
from zsbir.evaluation.evaluator import Evaluator
from zsbir.evaluation.inputs import check_embeddings
from zsbir.evaluation.report import Report
from zsbir.evaluation.scoring import take
from zsbir.types import Embeddings, Paths

FEW_SKETCHES = 20
FEW_PHOTOS = 10


def few_queries(evaluator: Evaluator, queries: Embeddings, gallery: Embeddings, notes: Sequence[str] = ()) -> Report:
    """Evaluate every 20th sketch against every 10th photo, as the release of ZSE-SBIR does (CVPR 2023).

    The photos are fewer too, so the task is easier: the report says that it is not comparable.
    """
    warning = (
        f"few queries: every {FEW_SKETCHES}th sketch and every {FEW_PHOTOS}th photo only, as released with ZSE-SBIR; "
        "not comparable with results on the whole test set"
    )
    fewer = every(queries, FEW_SKETCHES), every(gallery, FEW_PHOTOS)
    return evaluator.evaluate(*fewer, (*notes, warning), "few-queries")


def every(embeddings: Embeddings, step: int) -> Embeddings:
    """Return every `step`-th image, the first included, with its path."""
    return take(embeddings, np.arange(0, len(embeddings), step), paths=True)


def binary(
    evaluator: Evaluator,
    queries: Embeddings,
    gallery: Embeddings,
    bits: int = 64,
    learn_from: Embeddings | None = None,
    notes: Sequence[str] = (),
    seed: int = 0,
) -> Report:
    """Evaluate ITQ codes by Hamming distance; the evaluator's own matcher is not used.

    Args:
        evaluator: Its protocols, metrics and cut-offs are used.
        queries: The sketches.
        gallery: The photos.
        bits: Length of the codes; published are 32, 64 and 128.
        learn_from: What ITQ is fitted on, such as photos of seen classes; None: the gallery (transductive, as in
            SEM-PCYC's release, and said in the report).
        notes: Further notes.
        seed: Of ITQ's rotation at the start.

    Raises:
        ZsbirError: If the vectors have fewer dimensions than bits.
    """
    left, right, _ = check_embeddings(queries, gallery)
    quantiser = fit_itq(right.vectors if learn_from is None else learn_from.vectors, bits, seed=seed)
    where = "transductive: ITQ is fitted on the gallery" if learn_from is None else "ITQ is fitted on other images"
    coded = [replace(side, vectors=quantiser.codes(side.vectors), meta=side.meta) for side in (left, right)]
    hashed = evaluator.like("hamming")
    return hashed.evaluate(coded[0], coded[1], (*notes, f"{bits} bit codes; {where}"), f"binary-{bits}")


@dataclass(frozen=True, eq=False)
class ITQ:
    """Iterative quantisation: a fitted map from real vectors to binary codes.

    Gong and Lazebnik, "Iterative Quantization: A Procrustean Approach to Learning Binary Codes", CVPR 2011: project
    onto the leading principal components, then turn them so that the signs lose as little as possible.

    Attributes:
        mean: (D,) of the vectors it was fitted on.
        rotation: (D, bits) principal components, turned.
    """

    mean: Tensor
    rotation: Tensor

    def codes(self, vectors: Tensor) -> Tensor:
        """Return (n, bits) float32, +1 or -1, of (n, D) vectors; 0 becomes +1."""
        projected = (vectors - self.mean.to(vectors)) @ self.rotation.to(vectors)
        return torch.where(projected >= 0, 1.0, -1.0).to(torch.float32)


def fit_itq(vectors: Tensor, bits: int, iterations: int = 50, seed: int = 0) -> ITQ:
    """Fit ITQ.

    Args:
        vectors: (n, D) float, what the codes are learnt from.
        bits: Length of the codes, at most D and n.
        iterations: Alternations between codes and rotation, 50 as published.
        seed: Of the rotation at the start.

    Returns:
        The quantiser, in float64 on the device of `vectors`.

    Raises:
        ZsbirError: If there are fewer dimensions or vectors than bits.
    """
    count, dim = vectors.shape
    if not 1 <= bits <= min(count, dim):
        raise ZsbirError(
            f"{bits} bits: a code has at least 1, and needs as many dimensions and vectors; there are {dim} and {count}"
        )
    data = vectors.to(torch.float64)
    mean = data.mean(dim=0)
    centred = data - mean
    _, components = torch.linalg.eigh(centred.T @ centred / max(1, count - 1))
    principal = components[:, -bits:].flip(1)
    projected = centred @ principal
    start = torch.randn(bits, bits, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rotation = torch.linalg.qr(start).Q.to(projected.device)
    for _ in range(iterations):
        codes = torch.where(projected @ rotation >= 0, 1.0, -1.0).to(torch.float64)
        # The rotation nearest to the codes (orthogonal Procrustes): projected @ rotation ~ codes.
        left, _, right = torch.linalg.svd(projected.T @ codes)
        rotation = left @ right
    return ITQ(mean, principal @ rotation)


def generalised(
    evaluator: Evaluator,
    unseen: tuple[Embeddings, Embeddings],
    seen: tuple[Embeddings, Embeddings],
    notes: Sequence[str] = (),
) -> Report:
    """Evaluate against a gallery of unseen and seen classes together.

    Args:
        evaluator: What evaluates; its matcher is fitted on the joint gallery.
        unseen: Sketches and photos of unseen classes.
        seen: Sketches and photos of seen classes; there may be no sketches.
        notes: Further notes.

    Returns:
        The report of the unseen sketches; ``groups`` has ``"unseen"``, and with seen sketches also ``"seen"`` and
        ``"harmonic mean"`` (2 s u / (s + u) of every metric).

    Raises:
        ZsbirError: If a class is both unseen and seen.
    """
    overlap = sorted(set(unseen[1].classes) & set(seen[1].classes))
    if overlap:
        raise ZsbirError(f"{len(overlap)} classes are both seen and unseen: {', '.join(overlap)}")
    joint = _joined(unseen[1], seen[1])
    said = f"generalised: the gallery has {len(unseen[1])} photos of unseen and {len(seen[1])} of seen classes"
    report = evaluator.evaluate(unseen[0], joint, (*notes, said), "generalised")
    groups = {"unseen": report.results}
    if len(seen[0]):
        found = evaluator.like(evaluator.matcher, show=False).evaluate(seen[0], joint, setting="generalised").results
        groups["seen"] = found
        groups["harmonic mean"] = {
            protocol: {metric: harmonic(u, found[protocol][metric]) for metric, u in values.items()}
            for protocol, values in report.results.items()
        }
    # Between the same classes, as in the other settings: the seen photos are another matter than the domain.
    return replace(report, groups=groups, domain_gap=gap_of(*unseen, evaluator.seed))


def harmonic(first: float, second: float) -> float:
    """Return the harmonic mean, 0 if both are 0.

    >>> harmonic(0.5, 1.0)
    0.6666666666666666
    """
    return 2 * first * second / (first + second) if first + second else 0.0


def _joined(first: Embeddings, second: Embeddings) -> Embeddings:
    if not first.classes or not second.classes:
        raise ZsbirError("the generalised setting needs the class names of both galleries")
    tokens = None
    if first.tokens is not None and second.tokens is not None:
        tokens = torch.cat([first.tokens, second.tokens])
    known = len(first.paths) == len(first) and len(second.paths) == len(second)
    return Embeddings(
        torch.cat([first.vectors, second.vectors]),
        np.concatenate([first.labels, second.labels + len(first.classes)]),
        (*first.classes, *second.classes),
        Paths([*first.paths, *second.paths]) if known else Paths(),
        first.domain,
        tokens,
        {"unseen": first.meta, "seen": second.meta},
    )


def photo_id(path: str, sketch: bool = False) -> str:
    """Return which photo a file is, or was drawn from, by Sketchy's names.

    >>> photo_id("airplane/n02691156_10151.jpg"), photo_id("airplane/n02691156_10151-3.png", sketch=True)
    ('n02691156_10151', 'n02691156_10151')
    """
    stem = PurePosixPath(path).stem
    return re.sub(r"-\d+$", "", stem) if sketch else stem
