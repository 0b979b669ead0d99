"""Maps of embeddings for the commands: of a run after training, and of the start it was trained from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zsbir.cli._evaluation import Model, Subject
from zsbir.cli._groups import WorkOptions
from zsbir.errors import ZsbirError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zsbir.evaluation.embedding_map import MapSettings
    from zsbir.types import Embeddings

MapOf = Literal["none", "after", "both"]
Panel = tuple[str, "Embeddings", "Embeddings"]


def map_settings(
    classes: str = "10", most: int = 400, layout: Literal["tsne", "pca"] = "tsne", seed: int = 0
) -> MapSettings:
    """Return a map's settings; `classes` is a number, or names with commas."""
    from zsbir.evaluation.embedding_map import MapSettings

    shown = int(classes) if classes.strip().isdigit() else [name.strip() for name in classes.split(",") if name.strip()]
    return MapSettings(shown, most, layout, seed=seed)


def near_by(settings: MapSettings, matcher: Any) -> MapSettings:
    """Return the settings with what is near measured as the matcher does: by Euclidean distance, or by cosine."""
    from zsbir.matchers import MATCHERS

    return replace(settings, cosine=not MATCHERS.build(matcher).describe().startswith("euclidean"))


def model_panels(
    model: Model, settings: MapSettings, work: WorkOptions, before: bool, after: bool = True
) -> list[Panel]:
    """Embed what a map shows of a model: as it is, and before it the start that it was trained from.

    Raises:
        ZsbirError: If the part is empty, or the start's pretrained weights are not here.
    """
    whole = model.split()
    sketches, photos = (r.take(settings.chosen_rows(r.labels, whole.classes)) for r in (whole.sketches, whole.photos))
    split = replace(whole, sketches=sketches, photos=photos)
    panels: list[Panel] = []
    if before:
        panels.append(("before training", *model.embed(split, work, model.rebuilt(model.start))))
    if after:
        panels.append(("after training", *model.embed(split, work)))
    return panels


def report_map(of: MapOf, path: Path, subject: Subject, work: WorkOptions, seed: int) -> Figure | None:
    """Return the map of a report; None where it is not wanted, or another process draws it.

    Raises:
        ZsbirError: If it cannot be drawn.
    """
    from zsbir.engine.logging import heard
    from zsbir.evaluation.distributed import is_first
    from zsbir.evaluation.embedding_map import embedding_map
    from zsbir.evaluation.inputs import check_embeddings

    if of == "none":
        return None
    settings = near_by(map_settings(seed=seed), subject.matcher)
    queries, gallery = check_embeddings(subject.queries, subject.gallery)
    if of == "both" and subject.model is None:
        raise ZsbirError(
            f"{path} holds embeddings, which have no start to map: --map both needs a run of `zsbir train`"
        )
    # Every process takes part in embedding, the first one draws.
    before = model_panels(subject.model, settings, work, True, False) if of == "both" and subject.model else []
    panel = ("embeddings" if subject.model is None else "after training", queries, gallery)
    with heard("drawing the map", is_first()):
        return embedding_map([*before, panel], settings) if is_first() else None
