"""The fine-grained setting: find the very photo that a sketch was drawn from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from zsbir.errors import ZsbirError
from zsbir.evaluation.evaluator import Evaluator
from zsbir.evaluation.inputs import check_embeddings
from zsbir.evaluation.measure import PerQuery, Request, measure
from zsbir.evaluation.protocols import Protocol
from zsbir.evaluation.report import Report
from zsbir.evaluation.scoring import fitted_scores
from zsbir.types import Embeddings, Labels

KS = (1, 5, 10)
_WANTED = ("acc@k", "MRR")
_ACC = "acc@k is the share of sketches whose own photo is among the first k of {}; MRR; mean over queries; ties: {}"


def _protocol(name: str, searched: str) -> Protocol:
    definition = _ACC.format(searched, "expectation")
    return Protocol(name, "exact", "expectation", None, None, "query", "fine-grained (instance level) SBIR", definition)


ACROSS = _protocol("across categories", "all photos")
WITHIN = _protocol("within category", "the photos of its category")


def fine_grained(
    evaluator: Evaluator, queries: Embeddings, gallery: Embeddings, notes: Sequence[str] = (), ks: Sequence[int] = KS
) -> Report:
    """Evaluate at instance level: acc@k is the share of sketches whose own photo is among the first k.

    Which photo a sketch was drawn from is read from the file names, as Sketchy has them: sketch
    ``n02691156_10151-3.png``, photo ``n02691156_10151.jpg``. Photos without a sketch stay in the gallery; sketches
    without their photo are left out and counted. Ties count with their mean over all orders.

    Args:
        evaluator: Its matcher, seed and bootstrap are used; transductive matchers are fitted on what is searched.
        queries: The sketches, with paths.
        gallery: The photos, with paths.
        notes: Further notes.
        ks: Cut-offs.

    Returns:
        A report with the results ``"across categories"`` and ``"within category"``.

    Raises:
        ZsbirError: If a side has no file names, or no sketch has its photo in the gallery.
    """
    left, right = check_embeddings(queries, gallery)
    ids = _instances(left, right)
    try:
        across, overview = evaluator.measure(evaluator.matcher, left, right, Request([ACROSS], ks, _WANTED), ids)
    except ZsbirError:
        raise ZsbirError(
            f"no sketch has its photo in the gallery: by its name {left.paths[0]!r} was drawn from "
            f"{photo_id(left.paths[0], sketch=True)!r}, and a photo here is {right.paths[0]!r}"
        ) from None
    values = {**across.values, WITHIN.name: _within(evaluator, left, right, ids, ks)}
    found = replace(across, values=values, labels=left.labels[across.query])
    sizes = np.bincount(right.labels, minlength=len(left.classes))[found.labels]
    # The chance of acc@1, which is also what a random order gives.
    chance = {ACROSS.name: 1 / len(right), WITHIN.name: float((1 / sizes).mean())}
    report = evaluator.report(found, (ACROSS, WITHIN), left, right, notes)
    shown = overview.top_photos(evaluator.choose(across, left))
    return replace(report, setting="fine-grained", chance=chance, top=shown)


def photo_id(path: str, sketch: bool = False) -> str:
    """Return which photo a file is, or was drawn from, by Sketchy's names.

    >>> photo_id("airplane/n02691156_10151.jpg"), photo_id("airplane/n02691156_10151-3.png", sketch=True)
    ('n02691156_10151', 'n02691156_10151')
    """
    stem = PurePosixPath(path).stem
    return re.sub(r"-\d+$", "", stem) if sketch else stem


def _instances(queries: Embeddings, gallery: Embeddings) -> tuple[Labels, Labels]:
    """Return the photo of each sketch and of each photo, as numbers; a photo counts within its category only."""
    if len(queries.paths) != len(queries) or len(gallery.paths) != len(gallery):
        raise ZsbirError("the fine-grained setting reads photo ids from file names, and these embeddings have no paths")
    numbers: dict[tuple[int, str], int] = {}
    sides = []
    for side, sketch in ((queries, True), (gallery, False)):
        keys = ((int(label), photo_id(path, sketch)) for path, label in zip(side.paths, side.labels, strict=True))
        sides.append(np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64))
    return sides[0], sides[1]


def _within(
    evaluator: Evaluator, queries: Embeddings, gallery: Embeddings, ids: tuple[Labels, Labels], ks: Sequence[int]
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the metrics of the queries, each category searched alone."""
    parts: list[PerQuery] = []
    request = Request([WITHIN], ks, _WANTED)
    for label in np.unique(queries.labels):
        mine, photos = np.flatnonzero(queries.labels == label), np.flatnonzero(gallery.labels == label)
        if np.isin(ids[0][mine], ids[1][photos]).any():
            chunk = fitted_scores(evaluator.matcher, queries.take(mine), gallery.take(photos))
            part = measure(chunk, ids[0][mine], ids[1][photos], request, gallery.vectors)
            parts.append(replace(part, query=mine[part.query]))
    order = np.argsort(np.concatenate([part.query for part in parts]))
    joined = {m: np.concatenate([part.values[WITHIN.name][m] for part in parts]) for m in parts[0].values[WITHIN.name]}
    return {metric: values[order] for metric, values in joined.items()}
