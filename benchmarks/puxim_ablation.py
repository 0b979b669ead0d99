"""Does masking help where backgrounds distract? Masker × reconstruction × interaction on `openmoji`, three seeds.

The embedded photos have cluttered backgrounds and known object masks, so the masker `oracle` stands for a perfect
sampler. The encoder has to train in seconds: ImageNet features of EfficientNet-Lite0 (frozen, computed once, 8 × 8
patches at 128 px) under a small transformer that PuXIM trains as its ViT. The masker `vxl` is left out: without
pretrained CLIP weights its masks mean nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _results import table, write
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import zsbir
from zsbir.backbones import BACKBONES
from zsbir.backbones.base import Backbone
from zsbir.data.base import Dataset
from zsbir.data.batches import to_unit
from zsbir.data.loading import ImageSource
from zsbir.data.preprocess import Preprocess
from zsbir.data.sampling import triplet_plan
from zsbir.evaluation import evaluate_embeddings
from zsbir.methods.puxim import PuXIM
from zsbir.types import Batch, Features, Records, Split

SIZE, GRID = 128, (8, 8)


class TrunkAndTransformer(Backbone):
    """Frozen Lite0 up to stride 16, then a small transformer with a class token; takes the trunk's maps as well."""

    def __init__(self, width: int = 128, layers: int = 2) -> None:
        super().__init__()
        lite = BACKBONES.build("lite0", pretrained=True, image_size=SIZE)
        net: Any = lite.net
        self.trunk = nn.Sequential(net.conv_stem, net.bn1, *net.blocks[:5]).eval().requires_grad_(False)
        self.mean, self.std = lite.mean, lite.std
        self.image_size, self.grid, self.dim = SIZE, GRID, width
        self.enter = nn.Sequential(nn.Linear(112, width), nn.LayerNorm(width))
        self.start = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, GRID[0] * GRID[1] + 1, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.spec = {"name": "lite0 trunk and transformer"}

    def maps(self, images: Tensor) -> Tensor:
        """Return (B, 112, 8, 8) of normalised images."""
        with torch.no_grad():
            out: Tensor = self.trunk.eval()(images)
        return out

    def forward(self, images: Tensor) -> Features:
        """Return class token and tokens of images, or of maps."""
        return self._run(images, attention=False)

    def with_attention(self, images: Tensor) -> Features:
        """Return them with the class token's attention in the last block."""
        return self._run(images, attention=True)

    def _run(self, images: Tensor, attention: bool) -> Features:
        maps = self.maps(images) if images.shape[1] == 3 else images
        x = self.enter(maps.flatten(2).transpose(1, 2))
        x = torch.cat([self.start.expand(len(x), -1, -1), x], dim=1) + self.position
        seen = None
        for block in self.blocks:
            if attention and block is self.blocks[-1]:
                with torch.no_grad():
                    y = block.norm1(x)
                    seen = block.self_attn(y[:, :1], y, y, need_weights=True)[1][:, 0, 1:]
            x = block(x)
        x = self.norm(x)
        return Features(x[:, 0], x[:, 1:], GRID, seen)


def cached(records: Records, source: ImageSource, domain: Any, encoder: TrunkAndTransformer) -> Tensor:
    """Return (n, 112, 8, 8): the trunk's maps of all records."""
    parts = []
    for start in range(0, len(records), 64):
        files = [str(records.file(i)) for i in range(start, min(start + 64, len(records)))]
        pixels = np.stack([source.image(file, domain) for file in files])
        images = to_unit(torch.from_numpy(pixels).permute(0, 3, 1, 2), "cpu")
        parts.append(encoder.maps(source.preprocess.normalise(images)))
    return torch.cat(parts)


class Maps(Preprocess):
    """The maps here are no images."""

    def normalise(self, images: Tensor) -> Tensor:
        """Return them as they are."""
        return images


class Data:
    """The maps of the train and test parts, and the object masks of the train photos."""

    def __init__(self, dataset: Dataset, encoder: TrunkAndTransformer, cache: Path | None = None) -> None:
        source = ImageSource(dataset, Preprocess.of(encoder, sketch="crop-pad"))
        self.train, self.test = dataset.train, dataset.test
        if cache is not None and cache.is_file():
            flat = load_file(cache)
            self.maps = {(key.split()[0], key.split()[1]): value for key, value in flat.items()}
        else:
            self.maps = {
                (part, domain): cached(split.of(domain), source, domain, encoder)
                for part, split in (("train", self.train), ("test", self.test))
                for domain in ("sketch", "photo")
            }
        if cache is not None and not cache.is_file():
            save_file({" ".join(key): value.contiguous() for key, value in self.maps.items()}, cache)
        files = [str(self.train.photos.file(i)) for i in range(len(self.train.photos))]
        masks = [source.mask(file) for file in files]
        self.objects = torch.from_numpy(np.stack([mask for mask in masks if mask is not None]))

    def batch(self, sketch: Any, photo: Any, negative: Any) -> Batch:
        """Return the batch of one row of a plan."""
        split: Split = self.train
        return Batch(
            sketch=self.maps["train", "sketch"][sketch],
            photo=self.maps["train", "photo"][photo],
            negative=self.maps["train", "photo"][negative],
            label=torch.from_numpy(split.sketches.labels[sketch]),
            photo_label=torch.from_numpy(split.photos.labels[photo]),
            negative_label=torch.from_numpy(split.photos.labels[negative]),
            classes=split.classes,
            photo_object=self.objects[photo],
            negative_object=self.objects[negative],
        )


def one_run(data: Data, config: dict[str, Any], seed: int, steps: int, lr: float, batch_size: int) -> dict[str, float]:
    torch.manual_seed(seed)
    encoder = TrunkAndTransformer()
    masker = {"name": config["masker"]}
    if config["masker"] in ("random", "attention"):
        masker["ratio"] = config["ratio"]
    method = PuXIM(
        backbone=encoder, masker=masker, reconstruction=config["reconstruction"], interaction=config["interaction"],
        layers=1, hidden=256,
    )  # fmt: skip
    method.preprocess = Maps.of(encoder)  # and the maskers do not read images
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=lr)
    method.train()
    plan = triplet_plan(data.train, batch_size, seed, 0, steps * batch_size)
    for step in range(len(plan)):
        assert plan.negative is not None
        terms = method(data.batch(plan.sketch[step], plan.photo[step], plan.negative[step]))
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    method.eval()
    with torch.inference_mode():
        queries = method.embed(data.maps["test", "sketch"], "sketch").vector
        gallery = method.embed(data.maps["test", "photo"], "photo").vector
    found = evaluate_embeddings(queries, data.test.sketches.labels, gallery, data.test.photos.labels, ks=(8,))
    return {**found["standard"], **{f"last_{k}": float(v.detach()) for k, v in terms.items()}}


def configurations(weight: float) -> list[dict[str, Any]]:
    """Without reconstruction the masker has no effect; with `none` reconstruction has none: those are given once."""
    rows = [{"masker": "none", "reconstruction": 0.0}]
    rows += [{"masker": name, "reconstruction": weight} for name in ("random", "attention", "oracle")]
    return [{**row, "ratio": 0.7, "interaction": interaction} for interaction in (0.0, 0.1) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--reconstruction", type=float, default=0.05)
    parser.add_argument("--cache", type=Path, help="file to keep the trunk's maps in, for another run")
    args = parser.parse_args()
    began = time.time()
    torch.manual_seed(0)
    data = Data(zsbir.DATASETS.build("openmoji"), TrunkAndTransformer(), args.cache)
    ready = time.time()
    rows: list[dict[str, Any]] = []
    for config in configurations(args.reconstruction):
        runs = [one_run(data, config, seed, args.steps, args.lr, args.batch_size) for seed in range(args.seeds)]
        rows.append({**config, "runs": runs})
        print(config, [round(run["mAP@all"], 4) for run in runs], f"{time.time() - ready:.0f} s", flush=True)
    untrained = [one_run(data, configurations(0)[0], seed, 1, 0.0, 32) for seed in range(args.seeds)]
    rows.append({"masker": "untrained", "reconstruction": 0.0, "interaction": 0.0, "runs": untrained})
    base = [run["mAP@all"] for run in rows[0]["runs"]]
    lines = []
    for row in rows:
        scores = [run["mAP@all"] for run in row["runs"]]
        top = [run["P@8"] for run in row["runs"]]
        gain = [a - b for a, b in zip(scores, base, strict=True)]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        lines.append([row["masker"], row["reconstruction"], row["interaction"],
                      f"{statistics.mean(scores):.4f} ± {spread:.4f}", f"{statistics.mean(gain):+.4f}",
                      ", ".join(f"{g:+.4f}" for g in gain), f"{statistics.mean(top):.4f}"])  # fmt: skip
    head = ["masker", "L_rec weight", "L_int weight", "mAP@all (mean ± std)", "gain over L_tri alone", "by seed", "P@8"]
    text = (
        "# PuXIM ablation on `openmoji`\n\n"
        f"{len(data.train.classes)} seen and {len(data.test.classes)} unseen classes, 8 sketches and 8 photos each on "
        f"cluttered backgrounds; {args.steps} steps of {args.batch_size} triplets, lr {args.lr}, {args.seeds} seeds. "
        "Frozen Lite0 maps (8 × 8) under a trained two-layer transformer; the same seed means the same triplets and "
        "start weights. Protocol `standard`, unseen classes, cosine. `oracle` masks by the true object.\n\n"
        + table(head, lines)
    )
    write(
        "puxim_ablation",
        {
            "settings": {k: v for k, v in vars(args).items() if k != "cache"},
            "seconds": round(time.time() - began),
            "rows": rows,
        },
        text,
    )


if __name__ == "__main__":
    main()
