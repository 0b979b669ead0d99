"""What a run says while it works: how long it will take, and something every five seconds. Time is a fake clock's."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import zsbir
from zsbir.cli import main
from zsbir.engine import logging
from zsbir.engine.logging import SECONDS, EpochBar, Estimate, heard
from zsbir.engine.trainer import Trainer


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when the test says so."""
    made = SimpleNamespace(now=0.0)
    monkeypatch.setattr(logging, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


@pytest.fixture
def slow(clock, monkeypatch):
    """Make each block under `heard` last three times as long as the silence that is allowed, and 1 s more."""

    events = []

    class Slow(threading.Event):
        def __init__(self):
            super().__init__()
            self.left, self.passed, self.told = 3, threading.Event(), False
            events.append(self)

        def wait(self, timeout=None):
            if not self.left:
                clock.now += 1
                self.passed.set()
                return super().wait(30)
            assert timeout == SECONDS
            self.left, clock.now = self.left - 1, clock.now + timeout
            return False

        def set(self):
            assert not self.told or self.passed.wait(30)
            super().set()

    class Teller(threading.Thread):
        def start(self):
            events[-1].told = True
            super().start()

    monkeypatch.setattr(logging, "threading", SimpleNamespace(Event=Slow, Thread=Teller))


def test_the_whole_run_is_estimated_after_the_first_steps(clock, capsys):
    estimate = Estimate(steps=1000, show=True)
    clock.now = 100.0  # the first step warms up
    for _ in range(20):
        estimate.step()
        clock.now += 2.0
    said = capsys.readouterr().err.splitlines()
    assert said == ["about 33:12 left for 1000 steps of 2.00 s, validations not counted"]  # 996 steps of 2 s


def test_fast_steps_are_estimated_once_they_took_long_enough(clock, capsys):
    estimate = Estimate(steps=10_000, show=True)
    while not capsys.readouterr().err and clock.now < SECONDS:
        clock.now += 0.01
        estimate.step()
    assert SECONDS / 2 < clock.now < SECONDS


def test_an_estimate_nobody_wants_is_silent(clock, capsys):
    estimate = Estimate(steps=100, show=False)
    for _ in range(20):
        estimate.step()
        clock.now += 2.0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("a_step", [0.3, 2.0, 7.0])
def test_an_epoch_is_never_silent_for_long(clock, capsys, a_step):
    last = 0.0
    bar = EpochBar("epoch 1", 60, 0, 8, torch.device("cpu"), True)
    for _ in range(60):
        clock.now += a_step
        bar.step({"loss": 1.0})
        if capsys.readouterr().err:
            last = clock.now
        assert clock.now - last <= SECONDS
    assert last == clock.now  # the last step is said too


def test_a_long_block_is_heard_every_five_seconds(slow, capsys):
    with heard("validating after epoch 3"):
        pass
    assert capsys.readouterr().err.split("\n")[:3] == [
        "validating after epoch 3: 5 s", "validating after epoch 3: 10 s", "validating after epoch 3: 15 s",
    ]  # fmt: skip


def test_training_is_heard_where_it_has_no_bar(slow, five_shapes_root, small_dann, recipe, tmp_path, capsys):
    data = zsbir.DATASETS.build("folder", root=five_shapes_root, unseen="bar", validation=2)
    Trainer(small_dann(), data, recipe=recipe, out=tmp_path / "run", workers=0, validate_every=1).fit()
    said = capsys.readouterr().err
    for what in ("reading images", "validating after epoch 1", "saving"):
        assert f"{what}: {SECONDS:.0f} s" in said


def test_scores_reports_and_maps_of_saved_embeddings_are_heard(slow, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for side in ("queries", "gallery"):
        vectors = np.random.default_rng(len(side)).normal(size=(40, 8)).astype(np.float32)
        np.savez(f"{side}.npz", vectors=vectors, labels=np.arange(40) % 4)
    assert main(["evaluate", ".", "--map", "after", "--out", "out"]) == 0
    said = capsys.readouterr().err
    for what in ("scoring", "drawing the map", "writing the report"):
        assert f"{what}: {SECONDS:.0f} s" in said
    assert main(["map", ".", "--layout", "pca"]) == 0
    assert f"drawing the map: {SECONDS:.0f} s" in capsys.readouterr().err
