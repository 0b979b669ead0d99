"""Options that several commands share, and what they give."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, arg

from zsbir.data import DATASETS
from zsbir.errors import ZsbirError
from zsbir.methods import METHODS

if TYPE_CHECKING:
    from zsbir.data.base import Dataset
    from zsbir.methods.base import Method


def default(said: str) -> Any:
    """Say in the help what an option that is not given means."""
    return arg(help_behavior_hint=f"(default: {said})")


@dataclass(frozen=True)
class PlaceOptions:
    """Where a dataset is, and which classes are unseen.

    Attributes:
        root: The dataset's folder; for a run, where it is now.
        unseen: Test classes for the dataset `folder`: names with commas, or how many.
        split: A split manifest from `zsbir datasets split`.
        set_data: Further arguments of the dataset: key=value ..., such as file=my.csv for `table`.
    """

    root: Path | None = None
    unseen: str | None = None
    split: Path | None = None
    set_data: tuple[str, ...] = ()

    def open(self, name: str, validation: float | None = None, **more: Any) -> Dataset:
        """Build the dataset with what is given; raises ZsbirError for what it does not know or what it lacks."""
        own = {"unseen": self.unseen, "validation": validation, **more}
        own |= {key: str(file.absolute()) for key, file in (("root", self.root), ("split", self.split)) if file}
        arguments = given(own)
        if self.unseen is not None and self.unseen.isdigit():
            arguments["unseen"] = int(self.unseen)
        if validation is not None and validation >= 1:
            arguments["validation"] = int(validation)
        arguments = joined(arguments, assignments(self.set_data, "--set-data"), "--set-data")
        if isinstance(arguments.get("file"), str):
            arguments["file"] = str(Path(arguments["file"]).absolute())  # the run works from any folder
        for needed, option in (("root", "--root DIR"), ("file", "--set-data file=FILE")):
            parameter = DATASETS.parameters(name).get(needed)
            if parameter is not None and parameter.default is parameter.empty and needed not in arguments:
                raise ZsbirError(f"say where the dataset {name} is: {option}")
        return DATASETS.build(name, **arguments)


@dataclass(frozen=True)
class DataOptions(PlaceOptions):
    """A dataset; a run has its own.

    Attributes:
        dataset: A dataset's name, see `zsbir list`; training takes openmoji by default.
        validation: Seen classes to hold out for model selection: a number, or a share below 1; 0: none; default: a
            tenth of them, where there are at least 10.
    """

    dataset: str | None = None
    validation: float | None = None


@dataclass(frozen=True)
class ModelOptions:
    """The parts of a method; a run has its own.

    Attributes:
        backbone: A backbone's name, or any timm model's.
        weights: A local file with the backbone's weights, instead of a download.
        no_pretrained: Random weights, not pretrained ones.
    """

    backbone: Annotated[str | None, default("as published")] = None
    weights: Path | None = None
    no_pretrained: FlagCreatePairsOff[bool] = False

    def build(self, name: str, classes: tuple[str, ...], more: Mapping[str, Any], place: str) -> Method:
        """Build a method for training on `classes`, with `more` of its arguments, from the option `place`."""
        parameters = METHODS.parameters(name)
        arguments = dict(more)
        if self.backbone is not None:
            held = arguments.get("backbone", {})
            own = {"name": held} if isinstance(held, str) else held
            if own.get("name", self.backbone) != self.backbone:
                raise ZsbirError(
                    f"backbone is given twice, by --backbone and in {place}, with different names: leave one out"
                )
            arguments["backbone"] = {"name": self.backbone, **own} if own.keys() - {"name"} else self.backbone
        for key, value in list(arguments.items()):
            usual = parameters[key].default if key in parameters else None
            if isinstance(value, dict) and "name" not in value and isinstance(usual, str):
                arguments[key] = {"name": usual, **value}
        if "classes" in parameters:
            arguments.setdefault("classes", list(classes))
        options: dict[str, Any] = {} if self.weights is None else {"weights": str(self.weights.absolute())}
        if self.no_pretrained or ("pretrained" in parameters and "pretrained" not in arguments):
            options["pretrained"] = not self.no_pretrained
        return METHODS.build(name, **joined(options, arguments, place))


@dataclass(frozen=True)
class NamedOptions(ModelOptions):
    """A method by its name.

    Attributes:
        method: The method, in place of RUN.
        weights: A file: the backbone's weights for `frozen`, else the authors' checkpoint (best.pth of puxim,
            model_best.pth.tar of sbka, last.pth.tar of dann), which is made into a run folder.
        set_method: Further arguments of the method: key=value ..., with dots for parts.
    """

    method: str | None = None
    set_method: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkOptions:
    """How images are embedded.

    Attributes:
        device: Where to run.
        batch_size: Images a step; another number can change the last bits.
        workers: Threads that decode images.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_size: Annotated[int | None, default("found on CUDA, else 32")] = None
    workers: Annotated[int | None, default("2")] = None

    def __post_init__(self) -> None:
        at_least(batch_size=(self.batch_size, 1), workers=(self.workers, 0))

    def options(self) -> dict[str, Any]:
        """Return them as the functions that embed images take them."""
        return {**vars(self), "workers": 2 if self.workers is None else self.workers}


@dataclass(frozen=True)
class SpeedOptions(WorkOptions):
    """How images are embedded, and what is traded for speed.

    Attributes:
        precision: Mixed precision of the model.
        decode: What decodes JPEG files: the processor, or the device that runs the model, a GPU (nvJPEG).
    """

    precision: Literal["no", "bf16"] = "no"
    decode: Literal["cpu", "device"] = "cpu"


def at_least(**options: tuple[int | None, int]) -> None:
    """Raise ZsbirError if one of the options, each a value and the smallest that it may have, is too small."""
    for name, (value, least) in options.items():
        if value is not None and value < least:
            raise ZsbirError(f"--{name.replace('_', '-')} {value} must be at least {least}")


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that differ from their default, here None, False or nothing."""
    # By identity: 0 is a value.
    return {name: value for name, value in options.items() if not any(value is unset for unset in (None, False, ()))}


def refuse(options: Mapping[str, Any], why: str) -> None:
    """Raise ZsbirError if one of the options is given; a name in capitals is a command's positional."""
    named = [name if name.isupper() else f"--{name.replace('_', '-')}" for name in given(options)]
    if named:
        raise ZsbirError(f"{why}: leave out {', '.join(named)}")


def assignments(words: Iterable[str], option: str) -> dict[str, Any]:
    """Turn the ``key=value`` words of an option into nested values: JSON where it can be, else a string.

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
        try:
            place[last] = json.loads(text)
        except ValueError:
            place[last] = text
    return found


def joined(options: Mapping[str, Any], more: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return `options` and `more`, which came as key=value in the option `place`; refuse a name that is in both."""
    for name in options.keys() & more.keys():
        raise ZsbirError(f"{name} is given twice: by an option of its own and in {place}; leave one out")
    return {**options, **more}


def matcher_spec(name: str | None, words: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the spec of --matcher and --set; None: the method's own matcher."""
    if name is None:
        if words:
            raise ZsbirError("--set gives arguments to a matcher: name it with --matcher")
        return None
    return {"name": name, **assignments(words, "--set")}


def published_for(method: str, dataset: str) -> dict[str, Any]:
    """Return the arguments of a method that are published for a dataset, both by name."""
    published = getattr(METHODS.get(method), "published_for", None)
    return {} if published is None else dict(published(dataset))


def free_folder(parent: Path, name: str) -> Path:
    """Return the first of ``name-1``, ``name-2``, ... under `parent` that does not exist."""
    folders = (parent / f"{name}-{number}" for number in count(1))
    return next(folder for folder in folders if not folder.exists())


def print_skipped(skipped: Sequence[tuple[str, str]], rest: str = "") -> None:
    """Print the first 20 files that were skipped, each with the reason, and how many more there are."""
    for path, reason in skipped[:20]:
        print(f"skipped {path}: {reason}")
    if len(skipped) > 20:
        print(f"... and {len(skipped) - 20} more{rest}")
