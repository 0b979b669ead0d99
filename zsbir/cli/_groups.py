"""Groups of options that the commands about evaluation share, and what they give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, arg

from zsbir.errors import ZsbirError

if TYPE_CHECKING:
    from zsbir.data.base import Dataset


@dataclass(frozen=True)
class DataOptions:
    """The dataset of a method by name; a run has its own.

    Attributes:
        dataset: A dataset's name, see `zsbir list`.
        root: The dataset's folder; for a run, where it is now.
        unseen: Test classes for the dataset `folder`: names with commas, or how many.
        split: A split manifest from `zsbir datasets split`.
        set_data: Further arguments of the dataset: key=value ...
    """

    dataset: str | None = None
    root: Path | None = None
    unseen: str | None = None
    split: Path | None = None
    set_data: tuple[str, ...] = ()

    def build(self, why: str) -> Dataset:
        """Return the dataset; raises ZsbirError, with `why` it is needed, if none is named."""
        from zsbir.cli._options import assignments, build_dataset

        if self.dataset is None:
            raise ZsbirError(why)
        more = assignments(self.set_data, "--set-data")
        return build_dataset(self.dataset, self.root, self.unseen, None, self.split, more)


@dataclass(frozen=True)
class ModelOptions:
    """The settings of a method by name; a run has its own.

    Attributes:
        method: The method, in place of RUN.
        backbone: A backbone's name, or any timm model's.
        weights: A file: of `frozen` the backbone's weights, else the authors' checkpoint (best.pth of puxim,
            model_best.pth.tar of sbka, last.pth.tar of dann), of which a run folder is made.
        no_pretrained: Random weights, not pretrained ones.
        set_method: Further arguments of the method: key=value ..., with dots for parts.
    """

    method: str | None = None
    backbone: str | None = None
    weights: Path | None = None
    no_pretrained: FlagCreatePairsOff[bool] = False
    set_method: tuple[str, ...] = ()

    def arguments(self) -> dict[str, Any]:
        """Return the method's arguments that are given."""
        from zsbir.cli._options import assignments

        more = assignments(self.set_method, "--set-method")
        if self.backbone is not None:
            more["backbone"] = {"name": self.backbone, **more["backbone"]} if "backbone" in more else self.backbone
        return more


@dataclass(frozen=True)
class WorkOptions:
    """How images are embedded.

    Attributes:
        device: Where to run.
        batch_size: Images a step.
        workers: Processes that decode images.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_size: Annotated[int | None, arg(help_behavior_hint="(default: found on CUDA, else 32)")] = None
    workers: Annotated[int | None, arg(help_behavior_hint="(default: 2)")] = None

    def __post_init__(self) -> None:
        if (self.batch_size is not None and self.batch_size < 1) or (self.workers or 0) < 0:
            raise ZsbirError(
                f"the batch size must be 1 or more and the workers 0 or more, not {self.batch_size} and {self.workers}"
            )


def refuse(given: Mapping[str, Any], why: str) -> None:
    """Raise ZsbirError if one of the options differs from its default, here None, False or nothing."""
    unset = (None, False, ())
    # By identity: 0 is a value.
    named = [f"--{name.replace('_', '-')}" for name, value in given.items() if not any(value is x for x in unset)]
    if named:
        raise ZsbirError(f"{why}: leave out {', '.join(named)}")


def matcher_spec(name: str | None, words: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the spec of --matcher and --set; None: the method's own matcher."""
    from zsbir.cli._options import assignments

    if name is None:
        if words:
            raise ZsbirError("--set gives arguments to a matcher: name it with --matcher")
        return None
    return {"name": name, **assignments(words, "--set")}
