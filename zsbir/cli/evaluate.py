"""Evaluate runs or embeddings under published protocols."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction

from zsbir.cli._maps import MapOf
from zsbir.cli._released import ReleasedOptions, run_of_weights
from zsbir.errors import ZsbirError

if TYPE_CHECKING:
    from zsbir.cli._evaluation import Subject
    from zsbir.evaluation.report import Report

_MAP = "Map of sketch and photo embeddings"
_NO_CHECKPOINT = ReleasedOptions()
Setting = Literal["zero-shot", "generalised", "fine-grained", "binary", "few-queries"]


def evaluate(
    run: Annotated[tuple[Path, ...], Positional] = (),
    protocol: UseAppendAction[tuple[str, ...]] = (),
    matcher: str | None = None,
    set: tuple[str, ...] = (),
    setting: Setting = "zero-shot",
    ks: tuple[int, ...] = (100, 200),
    bits: int = 64,
    part: Literal["test", "validation"] = "test",
    seeds: bool = False,
    out: Path | None = None,
    html: bool = True,
    top: int = 10,
    show: tuple[str, ...] = (),
    show_best: int = 3,
    show_random: int = 0,
    map: MapOf = "auto",
    resamples: int = 1000,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    batch_size: int = 64,
    workers: int = 2,
    seed: int = 0,
    released: ReleasedOptions = _NO_CHECKPOINT,
) -> None:
    """Evaluate runs or saved embeddings; writes report.json, report.md and report.html, and prints the results.

    Example: zsbir evaluate runs/dann-folder-1 --protocol standard --protocol sbka

    Args:
        run: Run folders of `zsbir train`, or folders of embeddings from `zsbir embed` or elsewhere.
        protocol: A protocol's name, see `zsbir protocols list`; may be given several times. Default: standard.
        matcher: A matcher's name, see `zsbir list`; default: the method's own (foreign embeddings: cosine).
        set: Arguments of the matcher: key=value ...
        setting: generalised = the gallery has the seen photos too; fine-grained = find the very photo (Sketchy's file
            names); binary = ITQ codes; few-queries = every 20th sketch and 10th photo (not comparable).
        ks: Cut-offs.
        bits: Length of the codes of the binary setting.
        part: test = the unseen classes.
        seeds: Sum up several runs as mean and standard deviation.
        out: Where the report goes; default: RUN/evaluation.
        html: Write report.html (needs matplotlib).
        top: How many photos to show of each query.
        show: Sketches to show with their first photos: files of the test split.
        show_best: How many of the best, of the median and of the worst sketches to show.
        show_random: How many further sketches, drawn by chance.
        map: A map (t-SNE) of the embeddings in report.html: after training, or both = also before training, which
            embeds up to 400 sketches and photos once more; auto = after, where scikit-learn is installed.
        resamples: Draws of the bootstrap intervals; 0 for none.
        device: Where to run.
        batch_size: Images a step.
        workers: Processes that decode images.
        seed: Of the bootstrap and of ITQ.
        released: The authors' checkpoint instead of a run.
    """
    from importlib.util import find_spec

    from zsbir.cli._evaluation import Work, find_subject
    from zsbir.cli._maps import report_map
    from zsbir.cli._options import assignments
    from zsbir.evaluation.distributed import is_first, joined_processes
    from zsbir.evaluation.evaluator import Evaluator

    if released.given:
        if run:
            raise ZsbirError("name runs, or the authors' checkpoint with --method and --weights, not both")
        run, out = (run_of_weights(released, out),), None
    if not run:
        raise ZsbirError("name at least one run folder or folder of embeddings, or an authors' checkpoint (--weights)")
    if seeds and len(run) < 2:
        raise ZsbirError("--seeds sums up several runs: name at least two")
    if html and find_spec("matplotlib") is None:
        # Said before the work: an evaluation must not be lost to its last step.
        raise ZsbirError("report.html needs matplotlib: pip install 'zsbir[report]', or use --no-html")
    if set and matcher is None:
        raise ZsbirError("--set gives arguments to a matcher: name it with --matcher")
    spec = None if matcher is None else {"name": matcher, **assignments(set, "--set")}
    if out is not None:
        _claim(out)
    reports: dict[str, Report] = {}
    with joined_processes():
        work = Work(device, batch_size, workers, is_first())
        for path in run:
            subject = find_subject(path, part, spec, work)
            evaluator = Evaluator(
                list(protocol) or "standard", subject.matcher if spec is None else spec, None, ks, resamples, show_best,
                top, seed, show_random, show,
            )  # fmt: skip
            report = _evaluate(evaluator, subject, setting, bits, seed)
            reports[str(path)] = report
            figure = report_map(map, path, part, subject, work, seed) if html else None
            if is_first():
                name = f"binary-{bits}" if setting == "binary" else setting
                folder = _target(subject.folder, out, name, part, path if len(run) > 1 else None)
                openers = subject.openers or (None, None)
                report.save(folder, html, openers[0], openers[1], {} if figure is None else {_MAP: figure})
                _show(str(path), report, folder)
    if seeds and is_first():
        _summary(reports, out)


def _evaluate(evaluator: Any, subject: Subject, setting: Setting, bits: int, seed: int) -> Report:
    from zsbir.evaluation import settings
    from zsbir.evaluation.fine_grained import fine_grained

    sides = (subject.queries, subject.gallery)
    found: Report
    if setting == "generalised":
        if subject.seen is None:
            raise ZsbirError("the generalised setting needs the seen photos: evaluate a run, not embeddings")
        found = settings.generalised(evaluator, sides, subject.seen(), subject.notes)
    elif setting == "fine-grained":
        found = fine_grained(evaluator, *sides, subject.notes)
    elif setting == "binary":
        found = settings.binary(evaluator, *sides, bits, None, subject.notes, seed)
    elif setting == "few-queries":
        found = settings.few_queries(evaluator, *sides, subject.notes)
    else:
        found = evaluator.evaluate(*sides, subject.notes)
    return found


def _claim(out: Path) -> None:
    """Make the folder of the report, before the work."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ZsbirError(f"the report cannot be written to {out}: {error.strerror or error}") from None


def _target(folder: Path, out: Path | None, setting: str, part: str, path: Path | None) -> Path:
    if out is not None:
        return out if path is None else out / "-".join(path.parts[-2:]).strip("/.-")
    below = [name for name, plain in ((part, "test"), (setting, "zero-shot")) if name != plain]
    return folder.joinpath("evaluation", *below)


def _show(name: str, report: Report, folder: Path) -> None:
    from zsbir.evaluation.report import results_grid

    c = report.counts
    print(
        f"\n{name}: {report.setting}, {c['evaluated']} sketches against {c['gallery']} photos, {c['classes']} classes"
    )
    print(f"matcher {report.matcher}")
    for note in report.notes:
        print(f"note: {note}")
    print("\n" + report.table())
    for group, results in report.groups.items():
        print(f"\n{group}\n{results_grid(results).markdown()}")
    if report.domain_gap is not None:
        print(report.domain_gap.describe())
    for protocol in report.protocols:
        print(f"{protocol.name}: {protocol.describe()}")
    print(f"\nreport: {folder}")


def _summary(reports: dict[str, Report], out: Path | None) -> None:
    from zsbir.evaluation.comparison import summarise
    from zsbir.evaluation.report import results_grid
    from zsbir.files import write_json

    found = summarise([report.results for report in reports.values()])
    told = {p: {m: f"{v['mean']:.4f} ± {v['sd']:.4f}" for m, v in metrics.items()} for p, metrics in found.items()}
    print(f"\nmean ± standard deviation over {len(reports)} runs\n\n{results_grid(told).markdown()}")
    if out is not None:
        write_json(out / "summary.json", {"runs": list(reports), "results": found})
