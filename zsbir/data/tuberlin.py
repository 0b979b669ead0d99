"""TU-Berlin (Eitz et al., 2012) with the extended photos (Liu et al., 2017).

A root has ``png_ready/CLASS`` (or ``png``) and ``ImageResized_ready/CLASS`` (or ``ImageResized``), or
``sketches/CLASS`` and ``photos/CLASS``; and ``zeroshot/`` where the lists are used.
"""

from __future__ import annotations

from pathlib import Path

from zsbir.data import DATASETS
from zsbir.data.published import PublishedDataset, Source


@DATASETS.register("tuberlin-30")
def tuberlin_30(
    root: str | Path,
    validation: int | float = 0,
    seed: int = 0,
    hold_out: float = 0.0,
    source: Source = "auto",
    split: str | Path | None = None,
    stroke_size: int = 256,
    line_width: float | None = None,
) -> PublishedDataset:
    """TU-Berlin, 30 unseen classes of 250 with at least 400 photos each: mAP@all, P@100.

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
        "tuberlin-30",
        root,
        validation,
        seed,
        hold_out,
        source,
        split,
        stroke_size=stroke_size,
        line_width=line_width,
    )
