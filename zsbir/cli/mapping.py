"""A map of a run's embeddings."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from zsbir.cli._evaluation import Model, Part, Subject, find_model, find_subject
from zsbir.cli._options import DataOptions, WorkOptions, refuse
from zsbir.errors import ZsbirError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zsbir.evaluation.embedding_map import MapSettings
    from zsbir.types import Embeddings

MapOf = Literal["none", "after", "both"]
Panel = tuple[str, "Embeddings", "Embeddings"]


def mapping(
    run: Annotated[Path, Positional],
    out: Annotated[Path | None, arg(aliases=["-o"], help_behavior_hint="(default: RUN/map.png)")] = None,
    before: bool = False,
    classes: str = "10",
    most: int = 400,
    layout: Literal["tsne", "pca"] = "tsne",
    part: Part = "test",
    root: Path | None = None,
    seed: int = 0,
    work: WorkOptions = WorkOptions(),
) -> None:
    """Draw a map of the embeddings of sketches and photos: the colour shows the class, the marker the domain.

    Only what is shown is embedded, so a map costs much less than an evaluation.

    Example: zsbir map runs/dann-folder-1 --before -o map.svg

    Args:
        run: A run folder of `zsbir train`, or a folder of embeddings.
        out: The picture to write (.png, .svg or .pdf).
        before: Also map the start the run was trained from (the same spec, seed and pretrained weights).
        classes: How many classes, spread evenly over their list, or names with commas; at most 20.
        most: Images of each domain at most.
        layout: tsne (scikit-learn) or pca.
        part: test = the unseen classes.
        root: Where the run's dataset is now.
        seed: Seed of the choice of images and of the layout.
        work: How images are embedded.
    """
    from zsbir.engine.logging import heard
    from zsbir.evaluation.embedding_map import check_layout, embedding_map
    from zsbir.evaluation.embeddings import is_pair
    from zsbir.evaluation.inputs import check_embeddings
    from zsbir.evaluation.plots import new_figure, save_figure

    # Said before the work: what is missing, and settings that cannot be drawn.
    check_layout(layout)
    new_figure(1, 1)
    settings = map_settings(classes, most, layout, seed)
    target = out or (run if run.is_dir() else run.parent) / "map.png"
    if is_pair(run):
        refuse({"before": before, "root": root}, f"{run} holds embeddings, which have no start and need no images")
        subject = find_subject(run, part, None, work)
        settings = near_by(settings, subject.matcher)
        panels = [("embeddings", *check_embeddings(subject.queries, subject.gallery))]
    else:
        model = find_model(run, part, DataOptions(root=root))
        settings = near_by(settings, model.method.matcher)
        panels = model_panels(model, settings, work, before)
    print(f"drawing {sum(len(side) for _, *sides in panels for side in sides)} embeddings", file=sys.stderr)
    with heard("drawing the map"):
        save_figure(embedding_map(panels, settings), target)
    print(target)


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
    """Embed what a map shows of a model: the start that it was trained from, the model as it is, or both."""
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
    """Return the map of a report; None where it is not wanted, or another process draws it."""
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
