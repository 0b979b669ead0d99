"""Settings besides plain zero-shot (unseen sketches against unseen photos)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from zsbir.errors import ZsbirError
from zsbir.evaluation.domain_gap import domain_gap
from zsbir.evaluation.evaluator import Evaluator
from zsbir.evaluation.inputs import check_embeddings
from zsbir.evaluation.report import Report
from zsbir.types import Embeddings

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
    sketches = queries.take(np.arange(0, len(queries), FEW_SKETCHES))
    photos = gallery.take(np.arange(0, len(gallery), FEW_PHOTOS))
    return evaluator.evaluate(sketches, photos, (*notes, warning), "few-queries")


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
    left, right = check_embeddings(queries, gallery)
    quantiser = fit_itq(right.vectors if learn_from is None else learn_from.vectors, bits, seed=seed)
    where = "transductive: ITQ is fitted on the gallery" if learn_from is None else "ITQ is fitted on other images"
    left, right = (replace(side, vectors=quantiser.codes(side.vectors)) for side in (left, right))
    return evaluator.like("hamming").evaluate(left, right, (*notes, f"{bits} bit codes; {where}"), f"binary-{bits}")


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
    """Fit ITQ on (n, D) vectors, in float64 on their device; 50 iterations as published, `seed` is of the first turn.

    Raises:
        ZsbirError: If there are fewer dimensions or vectors than bits.
    """
    count, dim = vectors.shape
    if not 1 <= bits <= min(count, dim):
        raise ZsbirError(
            f"a code of {bits} bits needs at least 1 bit, and as many dimensions and vectors as bits; there are {dim} "
            f"dimensions and {count} vectors"
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
    if not unseen[1].classes or not seen[1].classes:
        raise ZsbirError("the generalised setting needs the class names of both galleries")
    behind = replace(seen[1], labels=seen[1].labels + len(unseen[1].classes))
    joint = replace(
        Embeddings.join([unseen[1], behind]),
        classes=(*unseen[1].classes, *seen[1].classes),
        meta={"unseen": unseen[1].meta, "seen": seen[1].meta},
    )
    said = f"generalised: the gallery has {len(unseen[1])} photos of unseen and {len(seen[1])} of seen classes"
    report = evaluator.evaluate(unseen[0], joint, (*notes, said), "generalised")
    groups = {"unseen": report.results}
    if len(seen[0]):
        found = evaluator.like(evaluator.matcher, show=False).evaluate(seen[0], joint).results
        groups["seen"] = found
        groups["harmonic mean"] = {
            protocol: {
                metric: 2 * u * s / (u + s) if (s := found[protocol][metric]) + u else 0.0
                for metric, u in values.items()
            }
            for protocol, values in report.results.items()
        }
    # Between the same classes, as in the other settings: the seen photos are another matter than the domain.
    gap = domain_gap(unseen[0].vectors, unseen[1].vectors, evaluator.seed)
    return replace(report, groups=groups, domain_gap=gap)
