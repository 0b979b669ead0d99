"""Look at datasets: what they are, whether yours is complete, reproducible splits, decoded-image caches."""

from __future__ import annotations

import json as json_module
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from zsbir.cli._options import PlaceOptions, refuse

if TYPE_CHECKING:
    from zsbir.data.base import Dataset


def list_(json: bool = False) -> None:
    """List the datasets.

    Example: zsbir datasets list

    Args:
        json: Print JSON.
    """
    from zsbir.data import DATASETS

    described = DATASETS.describe()
    width = max(map(len, described))
    lines = [f"{name:{width}}  {line}" for name, line in described.items()]
    print(json_module.dumps(described, indent=2) if json else "\n".join(lines))


def info(name: Annotated[str, Positional], json: bool = False) -> None:
    """Show a dataset: its classes, list files, published counts, and which of its unseen classes ImageNet-1k has.

    Example: zsbir datasets info sketchy-21

    Args:
        name: A dataset's name, see `zsbir datasets list`.
        json: Print JSON.
    """
    from zsbir.data import DATASETS
    from zsbir.data.datasets.published import published, published_names
    from zsbir.data.imagenet import imagenet_overlap

    if name not in published_names():
        parameters = {key: str(value) for key, value in DATASETS.parameters(name).items()}
        if json:
            print(json_module.dumps({"name": name, "arguments": parameters}, indent=2))
        else:
            print(f"{name}: {DATASETS.describe()[name]}\narguments:", *parameters.values(), sep="\n  ")
        return
    facts = dict(published(name))
    known = imagenet_overlap(facts["unseen"])
    if json:
        print(json_module.dumps({**facts, "imagenet_1k": known.sentence()}, indent=2))
        return
    print(f"{name}: {facts['title']}\nused by: {', '.join(facts['used_by'])}")
    for part, item in facts["lists"].items():
        count = "count not published" if item["count"] is None else f"{item['count']:,} images"
        print(f"{part.replace('_', ' ')}: {count} ({item['file']})")
    overlap = [own for own in facts["seen"] if own in facts["unseen"]]
    if overlap:
        print(f"both seen and unseen as published, left out by default: {', '.join(overlap)}")
    print(f"{len(facts['seen'])} seen: {', '.join(facts['seen'])}")
    print(f"{len(facts['unseen'])} unseen: {', '.join(facts['unseen'])}")
    print(known.sentence())


def check(
    name: Annotated[str, Positional],
    decode: bool = False,
    source: Literal["auto", "lists", "folders"] = "auto",
    workers: int | None = None,
    json: bool = False,
    place: PlaceOptions = PlaceOptions(),
) -> int:
    """Check a dataset on the disk: counts, missing and broken files, duplicates; writes nothing. Exit code 0 or 1.

    Example: zsbir datasets check sketchy-25 --root data/Sketchy --decode

    Args:
        name: A dataset's name, see `zsbir datasets list`.
        decode: Decode every image too.
        source: Read a published benchmark from its list files, its class folders, or what is there.
        workers: Processes; default: one for each core.
        json: Print JSON.
        place: Where it is; with --split, what that file says is checked.
    """
    from zsbir.data.check import check_dataset, check_reading
    from zsbir.data.datasets.published import published_names, read_published
    from zsbir.errors import ZsbirError

    options: dict[str, Any] = {"decode": decode, "workers": workers}
    if name in published_names() and place.split is None:
        if place.root is None:
            raise ZsbirError(f"say where the dataset {name} is: --root DIR")
        refuse({"unseen": place.unseen, "set_data": place.set_data}, f"{name} says which classes are unseen")
        report = check_reading(name, place.root, read_published(name, place.root, source), **options)
    else:
        if source != "auto":
            raise ZsbirError("--source is for a published benchmark without a split file: leave it out")
        report = check_dataset(name, _any_split(name, place), **options)
    print(json_module.dumps(report.as_json(), indent=2) if json else report.table())
    return 0 if report.ok else 1


def split(
    root: Path,
    unseen: str | None = None,
    seed: int = 0,
    validation: float | None = None,
    output: Annotated[Path, arg(aliases=["-o"])] = Path("split.json"),
    dataset: str = "folder",
) -> None:
    """Write a split file: classes, files and their SHA-256, for `--split` and for others to repeat.

    Example: zsbir datasets split --root my-data --unseen giraffe,horse --validation 2 -o split.json

    Args:
        root: The dataset's folder; the file names are relative to it.
        unseen: Test classes: names with commas, or how many to draw (dataset `folder`).
        seed: Seed of the choice.
        validation: Seen classes to hold out for model selection: a number, or a share below 1; 0: none; default: a
            tenth, where there are at least 10.
        output: The file to write.
        dataset: Any dataset's name, to write down what it has.
    """
    from zsbir.data.manifest import write_manifest

    built = PlaceOptions(root, unseen).open(dataset, validation, seed=seed)
    manifest = built.manifest()
    write_manifest(manifest, output)
    for part, names in manifest["classes"].items():
        count = {domain: sum(map(len, files[part].values())) for domain, files in manifest["files"].items()}
        print(f"{part}: {len(names)} classes, {count['sketch']:,} sketches, {count['photo']:,} photos")
    print(f"{output}\nsha256 {manifest['sha256']}")


def cache(
    name: Annotated[str, Positional],
    folder: Path,
    size: int = 224,
    sketch: str = "squash",
    photo: str = "squash",
    workers: int | None = None,
    place: PlaceOptions = PlaceOptions(),
) -> int:
    """Decode and resize every image once into a cache folder, so that training need not. Exit code 1 if some failed.

    Example: zsbir datasets cache sketchy-25 --root data/Sketchy --folder cache --size 224

    Args:
        name: A dataset's name, see `zsbir datasets list`.
        folder: Where the cache is; it needs 3 * size² bytes an image.
        size: Side of the images in pixels, that of the backbone.
        sketch: How a sketch becomes a square: squash, bicubic, pad-black, crop-pad or crop-pad-released (puxim).
        photo: How a photo becomes a square, likewise: squash, or bicubic (puxim).
        workers: Processes; default: one for each core.
        place: Where it is; all classes are cached, unseen or not.
    """
    from zsbir.data.cache import fill_cache

    built = _any_split(name, place)
    made, total, problems = fill_cache(built, folder, size, sketch, photo, workers)
    for problem in problems[:20]:
        print(problem)
    print(f"{total:,} images in {folder}: {made:,} decoded now, {len(problems):,} not decodable")
    return 1 if problems else 0


def _any_split(name: str, place: PlaceOptions) -> Dataset:
    """Open a dataset for all its classes: `folder`, which needs unseen ones, then takes any."""
    named = place.split or place.unseen or any(word.startswith("unseen=") for word in place.set_data)
    return (replace(place, unseen="1") if name == "folder" and not named else place).open(name)


COMMANDS = {"list": list_, "info": info, "check": check, "split": split, "cache": cache}
