"""One training loop for every method."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from zsbir.arguments import Count, Natural, checked
from zsbir.data import DATASETS
from zsbir.data.base import Dataset
from zsbir.data.batches import RawBatch, to_batch
from zsbir.engine import run as runs
from zsbir.engine.checkpoint import load_state, save_checkpoint
from zsbir.engine.devices import Device, Precision, make_accelerator
from zsbir.engine.feeding import Keep, images_per_step, make_loader, on_device, seed_step, store_features
from zsbir.engine.figures import Figures
from zsbir.engine.learner import Learner
from zsbir.engine.logging import EpochBar, Estimate, StepLog, heard, say
from zsbir.engine.selection import Selection, SelectOn
from zsbir.engine.speed import Speed
from zsbir.engine.stopping import BadImages, Stop, StoppedError, raise_in_a_sentence
from zsbir.methods import METHODS
from zsbir.methods.base import Method, Recipe, load
from zsbir.methods.saving import resolve


@checked("Trainer")
class Trainer:
    """Trains a method on a dataset's seen classes, on a CPU, a GPU, or several (``torchrun``, ``accelerate launch``).

    Every step's randomness depends on the seed and the step alone, so a run that was stopped and resumed ends in the
    weights of one that was not stopped.

    Args:
        method: From `zsbir.build`, or a method's name.
        dataset: From ``DATASETS.build``, or a dataset's name.
        recipe: The training settings; None: those published for the method.
        out: The run folder, new or empty; None: write nothing.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        precision: ``"no"`` (float32), ``"bf16"`` or ``"fp16"`` (CUDA only).
        seed: Of sampling, augmentation and dropout. (`build` makes the random weights, before.)
        workers: Processes that decode images; 0: in the loop.
        accumulate: Steps whose gradients are summed up for one step of the optimiser.
        validate_every: Epochs between validations.
        select_on: What chooses ``best``, see `zsbir.engine.selection.Selection`; ``"test"`` is noted in the run.
        patience: Stop after this many validations without a better one; None: never.
        save_every: Steps between checkpoints within an epoch; None: only one after each epoch.
        max_bad_images: How many unreadable images are skipped before the run ends.
        speed: How steps are run.
        track: Trackers of Accelerate besides ``metrics.jsonl``: ``"tensorboard"``, ``"wandb"``, ...
        keep: Looks up a stored patch mask (N,) bool by a photo's file name.
        progress: Show progress.

    Raises:
        ZsbirError: If there is no CUDA device, the folder holds something, a tracker is missing or a setting is wrong.
    """

    def __init__(
        self,
        method: Method | str | Mapping[str, Any],
        dataset: Dataset | str | Mapping[str, Any],
        *,
        recipe: Recipe | None = None,
        out: str | Path | None = None,
        device: Device = "auto",
        precision: Precision = "no",
        seed: Natural = 0,
        workers: Natural = 2,
        accumulate: Count = 1,
        validate_every: Count = 1,
        select_on: SelectOn = "validation",
        patience: Count | None = None,
        save_every: Count | None = None,
        max_bad_images: Natural = 20,
        speed: Speed | None = None,
        track: str | Sequence[str] | None = None,
        keep: Keep | None = None,
        progress: bool = True,
    ) -> None:
        self.dataset = dataset = DATASETS.build(dataset)
        self.method = method = _built(method, dataset, seed)
        self.recipe = recipe = recipe or method.recipe
        self.out = None if out is None else Path(out)
        self.seed, self.workers, self.save_every = seed, workers, save_every
        self.speed = speed or Speed()
        self.track = [track] if isinstance(track, str) else list(track or ())
        self.accelerator = make_accelerator(method, device, precision, self.track, self.out)
        self.device, world = self.accelerator.device, self.accelerator.num_processes
        self.progress = progress and self.accelerator.is_main_process
        self._folder = self.out if self.accelerator.is_main_process else None  # the others write nothing
        self.selection = Selection(method, dataset, select_on, validate_every, patience)
        self.learner = Learner(method, recipe, self.accelerator, self.speed, seed, accumulate)
        self.loader = make_loader(
            method, dataset, recipe, seed=seed, rank=self.accelerator.process_index, world=world, workers=workers,
            pin=self.device.type == "cuda", keep=keep,
        )  # fmt: skip
        self.cache: Path | None = None
        self.steps_per_epoch = len(self.loader.steps.plan(0))
        self.bad_images = BadImages(max_bad_images)
        self.epoch = self.step = 0  # the next to do, counted from 0; the step is global
        self.figures = Figures(self.accelerator, StepLog(None), self._kept)
        self._log_size: int | None = None  # of the run that this goes on with
        self._saved = 0  # the step of the last checkpoint
        self._stop, self._alone = Stop(), world == 1
        self._settings = {
            "device": self.device.type, "processes": world, "precision": precision, "workers": workers,
            "accumulate": accumulate, "select_on": self.selection.on, "validate_every": validate_every,
            "patience": patience, "save_every": save_every, "max_bad_images": max_bad_images,
            "speed": asdict(self.speed), "track": self.track,
        }  # fmt: skip

    @classmethod
    def resume(
        cls, run: str | Path, *, workers: int | None = None, root: str | Path | None = None, progress: bool = True
    ) -> Trainer:
        """Return the trainer of a stopped run, ready for `fit` to go on with its next step.

        Args:
            run: The run folder.
            workers: As in the run, unless given.
            root: The dataset's folder, if it has moved.
            progress: Show progress.

        Raises:
            ZsbirError: If there is no run, or no checkpoint to go on from.
        """
        run = Path(run)
        record = runs.read_run(run)
        folder = resolve(run / "last")
        dataset = runs.dataset_of(record, root)
        runs.refuse_other_data(record, dataset, run)
        trainer = cls(load(folder), dataset, out=run, progress=progress, **runs.settings_of(record, workers))
        state = load_state(folder, trainer.learner)
        trainer.epoch, trainer.step, trainer._log_size = state["epoch"], state["step"], state["log"]
        trainer._saved = trainer.step
        trainer.selection.best, trainer.selection.best_epoch = state["best"], state["best_epoch"]
        trainer.bad_images.messages = state["bad_images"]
        return trainer

    def use_cache(self, folder: str | Path) -> None:
        """Store decoded images in a folder, for training and validation; see `zsbir.data.cache`."""
        self.cache = Path(folder)
        self.loader.steps.source.use_cache(folder)

    @property
    def best(self) -> float | None:
        """The best score so far."""
        return self.selection.best

    def fit(self) -> Method:
        """Train until the recipe's last epoch (or the patience ends), and return the method in evaluation mode.

        Raises:
            ZsbirError: If a loss is not finite, too many images are broken, or memory or the disk is full.
            KeyboardInterrupt: On Ctrl-C, after finishing the step and writing a checkpoint.
            SystemExit: On SIGTERM, likewise, with the code 143.
        """
        try:
            with self._stop.listening(), self._opened():
                if self.method.trunk is not None and self.recipe.augment == "none" and self.recipe.lora is None:
                    with self._stop.at_once():  # minutes, perhaps; what is stored stays
                        store_features(self.method, self.dataset, self.loader, self.device, self.progress)
                self.learner.start(self.steps_per_epoch)
                estimate = Estimate(self.recipe.epochs * self.steps_per_epoch - self.step, self.progress)
                while self.epoch < self.recipe.epochs and not self.selection.out_of_patience(self.epoch):
                    self._one_epoch(estimate)
                    self._validate()
                    self.epoch += 1
                    self._save_last()
                self.learner.finish()
        except (RuntimeError, ConnectionError, EOFError) as error:
            raise_in_a_sentence(error, self.step, self.recipe.batch_size, self.out)
            raise
        return self.method.eval()

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Hold the run folder for a block; save and say how to go on if a signal stops the block."""
        out, fresh = self._folder, self._log_size is None
        if out is not None and fresh:
            runs.claim(out)
        with nullcontext() if out is None else runs.lock(out):
            try:
                self.figures.log = StepLog(out and out / "metrics.jsonl", self._log_size or 0)
                if out is not None and fresh:
                    runs.write_run(out, self.method, self.dataset, self.recipe, self.seed, self._settings)
                    self._save_last()  # to go on from at any time
                self.accelerator.wait_for_everyone()
                if self.track:
                    self.accelerator.init_trackers("zsbir", {"method": self.method.spec["name"], "seed": self.seed})
                yield
            except StoppedError as stopped:
                self._save_last()
                if out is not None:
                    say(f"stopped; go on with: zsbir train --resume {out}")
                raise stopped.ending() from None
            except Exception:
                if out is not None and fresh and not self.figures.log.size:
                    shutil.rmtree(out, ignore_errors=True)  # so that the same command can start again
                raise
            finally:
                if self.track:
                    self.accelerator.end_training()

    def _one_epoch(self, estimate: Estimate) -> None:
        self.learner.start_epoch(self.epoch)
        done = self.step - self.epoch * self.steps_per_epoch
        images = images_per_step(self.loader.steps.plan(self.epoch)) * self.accelerator.num_processes
        name = f"epoch {self.epoch + 1}/{self.recipe.epochs}"
        bar = EpochBar(name, self.steps_per_epoch, done, images, self.device, self.progress)
        with closing(bar) as self.figures.bar:
            self._check_stop()
            batches = on_device(self.loader.epoch(self.epoch, done), self.device)
            for place in range(done, self.steps_per_epoch):
                begun = time.monotonic()
                with heard("reading images", self.progress and place == done):
                    raw = next(batches)
                self.bad_images.add(raw.skipped)
                whole = self._one_step(raw, round(time.monotonic() - begun, 4))
                self.figures.read()
                estimate.step()
                if whole and self.save_every and self.step // self.save_every > self._saved // self.save_every:
                    self._save_last()
                if whole:
                    self._check_stop()
            self.figures.read(all_of_them=True)
            self._check_stop()

    def _one_step(self, raw: RawBatch, waited: float) -> bool:
        """Do a step; return whether the optimiser moved, so that no accumulation is half done."""
        seed_step(self.seed, self.step, self.accelerator.process_index)
        order = torch.channels_last if self.speed.channels_last else torch.contiguous_format
        fills = self.recipe.sketch_fill, self.recipe.photo_fill
        batch = to_batch(raw, self.dataset.train.classes, self.device, order, *fills)
        terms, total, rate, whole = self.learner.step(batch, self.step)
        row = {"step": self.step + 1, "epoch": self.epoch, "lr": rate, "wait_s": waited}
        self.figures.note(row, terms, total, self.method.logged, batch.files, bool(self._stop.asked))
        self.step += 1
        return whole

    def _check_stop(self) -> None:
        if self.figures.asked:
            raise StoppedError(self._stop.asked or signal.SIGTERM)
        if self._alone:
            self._stop.check()

    def _validate(self) -> None:
        """Score the epoch if it is due, and save the best."""
        selection, done = self.selection, self.epoch + 1
        if selection.on == "none" and self.learner.average is not None:
            self._save_best()  # the averaged weights of the last epoch
        if not selection.due(done):
            return
        if self.accelerator.is_main_process:
            with self._stop.at_once(self._alone), heard(f"validating after epoch {done}", self.progress):
                score = selection.score(self.learner.result, self.device, self.workers, self.cache)
            if self.progress:
                say(f"epoch {done}: {selection.describe(score)}")
            self.figures.write({"step": self.step, "epoch": done, selection.figure: score})
            if selection.offer(score, done):
                self._save_best()
        if not self._alone:
            selection.share(self.device)

    def _kept(self) -> str:
        return "" if self.out is None else f"; the checkpoint of step {self._saved} is in {self.out / 'last'}"

    def _save_best(self) -> None:
        if self._folder is not None:
            with heard("saving", self.progress):
                self.learner.save(self._folder / "best")

    def _save_last(self) -> None:
        self.figures.read(all_of_them=True)
        self._saved = self.step
        if self._folder is not None:
            state = {
                "epoch": self.epoch, "step": self.step, "log": self.figures.log.size, "best": self.selection.best,
                "best_epoch": self.selection.best_epoch, "bad_images": self.bad_images.messages,
            }  # fmt: skip
            with heard("saving", self.progress):
                save_checkpoint(self._folder / "last", self.learner, state)


def _built(method: Method | str | Mapping[str, Any], dataset: Dataset, seed: int) -> Method:
    if isinstance(method, Method):
        return method
    spec: dict[str, Any] = {"name": method} if isinstance(method, str) else dict(method)
    if "classes" in METHODS.parameters(str(spec.get("name"))):
        spec.setdefault("classes", list(dataset.train.classes))
    torch.manual_seed(seed)
    return METHODS.build(spec)
