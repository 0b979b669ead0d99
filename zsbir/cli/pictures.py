"""Pictures of queries with the photos that were found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from zsbir.cli._evaluation import Part, find_subject
from zsbir.cli._options import DataOptions, WorkOptions, at_least, matcher_spec
from zsbir.errors import ZsbirError

if TYPE_CHECKING:
    from zsbir.types import Paths


def pictures(
    run: Annotated[Path, Positional],
    query: tuple[str, ...] = (),
    random: Annotated[int | None, arg(help_behavior_hint="(default: 8 if no query is named)")] = None,
    top: Annotated[int, arg(aliases=["-k"])] = 10,
    out: Annotated[Path, arg(aliases=["-o"])] = Path("pictures"),
    matcher: Annotated[str | None, arg(help_behavior_hint="(default: the method's own)")] = None,
    set: tuple[str, ...] = (),
    part: Part = "test",
    cell: int = 128,
    root: Path | None = None,
    seed: Annotated[int | None, arg(help_behavior_hint="(default: 0)")] = None,
    work: WorkOptions = WorkOptions(),
) -> None:
    """Draw query sketches with their first photos and scores: one PNG for each query, and all on sheet.png.

    Right photos are framed green, wrong ones red; the same goes into a report with `zsbir evaluate --show`.

    Example: zsbir pictures runs/dann-folder-1 --query giraffe/3.png -k 20

    Args:
        run: A run folder of `zsbir train`, or a folder of its embeddings.
        query: Sketches of the test split: files, as their path, its end, or the full path.
        random: How many sketches to choose at random.
        top: How many photos to show of each.
        out: The folder for the pictures.
        matcher: A matcher's name, see `zsbir list`.
        set: Arguments of the matcher: key=value ...
        part: test = the unseen classes.
        cell: Side of an image in pixels.
        root: Where the run's dataset is now.
        seed: Seed of the random sketches.
        work: How images are embedded.
    """
    from zsbir.evaluation.evaluator import Evaluator
    from zsbir.evaluation.pictures import top_k_picture
    from zsbir.evaluation.shown import draw_queries, find_queries
    from zsbir.files import writing

    spec = matcher_spec(matcher, set)
    at_least(top=(top, 1), cell=(cell, 8), random=(random, 0), seed=(seed, 0))
    if not query and random == 0:
        raise ZsbirError("no sketch is asked for: name sketches with --query, or draw some with --random N")
    if out.is_file():
        raise ZsbirError(f"{out} is a file: give a folder for the pictures with --out")
    count = (0 if query else 8) if random is None else random
    if seed is not None and not count:
        raise ZsbirError("--seed draws random sketches, and none are asked for: add --random N")
    notes: dict[str, str] = {}

    def choose(paths: Paths) -> Sequence[int]:
        named = list(dict.fromkeys(find_queries(paths, query)))
        drawn = draw_queries(len(paths), count, seed or 0, named)
        notes.update({paths[place]: "random" for place in drawn} | {paths[place]: "chosen" for place in named})
        return [*named, *drawn]

    subject = find_subject(run, part, spec, work, DataOptions(root=root), choose=choose)
    if subject.openers is None:
        raise ZsbirError(
            f"the images of {run} are not here: give a run, or embeddings and --root, their dataset's folder"
        )
    evaluator = Evaluator(
        matcher=subject.matcher, metrics=("mAP",), ks=(1,), resamples=0, examples=0, top=top,
        queries=list(subject.queries.paths),
    )  # fmt: skip
    found = evaluator.evaluate(subject.queries, subject.gallery).top
    rows = [replace(row, note=notes.get(row.path, "")) for row in found]
    with writing("pictures", out):
        out.mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(rows, start=1):
            name = "".join(letter if letter.isalnum() else "-" for letter in row.label.lower()).strip("-")
            file = out / f"{number:03d}-{name}.png"
            top_k_picture([row], *subject.openers, cell=cell).save(file)
            print(f"{file}  {row.path}: {sum(row.correct)} of {len(row.correct)} right")
        top_k_picture(rows, *subject.openers, cell=cell).save(out / "sheet.png")
    print(out / "sheet.png")
