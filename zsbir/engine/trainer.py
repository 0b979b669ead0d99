"""One training loop for every method."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from zsbir.data.base import Dataset
from zsbir.data.batches import RawBatch, to_batch
from zsbir.engine.checkpoint import load_state, save_checkpoint
from zsbir.engine.devices import Device, Precision, make_accelerator
from zsbir.engine.feeding import Keep, images_per_step, make_loader, seed_step
from zsbir.engine.logging import EpochBar, StepLog, say
from zsbir.engine.lora import Adapters, Lora
from zsbir.engine.optim import lr_factor, make_optimizer, set_lr
from zsbir.engine.run import claim, dataset_of, describe, read_run, recipe_from, settings_of, write_run
from zsbir.engine.safety import BadImages, check_finite, out_of_memory
from zsbir.engine.selection import Selection, SelectOn
from zsbir.engine.speed import Speed
from zsbir.engine.weights import Average, fix_norms
from zsbir.methods.base import Method, Recipe
from zsbir.methods.saving import rebuild, resolve, save
from zsbir.types import Batch


class Trainer:
    """Trains a method on a dataset's seen classes, on a CPU, a GPU, or several (``torchrun``, ``accelerate launch``).

    Every step's randomness depends on the seed and the step alone, so a run that was stopped and resumed ends in the
    weights of one that was not.

    Args:
        method: From `zsbir.build`.
        dataset: From ``DATASETS.build``.
        recipe: The training settings; None: the method's published ones.
        out: The run folder, which must be new; None: nothing is written.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        precision: ``"no"`` (float32), ``"bf16"`` or ``"fp16"`` (CUDA only).
        seed: Of sampling, augmentation and dropout. (Random weights are made by `build`, before.)
        workers: Processes that decode images; 0: in the loop.
        accumulate: Steps whose gradients are summed up before the optimiser's step.
        validate_every: Epochs between validations.
        select_on: What chooses ``best``, see `zsbir.engine.selection.Selection`; ``"test"`` is noted in the run.
        patience: Stop after so many validations without a better one; None: never.
        save_every: Steps between checkpoints within an epoch; one is written after each epoch anyway. None: only then.
        max_bad_images: How many unreadable images are skipped before the run ends.
        speed: How steps are run.
        track: Trackers of Accelerate besides ``metrics.jsonl``: ``"tensorboard"``, ``"wandb"``, ...
        keep: Looks up a stored patch mask (N,) bool by a photo's file name.
        progress: Show progress.

    Raises:
        ZsbirError: For CUDA where there is none, a folder that holds something, a missing tracker, a bad setting.
    """

    def __init__(
        self,
        method: Method,
        dataset: Dataset,
        *,
        recipe: Recipe | None = None,
        out: str | Path | None = None,
        device: Device = "auto",
        precision: Precision = "no",
        seed: int = 0,
        workers: int = 2,
        accumulate: int = 1,
        validate_every: int = 1,
        select_on: SelectOn = "validation",
        patience: int | None = None,
        save_every: int | None = None,
        max_bad_images: int = 20,
        speed: Speed | None = None,
        track: str | Sequence[str] | None = None,
        keep: Keep | None = None,
        progress: bool = True,
    ) -> None:
        self.method, self.dataset = method, dataset
        self.recipe = recipe or method.recipe
        self.out = None if out is None else Path(out)
        self.seed, self.workers, self.save_every = seed, workers, save_every
        self.speed = speed or Speed()
        self.track = [track] if isinstance(track, str) else list(track or ())
        self.accelerator = make_accelerator(method, device, precision, accumulate, self.track, self.out)
        self.device = self.accelerator.device
        self.progress = progress and self.accelerator.is_main_process
        self.selection = Selection(method, dataset, select_on, validate_every, patience)
        self.adapters = None if self.recipe.lora is None else Adapters(method, Lora.of(self.recipe.lora), seed)
        self.speed.prepare(method)
        self.average: Average | None = None
        self.optimizer: Optimizer = make_optimizer(method, self.recipe, self.speed.fused)
        self.loader = make_loader(
            method, dataset, self.recipe, seed=seed, rank=self.accelerator.process_index,
            world=self.accelerator.num_processes, workers=workers, pin=self.device.type == "cuda", keep=keep,
        )  # fmt: skip
        self.cache: Path | None = None
        self.steps_per_epoch = len(self.loader.steps.plan(0))
        self.bad_images = BadImages(max_bad_images)
        self.epoch = self.step = 0  # the next to do, counted from 0; the step is global
        self._settings = {
            "device": self.device.type, "processes": self.accelerator.num_processes, "precision": precision,
            "workers": workers, "accumulate": accumulate, "select_on": self.selection.on,
            "validate_every": validate_every, "patience": patience, "save_every": save_every,
            "max_bad_images": max_bad_images, "speed": asdict(self.speed), "track": self.track,
        }  # fmt: skip

    @classmethod
    def resume(
        cls, run: str | Path, *, workers: int | None = None, root: str | Path | None = None, progress: bool = True
    ) -> Trainer:
        """Return the trainer of a stopped run, ready for `fit` to go on with its next step.

        Args:
            run: The run folder.
            workers: As in the run, unless given.
            root: The dataset's folder, if it was moved.
            progress: Show progress.

        Raises:
            ZsbirError: If there is no run, or no checkpoint to go on from.
        """
        run = Path(run)
        record = read_run(run)
        folder = resolve(run / "last")
        trainer = cls(
            rebuild(record["method"], folder),
            dataset_of(record, root),
            recipe=recipe_from(record["recipe"]),
            seed=record["seed"],
            progress=progress,
            **settings_of(record, workers),
        )
        trainer.out = run
        if trainer.recipe.ema is not None:
            trainer.average = Average(trainer.method, trainer.recipe.ema)
        state = load_state(folder, trainer.optimizer, trainer.average, trainer.adapters)
        trainer.epoch, trainer.step = state["epoch"], state["step"]
        trainer.selection.best, trainer.selection.best_epoch = state["best"], state["best_epoch"]
        trainer.bad_images = BadImages(trainer.bad_images.limit, state["bad_images"])
        return trainer

    def use_cache(self, folder: str | Path) -> None:
        """Keep decoded images in a folder from now on, for training and validation; see `zsbir.data.cache`."""
        self.cache = Path(folder)
        self.loader.steps.source.use_cache(folder)

    @property
    def best(self) -> float | None:
        """The best score so far."""
        return self.selection.best

    def fit(self) -> Method:
        """Train until the recipe's last epoch (or the patience ends), and return the method in evaluation mode.

        Raises:
            ZsbirError: If a loss is not finite, too many images are broken, memory or the disk is full.
            KeyboardInterrupt: On Ctrl-C, after a checkpoint was written.
        """
        log = self._open_run()
        model, optimizer = self.accelerator.prepare(self.method, self.optimizer)
        if self.recipe.ema is not None and self.average is None:
            self.average = Average(self.method, self.recipe.ema)
        try:
            while self.epoch < self.recipe.epochs and not self.selection.out_of_patience(self.epoch):
                self._one_epoch(model, optimizer, log)
                self.epoch += 1
                self._validate(log)
                self._save_last()
            if self.average is not None:
                self.method.load_state_dict(self.average.weights)
            if self.adapters is not None:
                self.adapters.merge()
        except KeyboardInterrupt:
            self._save_last()
            if self.out is not None and self.accelerator.is_main_process:
                say(f"stopped; go on with: zsbir train --resume {self.out}")
            raise
        except torch.cuda.OutOfMemoryError as error:
            raise out_of_memory(self.step, self.recipe.batch_size) from error
        finally:
            if self.track:
                self.accelerator.end_training()
        return self.method.eval()

    def _open_run(self) -> StepLog:
        """Make the run folder, unless this goes on with a run, and return its log; start the trackers."""
        out = self.out if self.accelerator.is_main_process else None
        if out is not None and not self.step:
            claim(out)
            write_run(out, describe(self.method, self.dataset, self.recipe, self.seed, self._settings))
        self.accelerator.wait_for_everyone()
        if self.track:
            self.accelerator.init_trackers("zsbir", config={"method": self.method.spec["name"], "seed": self.seed})
        return StepLog(out and out / "metrics.jsonl", self.step or None)

    def _one_epoch(self, model: Any, optimizer: Any, log: StepLog) -> None:
        self.method.on_epoch(self.epoch, self.recipe.epochs)
        model.train()
        if self.recipe.fixed_norm:
            fix_norms(self.method)
        done = self.step - self.epoch * self.steps_per_epoch
        images = images_per_step(self.loader.steps.plan(self.epoch)) * self.accelerator.num_processes
        name = f"epoch {self.epoch + 1}/{self.recipe.epochs}"
        with EpochBar(name, self.steps_per_epoch, done, images, self.device, self.progress) as bar:
            waited = time.monotonic()
            for raw in self.loader.epoch(self.epoch, done):
                wait = time.monotonic() - waited
                self.bad_images.add(raw.skipped)
                seed_step(self.seed, self.step, self.accelerator.process_index)
                factor = lr_factor(self.recipe, self.step, self.steps_per_epoch)
                set_lr(self.optimizer, factor)
                batch = self._to_batch(raw)
                with self.accelerator.accumulate(model):
                    terms = model(batch)
                    total = torch.stack(list(terms.values())).sum()
                    figures = self._figures(terms, total, batch)
                    self.accelerator.backward(total)
                    if self.recipe.clip is not None and self.accelerator.sync_gradients:
                        self.accelerator.clip_grad_norm_(model.parameters(), self.recipe.clip)
                    optimizer.step()
                    optimizer.zero_grad()
                if self.average is not None and self.accelerator.sync_gradients:
                    self.average.update(self.method, self.step)
                self.step += 1
                self._log(log, {"lr": factor * self.recipe.lr, **figures, "wait_s": round(wait, 4)})
                bar.step(figures)
                if self.save_every and self.step % self.save_every == 0:
                    self._save_last()
                waited = time.monotonic()

    def _figures(self, terms: Mapping[str, Tensor], total: Tensor, batch: Batch) -> dict[str, float]:
        """Return loss terms and logged figures as numbers; a loss that is not finite ends the run."""
        values = torch.stack([*terms.values(), total]).detach().float()
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, reduction="mean")
        figures = dict(zip([*terms, "loss"], values.tolist(), strict=True))
        check_finite(figures, terms, batch.files, f"step {self.step} of epoch {self.epoch + 1}", self.out)
        return {**figures, **{name: float(value) for name, value in self.method.logged.items()}}

    def _log(self, log: StepLog, figures: Mapping[str, float]) -> None:
        log.write({"step": self.step, "epoch": self.epoch, **figures})
        if self.track:
            self.accelerator.log(dict(figures), step=self.step)

    def _validate(self, log: StepLog) -> None:
        """Score the epoch where it is due, and keep the best."""
        selection = self.selection
        if selection.on == "none" and self.average is not None:
            self._save_best()  # the averaged weights of the last epoch
        if not selection.due(self.epoch):
            return
        if self.accelerator.is_main_process:
            with self._averaged():
                score = selection.score(self.device, self.workers, self.cache)
            if self.progress:
                say(f"epoch {self.epoch}: {selection.describe(score)}")
            self._log(log, {selection.figure: score})
            if selection.offer(score, self.epoch):
                self._save_best()
        if self.accelerator.num_processes > 1:
            selection.share(self.device)

    def _averaged(self) -> Any:
        """What is validated and kept as best: the average of the weights, where the recipe has one."""
        return nullcontext() if self.average is None else self.average.applied(self.method)

    def _save_best(self) -> None:
        if self.out is not None and self.accelerator.is_main_process:
            with self._averaged():
                save(self.method, self.out / "best", None if self.adapters is None else self.adapters.plain_state())

    def _save_last(self) -> None:
        if self.out is not None and self.accelerator.is_main_process:
            state = {"epoch": self.epoch, "step": self.step, "bad_images": self.bad_images.messages}
            state.update(best=self.selection.best, best_epoch=self.selection.best_epoch)
            save_checkpoint(self.out / "last", self.method, self.optimizer, state, self.average, self.adapters)

    def _to_batch(self, raw: RawBatch) -> Batch:
        order = torch.channels_last if self.speed.channels_last else torch.contiguous_format
        fills = (self.recipe.sketch_fill, self.recipe.photo_fill)
        return to_batch(raw, self.dataset.train.classes, self.device, order, *fills)
