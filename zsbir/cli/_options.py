"""From ``key=value`` words and common options to specs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsbir.data import DATASETS
from zsbir.errors import ZsbirError
from zsbir.methods import METHODS

if TYPE_CHECKING:
    from zsbir.data.base import Dataset
    from zsbir.methods.base import Method


def assignments(words: Iterable[str], option: str) -> dict[str, Any]:
    """Turn ``["lr=0.1", "masker.ratio=0.5"]`` into nested values; a value is JSON where it can be, else a string.

    Args:
        words: ``key=value`` each; a dot in the key goes one level down.
        option: The option they came from, for messages.

    Raises:
        ZsbirError: For a word without ``=``.

    >>> assignments(["shared=true", "masker.name=random", "masker.ratio=0.5"], "--set")
    {'shared': True, 'masker': {'name': 'random', 'ratio': 0.5}}
    """
    found: dict[str, Any] = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign or not key:
            raise ZsbirError(f"{option} takes key=value, not {word!r}")
        *path, last = key.split(".")
        place = found
        for part in path:
            held = place.setdefault(part, {})
            if not isinstance(held, dict):
                held = place[part] = {"name": held}
            place = held
        place[last] = parse_value(text)
    return found


def parse_value(text: str) -> Any:
    """Return `text` read as JSON, or as it is.

    >>> parse_value("0.5"), parse_value("random"), parse_value("[1, 2]")
    (0.5, 'random', [1, 2])
    """
    try:
        return json.loads(text)
    except ValueError:
        return text


def joined(options: Mapping[str, Any], more: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return options that have names of their own together with those given as key=value.

    Args:
        options: By name.
        more: From `assignments`.
        place: The option that `more` came from.

    Raises:
        ZsbirError: For a setting that is given in both ways.
    """
    for name in options.keys() & more.keys():
        raise ZsbirError(f"{name} is given twice: by an option of its own and in {place}; leave one out")
    return {**options, **more}


def build_dataset(
    name: str,
    root: Path | None = None,
    unseen: str | None = None,
    validation: float | None = None,
    split: Path | None = None,
    more: Mapping[str, Any] | None = None,
) -> Dataset:
    """Build a dataset from the common options; those the dataset does not know are refused by name."""
    given: dict[str, Any] = {
        "root": None if root is None else str(root.absolute()), "unseen": unseen, "validation": validation,
        "split": None if split is None else str(split.absolute()),
    }  # fmt: skip
    arguments = {key: value for key, value in given.items() if value is not None}
    if isinstance(arguments.get("unseen"), str):
        arguments["unseen"] = int(arguments["unseen"]) if arguments["unseen"].isdigit() else arguments["unseen"]
    if validation is not None and validation >= 1:
        arguments["validation"] = int(validation)
    arguments = joined(arguments, more or {}, "--set-data")
    if isinstance(arguments.get("file"), str):
        arguments["file"] = str(Path(arguments["file"]).absolute())  # the run works from any folder
    for needed, option in (("root", "--root DIR"), ("file", "--set-data file=FILE")):
        parameter = DATASETS.parameters(name).get(needed)
        if parameter is not None and parameter.default is parameter.empty and needed not in arguments:
            raise ZsbirError(f"say where the data set {name} is: {option}")
    return DATASETS.build(name, **arguments)


def build_method(
    name: str,
    classes: tuple[str, ...],
    pretrained: bool,
    weights: Path | None = None,
    more: Mapping[str, Any] | None = None,
    backbone: str | None = None,
) -> Method:
    """Build a method for training on `classes`, with the arguments that its constructor has."""
    parameters = METHODS.parameters(name)
    arguments: dict[str, Any] = dict(more or {})
    if backbone is not None:
        held = arguments.get("backbone", {})
        own = {"name": held} if isinstance(held, str) else held
        if own.get("name", backbone) != backbone:
            raise ZsbirError("backbone is given twice, by --backbone and in --set, with different names: leave one out")
        arguments["backbone"] = {"name": backbone, **own} if own.keys() - {"name"} else backbone
    for key, value in list(arguments.items()):
        default = parameters[key].default if key in parameters else None
        if isinstance(value, dict) and "name" not in value and isinstance(default, str):
            arguments[key] = {"name": default, **value}
    if "classes" in parameters:
        arguments.setdefault("classes", list(classes))
    options: dict[str, Any] = {} if weights is None else {"weights": str(weights.absolute())}
    if not pretrained or ("pretrained" in parameters and "pretrained" not in arguments):
        options["pretrained"] = pretrained
    return METHODS.build(name, **joined(options, arguments, "--set"))


def published_for(method: str, dataset: str) -> dict[str, Any]:
    """Return the arguments of a method that are published for a dataset, both by name."""
    published = getattr(METHODS.get(method), "published_for", None)
    return {} if published is None else dict(published(dataset))


def free_folder(parent: Path, name: str) -> Path:
    """Return the first of ``name-1``, ``name-2``, ... under `parent` that does not exist."""
    number = 1
    while (parent / f"{name}-{number}").exists():
        number += 1
    return parent / f"{name}-{number}"
