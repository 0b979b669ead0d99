"""Maps of embeddings for the commands: of a run after training, and of the start it was trained from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zsbir.cli._evaluation import Part, Subject, Work, embed_shares, run_folder
from zsbir.errors import ZsbirError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zsbir.evaluation.embedding_map import MapSettings
    from zsbir.types import Embeddings, Split

MapOf = Literal["auto", "none", "after", "both"]
Panel = tuple[str, "Embeddings", "Embeddings"]


def map_settings(
    classes: str = "10", most: int = 400, layout: Literal["tsne", "pca"] = "tsne", seed: int = 0
) -> MapSettings:
    """Return a map's settings; `classes` is a number, or names with commas."""
    from zsbir.evaluation.embedding_map import MapSettings

    shown = int(classes) if classes.strip().isdigit() else [name.strip() for name in classes.split(",") if name.strip()]
    return MapSettings(shown, most, layout, seed=seed)


def near_by(settings: MapSettings, matcher: str | Mapping[str, Any]) -> MapSettings:
    """Return the settings with what is near measured as the matcher does: by Euclidean distance, or by cosine."""
    name = matcher if isinstance(matcher, str) else matcher["name"]
    return replace(settings, cosine=name != "euclidean")


def run_panels(
    path: Path, part: Part, settings: MapSettings, work: Work, before: bool
) -> tuple[list[Panel], MapSettings]:
    """Embed what a map of a run shows, after training and, if asked for, before it.

    Raises:
        ZsbirError: If there is no run or no such part.
    """
    import zsbir
    from zsbir.engine.run import read_run

    folder = run_folder(path)
    method = zsbir.load(path)
    settings = near_by(settings, method.matcher)
    dataset = zsbir.DATASETS.build(read_run(folder)["dataset"])
    split = shown_split(dataset.test if part == "test" else dataset.validation, settings)
    after = ("after training", *embed_shares(method, dataset, split, work))
    return ([start_panel(path, part, settings, work), after] if before else [after]), settings


def start_panel(path: Path, part: Part, settings: MapSettings, work: Work) -> Panel:
    """Embed what a map shows with the method as it was before its first step: the same spec, seed and weights.

    Raises:
        ZsbirError: If `path` is no run, or its pretrained weights cannot be loaded.
    """
    import torch

    import zsbir
    from zsbir.engine.run import read_run

    run = read_run(run_folder(path))
    dataset = zsbir.DATASETS.build(run["dataset"])
    torch.manual_seed(run["seed"])
    start = zsbir.METHODS.build(run["method"])
    split = shown_split(dataset.test if part == "test" else dataset.validation, settings)
    return ("before training", *embed_shares(start, dataset, split, work))


def shown_split(split: Split, settings: MapSettings) -> Split:
    """Return the records of a split that a map shows.

    Raises:
        ZsbirError: If the part is empty.
    """
    from zsbir.types import Records
    from zsbir.types import Split as Share

    if not split.classes:
        raise ZsbirError("the run held out no validation classes: map its test classes")

    def some(records: Records) -> Records:
        rows = settings.chosen_rows(records.labels, split.classes)
        return Records(records.root, records.paths.take(rows), records.labels[rows])

    return Share(some(split.sketches), some(split.photos), split.classes)


def report_map(of: MapOf, path: Path, part: Part, subject: Subject, work: Work, seed: int) -> Figure | None:
    """Return the map of a report; None where it is not wanted or, for ``auto``, cannot be drawn.

    Raises:
        ZsbirError: If the map is asked for and cannot be drawn.
    """
    from importlib.util import find_spec

    from zsbir.evaluation.distributed import is_first
    from zsbir.evaluation.embedding_map import embedding_map
    from zsbir.evaluation.embeddings import is_pair
    from zsbir.evaluation.inputs import check_embeddings

    if of == "none" or (of == "auto" and find_spec("sklearn") is None):
        return None
    settings = near_by(map_settings(seed=seed), subject.matcher)
    queries, gallery, classes = check_embeddings(subject.queries, subject.gallery)
    if of == "auto" and sum(len(settings.chosen_rows(side.labels, classes)) for side in (queries, gallery)) < 5:
        return None
    if of == "both" and is_pair(path):
        raise ZsbirError(
            f"{path} holds embeddings, which have no start to map: --map both needs a run of `zsbir train`"
        )
    # Every process takes part in embedding, the first one draws.
    before = [start_panel(path, part, settings, work)] if of == "both" else []
    panel = ("embeddings" if is_pair(path) else "after training", queries, gallery)
    return embedding_map([*before, panel], settings) if is_first() else None
