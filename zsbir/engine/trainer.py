"""One training loop for every method."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer

from zsbir.data import DATASETS
from zsbir.data.base import Dataset
from zsbir.data.loading import RawBatch, to_batch
from zsbir.engine.checkpoint import load_state, save_checkpoint
from zsbir.engine.embedding import embed_split
from zsbir.engine.feeding import Keep, make_loader
from zsbir.engine.logging import EpochBar, StepLog, say
from zsbir.engine.optim import lr_factor, make_optimizer, set_lr
from zsbir.engine.run import claim, describe, read_run, recipe_from, write_run
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
        keep: Keep | None = None,
        progress: bool = True,
    ) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise ZsbirError("CUDA was asked for, and there is none here: use --device cpu, or install torch for CUDA")
        cpu = device == "cpu" or not torch.cuda.is_available()
        if precision == "fp16" and cpu:
            raise ZsbirError("fp16 needs CUDA: on a CPU use --precision no or bf16")
        self.accelerator = Accelerator(cpu=cpu, mixed_precision=precision, gradient_accumulation_steps=accumulate)
        self.method = method
        self.dataset = dataset
        self.recipe = recipe or method.recipe
        self.out = None if out is None else Path(out)
        self.seed = seed
        self.select_on = select_on if select_on != "validation" or dataset.validation.classes else "none"
        self.validate_every = validate_every
        self.patience = patience
        self.save_every = save_every
        self.max_bad_images = max_bad_images
        self.progress = progress and self.accelerator.is_main_process
        self.workers = workers
        self.optimizer: Optimizer = make_optimizer(method, self.recipe)
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
        self.bad_images: list[str] = []
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
        settings = {k: v for k, v in record["settings"].items() if k not in ("processes", "workers")}
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
        trainer.bad_images = state["bad_images"]
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
        model, optimizer = self.accelerator.prepare(self.method, self.optimizer)
        try:
            while self.epoch < self.recipe.epochs and not self._out_of_patience():
                self._one_epoch(model, optimizer, log)
                self.epoch += 1
                self._validate(log)
                self._save("last")
        except KeyboardInterrupt:
            self._save("last")
            if self.out is not None and self.accelerator.is_main_process:
                say(f"stopped; go on with: zsbir train --resume {self.out}")
            raise
        except torch.cuda.OutOfMemoryError as error:
            raise ZsbirError(
                f"out of GPU memory at step {self.step}: lower --batch-size (now {self.recipe.batch_size}) and raise "
                "--accumulate, or use --precision bf16"
            ) from error
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
                self._count_bad(raw)
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
                self.step += 1
                log.write({"step": self.step, "epoch": self.epoch, "lr": factor * self.recipe.lr, **figures,
                           "wait_s": round(wait, 4)})  # fmt: skip
                bar.step(figures)
                if self.save_every and self.step % self.save_every == 0:
                    self._save("last")
                waited = time.monotonic()

    def _figures(self, terms: Mapping[str, Tensor], total: Tensor, batch: Batch) -> dict[str, float]:
        """Return loss terms and logged figures as numbers; a loss that is not finite ends the run."""
        values = torch.stack([*terms.values(), total]).detach().float()
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, reduction="mean")
        figures = dict(zip([*terms, "loss"], values.tolist(), strict=True))
        broken = [name for name in terms if not math.isfinite(figures[name])]
        if broken:
            files = ", ".join(name for names in batch.files.values() for name in names[:4])
            kept = f"; the last checkpoint in {self.out} is intact" if self.out else ""
            raise ZsbirError(
                f"the loss term {broken[0]!r} is {figures[broken[0]]} at step {self.step} of epoch {self.epoch + 1}"
                f"{kept}. Lower --lr, or look at the batch's files: {files}, ..."
            )
        return {**figures, **{name: float(value) for name, value in self.method.logged.items()}}

    def _validate(self, log: StepLog) -> None:
        if self.select_on == "none" or self.epoch % self.validate_every:
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
        """Return mAP@all (protocol ``standard``, the method's matcher) of a split with the weights as they are."""
        queries, gallery = embed_split(
            self.method, self.dataset, split, device=self.accelerator.device, workers=self.workers
        )
        results = evaluate_embeddings(
            queries.vectors, queries.labels, gallery.vectors, gallery.labels, matcher=self.method.matcher
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
            "bad_images": self.bad_images,
        }
        save_checkpoint(self.out / name, self.method, self.optimizer, state)

    def _images_per_step(self) -> int:
        plan = self.loader.steps.plan(self.epoch)
        per = plan.sketch.shape[1] + plan.photo.shape[1]
        per += 0 if plan.negative is None else plan.negative.shape[1]
        return int(per * self.accelerator.num_processes)

    def _step_seed(self) -> int:
        return int(self.seed * 1_000_003 + self.step * 1009 + self.accelerator.process_index) % 2**63

    def _to_batch(self, raw: RawBatch) -> Batch:
        method = self.method
        return to_batch(raw, self.dataset.train.classes, method.mean, method.std, self.accelerator.device)

    def _count_bad(self, raw: RawBatch) -> None:
        for message in raw.skipped:
            if message not in self.bad_images:
                self.bad_images.append(message)
                say(f"skipped: {message}")
        if len(self.bad_images) > self.max_bad_images:
            listed = "\n  ".join(self.bad_images)
            raise ZsbirError(
                f"{len(self.bad_images)} images cannot be read, more than --max-bad-images {self.max_bad_images}:\n"
                f"  {listed}"
            )
