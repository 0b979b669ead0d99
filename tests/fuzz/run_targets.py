"""The readers of what zsbir has written: runs and their checkpoints, matchers, evaluations, parts of embeddings."""

import os
import shutil
import warnings
from pathlib import Path

import torch

import zsbir
from tests.data.data_trees import picture
from zsbir.engine.run import read_run
from zsbir.engine.shards import Job, Parts, Share, read_parts
from zsbir.engine.sources import open_source
from zsbir.engine.trainer import Trainer
from zsbir.evaluation.comparison import compare_saved, load_per_query
from zsbir.matchers.base import Matcher
from zsbir.types import Embeddings


def run_targets(folder):
    """Return each reader's seeds and call; files go into `folder`."""
    home = folder / "zoo"
    for domain in ("sketch", "photo"):
        for name in "abcdef":
            picture(home / domain / name / "0.png")
    data = zsbir.DATASETS.build("folder", root=home, unseen=("a", "b"), validation=2)
    method = zsbir.build("dann", backbone={"name": "tiny", "image_size": 32, "width": 4}).eval()
    recipe = zsbir.Recipe(epochs=1, batch_size=2, augment="none")
    Trainer(method, data, recipe=recipe, out=folder / "run", workers=0, progress=False).fit()
    torch.manual_seed(0)
    gallery = Embeddings(torch.randn(40, 6), torch.arange(40) % 4, tuple("abcd"), domain="photo")
    zsbir.Evaluator(resamples=10).evaluate(gallery, gallery).save(folder / "report")
    zsbir.MATCHERS.build("one-to-many", clusters=3, subspaces=2).fit(gallery).save(folder / "matcher")
    parts = Parts(Job("gallery", "photo", open_source(home / "photo")), folder / "parts-out", "model", {})
    parts.embed(method, Share())
    parts.finish()

    def part(where, name, read):
        """One file of a folder is replaced, the others are links to the seeds: a copy would cost more than reading."""
        whole, damaged = folder / where, folder / f"{where}-damaged"
        seed = (whole / name).read_bytes()

        def call(content):
            shutil.rmtree(damaged, ignore_errors=True)
            shutil.copytree(whole, damaged, copy_function=os.link)
            (damaged / name).unlink()
            (damaged / name).write_bytes(content)
            with warnings.catch_warnings(action="ignore"):
                read(damaged)

        return [seed], call

    def resumed(path):
        Trainer.resume(path, progress=False)

    def all_parts(path):
        for _ in read_parts(path)[1]:
            pass

    def compared(path):
        compare_saved(load_per_query(path), load_per_query(folder / "report"))

    def matched(path):
        Matcher.load(path).scores(gallery)

    here = Path("parts/gallery/000000")
    return {
        "run.json": part("run", "run.json", resumed),
        "run.json to evaluate": part("run", "run.json", lambda path: zsbir.DATASETS.build(read_run(path)["dataset"])),
        "state.json": part("run", "last/state.json", resumed),
        "optimizer.safetensors": part("run", "last/optimizer.safetensors", resumed),
        "weights of a run": part("run", "last/model.safetensors", resumed),
        "matcher.json": part("matcher", "matcher.json", matched),
        "matcher.safetensors": part("matcher", "matcher.safetensors", matched),
        "per_query.json": part("report", "per_query.json", compared),
        "per_query.safetensors": part("report", "per_query.safetensors", compared),
        "manifest of parts": part("parts-out", "manifest.json", all_parts),
        "part.json": part("parts-out", here.with_suffix(".json"), all_parts),
        "part.safetensors": part("parts-out", here.with_suffix(".safetensors"), all_parts),
    }
