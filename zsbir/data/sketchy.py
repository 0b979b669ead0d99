"""Sketchy (Sangkloy et al., 2016) with the extended photos (Liu et al., 2017): three published splits.

A root has ``256x256/sketch/tx_000000000000[_ready]/CLASS``, ``256x256/photo/tx_000000000000[_ready]/CLASS`` and
``EXTEND_image_sketchy[_ready]/CLASS``, or ``sketches/CLASS`` and ``photos/CLASS``; and ``zeroshot*/`` with
the lists.
"""

from __future__ import annotations

from pathlib import Path

from zsbir.data import DATASETS
from zsbir.data.published import PublishedDataset, Source


@DATASETS.register("sketchy-25")
def sketchy_25(
    root: str | Path,
    validation: int | float = 0,
    seed: int = 0,
    hold_out: float = 0.0,
    source: Source = "auto",
    split: str | Path | None = None,
    stroke_size: int = 256,
    line_width: float | None = None,
) -> PublishedDataset:
    """Sketchy, 25 random unseen classes (SAKE's split; zeroshot1): mAP@all, P@100.

    Args:
        root: The data set's folder.
        validation: How many seen classes to hold out for model selection: a number, or a share below 1.
        seed: Seed of that choice.
        hold_out: Share of each training class's images to keep out of training.
        source: ``"lists"``, ``"folders"``, or ``"auto"``: the published lists where the root has them all.
        split: A split file of ``zsbir datasets split`` instead.
        stroke_size: Side in pixels at which drawings given as strokes are rasterised.
        line_width: Width of their lines in pixels.
    """
    return PublishedDataset(
        "sketchy-25",
        root,
        validation,
        seed,
        hold_out,
        source,
        split,
        stroke_size=stroke_size,
        line_width=line_width,
    )


@DATASETS.register("sketchy-21")
def sketchy_21(
    root: str | Path,
    validation: int | float = 0,
    seed: int = 0,
    hold_out: float = 0.0,
    source: Source = "auto",
    split: str | Path | None = None,
    stroke_size: int = 256,
    line_width: float | None = None,
) -> PublishedDataset:
    """Sketchy, 21 unseen classes absent from ImageNet-1k (zeroshot0 or zeroshot2): mAP@200, P@200.

    Args:
        root: The data set's folder.
        validation: How many seen classes to hold out for model selection: a number, or a share below 1.
        seed: Seed of that choice.
        hold_out: Share of each training class's images to keep out of training.
        source: ``"lists"``, ``"folders"``, or ``"auto"``: the published lists where the root has them all.
        split: A split file of ``zsbir datasets split`` instead.
        stroke_size: Side in pixels at which drawings given as strokes are rasterised.
        line_width: Width of their lines in pixels.
    """
    return PublishedDataset(
        "sketchy-21",
        root,
        validation,
        seed,
        hold_out,
        source,
        split,
        stroke_size=stroke_size,
        line_width=line_width,
    )


@DATASETS.register("sketchy-ambiguity")
def sketchy_ambiguity(
    root: str | Path,
    validation: int | float = 0,
    seed: int = 0,
    hold_out: float = 0.0,
    source: Source = "auto",
    split: str | Path | None = None,
    as_published: bool = False,
    stroke_size: int = 256,
    line_width: float | None = None,
) -> PublishedDataset:
    """PuXIM's ambiguity set, 934 photos of 50 classes; tested on the unseen classes of sketchy-25.

    Nine of the 50 classes are also test classes: they are left out of training unless ``as_published=True`` keeps
    them, and then every report says so.

    Args:
        root: The data set's folder.
        validation: How many seen classes to hold out for model selection: a number, or a share below 1.
        seed: Seed of that choice.
        hold_out: Share of each training class's images to keep out of training.
        source: ``"lists"``, ``"folders"``, or ``"auto"``: the published lists where the root has them all.
        split: A split file of ``zsbir datasets split`` instead.
        as_published: Keep the nine classes.
        stroke_size: Side in pixels at which drawings given as strokes are rasterised.
        line_width: Width of their lines in pixels.
    """
    return PublishedDataset(
        "sketchy-ambiguity",
        root,
        validation,
        seed,
        hold_out,
        source,
        split,
        as_published=as_published,
        stroke_size=stroke_size,
        line_width=line_width,
    )
