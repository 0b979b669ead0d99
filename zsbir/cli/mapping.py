"""A map of a run's embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


def mapping(
    run: Annotated[Path, Positional],
    out: Annotated[Path | None, arg(aliases=["-o"])] = None,
    before: bool = False,
    classes: str = "10",
    most: int = 400,
    layout: Literal["tsne", "pca"] = "tsne",
    part: Literal["test", "validation"] = "test",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    batch_size: int = 64,
    workers: int = 2,
    seed: int = 0,
) -> None:
    """Draw the embeddings of sketches and photos in the plane: the colour is the class, the marker the domain.

    Only what is shown is embedded, so a map costs much less than an evaluation.

    Example: zsbir map runs/a --classes 10

    Args:
        run: A run folder of `zsbir train`, or a folder of embeddings.
        out: The picture to write (.png, .svg or .pdf); default: RUN/map.png.
        before: Also map the start the run was trained from (the same spec, seed and pretrained weights).
        classes: How many classes, spread evenly over their list, or names with commas; at most 20.
        most: Images of each domain at most.
        layout: tsne (scikit-learn) or pca.
        part: test = the unseen classes.
        device: Where to run.
        batch_size: Images a step.
        workers: Processes that decode images.
        seed: Of the choice of images and the layout.
    """
    from zsbir.cli._evaluation import Work, find_subject
    from zsbir.cli._maps import map_settings, near_by, run_panels
    from zsbir.errors import ZsbirError
    from zsbir.evaluation.embedding_map import check_layout, embedding_map
    from zsbir.evaluation.embeddings import is_pair
    from zsbir.evaluation.inputs import check_embeddings
    from zsbir.evaluation.plots import new_figure, save_figure

    # Said before the work: what is missing, and settings that cannot be drawn.
    check_layout(layout)
    new_figure(1, 1)
    settings, work = map_settings(classes, most, layout, seed), Work(device, batch_size, workers)
    target = out or (run if run.is_dir() else run.parent) / "map.png"
    if is_pair(run):
        if before:
            raise ZsbirError(f"{run} holds embeddings, which have no start: map a run of `zsbir train`")
        subject = find_subject(run, part, None, work)
        settings = near_by(settings, subject.matcher)
        queries, gallery, _ = check_embeddings(subject.queries, subject.gallery)
        panels = [("embeddings", queries, gallery)]
    else:
        panels, settings = run_panels(run, part, settings, work, before)
    save_figure(embedding_map(panels, settings), target)
    print(target)
