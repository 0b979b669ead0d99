"""The fine-grained setting: find the very photo that a sketch was drawn from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from zsbir.errors import ZsbirError
from zsbir.evaluation.details import top_photos
from zsbir.evaluation.domain_gap import gap_of
from zsbir.evaluation.evaluator import Evaluator, describe_matcher, intervals
from zsbir.evaluation.inputs import check_embeddings
from zsbir.evaluation.measure import PerQuery, Request, averages, measure
from zsbir.evaluation.protocols import Protocol
from zsbir.evaluation.result import Report
from zsbir.evaluation.scoring import fitted_scores, take
from zsbir.evaluation.settings import photo_id
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
    left, right, classes = check_embeddings(queries, gallery)
    ids = _instances(left, right)
    chunk = fitted_scores(evaluator.matcher, left, right)
    device = chunk(np.zeros(1, dtype=np.int64)).device
    try:
        across = measure(chunk, *ids, Request([ACROSS], ks, _WANTED), device, right.vectors.dtype.itemsize)
    except ZsbirError:
        raise ZsbirError(
            f"no sketch has its photo in the gallery: by its name {left.paths[0]!r} was drawn from "
            f"{photo_id(left.paths[0], sketch=True)!r}, and a photo here is {right.paths[0]!r}"
        ) from None
    ap = across.values[ACROSS.name]["MRR"]  # with one relevant photo, AP is 1 / rank
    chosen = evaluator.shown.choose(ap, across.query, left.paths, len(left), evaluator.seed)
    shown = top_photos(chunk, left, right, chosen, evaluator.shown.top)
    within = _within(evaluator, left, right, ids, ks)
    found = PerQuery(
        {**across.values, **within.values},
        across.query,
        left.labels[across.query],
        across.excluded,
        notes=across.notes,
    )
    protocols = (ACROSS, WITHIN)
    return Report(
        protocols=protocols,
        results=averages(found, protocols),
        intervals=intervals(found, protocols, evaluator.resamples, evaluator.seed),
        per_class=_per_category(found, classes),
        counts={
            "queries": len(left),
            "evaluated": len(found.query),
            "excluded": found.excluded,
            "gallery": len(right),
            "classes": len(np.unique(found.labels)),
        },
        chance={
            ACROSS.name: _chance(np.array([len(right)])),
            WITHIN.name: _chance(np.bincount(right.labels, minlength=len(classes))[found.labels]),
        },
        matcher=describe_matcher(evaluator.matcher),
        setting="fine-grained",
        notes=(*notes, *found.notes),
        classes=classes,
        curve={"recall": [], "precision": []},
        confusion=np.zeros((0, 0)),
        histogram={},
        top=shown,
        per_query=found,
        query_paths=tuple(left.paths[int(i)] for i in found.query),
        meta={"queries": queries.meta, "gallery": gallery.meta},
        domain_gap=gap_of(left, right, evaluator.seed),
    )


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
    evaluator: Evaluator,
    queries: Embeddings,
    gallery: Embeddings,
    ids: tuple[Labels, Labels],
    ks: Sequence[int],
) -> PerQuery:
    """Evaluate each category alone and join the queries."""
    parts: list[PerQuery] = []
    for label in np.unique(queries.labels):
        mine, photos = np.flatnonzero(queries.labels == label), np.flatnonzero(gallery.labels == label)
        if not np.isin(ids[0][mine], ids[1][photos]).any():
            continue
        chunk = fitted_scores(evaluator.matcher, take(queries, mine), take(gallery, photos))
        device = chunk(np.zeros(1, dtype=np.int64)).device
        part = measure(chunk, ids[0][mine], ids[1][photos], Request([WITHIN], ks, _WANTED), device)
        parts.append(PerQuery(part.values, mine[part.query], part.labels, part.excluded))
    query = np.concatenate([part.query for part in parts])
    order = np.argsort(query)
    first = parts[0].values[WITHIN.name]
    values = {m: np.concatenate([part.values[WITHIN.name][m] for part in parts])[order] for m in first}
    return PerQuery({WITHIN.name: values}, query[order], queries.labels[query[order]], 0)


def _per_category(found: PerQuery, classes: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    return {
        protocol: {
            classes[c]: {metric: float(v[found.labels == c].mean()) for metric, v in values.items()}
            for c in np.unique(found.labels)
        }
        for protocol, values in found.values.items()
    }


def _chance(sizes: npt.NDArray[np.int64]) -> float:
    """Return acc@1 of a random order."""
    return float((1 / sizes).mean())
