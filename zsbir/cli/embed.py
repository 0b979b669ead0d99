"""Embed images once, evaluate or search them many times."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from zsbir.errors import ZsbirError

if TYPE_CHECKING:
    from zsbir.engine.shards import Job, Parts
    from zsbir.methods.base import Method
    from zsbir.types import Domain

Part = Literal["test", "validation", "train"]


def embed(
    model: Annotated[str, Positional],
    out: Annotated[Path, arg(aliases=["-o"])],
    photos: Path | None = None,
    domain: Literal["photo", "sketch"] = "photo",
    part: Part = "test",
    shard: str | None = None,
    block: int = 2048,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    batch_size: int = 64,
    workers: int = 2,
    threads: int = 1,
    cache: Path | None = None,
) -> None:
    """Embed a folder or list of images, or a part of a run's dataset (vectors, labels, paths: safetensors and JSON).

    Any number of processes and machines may share the work: under `torchrun --nproc-per-node N -m zsbir embed ...`, or
    as jobs of their own with --shard. A stopped command goes on where it was when it is run again. The result is the
    same however many took part.

    Args:
        model: A run folder of `zsbir train`, or its best/ or last/; with --photos also a method or backbone by name.
        out: A folder, common to all processes; it gets gallery (photos) and queries (sketches).
        photos: A folder of images, searched at any depth, or a text file with a path a line; default: the run's
            dataset.
        domain: What the images of --photos are.
        part: Which part of the run's dataset; test = the unseen classes.
        shard: Do this share of the work only, such as 3/8.
        block: Images in a part file.
        device: Where to run.
        batch_size: Images a step.
        workers: Processes that decode images.
        threads: Processor threads that compute, in each process; another number can change the last bits.
        cache: A folder for decoded images.
    """
    import os

    import torch

    from zsbir.engine.devices import choose_device
    from zsbir.engine.shards import Parts, Share
    from zsbir.search.model import find_model, fingerprint

    for name, value, least in (("batch-size", batch_size, 1), ("threads", threads, 1), ("workers", workers, 0)):
        if value < least:
            raise ZsbirError(f"--{name} {value} must be at least {least}")
    if photos is None and domain != "photo":
        raise ZsbirError("--domain is for the images of --photos: a run's dataset knows its own")
    if photos is not None and part != "test":
        raise ZsbirError("--part is of a run's dataset: leave out --photos")
    share = Share.here(shard)
    where = choose_device(device)
    if where == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if photos is None:
            jobs, method = _run_jobs(Path(model), part)
        else:
            jobs, method = [_photo_job(photos, domain)], find_model(model)
        settings = {"device": where, "batch_size": batch_size, "threads": threads if where == "cpu" else None}
        known = fingerprint(method)
        options = {"device": where, "batch_size": batch_size, "workers": workers, "cache": cache}
        parts = [Parts(job, out, known, block, settings) for job in jobs]
        for some in parts:
            some.embed(method, share, share.index == 0, **options)
        _finish(parts, method, out)
    finally:
        torch.set_num_threads(before)


def _photo_job(photos: Path, domain: Literal["photo", "sketch"]) -> Job:
    from zsbir.data.scan import Skipped, photo_files
    from zsbir.engine.shards import Job
    from zsbir.types import Paths

    left_out: Skipped = []
    files = Paths(photo_files(photos, left_out))
    for path, reason in left_out:
        print(f"skipped {path}: {reason}")
    if not len(files):
        raise ZsbirError(f"there are no images in {photos}")
    return Job("gallery" if domain == "photo" else "queries", domain, files, files)


def _run_jobs(run: Path, part: Part) -> tuple[list[Job], Method]:
    import zsbir
    from zsbir.engine.run import read_run
    from zsbir.engine.shards import Job
    from zsbir.methods.embedding import dataset_meta
    from zsbir.types import Paths

    folder = run if (run / "run.json").is_file() else run.parent
    dataset = zsbir.DATASETS.build(read_run(folder)["dataset"])
    split = {"test": dataset.test, "validation": dataset.validation, "train": dataset.train}[part]
    if not len(split.sketches) or not len(split.photos):
        raise ZsbirError(f"the run {folder} has no {part} images to embed")
    meta = dataset_meta(dataset)
    jobs = []
    sides: tuple[tuple[str, Domain], ...] = (("queries", "sketch"), ("gallery", "photo"))
    for name, domain in sides:
        records = split.of(domain)
        files = Paths(str(records.file(i)) for i in range(len(records)))
        jobs.append(Job(name, domain, files, records.paths, records.labels, split.classes, dataset, meta))
    return jobs, zsbir.load(run)


def _finish(parts: list[Parts], method: Method, out: Path) -> None:
    """Merge what is whole, and say what is not."""
    left = {some.job.name: len(some.missing()) for some in parts}
    if any(left.values()):
        named = ", ".join(f"{count} of {name}" for name, count in left.items() if count)
        print(f"blocks not there yet: {named}; whoever ends last merges them. If nobody is at work, run this again.")
        return
    for some in parts:
        merged = some.merge(method)
        skipped = merged.meta["skipped"]
        for path, reason in skipped[:20]:
            print(f"skipped {path}: {reason}")
        if len(skipped) > 20:
            print(f"... and {len(skipped) - 20} more, all in {some.job.name}.json")
        print(f"{len(merged)} vectors in {out / some.job.name}.safetensors, {len(skipped)} images skipped")
    if len(parts) > 1:
        print(f"next: zsbir evaluate {out}")
