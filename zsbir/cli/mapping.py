"""A map of a run's embeddings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from zsbir.cli._evaluation import find_model, find_subject
from zsbir.cli._groups import DataOptions, WorkOptions, refuse


def mapping(
    run: Annotated[Path, Positional],
    out: Annotated[Path | None, arg(aliases=["-o"], help_behavior_hint="(default: RUN/map.png)")] = None,
    before: bool = False,
    classes: str = "10",
    most: int = 400,
    layout: Literal["tsne", "pca"] = "tsne",
    part: Literal["test", "validation"] = "test",
    root: Path | None = None,
    seed: int = 0,
    work: WorkOptions = WorkOptions(),
) -> None:
    """Draw the embeddings of sketches and photos in the plane: the colour is the class, the marker the domain.

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
        seed: Of the choice of images and the layout.
        work: How images are embedded.
    """
    from zsbir.cli._maps import map_settings, model_panels, near_by
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
