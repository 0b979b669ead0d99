"""One training loop for every method."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from zsbir.arguments import Count, Natural, checked
from zsbir.data import DATASETS
from zsbir.data.base import Dataset
from zsbir.data.batches import RawBatch, to_batch
from zsbir.engine import run as runs
from zsbir.engine.checkpoint import load_state, save_checkpoint
from zsbir.engine.devices import Device, Precision, make_accelerator
from zsbir.engine.feeding import Keep, images_per_step, make_loader, on_device, seed_step
from zsbir.engine.figures import Figures
from zsbir.engine.logging import EpochBar, Estimate, StepLog, heard, say
from zsbir.engine.lora import Adapters, Lora
from zsbir.engine.optim import lr_factor, make_optimizer, set_lr
from zsbir.engine.safety import BadImages, in_a_sentence
from zsbir.engine.selection import Selection, SelectOn
from zsbir.engine.speed import Speed
from zsbir.engine.stopping import Stop, StoppedError
from zsbir.engine.weights import Average, fix_norms
from zsbir.methods import METHODS
from zsbir.methods.base import Method, Recipe, load
from zsbir.methods.features import StoredFeatures
from zsbir.methods.saving import resolve, save
from zsbir.types import Batch, Domain


@checked("Trainer")
class Trainer:
    """Trains a method on a dataset's seen classes, on a CPU, a GPU, or several (``torchrun``, ``accelerate launch``).

    Every step's randomness depends on the seed and the step alone, so a run that was stopped and resumed ends in the
    weights of one that was not.

    Args:
        method: From `zsbir.build`, or a method's name.
        dataset: From ``DATASETS.build``, or a dataset's name.
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
        method: Method | str | Mapping[str, Any],
        dataset: Dataset | str | Mapping[str, Any],
        *,
        recipe: Recipe | None = None,
        out: str | Path | None = None,
        device: Device = "auto",
        precision: Precision = "no",
        seed: int = 0,
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
        self.recipe = recipe or method.recipe
        self.out = None if out is None else Path(out)
        self.seed, self.workers, self.accumulate, self.save_every = seed, workers, accumulate, save_every
        self.speed = speed or Speed()
        self.track = [track] if isinstance(track, str) else list(track or ())
        self.accelerator = make_accelerator(method, device, precision, self.track, self.out)
        self.device = self.accelerator.device
        self.progress = progress and self.accelerator.is_main_process
        self.selection = Selection(method, dataset, select_on, validate_every, patience)
        self.adapters = None if self.recipe.lora is None else Adapters(method, Lora.of(self.recipe.lora), seed)
        self.speed.prepare(method)
        method.to(self.device)
        self.average = None if self.recipe.ema is None else Average(method, self.recipe.ema)
        self.optimizer: Optimizer = make_optimizer(method, self.recipe, self.speed.fused)
        self.loader = make_loader(
            method, dataset, self.recipe, seed=seed, rank=self.accelerator.process_index,
            world=self.accelerator.num_processes, workers=workers, pin=self.device.type == "cuda", keep=keep,
        )  # fmt: skip
        self.cache: Path | None = None
        self.steps_per_epoch = len(self.loader.steps.plan(0))
        self.bad_images = BadImages(max_bad_images)
        self.epoch = self.step = 0  # the next to do, counted from 0; the step is global
        self.figures = Figures(self.accelerator, StepLog(None), self._kept)
        self._log_size: int | None = None  # of the run that this goes on with
        self._saved = 0  # the step of the last checkpoint
        self._stop = Stop()
        self._alone = self.accelerator.num_processes == 1
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
        record = runs.read_run(run)
        folder = resolve(run / "last")
        dataset = runs.dataset_of(record, root)
        runs.refuse_other_data(record, dataset, run)
        trainer = cls(
            load(folder),
            dataset,
            recipe=runs.recipe_from(record["recipe"]),
            seed=record["seed"],
            progress=progress,
            **runs.settings_of(record, workers),
        )
        trainer.out = run
        state = load_state(folder, trainer.optimizer, trainer.average, trainer.adapters)
        trainer.epoch, trainer.step, trainer._log_size = state["epoch"], state["step"], state["log"]
        trainer._saved = trainer.step
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
            KeyboardInterrupt: On Ctrl-C, after the step was finished and a checkpoint written.
            SystemExit: On SIGTERM, likewise, with the code 143.
        """
        try:
            with self._stop, self._opened():
                self._epochs()
        except (RuntimeError, ConnectionError, EOFError) as error:
            shown = in_a_sentence(error, self.step, self.recipe.batch_size, self.out)
            if shown is None:
                raise
            raise shown from error
        return self.method.eval()

    def _store_features(self) -> None:
        """Let frozen layers see each file once, where nothing makes another image or other layers of it every time."""
        trunk, train = self.method.trunk, self.dataset.train
        if trunk is None or not trunk.frozen or self.recipe.augment != "none" or self.adapters is not None:
            return
        stored = StoredFeatures(trunk, self.method.preprocess, self.dataset.variant)
        domains: tuple[Domain, ...] = ("sketch", "photo")
        files = {d: [str(train.of(d).file(row)) for row in range(len(train.of(d)))] for d in domains}
        if not all(stored.takes(names) for names in files.values()):
            return
        source = self.loader.steps.source
        with self._stop.at_once():  # minutes, perhaps; what is stored stays
            for domain, names in files.items():
                stored.fill(source, names, domain, self.device, self.progress)
        self.method.stored = source.features = stored

    def _epochs(self) -> None:
        self._store_features()
        model, optimizer = self.accelerator.prepare(self.method, self.optimizer)
        estimate = Estimate(self.recipe.epochs * self.steps_per_epoch - self.step, self.progress)
        while self.epoch < self.recipe.epochs and not self.selection.out_of_patience(self.epoch):
            self._one_epoch(model, optimizer, estimate)
            self._validate()
            self.epoch += 1
            self._save_last()
        if self.average is not None:
            self.method.load_state_dict(self.average.module.state_dict())
        if self.adapters is not None:
            self.adapters.merge()

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Hold the run folder for a block, and answer what ends the block early."""
        out = self.out if self.accelerator.is_main_process else None
        fresh = self._log_size is None
        if out is not None and fresh:
            runs.claim(out)
        with nullcontext() if out is None else runs.lock(out):
            try:
                self._open_run()
                yield
            except StoppedError as stopped:
                self._save_last()
                if out is not None:
                    say(f"stopped; go on with: zsbir train --resume {out}")
                raise stopped.ending() from None
            except Exception:
                if out is not None and fresh and not self.figures.log.size:
                    runs.discard(out)
                raise
            finally:
                if self.track:
                    self.accelerator.end_training()

    def _open_run(self) -> None:
        """Start the log and the trackers; a new run gets its record, and a checkpoint to go on from at any time."""
        out = self.out if self.accelerator.is_main_process else None
        self.figures.log = StepLog(out and out / "metrics.jsonl", self._log_size or 0)
        if out is not None and self._log_size is None:
            runs.write_run(out, runs.describe(self.method, self.dataset, self.recipe, self.seed, self._settings))
            runs.write_manifest(out, self.dataset)
            self._save_last()
        self.accelerator.wait_for_everyone()
        if self.track:
            self.accelerator.init_trackers("zsbir", config={"method": self.method.spec["name"], "seed": self.seed})

    def _one_epoch(self, model: Any, optimizer: Any, estimate: Estimate) -> None:
        self.method.on_epoch(self.epoch, self.recipe.epochs)
        model.train()
        if self.recipe.fixed_norm:
            fix_norms(self.method)
        done = self.step - self.epoch * self.steps_per_epoch
        images = images_per_step(self.loader.steps.plan(self.epoch)) * self.accelerator.num_processes
        name = f"epoch {self.epoch + 1}/{self.recipe.epochs}"
        with EpochBar(name, self.steps_per_epoch, done, images, self.device, self.progress) as bar:
            self.figures.bar = bar
            self._check_stop()
            batches = on_device(self.loader.epoch(self.epoch, done), self.device)
            for place in range(done, self.steps_per_epoch):
                begun = time.monotonic()
                with heard("reading images", self.progress and place == done):
                    raw = next(batches)
                self.bad_images.add(raw.skipped)
                whole = self._one_step(model, optimizer, raw, place, round(time.monotonic() - begun, 4))
                self.figures.read()
                estimate.step()
                if whole and self.save_every and self.step // self.save_every > self._saved // self.save_every:
                    self._save_last()
                if whole:
                    self._check_stop()
            self.figures.read(all_of_them=True)
            self._check_stop()

    def _one_step(self, model: Any, optimizer: Any, raw: RawBatch, place: int, waited: float) -> bool:
        """Do the `place`-th step of the epoch; return whether the optimiser moved, so that nothing is half done."""
        seed_step(self.seed, self.step, self.accelerator.process_index)
        factor = lr_factor(self.recipe, self.step, self.steps_per_epoch)
        set_lr(self.optimizer, factor)
        first = place - place % self.accumulate
        summed = min(self.accumulate, self.steps_per_epoch - first)  # the last of an epoch may be fewer
        whole = place + 1 == first + summed
        batch = self._to_batch(raw)
        with nullcontext() if whole else self.accelerator.no_sync(model):
            terms = model(batch)
            total = torch.stack(list(terms.values())).sum()
            row = {"step": self.step + 1, "epoch": self.epoch, "lr": factor * self.recipe.lr, "wait_s": waited}
            self.figures.note(row, terms, total, self.method.logged, batch.files, bool(self._stop.asked))
            self.accelerator.backward(total / summed)
        if whole:
            if self.recipe.clip is not None:
                self.accelerator.clip_grad_norm_(model.parameters(), self.recipe.clip)
            optimizer.step()
            optimizer.zero_grad()
            if self.average is not None:
                self.average.after(self.step, self.method)
        self.step += 1
        return whole

    def _kept(self) -> str:
        return "" if self.out is None else f"; the checkpoint of step {self._saved} is in {self.out / 'last'}"

    def _check_stop(self) -> None:
        if self.figures.asked:
            raise StoppedError(self._stop.asked or signal.SIGTERM)
        if self._alone:
            self._stop.check()

    def _validate(self) -> None:
        """Score the epoch where it is due, and keep the best."""
        selection, done = self.selection, self.epoch + 1
        if selection.on == "none" and self.average is not None:
            self._save_best()  # the averaged weights of the last epoch
        if not selection.due(done):
            return
        if self.accelerator.is_main_process:
            with self._stop.at_once(self._alone), heard(f"validating after epoch {done}", self.progress):
                score = selection.score(self._result, self.device, self.workers, self.cache)
            if self.progress:
                say(f"epoch {done}: {selection.describe(score)}")
            self.figures.write({"step": self.step, "epoch": done, selection.figure: score})
            if selection.offer(score, done):
                self._save_best()
        if not self._alone:
            selection.share(self.device)

    @property
    def _result(self) -> Method:
        """What is validated and kept as best: the average of the weights, where the recipe has one."""
        return self.method if self.average is None else self.average.module

    def _save_best(self) -> None:
        if self.out is not None and self.accelerator.is_main_process:
            with heard("saving", self.progress):
                plain = None if self.adapters is None else self.adapters.plain_state(self._result)
                save(self._result, self.out / "best", plain)

    def _save_last(self) -> None:
        self.figures.read(all_of_them=True)
        self._saved = self.step
        if self.out is not None and self.accelerator.is_main_process:
            state = {
                "epoch": self.epoch, "step": self.step, "log": self.figures.log.size, "best": self.selection.best,
                "best_epoch": self.selection.best_epoch, "bad_images": self.bad_images.messages,
            }  # fmt: skip
            with heard("saving", self.progress):
                save_checkpoint(self.out / "last", self.method, self.optimizer, state, self.average, self.adapters)

    def _to_batch(self, raw: RawBatch) -> Batch:
        order = torch.channels_last if self.speed.channels_last else torch.contiguous_format
        fills = (self.recipe.sketch_fill, self.recipe.photo_fill)
        return to_batch(raw, self.dataset.train.classes, self.device, order, *fills)


def _built(method: Method | str | Mapping[str, Any], dataset: Dataset, seed: int) -> Method:
    if isinstance(method, Method):
        return method
    spec: dict[str, Any] = {"name": method} if isinstance(method, str) else dict(method)
    if "classes" in METHODS.parameters(str(spec.get("name"))):
        spec.setdefault("classes", list(dataset.train.classes))
    torch.manual_seed(seed)
    return METHODS.build(spec)
