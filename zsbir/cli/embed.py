"""Embed images once, evaluate or search them many times."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from zsbir.cli._options import SpeedOptions, at_least, print_skipped
from zsbir.errors import ZsbirError

if TYPE_CHECKING:
    from zsbir.engine.shards import Job, Parts
    from zsbir.methods.base import Method
    from zsbir.types import Domain, Split

Part = Literal["test", "validation", "train"]
MERGED_AT_MOST = 5_000_000
"""Vectors that are put together into one file; more stay in their parts, from which an index is made as well."""


def embed(
    model: Annotated[str, Positional],
    out: Annotated[Path, arg(aliases=["-o"])],
    photos: str | None = None,
    domain: Literal["photo", "sketch"] = "photo",
    part: Part = "test",
    shard: str | None = None,
    block: int = 2048,
    threads: int = 1,
    cache: Path | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    actors: int = 2,
    work: SpeedOptions = SpeedOptions(),
) -> None:
    """Embed images, or a part of a run's dataset (vectors, labels, paths: safetensors and JSON).

    Any number of processes and machines may share the work: under `torchrun --nproc-per-node N -m zsbir embed ...`, as
    separate jobs with --shard, or on a Ray cluster with --engine ray. Run a stopped command again to continue it. The
    result does not depend on how many take part.

    Example: zsbir embed open-clip --photos 's3://bucket/shards/*.tar' -o vectors --engine ray --address auto

    Args:
        model: A run folder of `zsbir train`, or its best/ or last/; with --photos also a method or backbone by name.
        out: A folder, common to all processes; it gets gallery (photos) and queries (sketches).
        photos: A folder of images, searched at any depth, a text file with a path a line, or tar files (WebDataset) or
            Parquet tables, also s3://, gs:// or https://; default: the run's dataset.
        domain: What the images of --photos are.
        part: Which part of the run's dataset; test = the unseen classes.
        shard: Do only this share of the work, such as 3/8.
        block: Images in a part file, where the source is single files; a tar file or table is a part.
        threads: Processor threads that compute, in each process; another number can change the last bits.
        cache: A folder for decoded images.
        engine: What hands out the parts: this process, or Ray.
        address: A Ray cluster, such as auto; default: Ray is started on this machine.
        actors: Processes of Ray that hold the model.
        work: How images are embedded.
    """
    import os
    from functools import partial

    import torch

    import zsbir
    from zsbir.engine.shards import Parts, Share
    from zsbir.methods.embedding import as_device
    from zsbir.search.model import find_model, fingerprint

    at_least(threads=(threads, 1))
    if photos is None and domain != "photo":
        raise ZsbirError("--domain is for the images of --photos: a run's dataset knows its own")
    if photos is not None and part != "test":
        raise ZsbirError("--part is for a run's dataset: leave it out, or --photos")
    if engine == "ray" and shard is not None:
        raise ZsbirError("--shard is for jobs without a scheduler: Ray hands out the parts itself")
    if engine == "local" and (address is not None or actors != 2):
        raise ZsbirError("--address and --actors are for --engine ray")
    share = Share.here(shard)
    where = str(as_device(work.device))
    if where == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if photos is None:
            jobs, method = _run_jobs(Path(model), part, block)
        else:
            jobs, method = [_photo_job(photos, domain, block)], find_model(model)
        settings = {
            "device": where, "batch_size": work.batch_size, "block": block, "precision": work.precision,
            "threads": threads if where == "cpu" else None, "decode": work.decode,
        }  # fmt: skip
        known = fingerprint(method)
        options = {**work.options(), "device": where, "cache": cache}
        parts = [Parts(job, out, known, settings) for job in jobs]
        if engine == "ray":
            from zsbir.engine.on_ray import embed_on_ray

            find = partial(find_model if photos is not None else zsbir.load, model)
            embed_on_ray(
                parts, find, address=address, actors=actors, threads=threads, progress=True, options=options
            )  # fmt: skip
        else:
            for some in parts:
                some.embed(method, share, share.index == 0, **options)
        _finish(parts, method, out)
    finally:
        torch.set_num_threads(before)


def _photo_job(photos: str, domain: Domain, block: int) -> Job:
    from zsbir.data.scan import Skipped
    from zsbir.engine.shards import Job
    from zsbir.engine.sources import open_source

    left_out: Skipped = []
    source = open_source(photos, block, left_out)
    for path, reason in left_out:
        print(f"skipped {path}: {reason}")
    return Job("gallery" if domain == "photo" else "queries", domain, source)


def _run_jobs(run: Path, part: Part, block: int) -> tuple[list[Job], Method]:
    import zsbir
    from zsbir.engine.run import read_run
    from zsbir.engine.shards import Job
    from zsbir.engine.sources import FileSource
    from zsbir.methods.embedding import dataset_meta
    from zsbir.types import Paths

    folder = run if (run / "run.json").is_file() else run.parent
    dataset = zsbir.DATASETS.build(read_run(folder)["dataset"])
    split: Split = getattr(dataset, part)
    if not len(split.sketches) or not len(split.photos):
        raise ZsbirError(f"the run {folder} has no {part} images to embed")
    meta = dataset_meta(dataset)
    jobs = []
    sides: tuple[tuple[str, Domain], ...] = (("queries", "sketch"), ("gallery", "photo"))
    for name, domain in sides:
        records = split.of(domain)
        files = Paths(str(records.file(i)) for i in range(len(records)))
        source = FileSource(files, block, records.paths)
        jobs.append(Job(name, domain, source, records.labels, split.classes, dataset, meta))
    return jobs, zsbir.load(run)


def _finish(parts: list[Parts], method: Method, out: Path) -> None:
    """Merge what is whole, and say what is not."""
    left = {some.job.name: len(some.missing()) for some in parts}
    if any(left.values()):
        named = ", ".join(f"{count} of {name}" for name, count in left.items() if count)
        print(
            f"parts not there yet: {named}. The process that ends last merges them; if none is at work, run this again"
        )
        return
    for some in parts:
        counts = some.finish()
        if counts["vectors"] > MERGED_AT_MOST:
            print(f"{counts['vectors']} vectors in {out}/parts, {counts['skipped']} images skipped: too many to merge")
            print(f"next: zsbir index --from-embeddings {out} -o my.index")
            continue
        merged = some.merge(method)
        skipped = merged.meta["skipped"]
        print_skipped(skipped, f", all in {some.job.name}.json")
        print(f"{len(merged)} vectors in {out / some.job.name}.safetensors, {len(skipped)} images skipped")
    if len(parts) > 1:
        print(f"next: zsbir evaluate {out}")
