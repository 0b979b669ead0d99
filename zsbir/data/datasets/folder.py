"""Any sketches and photos in class folders, with the unseen classes named, counted or listed by the user."""

from __future__ import annotations

from pathlib import Path

from zsbir.arguments import Count, Natural, Positive, Ratio
from zsbir.data import DATASETS
from zsbir.data.base import Dataset, Unseen, choose_unseen, subset
from zsbir.data.manifest import read_manifest
from zsbir.data.scan import Skipped, existing_folder, label_file, paired_classes
from zsbir.data.strokes import StrokeStyle
from zsbir.types import Split


@DATASETS.register("folder")
class FolderDataset(Dataset):
    """Your own images, in folders ROOT/sketch/CLASS and ROOT/photo/CLASS.

    The domain folders may also be called sketches, drawings, photos, images, pictures, real. The sketch of a class
    may be a QuickDraw file ``sketch/CLASS.ndjson``, and SVG files count as images. Spellings such as
    ``hot-air_balloon`` and ``hot_air_balloon`` in the two domains are one class (the photos' name is used).

    Args:
        root: The folder that holds both domain folders.
        unseen: The test classes: names, names in one string with commas, or how many to draw with `seed`. If it is
            left out, ``test_labels.txt`` (one class a line) in `root` or beside it is used.
        validation: How many seen classes to hold out for model selection, see `Dataset`.
        seed: Seed of both choices.
        split: A split file of ``zsbir datasets split``, which says all that `unseen`, `validation`, `seed` and
            `hold_out` say: leave them out.
        hold_out: Share of each training class's images to keep out of training (`seen_test`).
        stroke_size: Side in pixels at which SVG and QuickDraw drawings are rasterised.
        line_width: Width of their lines in pixels at that size (SVG: their own unless given).

    Raises:
        ZsbirError: For a wrong root, a missing domain folder, an empty class folder, a class in one domain only, an
            unseen class that does not exist, no seen class left.

    Attributes:
        skipped: Files that were left out, each with the reason.
    """

    def __init__(
        self,
        root: str | Path,
        unseen: Unseen = (),
        validation: int | float | None = None,
        seed: Natural = 0,
        split: str | Path | None = None,
        hold_out: Ratio = 0.0,
        stroke_size: Count = 256,
        line_width: Positive | None = None,
    ) -> None:
        root = existing_folder(root)
        style = StrokeStyle(stroke_size, line_width)
        self.skipped: Skipped = []
        if split is not None:
            given = {"unseen": unseen, "validation": validation, "seed": seed, "hold_out": hold_out}
            super().__init__(**read_manifest(split, root, **given), style=style)
            return
        sketches, photos = paired_classes(root)
        self.skipped = sketches.skipped + photos.skipped
        names = tuple(sorted(photos.classes))
        if unseen in ((), [], ""):
            unseen = label_file(root, "test_labels.txt") or ()
        hidden = choose_unseen(root, names, unseen, seed)
        every = Split(sketches.records(root, names), photos.records(root, names), names)
        seen, test = subset(every, ~hidden), subset(every, hidden)
        super().__init__(seen, test, validation, seed, hold_out=hold_out, style=style)
