"""One training loop for every method."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor
from torch.optim import Optimizer

from zsbir.data import DATASETS
from zsbir.data.base import Dataset
from zsbir.data.batches import RawBatch, to_batch
from zsbir.engine.checkpoint import AVERAGE, load_state, save_checkpoint
from zsbir.engine.embedding import embed_split
from zsbir.engine.feeding import Keep, make_loader
from zsbir.engine.logging import EpochBar, StepLog, say
from zsbir.engine.optim import lr_factor, make_optimizer, set_lr
from zsbir.engine.run import claim, describe, read_run, recipe_from, settings_of, write_run
from zsbir.engine.safety import BadImages, check_finite, out_of_memory
from zsbir.engine.speed import Speed
from zsbir.engine.weights import Average
from zsbir.errors import ZsbirError
from zsbir.evaluation import evaluate_embeddings
from zsbir.methods.base import Method, Recipe
from zsbir.methods.saving import rebuild, resolve
from zsbir.types import Batch

SelectOn = Literal["validation", "test", "none"]


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
        select_on: The classes that choose ``best``: ``"validation"`` (held-out seen classes), ``"none"``, or, not
            honest and noted in the run, ``"test"``.
        patience: Stop after so many validations without a better one; None: never.
        save_every: Steps between checkpoints within an epoch; one is written after each epoch anyway. None: only then.
        max_bad_images: How many unreadable images are skipped before the run ends.
        speed: How steps are run.
        track: A tracker of Accelerate besides ``metrics.jsonl``: ``"tensorboard"``, ``"wandb"``, ...
        keep: Looks up a stored patch mask (N,) bool by a photo's file name.
        progress: Show progress.

    Raises:
        ZsbirError: For CUDA where there is none, a run folder that holds something, or an impossible setting.
    """

    def __init__(
        self,
        method: Method,
        dataset: Dataset,
        *,
        recipe: Recipe | None = None,
        out: str | Path | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        precision: Literal["no", "bf16", "fp16"] = "no",
        seed: int = 0,
        workers: int = 2,
        accumulate: int = 1,
        validate_every: int = 1,
        select_on: SelectOn = "validation",
        patience: int | None = None,
        save_every: int | None = None,
        max_bad_images: int = 20,
        speed: Speed | None = None,
        track: str | None = None,
        keep: Keep | None = None,
        progress: bool = True,
    ) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise ZsbirError("CUDA was asked for, and there is none here: use --device cpu, or install torch for CUDA")
        cpu = device == "cpu" or not torch.cuda.is_available()
        if precision == "fp16" and cpu:
            raise ZsbirError("fp16 needs CUDA: on a CPU use --precision no or bf16")
        self.accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=precision,
            gradient_accumulation_steps=accumulate,
            log_with=track,
            project_dir=None if out is None else str(out),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=method.has_unused_parameters)],
        )
        self.method = method
        self.dataset = dataset
        self.recipe = recipe or method.recipe
        self.out = None if out is None else Path(out)
        self.seed = seed
        self.select_on = select_on if select_on != "validation" or dataset.validation.classes else "none"
        self.validate_every = validate_every
        self.patience = patience
        self.save_every = save_every
        self.progress = progress and self.accelerator.is_main_process
        self.workers = workers
        self.speed = speed or Speed()
        self.speed.prepare(method)
        self.track = track
        self.average: Average | None = None
        self.optimizer: Optimizer = make_optimizer(method, self.recipe, self.speed.fused)
        self.loader = make_loader(
            method,
            dataset,
            self.recipe,
            seed=seed,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            workers=workers,
            pin=self.accelerator.device.type == "cuda",
            keep=keep,
        )
        self.steps_per_epoch = len(self.loader.steps.plan(0))
        self.bad_images = BadImages(max_bad_images)
        self.epoch = 0
        self.step = 0  # global, counted from 0: the next one to do
        self.best: float | None = None
        self.best_epoch: int | None = None
        self._settings = {
            "device": str(self.accelerator.device.type),
            "processes": self.accelerator.num_processes,
            "precision": precision,
            "workers": workers,
            "accumulate": accumulate,
            "validate_every": validate_every,
            "select_on": self.select_on,
            "patience": patience,
            "save_every": save_every,
            "max_bad_images": max_bad_images,
            "speed": asdict(self.speed),
            "track": track,
        }

    @classmethod
    def resume(cls, run: str | Path, *, workers: int | None = None, progress: bool = True) -> Trainer:
        """Return the trainer of a stopped run, ready for `fit` to go on with its next step.

        Args:
            run: The run folder.
            workers: As in the run, unless given.
            progress: Show progress.

        Raises:
            ZsbirError: If there is no run, or no checkpoint to go on from.
        """
        run = Path(run)
        record = read_run(run)
        settings = settings_of(record)
        folder = resolve(run / "last")
        trainer = cls(
            rebuild(record["method"], folder),
            DATASETS.build(record["dataset"]),
            recipe=recipe_from(record["recipe"]),
            seed=record["seed"],
            workers=record["settings"]["workers"] if workers is None else workers,
            progress=progress,
            **settings,
        )
        trainer.out = run
        state = load_state(folder, trainer.optimizer)
        trainer.epoch, trainer.step = state["epoch"], state["step"]
        trainer.best, trainer.best_epoch = state["best"], state["best_epoch"]
        trainer.bad_images = BadImages(trainer.bad_images.limit, state["bad_images"])
        if trainer.recipe.ema is not None:
            trainer.average = Average(trainer.method, trainer.recipe.ema)
            trainer.average.load(folder / AVERAGE)
        return trainer

    def fit(self) -> Method:
        """Train until the recipe's last epoch (or the patience ends), and return the method in evaluation mode.

        Raises:
            ZsbirError: If a loss is not finite, too many images are broken, memory or the disk is full.
            KeyboardInterrupt: On Ctrl-C, after a checkpoint was written.
        """
        resumed = self.step > 0
        if self.out is not None and self.accelerator.is_main_process and not resumed:
            claim(self.out)
            write_run(self.out, describe(self.method, self.dataset, self.recipe, self.seed, self._settings))
        self.accelerator.wait_for_everyone()
        main = self.out is not None and self.accelerator.is_main_process
        log = StepLog(self.out / "metrics.jsonl" if main and self.out else None, self.step if resumed else None)
        if self.track:
            self.accelerator.init_trackers("zsbir", config={"method": self.method.spec["name"], "seed": self.seed})
        model, optimizer = self.accelerator.prepare(self.method, self.optimizer)
        if self.recipe.ema is not None and self.average is None:
            self.average = Average(self.method, self.recipe.ema)
        try:
            while self.epoch < self.recipe.epochs and not self._out_of_patience():
                self._one_epoch(model, optimizer, log)
                self.epoch += 1
                self._validate(log)
                self._save("last")
            if self.average is not None:
                self.method.load_state_dict(self.average.weights)
        except KeyboardInterrupt:
            self._save("last")
            if self.out is not None and self.accelerator.is_main_process:
                say(f"stopped; go on with: zsbir train --resume {self.out}")
            raise
        except torch.cuda.OutOfMemoryError as error:
            raise out_of_memory(self.step, self.recipe.batch_size) from error
        finally:
            if self.track:
                self.accelerator.end_training()
        return self.method.eval()

    def _one_epoch(self, model: Any, optimizer: Any, log: StepLog) -> None:
        self.method.on_epoch(self.epoch, self.recipe.epochs)
        model.train()
        done = self.step - self.epoch * self.steps_per_epoch
        images = self._images_per_step()
        with EpochBar(self.epoch, self.recipe.epochs, self.steps_per_epoch, done, images, self.progress) as bar:
            waited = time.monotonic()
            for raw in self.loader.epoch(self.epoch, done):
                wait = time.monotonic() - waited
                self.bad_images.add(raw.skipped)
                torch.manual_seed(self._step_seed())
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
                log.write({"step": self.step, "epoch": self.epoch, "lr": factor * self.recipe.lr, **figures,
                           "wait_s": round(wait, 4)})  # fmt: skip
                bar.step(figures)
                if self.track:
                    self.accelerator.log(figures, step=self.step)
                if self.save_every and self.step % self.save_every == 0:
                    self._save("last")
                waited = time.monotonic()

    def _figures(self, terms: Mapping[str, Tensor], total: Tensor, batch: Batch) -> dict[str, float]:
        """Return loss terms and logged figures as numbers; a loss that is not finite ends the run."""
        values = torch.stack([*terms.values(), total]).detach().float()
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, reduction="mean")
        figures = dict(zip([*terms, "loss"], values.tolist(), strict=True))
        check_finite(figures, terms, batch.files, f"step {self.step} of epoch {self.epoch + 1}", self.out)
        return {**figures, **{name: float(value) for name, value in self.method.logged.items()}}

    def _validate(self, log: StepLog) -> None:
        if self.select_on == "none" or self.epoch % self.validate_every:
            if self.average is not None and self.select_on == "none":
                self._save("best")
            return
        split = self.dataset.validation if self.select_on == "validation" else self.dataset.test
        if self.accelerator.is_main_process:
            score = self.score(split)
            if self.progress:
                say(f"epoch {self.epoch}: mAP@all on {len(split.classes)} {self.select_on} classes {score:.4f}")
            log.write({"step": self.step, "epoch": self.epoch, f"{self.select_on}_mAP@all": score})
            if self.best is None or score > self.best:
                self.best, self.best_epoch = score, self.epoch
                self._save("best")
        shared = torch.tensor([self.best or 0.0, self.best_epoch or 0.0], device=self.accelerator.device)
        if self.accelerator.num_processes > 1:
            torch.distributed.broadcast(shared, 0)
            self.best, self.best_epoch = shared[0].item(), int(shared[1])

    def score(self, split: Any) -> float:
        """Return mAP@all (protocol ``standard``, the method's matcher) of a split, with the averaged weights if any."""
        with self.average.applied(self.method) if self.average is not None else nullcontext():
            queries, gallery = embed_split(
                self.method, self.dataset, split, device=self.accelerator.device, workers=self.workers
            )
        results = evaluate_embeddings(
            queries.vectors, queries.labels, gallery.vectors, gallery.labels, ks=(), matcher=self.method.matcher
        )
        return float(results["standard"]["mAP@all"])

    def _out_of_patience(self) -> bool:
        return (
            self.patience is not None
            and self.best_epoch is not None
            and self.epoch - self.best_epoch >= self.patience * self.validate_every
        )

    def _save(self, name: str) -> None:
        if self.out is None or not self.accelerator.is_main_process:
            return
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "bad_images": self.bad_images.messages,
        }
        if name == "best":
            # What was validated is what is kept: the average, where there is one.
            with self.average.applied(self.method) if self.average is not None else nullcontext():
                self.method.save(self.out / name)
            return
        save_checkpoint(self.out / name, self.method, self.optimizer, state, self.average)

    def _images_per_step(self) -> int:
        plan = self.loader.steps.plan(self.epoch)
        per = plan.sketch.shape[1] + plan.photo.shape[1]
        per += 0 if plan.negative is None else plan.negative.shape[1]
        return int(per * self.accelerator.num_processes)

    def _step_seed(self) -> int:
        return int(self.seed * 1_000_003 + self.step * 1009 + self.accelerator.process_index) % 2**63

    def _to_batch(self, raw: RawBatch) -> Batch:
        method = self.method
        order = torch.channels_last if self.speed.channels_last else torch.contiguous_format
        return to_batch(raw, self.dataset.train.classes, method.mean, method.std, self.accelerator.device, order)
