"""What can only be measured on a GPU: equal results, training, embedding, masks, queries, evaluation, matching.

    python benchmarks/gpu.py --data DATA        # all parts, those that are done already are skipped
    python benchmarks/gpu.py serving --again    # one part, measured anew

``DATA`` holds ``sketchy-mini``, see benchmarks/real.py; without it the part `sketchy` is left out.

Each part is a process of its own with ten minutes at most and a results file of its own, so a stopped run goes on where
it was. `--dry` runs tiny sizes on any machine, and keeps no results: it says whether the script works.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _results import RESULTS, table, write
from PIL import Image
from real import ROWS
from training import PlainLoop, Watch

import zsbir
from zsbir.engine.devices import auto_precision
from zsbir.engine.logging import Estimate, StepLog
from zsbir.engine.speed import Speed
from zsbir.engine.trainer import Trainer
from zsbir.evaluation import evaluate_embeddings
from zsbir.evaluation.evaluator import Evaluator
from zsbir.maskers.base import MaskRequest
from zsbir.methods.embedding import embed_split
from zsbir.search.model import Embedder
from zsbir.types import Embeddings

LIMIT = 600
METHODS: dict[str, dict[str, Any]] = {
    "puxim": {"backbone": "vit_base_patch16_224", "masker": "random"},
    "sbka": {"prior": 0.0},
    "dann": {"backbone": "densenet121"},
}
SMALL: dict[str, dict[str, Any]] = {
    "puxim": {"backbone": {"name": "vit_tiny_patch16_224", "image_size": 32}, "masker": "random"},
    "sbka": {"backbone": "test_efficientnet", "image_size": 32, "prior": 0.0},
    "dann": {"backbone": {"name": "tiny", "image_size": 32}},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain loop": {},
    "as it comes": {"speed": Speed()},
    "auto": {"speed": Speed.auto(), "precision": auto_precision("auto")},
    "auto, compile": {"speed": replace(Speed.auto(), compile=True), "precision": auto_precision("auto")},
}
Result = tuple[dict[str, Any], str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--again", action="store_true", help="measure anew what is done already")
    parser.add_argument("--dry", action="store_true", help="tiny sizes on any machine; no results are kept")
    parser.add_argument("--one", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help="the folder with sketchy-mini, for the part sketchy")
    args = parser.parse_args()
    if unknown := set(args.parts) - PARTS.keys():
        parser.error(f"there is no part {', '.join(unknown)}")
    if not torch.cuda.is_available() and not args.dry:
        sys.exit("benchmarks/gpu.py needs a CUDA device, and torch sees none here: nothing was measured")
    if args.one:
        values, text = PARTS[args.one](args.dry, **({"data": args.data} if args.one == "sketchy" else {}))
        if args.dry:
            print(text)
        else:
            write(f"gpu_{args.one}", values, text)
        return
    failed = []
    for part in args.parts or PARTS:
        if (RESULTS / f"gpu_{part}.json").exists() and not args.again and not args.dry:
            print(f"{part}: done before, skipped (--again measures it anew)")
            continue
        if part == "sketchy" and args.data is None:
            print("sketchy: not measured, it needs --data")
            continue
        command = [sys.executable, __file__, "--one", part, *(["--dry"] if args.dry else [])]
        command += [] if args.data is None else ["--data", str(args.data)]
        try:
            done = subprocess.run(command, timeout=LIMIT, check=False).returncode == 0
        except subprocess.TimeoutExpired:
            done = False
        failed += [] if done else [part]
    if failed:
        sys.exit(f"failed or longer than {LIMIT} s: {', '.join(failed)}; run the same command again for these")


def place() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(run: Callable[[], object], repeats: int = 3) -> float:
    """Return the best time of a call, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        wait()
        start = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def photos(folder: Path, classes: int, each: int, side: int) -> Path:
    """Write a folder dataset of random JPEG images, as blotchy as photos are."""
    rng = np.random.default_rng(0)
    for domain in ("sketch", "photo"):
        for name in range(classes):
            (folder / domain / f"class{name}").mkdir(parents=True)
            for number in range(each):
                small = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
                small.resize((side, side)).save(folder / domain / f"class{name}" / f"{number}.jpg")
    return folder


def vectors(rows: int, width: int, classes: int, seed: int) -> Embeddings:
    """Return random unit vectors in classes that overlap, on the device."""
    generator = torch.Generator().manual_seed(seed)
    labels = np.arange(rows) % classes
    centers = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    drawn = torch.randn(rows, width, generator=generator) + centers[torch.from_numpy(labels)]
    unit = torch.nn.functional.normalize(drawn).to(place())
    return Embeddings(unit, labels, tuple(map(str, range(classes))))


def equal(dry: bool) -> Result:
    """CPU and GPU give the same: one step's losses, embeddings, evaluation; and the tests marked `cuda` pass."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = photos(Path(folder) / "data", 4, 8, 64)
        data = zsbir.DATASETS.build("folder", root=root, unseen=1)
        for name, options in SMALL.items():
            ends = []
            for device in ("cpu", place().type):
                more = {"classes": data.train.classes} if name == "sbka" else {}
                torch.manual_seed(0)
                method = zsbir.build(name, **options, **more)
                recipe = zsbir.Recipe(epochs=1, batch_size=6, samples_per_epoch=6, sampling=method.recipe.sampling)
                out = Path(folder) / f"{name}-{device}-{len(ends)}"
                trainer = Trainer(method, data, recipe=recipe, out=out, device=device, workers=0, progress=False)
                found = method.encode_photos([data.test.photos.file(0)])
                trainer.fit()
                ends.append((found, read_loss(out)))
            gap = float((ends[0][0] - ends[1][0]).abs().max())
            rows.append([name, f"{gap:.1e}", f"{abs(ends[0][1] - ends[1][1]):.1e}"])
    queries, gallery = vectors(64, 32, 5, 1), vectors(256, 32, 5, 2)
    scores = [
        evaluate_embeddings(q, queries.labels, g, gallery.labels, ["standard", "sbka", "puxim"], (10,))
        for q, g in ((queries.vectors, gallery.vectors), (queries.vectors.cpu(), gallery.vectors.cpu()))
    ]
    gap = max(abs(scores[0][p][m] - v) for p, found in scores[1].items() for m, v in found.items())
    rows.append(["evaluation", f"{gap:.1e}", ""])
    tests = "not run"
    if not dry:
        root = Path(__file__).parents[1]
        command = [sys.executable, "-m", "pytest", "-m", "cuda", "-q"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        tests = done.stdout.strip().splitlines()[-1]
    text = table(["what", "largest difference CPU to GPU", "of the first loss"], rows)
    text += f"\nTests marked `cuda`: {tests}\n"
    return {"differences": rows, "tests": tests}, text


def read_loss(run: Path) -> float:
    """Return the first step's loss."""
    return float(json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["loss"])


def training(dry: bool, *, name: str) -> Result:
    """Images a second of a published step by speed options, against a loop by hand in float32 (target: twice as fast).

    The trainer's batches come from the cache of decoded images, as in all epochs but the first; the loop's from files.
    """
    rows: list[list[Any]] = []
    steps, batch, workers = (3, 6, 0) if dry else (60, 64, 8)
    with tempfile.TemporaryDirectory() as folder:
        root = photos(Path(folder) / "data", 8, 8 if dry else 64, 64 if dry else 400)
        data = zsbir.DATASETS.build("folder", root=root, unseen=1, validation=0)
        for variant, settings in list(VARIANTS.items())[: 3 if dry else None]:
            more = {"classes": data.train.classes} if name == "sbka" else {}
            method = zsbir.build(name, **(SMALL if dry else METHODS)[name], **more)
            rows_a_step = 3 * batch if method.recipe.sampling == "mixed" else batch
            recipe = zsbir.Recipe(
                epochs=2, batch_size=rows_a_step, samples_per_epoch=rows_a_step * steps,
                sampling=method.recipe.sampling,
            )  # fmt: skip
            if not settings:
                loop, watch = PlainLoop(method, data, recipe, workers, place()), Watch()
                for _ in range(2):
                    loop.run(watch)
                rows.append([variant, watch.epochs[-1] / steps, watch.waits[-1] / watch.epochs[-1]])
                continue
            trainer = Trainer(
                method, data, recipe=recipe, workers=workers, progress=False, select_on="none", **settings
            )  # fmt: skip
            trainer.use_cache(Path(folder) / "cache")
            log = Path(folder) / f"{variant}.jsonl"
            trainer.learner.start(trainer.steps_per_epoch)
            for trainer.epoch in range(2):  # the first compiles, starts the workers and fills the cache
                log.unlink(missing_ok=True)
                trainer.figures.log = StepLog(log)
                start = time.perf_counter()
                trainer._one_epoch(Estimate(0, show=False))
                wait()
                spent = time.perf_counter() - start
            waited = [json.loads(line)["wait_s"] for line in log.read_text().splitlines()]
            rows.append([variant, spent / steps, sum(waited) / spent])
    shown = [
        [name, variant, f"{3 * batch / step:.0f}", f"{rows[0][1] / step:.2f}×", f"{share:.0%}"]
        for variant, step, share in rows
    ]
    head = ["method", "settings", "images/s", "against the plain loop", "of the time the GPU waits for data"]
    return {"rows": rows, "target": 2}, table(head, shown)


def embedding(dry: bool) -> Result:
    """Images a second of `embed`, files to vectors, against the bare network on images that are on the device."""
    count, batch, workers = (24, 8, 0) if dry else (8192, 256, 12)
    backbone = SMALL["puxim"]["backbone"] if dry else "vit_base_patch16_224"
    method = zsbir.build("frozen", backbone=backbone).eval().to(place())
    rows: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = photos(Path(folder), 1, min(count, 512), 64 if dry else 400)
        found = sorted((root / "photo").rglob("*.jpg"))
        files = (found * (count // len(found) + 1))[:count]
        size = method.preprocess.size
        images = torch.rand(batch, 3, size, size, device=place())
        first = method.encode_photos(files[:batch], workers=workers, device=place())

        def bare(precision: str) -> None:
            with torch.inference_mode(), torch.autocast(place().type, torch.bfloat16, precision == "bf16"):
                for _ in range(count // batch):
                    method.embed(images, "photo")

        for precision in ("no", "bf16"):
            top = count / seconds(partial(bare, precision), 1 if dry else 2)
            for decode in ("cpu", "device"):
                options: dict[str, Any] = {
                    "workers": workers, "device": place(), "precision": precision, "decode": decode
                }  # fmt: skip
                rate = count / seconds(partial(method.encode_photos, files, **options), 1 if dry else 2)
                again = method.encode_photos(files[:batch], **options)
                gap = 1 - float(torch.nn.functional.cosine_similarity(first, again).min())
                rows.append([precision, decode, top, rate, rate / top, gap])
    head = ["precision", "JPEG decoded by", "bare network, images/s", "files to vectors", "share", "1 - cosine at most"]
    shown = [[p, d, f"{top:.0f}", f"{rate:.0f}", f"{part:.2f}", f"{gap:.1e}"] for p, d, top, rate, part, gap in rows]
    return {"rows": rows, "target_share": 0.7}, table(head, shown)


def masks(dry: bool) -> Result:
    """PuXIM's masks by CLIP Surgery (random weights): photos a second, and the share of patches that are the same."""
    count, batch = (4, 2) if dry else (256, 64)
    config = {"embed_dim": 32, "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16,
              "patch_size": 8}, "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2,
              "layers": 1}}  # fmt: skip
    side, grid = (32, (4, 4)) if dry else (224, (14, 14))
    images = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    rows: list[list[Any]] = []
    expected = None
    for device, precision in (("cpu", "float32"), (place().type, "float32"), (place().type, "bfloat16")):
        torch.manual_seed(0)
        more = {"model": config, "blocks": 2} if dry else {}
        masker = zsbir.MASKERS.build("vxl", precision=precision, **more)

        def run(masker: Any = masker, device: str = device) -> torch.Tensor:
            batches = images.to(device).split(batch)
            return torch.cat([masker(MaskRequest(some, ["cat"] * len(some), grid)) for some in batches]).cpu()

        kept = run()
        spent = seconds(run, 1)
        expected = kept if expected is None else expected
        rows.append([device, precision, count / spent, float((kept == expected).float().mean())])
    head = ["device", "precision", "photos/s", "patches as on the CPU"]
    return {"rows": rows}, table(head, [[d, p, f"{rate:.1f}", f"{same:.2%}"] for d, p, rate, same in rows])


def sketchy(dry: bool, *, data: Path) -> Result:
    """Training on the thinned Sketchy, three seeds: `contrastive` with two stages tuned, whose row the README has."""
    dataset = zsbir.DATASETS.build("sketchy-25", root=data / "sketchy-mini")
    rows = []
    for seed in range(1 if dry else 3):
        torch.manual_seed(seed)
        row = ROWS["contrastive, two stages tuned"]()
        method = zsbir.build(row.method, **row.options)
        recipe = replace(method.recipe, **{**row.recipe, **({"epochs": 1, "samples_per_epoch": 8} if dry else {})})
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            Trainer(
                method, dataset, recipe=recipe, seed=seed, workers=0 if dry else 8, select_on="none", progress=False,
                out=Path(folder) / "run", speed=Speed.auto(), precision=auto_precision("auto"),
            ).fit()  # fmt: skip
            spent = time.perf_counter() - start
        sides = embed_split(method, dataset, dataset.test, device=place(), workers=0 if dry else 8)
        report = Evaluator("standard", resamples=0).evaluate(*sides)
        rows.append([seed, spent, report.results["standard"]["mAP@all"]])
    shown = [[seed, f"{spent:.0f}", f"{score:.3f}"] for seed, spent, score in rows]
    return {"rows": rows}, table(["seed", "training, s", "mAP@all, unseen"], shown)


def evaluation(dry: bool) -> Result:
    """QuickDraw's size under all protocols (target: 5 s)."""
    sizes = (300, 200) if dry else (92_291, 54_151)
    queries, gallery = vectors(sizes[0], 768, 30, 1), vectors(sizes[1], 768, 30, 2)
    names = zsbir.PROTOCOLS.names()

    def run() -> None:
        evaluate_embeddings(queries.vectors, queries.labels, gallery.vectors, gallery.labels, names, (100, 200))

    spent = seconds(run, 1 if dry else 3)
    return {"seconds": spent, "target": 5}, table(["queries", "photos", "s"], [[*sizes, f"{spent:.2f}"]])


def scores(matcher: str, sketches: Embeddings, gallery: Embeddings) -> torch.Tensor:
    return zsbir.MATCHERS.build(matcher).fit(gallery).scores(sketches)


def matchers(dry: bool) -> Result:
    """Matching on the CPU and on the GPU: seconds, and how far the scores are apart."""
    sizes = (20, 60) if dry else (1000, 4000)
    sketches, gallery = vectors(sizes[0], 64, 25, 1), vectors(sizes[1], 64, 25, 2)
    rows = []
    for name in ("cosine", "k-reciprocal", "diffusion", "query-expansion"):
        found, spent = [], []
        for device in ("cpu", place()):
            there = [replace(some, vectors=some.vectors.to(device)) for some in (sketches, gallery)]
            run = partial(scores, name, *there)
            spent.append(seconds(run, 1))
            found.append(run().float().cpu())
        gap = float((found[0] - found[1]).abs().max())
        rows.append([name, *spent, gap])
    shown = [[name, f"{cpu:.2f}", f"{gpu:.2f}", f"{gap:.1e}"] for name, cpu, gpu, gap in rows]
    return {"sizes": sizes, "rows": rows}, table(["matcher", "CPU, s", "GPU, s", "largest difference"], shown)


def serving(dry: bool) -> Result:
    """Queries a second of the model behind the search page, for one user and for many at once."""
    backbone = SMALL["puxim"]["backbone"] if dry else "vit_base_patch16_224"
    embedder = Embedder(zsbir.build("frozen", backbone=backbone), place().type)
    drawing = Image.effect_noise((256, 256), 60).convert("RGB")
    each = 2 if dry else 50

    def ask(users: int) -> None:
        with ThreadPoolExecutor(users) as pool:
            list(pool.map(lambda _: embedder.images([drawing], "sketch"), range(users * each)))

    rows = [[users, users * each / seconds(partial(ask, users), 1)] for users in (1, 8, 32)]
    return {"rows": rows}, table(["users", "queries/s"], [[users, f"{rate:.0f}"] for users, rate in rows])


def one_to_many(dry: bool) -> Result:
    """The fit of one-to-many matching on a gallery of Sketchy-25's size (target: 5 s)."""
    gallery = vectors(400 if dry else 17_101, 32 if dry else 1024, 25, 2)
    spent = seconds(lambda: zsbir.MATCHERS.build("one-to-many").fit(gallery), 1 if dry else 2)
    return {"seconds": spent, "target": 5}, table(["photos", "s"], [[len(gallery), f"{spent:.2f}"]])


PARTS: dict[str, Callable[..., Result]] = {
    "equal": equal, **{f"training_{name}": partial(training, name=name) for name in METHODS},
    "embedding": embedding, "serving": serving, "evaluation": evaluation, "one_to_many": one_to_many,
    "matchers": matchers, "masks": masks, "sketchy": sketchy,
}  # fmt: skip

if __name__ == "__main__":
    main()
