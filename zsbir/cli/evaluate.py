"""Evaluate runs, methods or embeddings under published protocols."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

from zsbir.cli._evaluation import Part, Subject, find_subject, run_of_weights
from zsbir.cli._options import DataOptions, NamedOptions, WorkOptions, matcher_spec, refuse
from zsbir.cli.mapping import MapOf, report_map
from zsbir.errors import ZsbirError

if TYPE_CHECKING:
    from zsbir.evaluation.evaluator import Evaluator
    from zsbir.evaluation.report import Report

Setting = Literal["zero-shot", "generalised", "fine-grained", "binary", "few-queries"]


@dataclass(frozen=True)
class ReportOptions:
    """What the report shows.

    Attributes:
        html: Write report.html (needs matplotlib).
        top: How many photos to show of each query.
        show: Sketches to show with their first photos: files of the test split.
        show_best: How many of the best, of the median and of the worst sketches to show.
        show_random: How many further sketches to show, chosen at random.
        map: A map (t-SNE, needs scikit-learn) of the embeddings in report.html: after training, or both = also before
            training, which embeds up to 400 sketches and photos once more.
        resamples: Draws of the bootstrap intervals; 0 for none.
        no_baseline: Leave out the figure of the backbone without training, which is computed once for a run.
    """

    html: bool = True
    top: int = 10
    show: tuple[str, ...] = ()
    show_best: int = 3
    show_random: int = 0
    map: MapOf = "none"
    resamples: int = 1000
    no_baseline: FlagCreatePairsOff[bool] = False


def evaluate(
    run: Annotated[tuple[Path, ...], Positional] = (),
    protocol: UseAppendAction[tuple[str, ...]] = (),
    matcher: Annotated[str | None, arg(help_behavior_hint="(default: the method's own)")] = None,
    set: tuple[str, ...] = (),
    setting: Setting = "zero-shot",
    ks: Annotated[tuple[int, ...], arg(help_behavior_hint="(default: 100 200; fine-grained: 1 5 10)")] = (),
    bits: Annotated[int | None, arg(help_behavior_hint="(default: 64)")] = None,
    part: Part = "test",
    seeds: bool = False,
    out: Annotated[Path | None, arg(help_behavior_hint="(default: RUN/evaluation)")] = None,
    seed: int = 0,
    report: ReportOptions = ReportOptions(),
    data: DataOptions = DataOptions(),
    model: NamedOptions = NamedOptions(),
    work: WorkOptions = WorkOptions(),
) -> None:
    """Evaluate runs, a method by name, or embeddings; write report.json, report.md, report.html, print the results.

    Example: zsbir evaluate runs/dann-folder-1 --protocol standard --protocol sbka

    Args:
        run: Run folders of `zsbir train`, folders of embeddings, or a method's name (with --dataset).
        protocol: A protocol's name, see `zsbir protocols list`; may be given several times. Default: standard.
        matcher: A matcher's name, see `zsbir list`.
        set: Arguments of the matcher: key=value ...
        setting: generalised = the gallery has the seen photos too; fine-grained = find the very photo (Sketchy's file
            names); binary = ITQ codes; few-queries = every 20th sketch and 10th photo (not comparable).
        ks: Cut-offs.
        bits: Length of the codes of the binary setting.
        part: test = the unseen classes.
        seeds: Summarise several runs by mean and standard deviation.
        out: Where the report goes; several runs each get a folder in it.
        seed: Seed of the bootstrap, of ITQ and of `--show-random`.
        report: What the report shows.
        data: The dataset of a method by name.
        model: A method by name.
        work: How images are embedded.
    """
    from zsbir.engine.logging import heard
    from zsbir.evaluation.distributed import is_first, joined_processes
    from zsbir.evaluation.evaluator import Evaluator
    from zsbir.files import writing
    from zsbir.methods import METHODS

    if model.method is not None:
        refuse({"method": bool(run)}, "name runs or a method, not both")
        run, model = (Path(model.method),), replace(model, method=None)
    spec = matcher_spec(matcher, set)
    _check(run, protocol, matcher, setting, bits, seeds, report)
    if model.weights is not None and len(run) == 1 and str(run[0]) in METHODS and str(run[0]) != "frozen":
        run, out = (run_of_weights(str(run[0]), model, data, out),), None
        data, model = DataOptions(), NamedOptions()
    if out is not None:  # made before the work
        with writing("report", out):
            out.mkdir(parents=True, exist_ok=True)
    reports: dict[str, Report] = {}
    with joined_processes():
        for path in run:
            subject = find_subject(path, part, spec, work, data, model)
            evaluator = Evaluator(
                protocol or None, subject.matcher, None, ks or (100, 200), report.resamples, report.show_best,
                report.top, seed, report.show_random, report.show, progress=is_first(),
            )  # fmt: skip
            with heard("scoring", is_first()):
                found = _evaluate(evaluator, subject, setting, bits or 64, ks, work)
            if setting == "zero-shot" and not report.no_baseline:
                found = replace(found, baseline=_baseline(subject, evaluator, work))
            elif report.no_baseline and (setting != "zero-shot" or subject.model is None):
                raise ZsbirError("only a run in the zero-shot setting has a baseline: leave out --no-baseline")
            reports[str(path)] = found
            figure = report_map(report.map, path, subject, work, seed)
            if is_first():
                name = f"binary-{bits or 64}" if setting == "binary" else setting
                folder = _target(subject.folder, out, name, part, path if len(run) > 1 else None)
                openers = subject.openers or (None, None)
                figures = {} if figure is None else {"Map of sketch and photo embeddings": figure}
                with heard("writing the report"):
                    found.save(folder, report.html, openers[0], openers[1], figures, title=str(path))
                _show(str(path), found, folder)
    if seeds and is_first():
        _summary(reports, out)


def _check(
    run: tuple[Path, ...], protocol: tuple[str, ...], matcher: str | None, setting: Setting, bits: int | None,
    seeds: bool, report: ReportOptions,
) -> None:  # fmt: skip
    """Refuse before the work what cannot be done, and options that would change nothing."""
    from importlib.util import find_spec

    from zsbir.evaluation.embedding_map import check_layout

    if not run:
        raise ZsbirError("name at least one run folder, method or folder of embeddings")
    if seeds and len(run) < 2:
        raise ZsbirError("--seeds summarises several runs: name at least two")
    if setting == "binary":
        refuse({"matcher": matcher}, "the binary setting compares codes by Hamming distance")
    else:
        refuse({"bits": bits}, "only the binary setting has codes")
    if setting == "fine-grained":
        refuse({"protocol": protocol}, "the fine-grained setting has definitions of its own")
    if report.html and find_spec("matplotlib") is None:
        raise ZsbirError("report.html needs matplotlib: pip install 'zsbir[report]', or use --no-html")
    if report.map != "none":
        check_layout("tsne")
        refuse({"map": not report.html}, "a map goes into report.html, which --no-html leaves out")


def _evaluate(
    evaluator: Evaluator, subject: Subject, setting: Setting, bits: int, ks: tuple[int, ...], work: WorkOptions
) -> Report:
    from zsbir.evaluation import fine_grained, settings

    sides = (subject.queries, subject.gallery)
    if setting == "generalised":
        if subject.model is None:
            raise ZsbirError("the generalised setting needs the seen photos: evaluate a run, not embeddings")
        dataset = subject.model.dataset
        # Seen images kept out of training, where the dataset has them.
        split = dataset.seen_test if len(dataset.seen_test.photos) else dataset.train
        seen = subject.model.embed(split, work, tokens=subject.matcher.needs_tokens)
        return settings.generalised(evaluator, sides, seen, subject.notes)
    if setting == "fine-grained":
        return fine_grained.fine_grained(evaluator, *sides, subject.notes, ks or fine_grained.KS)
    if setting == "binary":
        return settings.binary(evaluator, *sides, bits, None, subject.notes, evaluator.seed)
    if setting == "few-queries":
        return settings.few_queries(evaluator, *sides, subject.notes)
    return evaluator.evaluate(*sides, subject.notes)


def _baseline(subject: Subject, evaluator: Evaluator, work: WorkOptions) -> dict[str, dict[str, float]]:
    """Return the results of the backbone without training, from the model's folder or computed and kept there."""
    from zsbir.evaluation.distributed import is_first
    from zsbir.evaluation.evaluator import Evaluator
    from zsbir.evaluation.protocols import PROTOCOLS
    from zsbir.files import read_json, write_json

    model = subject.model
    if model is None:
        return {}
    file = model.folder / "baseline.json"
    about = [model.part, evaluator.request.ks, model.dataset.manifest_hash, model.start, model.seed]
    key, known = json.dumps(about, sort_keys=True), read_json(file) if file.is_file() else {}
    if key not in known:
        given = {name: model.start[name] for name in ("backbone", "pretrained", "weights") if model.start.get(name)}
        if model.start["name"] == "frozen" or "backbone" not in given:
            return {}
        try:
            frozen = model.rebuilt({"name": "frozen", **given})
        except ZsbirError as error:
            print(f"note: the backbone without training cannot be evaluated: {error}")
            return {}
        if is_first():
            print("the backbone without training, once for this run (--no-baseline leaves it out)")
        sides = model.embed(model.split(), work, frozen)
        names = PROTOCOLS.names()
        plain = Evaluator(names, frozen.matcher, None, evaluator.request.ks, 0, 0, progress=is_first())
        known[key] = plain.evaluate(*sides).results
        if is_first():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, known)
    return {p.name: known[key][p.name] for p in evaluator.request.protocols}


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
    for line in report.beside():
        print(line)
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
    told: dict[str, dict[str, Any]] = {
        protocol: {metric: f"{value['mean']:.4f} ± {value['sd']:.4f}" for metric, value in metrics.items()}
        for protocol, metrics in found.items()
    }
    print(f"\nmean ± standard deviation over {len(reports)} runs\n\n{results_grid(told).markdown()}")
    if out is not None:
        write_json(out / "summary.json", {"runs": list(reports), "results": found})
