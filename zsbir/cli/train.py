"""Train a method on seen classes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from zsbir.cli._options import (
    DataOptions,
    ModelOptions,
    assignments,
    default,
    free_folder,
    given,
    joined,
    published_for,
    refuse,
)
from zsbir.errors import ZsbirError
from zsbir.methods import METHODS
from zsbir.registry import close_matches

if TYPE_CHECKING:
    from zsbir.data.base import Dataset
    from zsbir.engine.trainer import Trainer
    from zsbir.methods.base import Method, RecipeSet


_PUBLISHED = default("as published")


@dataclass(frozen=True)
class TrainedOptions(ModelOptions):
    """The method's parts.

    Attributes:
        set: Further arguments of the method: key=value ..., with dots for parts (masker.ratio=0.5).
    """

    set: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecipeOptions:
    """How to train.

    Attributes:
        epochs: Passes through the data.
        batch_size: Rows a step and process.
        lr: Learning rate at the start.
        samples_per_epoch: Rows an epoch.
        recipe: Further training settings: key=value ..., such as schedule=cosine augment=affine lora.rank=8; the first
            word may name a set of settings for method and training, such as `small-data`.
    """

    epochs: Annotated[int | None, _PUBLISHED] = None
    batch_size: Annotated[int | None, _PUBLISHED] = None
    lr: Annotated[float | None, _PUBLISHED] = None
    samples_per_epoch: Annotated[int | None, _PUBLISHED] = None
    recipe: tuple[str, ...] = ()


@dataclass(frozen=True)
class SelectionOptions:
    """Which checkpoint is the best, and when to stop.

    Attributes:
        select_on: Retrieval on held-out seen classes; accuracy on held-out sketches of the training classes (needs
            a dataset with hold_out); `test` is not honest, and the reports say so.
        validate_every: Epochs between validations.
        patience: Stop after so many validations without a better one.
        save_every: Steps between checkpoints within an epoch.
        max_bad_images: Unreadable images to skip before giving up.
    """

    select_on: Annotated[Literal["validation", "accuracy", "test", "none"] | None, default("validation")] = None
    validate_every: Annotated[int | None, default("1")] = None
    patience: int | None = None
    save_every: int | None = None
    max_bad_images: Annotated[int | None, default("20")] = None


@dataclass(frozen=True)
class MachineOptions:
    """Where and how fast to train.

    Attributes:
        device: Where to train.
        precision: Mixed precision.
        accumulate: Steps whose gradients are summed before the optimiser's step.
        speed: How steps are run: `auto` (NHWC order, and bf16 on a GPU that has it), or key=value ... of
            channels_last, compile, fused, tf32, checkpointing (each true or false).
        seed: Seed of weights, sampling and augmentation.
        track: A tracker besides metrics.jsonl: tensorboard, wandb, ...; may be given several times.
    """

    device: Annotated[Literal["auto", "cpu", "cuda"] | None, default("auto")] = None
    precision: Annotated[Literal["no", "bf16", "fp16"] | None, default("no")] = None
    accumulate: Annotated[int | None, default("1")] = None
    speed: tuple[str, ...] = ()
    seed: Annotated[int | None, default("0")] = None
    track: UseAppendAction[tuple[str, ...]] = ()


def train(
    method: Annotated[str | None, Positional] = None,
    out: Annotated[Path | None, default("runs/METHOD-DATASET-N")] = None,
    resume: Path | None = None,
    from_: Annotated[Path | None, arg(name="from")] = None,
    workers: Annotated[int | None, default("2")] = None,
    masks: Path | None = None,
    cache: Path | None = None,
    data: DataOptions = DataOptions(),
    model: TrainedOptions = TrainedOptions(),
    recipe: RecipeOptions = RecipeOptions(),
    selection: SelectionOptions = SelectionOptions(),
    machine: MachineOptions = MachineOptions(),
) -> None:
    """Train a method on the seen classes of a dataset; evaluate it afterwards with `zsbir evaluate RUN`.

    Example: zsbir train dann --dataset folder --root my-data --unseen giraffe,horse --backbone lite0

    Args:
        method: A method's name, see `zsbir list`.
        out: The run folder, which must be new.
        resume: Go on with a stopped run, as it was started.
        from_: Repeat a run with its exact settings, into a new folder.
        workers: Processes that decode images.
        masks: A folder to keep each photo's mask in (puxim): the masker then runs once per photo, for all runs.
        cache: A folder for decoded images, filled on first use: later epochs, validations and runs decode nothing.
        data: The dataset, its folder and its classes.
        model: The method's parts.
        recipe: The published settings are the defaults.
        selection: Model selection and checkpoints.
        machine: None of it changes what is trained, except the seed and the precision.
    """
    settings = given(vars(selection) | vars(machine) | {"workers": workers})
    fixed = vars(data) | vars(model) | vars(recipe) | vars(selection) | vars(machine) | {"METHOD": method, "root": None}
    why = "takes its settings from the run, so it cannot change them"
    if resume is not None:
        refuse({**fixed, "out": out, "from": from_}, f"--resume {why}")
        from zsbir.engine.trainer import Trainer

        trainer = Trainer.resume(resume, workers=workers, root=data.root)
    elif from_ is not None:
        refuse(fixed, f"--from {why}")
        trainer = _again(from_, out, workers, data.root)
    elif method is None:
        raise ZsbirError("which method? zsbir train METHOD --dataset NAME --root DIR; `zsbir list` has the names")
    elif not getattr(METHODS.get(method), "trains", True):
        training = vars(recipe) | vars(selection) | vars(machine) | {"masks": masks, "device": None, "seed": None}
        refuse(training, f"{method} is measured, not trained, so these options have no effect")
        _measured(method, out, data, model, cache, settings)
        return
    else:
        trainer = _fresh(method, out, data, model, recipe, settings)
    if masks is not None:
        from zsbir.engine.masks import use_stored_masks

        use_stored_masks(trainer, masks)
    if cache is not None:
        trainer.use_cache(cache)
    trainer.fit()
    if trainer.accelerator.is_main_process:
        print(f"done: {trainer.out}\nnext: zsbir evaluate {trainer.out}")


def _fresh(
    method: str,
    out: Path | None,
    data: DataOptions,
    model: TrainedOptions,
    recipe: RecipeOptions,
    settings: dict[str, Any],
) -> Trainer:
    from zsbir.engine.devices import auto_precision
    from zsbir.engine.run import recipe_from
    from zsbir.engine.speed import Speed
    from zsbir.engine.trainer import Trainer

    if "speed" in settings:
        words = settings["speed"]
        settings["speed"] = Speed.auto() if words == ("auto",) else Speed(**assignments(words, "--speed"))
        if words == ("auto",):
            settings.setdefault("precision", auto_precision(settings.get("device", "auto")))
    words, options, changed = recipe.recipe, {}, {}
    if words and "=" not in words[0]:  # the name of settings that belong together
        known: Mapping[str, RecipeSet] = getattr(METHODS.get(method), "recipes", {})
        if words[0] not in known:
            raise ZsbirError(f"{method} has no recipe {words[0]!r}. {close_matches(words[0], list(known))}")
        options, changed, words = dict(known[words[0]].options), dict(known[words[0]].recipe), words[1:]
    folder, dataset, built = _built(method, out, data, model, settings.get("seed", 0), options)
    named = given({**vars(recipe), "recipe": ()})
    changed |= joined(named, assignments(words, "--recipe"), "--recipe")
    return Trainer(built, dataset, recipe=recipe_from(changed, built.recipe), out=folder, **settings)


def _built(
    method: str, out: Path | None, data: DataOptions, model: TrainedOptions, seed: int, options: Mapping[str, Any]
) -> tuple[Path, Dataset, Method]:
    """Return the run folder, the dataset and the method of a new run; `options` are those of a recipe's name."""
    import torch

    from zsbir.engine.run import refuse_taken

    name = data.dataset or "openmoji"
    folder = out or free_folder(Path("runs"), f"{method}-{name}")
    refuse_taken(folder)
    dataset = data.open(name, data.validation)
    named, theirs = assignments(model.set, "--set"), options.get("backbone", {})
    if model.backbone not in (None, theirs if isinstance(theirs, str) else theirs.get("name")):
        options = {key: value for key, value in options.items() if key != "backbone"}  # it speaks of another one
    parts = {**options, **named}
    own, theirs = named.get("backbone"), options.get("backbone")
    if isinstance(own, dict) and "name" not in own and isinstance(theirs, Mapping):
        parts["backbone"] = {**theirs, **own}
    published = {key: value for key, value in published_for(method, name).items() if key not in parts}
    if published and os.environ.get("RANK", "0") == "0":
        said = ", ".join(f"{key}={value}" for key, value in published.items())
        print(f"settings published for {name}: {said} (--set changes it)")
    parts |= published
    torch.manual_seed(seed)
    return folder, dataset, model.build(method, dataset.train.classes, parts, "--set")


def _measured(
    method: str, out: Path | None, data: DataOptions, model: TrainedOptions, cache: Path | None, chosen: dict[str, Any]
) -> None:
    from zsbir.engine import run as runs
    from zsbir.methods.embedding import as_device

    seed, device = chosen.get("seed", 0), str(as_device(chosen.get("device", "auto")))
    folder, dataset, built = _built(method, out, data, model, seed, {})
    runs.claim(folder)
    try:
        settings = {"device": device, "workers": chosen.get("workers", 2), "select_on": "none"}
        built.fit(dataset, seed=seed, device=device, workers=settings["workers"], cache=cache, progress=True)
        runs.write_run(folder, built, dataset, built.recipe, seed, settings)
        built.save(folder / "best")
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    print(f"done: {folder}\nnext: zsbir evaluate {folder}")


def _again(run: Path, out: Path | None, workers: int | None, root: Path | None) -> Trainer:
    import torch

    from zsbir.engine.run import dataset_of, read_run, settings_of
    from zsbir.engine.trainer import Trainer

    record = read_run(run)
    torch.manual_seed(record["seed"])
    method = METHODS.build(record["method"])
    folder = out or free_folder(run.parent, f"{run.name}-again")
    return Trainer(method, dataset_of(record, root), out=folder, **settings_of(record, workers))
