"""Train a method on seen classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from zsbir.errors import ZsbirError

if TYPE_CHECKING:
    from zsbir.engine.speed import Speed
    from zsbir.engine.trainer import Trainer


def train(
    method: Annotated[str | None, Positional] = None,
    dataset: str = "openmoji",
    root: Path | None = None,
    unseen: str | None = None,
    validation: float | None = None,
    split: Path | None = None,
    backbone: str | None = None,
    pretrained: bool = True,
    weights: Path | None = None,
    set: tuple[str, ...] = (),
    set_data: tuple[str, ...] = (),
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    samples_per_epoch: int | None = None,
    recipe: tuple[str, ...] = (),
    speed: tuple[str, ...] = (),
    track: UseAppendAction[tuple[str, ...]] = (),
    out: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["no", "bf16", "fp16"] = "no",
    seed: int = 0,
    workers: int = 2,
    accumulate: int = 1,
    select_on: Literal["validation", "accuracy", "test", "none"] = "validation",
    validate_every: int = 1,
    patience: int | None = None,
    save_every: int | None = None,
    max_bad_images: int = 20,
    masks: Path | None = None,
    cache: Path | None = None,
    resume: Path | None = None,
    from_: Annotated[Path | None, arg(name="from")] = None,
) -> None:
    """Train a method on the seen classes of a dataset; evaluate it afterwards with `zsbir evaluate RUN`.

    Args:
        method: A method's name, see `zsbir list`.
        dataset: A dataset's name, see `zsbir list`.
        root: The dataset's folder.
        unseen: Test classes for the dataset `folder`: names with commas, or how many.
        validation: Seen classes to hold out for model selection: a number, or a share below 1.
        split: A split manifest from `zsbir datasets split`.
        backbone: A backbone's name, or any timm model's; default: the published one.
        pretrained: Start from pretrained weights.
        weights: A local file with the backbone's weights, instead of a download.
        set: Further arguments of the method: key=value ..., with dots for parts (masker.ratio=0.5).
        set_data: Further arguments of the dataset: key=value ...
        epochs: Default: as published.
        batch_size: Rows a step and process; default: as published.
        lr: Learning rate; default: as published.
        samples_per_epoch: Rows an epoch; default: as published.
        recipe: Further training settings: key=value ..., such as schedule=cosine augment=affine lora.rank=8.
        speed: How steps are run: key=value ..., of channels_last, compile, fused, tf32, checkpointing (each true or
            false).
        track: A tracker besides metrics.jsonl: tensorboard, wandb, ...; may be given several times.
        out: The run folder, which must be new; default: runs/METHOD-DATASET-N.
        device: Where to train.
        precision: Mixed precision.
        seed: Of weights, sampling and augmentation.
        workers: Processes that decode images.
        accumulate: Steps whose gradients are summed before the optimiser's step.
        select_on: What chooses the best checkpoint: retrieval on held-out seen classes; accuracy on held-out sketches
            of seen classes (needs a dataset with hold_out); `test` is not honest, and the reports say so.
        validate_every: Epochs between validations.
        patience: Stop after so many validations without a better one.
        save_every: Steps between checkpoints within an epoch.
        max_bad_images: Unreadable images to skip before giving up.
        masks: A folder to keep each photo's mask in (puxim): the masker then runs once per photo, for all runs.
        cache: A folder for decoded images, filled on first use: later epochs, validations and runs decode nothing.
        resume: Go on with a stopped run.
        from_: Repeat a run with its exact settings, into a new folder.
    """
    trainer: Trainer
    if resume is not None:
        from zsbir.engine.trainer import Trainer

        trainer = Trainer.resume(resume, workers=workers)
    elif from_ is not None:
        trainer = _again(from_, out, workers)
    else:
        values = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "samples_per_epoch": samples_per_epoch}
        settings = {"device": device, "precision": precision, "seed": seed, "workers": workers,
                    "accumulate": accumulate, "select_on": select_on, "validate_every": validate_every,
                    "patience": patience, "save_every": save_every, "max_bad_images": max_bad_images}  # fmt: skip
        if method is None:
            raise ZsbirError("which method? zsbir train METHOD --dataset NAME --root DIR; `zsbir list` has the names")
        trainer = _fresh(
            method, dataset, (root, unseen, validation, split), backbone, pretrained, weights, (set, set_data, recipe),
            {k: v for k, v in values.items() if v is not None}, out, settings,
        )  # fmt: skip
    if masks is not None:
        from zsbir.engine.masks import use_stored_masks

        use_stored_masks(trainer, masks)
    if cache is not None:
        trainer.use_cache(cache)
    trainer.fit()
    if trainer.accelerator.is_main_process:
        print(f"done: {trainer.out}\nnext: zsbir evaluate {trainer.out}")


def _speed(words: tuple[str, ...]) -> Speed:
    from zsbir.cli._options import assignments
    from zsbir.engine.speed import Speed

    return Speed.of(assignments(words, "--speed"))


def _fresh(
    method: str,
    dataset: str,
    where: tuple[Path | None, str | None, float | None, Path | None],
    backbone: str | None,
    pretrained: bool,
    weights: Path | None,
    words: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]],
    recipe: dict[str, Any],
    out: Path | None,
    settings: dict[str, Any],
) -> Trainer:
    import torch

    from zsbir.cli._options import assignments, build_dataset, build_method, free_folder
    from zsbir.engine.run import recipe_from, refuse_taken
    from zsbir.engine.trainer import Trainer

    folder = out or free_folder(Path("runs"), f"{method}-{dataset}")
    refuse_taken(folder)
    data = build_dataset(dataset, *where, more=assignments(words[1], "--set-data"))
    more = assignments(words[0], "--set")
    if backbone is not None:
        more["backbone"] = {"name": backbone, **more["backbone"]} if "backbone" in more else backbone
    torch.manual_seed(settings["seed"])
    built = build_method(method, data.train.classes, pretrained, weights, more)
    changed = recipe_from({**recipe, **assignments(words[2], "--recipe")}, built.recipe)
    return Trainer(built, data, recipe=changed, out=folder, **settings)


def _again(run: Path, out: Path | None, workers: int) -> Trainer:
    import torch

    from zsbir.cli._options import free_folder
    from zsbir.data import DATASETS
    from zsbir.engine.run import read_run, recipe_from, settings_of
    from zsbir.engine.trainer import Trainer
    from zsbir.methods import METHODS

    record = read_run(run)
    settings = settings_of(record)
    torch.manual_seed(record["seed"])
    method = METHODS.build(record["method"])
    folder = out or free_folder(run.parent, f"{run.name}-again")
    return Trainer(
        method, DATASETS.build(record["dataset"]), recipe=recipe_from(record["recipe"]), out=folder,
        seed=record["seed"], workers=workers, **settings,
    )  # fmt: skip
