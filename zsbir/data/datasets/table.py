"""Your own images, listed in a table: CSV or Parquet with the columns path, domain, label and, optionally, split."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path

import numpy as np

from zsbir.arguments import Count, Natural, Positive, Ratio
from zsbir.data import DATASETS
from zsbir.data.base import Dataset, Unseen, choose_unseen
from zsbir.data.formats import kind_of, split_record
from zsbir.data.scan import DOMAIN_FOLDERS, existing_folder, records_in
from zsbir.data.strokes import StrokeStyle
from zsbir.errors import ZsbirError, needing
from zsbir.files import read_regular, reading
from zsbir.names import some
from zsbir.types import Domain, Paths, Records, Split

Row = tuple[str, Domain, str, str]
"""Path relative to the root, domain, label, split."""

_NEEDED = ("path", "domain", "label")
_SPLITS = ("train", "validation", "test", "seen_test")
_DOMAINS = {name: domain for domain, names in DOMAIN_FOLDERS.items() for name in names}


@DATASETS.register("table")
class TableDataset(Dataset):
    """Your own images, listed in a table (CSV or Parquet) with path, domain, label and, optionally, split.

    ``domain`` is sketch or photo. ``split`` is train, validation, test or seen_test: a class belongs to one of the
    first three; seen_test are images of training classes that are kept out of training. Further columns are ignored.

    Args:
        file: The table: ``.parquet`` (needs ``pip install 'zsbir[table]'``), ``.tsv``, or else CSV with commas, UTF-8.
        root: The folder that paths are relative to, which holds all files; None: the table's folder.
        unseen: The test classes, for a table without ``split``: names, or how many to draw with `seed`.
        validation: How many seen classes to hold out for model selection, see `Dataset`; without ``split`` alone.
        seed: Seed of both choices.
        hold_out: Share of each training class's images to keep out of training; without ``split`` alone.
        stroke_size: Side in pixels at which SVG and QuickDraw drawings are rasterised.
        line_width: Width of their lines in pixels.

    Raises:
        ZsbirError: For a table that cannot be read or lacks a column, a row that is wrong (named), files that are
            missing, and as `FolderDataset`.
    """

    def __init__(
        self,
        file: str | Path,
        root: str | Path | None = None,
        unseen: Unseen = (),
        validation: int | float | None = None,
        seed: Natural = 0,
        hold_out: Ratio = 0.0,
        stroke_size: Count = 256,
        line_width: Positive | None = None,
    ) -> None:
        style = StrokeStyle(stroke_size, line_width)
        file = Path(file).expanduser()
        home = existing_folder(root) if root is not None else file.parent
        rows = _rows(file, home)
        classes = {part: sorted({row[2] for row in rows if row[3] == part}) for part in ("", *_SPLITS)}
        names, train, held, test, _ = map(tuple, classes.values())
        if names:
            hidden = choose_unseen(file, names, unseen, seed)
            train, test = (tuple(compress(names, part)) for part in (~hidden, hidden))
        elif unseen or validation or hold_out:
            raise ZsbirError(
                f"{file} has a column split, which says what is unseen and held out: leave out unseen, validation and "
                "hold_out"
            )
        super().__init__(
            _split(file, home, rows, train + held, ("", "train", "validation")),
            _split(file, home, rows, test, ("", "test")),
            validation if names else held,
            seed,
            hold_out=hold_out if names else _split(file, home, rows, train, ("seen_test",)),
            style=style,
        )


def _rows(file: Path, root: Path) -> list[Row]:
    columns = _columns(file)
    lacking = [name for name in _NEEDED if name not in columns]
    if lacking:
        raise ZsbirError(f"the table {file} lacks {', '.join(lacking)}; it has the columns {', '.join(columns)}")
    given = zip(*(columns[name] for name in _NEEDED), columns.get("split", [""] * len(columns["path"])), strict=True)
    rows: list[Row] = []
    homes: dict[str, set[str]] = {}
    for number, (path, domain, label, split) in enumerate(given, start=2):
        place = os.path.relpath(os.path.normpath(root / path), root).replace(os.sep, "/")
        wrong = (
            f"the domain {domain!r} is neither sketch nor photo" if domain.strip().lower() not in _DOMAINS
            else "the label is empty" if not label.strip()
            else f"the split {split!r} is none of {', '.join(_SPLITS)}" if "split" in columns and split not in _SPLITS
            else f"{path} lies outside of {root}: give a root that holds all files" if place.startswith("../")
            else f"{path!r} is not an image" if kind_of(place) is None
            else f"there is no file {root / place}" if not os.path.isfile(root / split_record(place)[0])  # noqa: PTH113 (any name)
            else ""
        )  # fmt: skip
        if wrong:
            raise ZsbirError(f"row {number} of the table {file}: {wrong}")
        known = homes.setdefault(label.strip(), set())
        known |= {split} - {"seen_test"}
        if len(known) > 1:
            raise ZsbirError(
                f"row {number} of the table {file}: the class {label!r} is in {' and in '.join(sorted(known))}"
            )
        rows += [(one, _DOMAINS[domain.strip().lower()], label.strip(), split) for one in records_in(root, place)]
    if not rows:
        raise ZsbirError(f"the table {file} has no rows")
    return rows


def _columns(file: Path) -> Mapping[str, list[str]]:
    """Return a table's columns as text, by their names in lower case."""
    if file.suffix.lower() == ".parquet":
        with needing(f"{file}, a Parquet table,", "zsbir[table]"):
            from pyarrow import parquet
        with reading("table", file):
            read = parquet.read_table(file).to_pydict()
        return {name.lower(): ["" if value is None else str(value) for value in read[name]] for name in read}
    with reading("table", file):
        text = io.StringIO(read_regular(file).decode("utf-8-sig"), newline="")
        rows = csv.reader(text, delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True)
        names = [name.strip().lower() for name in next(rows, [])]
        columns = list(map(list, zip(*filter(None, rows), strict=True))) or [[] for _ in names]
        return dict(zip(names, columns, strict=True))


def _split(file: Path, root: Path, rows: Sequence[Row], classes: tuple[str, ...], parts: Sequence[str]) -> Split:
    label_of = {name: label for label, name in enumerate(classes)}

    def records(domain: Domain) -> Records:
        mine = [row for row in rows if row[1] == domain and row[2] in label_of and row[3] in parts]
        empty = sorted(set(classes) - {row[2] for row in mine})
        if empty and "seen_test" not in parts:
            raise ZsbirError(f"the table {file} has no {domain} of {some(empty)}")
        return Records(
            root, Paths(row[0] for row in mine), np.array([label_of[row[2]] for row in mine], dtype=np.int64)
        )

    return Split.by_domain(records, classes)
