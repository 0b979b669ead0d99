"""QuickDraw-Extended (Dey et al., 2019).

A root has ``sketches/CLASS`` (images, or ``sketches/CLASS.ndjson`` as Google gives them) and ``images/CLASS``; and
``zeroshot/`` where the lists are used.
"""

from __future__ import annotations

from pathlib import Path

from zsbir.data import DATASETS
from zsbir.data.published import PublishedDataset, Source


@DATASETS.register("quickdraw-30")
def quickdraw_30(
    root: str | Path,
    validation: int | float = 0,
    seed: int = 0,
    hold_out: float = 0.0,
    source: Source = "auto",
    split: str | Path | None = None,
    stroke_size: int = 256,
    line_width: float | None = None,
) -> PublishedDataset:
    """QuickDraw, 30 unseen classes of 110: mAP@all, P@200.

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
        "quickdraw-30",
        root,
        validation,
        seed,
        hold_out,
        source,
        split,
        stroke_size=stroke_size,
        line_width=line_width,
    )
