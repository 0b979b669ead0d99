"""How much of what a masker keeps is object? On the photos of `openmoji`, whose object masks are known.

`precision` is the share of the kept area that is object, `recall` the share of the object that is kept. A masker that
keeps patches by chance has the precision of the photo as a whole.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
import torch
from _results import table, write

import zsbir
from zsbir.backbones import BACKBONES
from zsbir.data.batches import to_unit
from zsbir.data.loading import ImageSource
from zsbir.data.preprocess import Preprocess
from zsbir.maskers import MASKERS
from zsbir.maskers.base import MaskRequest
from zsbir.maskers.quality import precision, recall
from zsbir.types import Features

GRID, SIZE = (14, 14), 224


def evaluate(name: str, spec: dict[str, Any], photos: Any, names: list[str], objects: torch.Tensor) -> dict[str, Any]:
    """Return precision, recall and share kept of one masker, with the 95 % interval of the precision over photos."""
    masker = MASKERS.build(spec)
    encoder = BACKBONES.build("vit_tiny_patch16_224") if masker.needs_attention else None
    began = time.perf_counter()
    kept = []
    for start in range(0, len(photos), 16):
        part = slice(start, start + 16)
        images = to_unit(torch.from_numpy(photos[part]).permute(0, 3, 1, 2), "cpu")
        features: Features | None = None
        with torch.no_grad():
            if encoder is not None:
                features = encoder.eval().with_attention(Preprocess.of(encoder).normalise(images))
            kept.append(masker(MaskRequest(images, names[part], GRID, features, objects[part])))
    keep = torch.cat(kept)
    pure = precision(keep, objects, GRID)
    return {
        "masker": name, "spec": spec, "precision": float(pure.mean()),
        "precision_ci95": float(1.96 * pure.std() / len(pure) ** 0.5),
        "recall": float(recall(keep, objects, GRID).mean()),
        "kept": float(keep.float().mean()), "ms_per_photo": 1000 * (time.perf_counter() - began) / len(photos),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=96, help="photos, spread over the unseen classes")
    parser.add_argument("--clip-weights", help="a tag of open_clip or a local file; without: CLIP is random")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*masks mean nothing.*")
    dataset = zsbir.DATASETS.build("openmoji")
    split, source = dataset.test, ImageSource(dataset, Preprocess(SIZE, (0.5,) * 3, (0.5,) * 3))
    rows = np.linspace(0, len(split.photos) - 1, args.photos).astype(int)
    files = [str(split.photos.file(int(i))) for i in rows]
    photos = np.stack([source.image(file, "photo") for file in files])
    masks = [source.mask(file) for file in files]
    objects = torch.from_numpy(np.stack([mask for mask in masks if mask is not None]))
    names = [split.classes[split.photos.labels[i]] for i in rows]
    torch.manual_seed(0)
    clip = f"vxl, CLIP {args.clip_weights}" if args.clip_weights else "vxl, CLIP with random weights"
    specs: list[tuple[str, dict[str, Any]]] = [
        ("none", {"name": "none"}),
        ("random", {"name": "random"}),
        ("attention, ViT with random weights", {"name": "attention"}),
        (clip, {"name": "vxl", "weights": args.clip_weights}),
        ("oracle (share ≥ 0.5)", {"name": "oracle"}),
        ("oracle (the published count)", {"name": "oracle", "ratio": 0.7}),
    ]
    found = [evaluate(name, spec, photos, names, objects) for name, spec in specs]
    lines = [
        [row["masker"], f"{row['precision']:.3f} ± {row['precision_ci95']:.3f}", f"{row['recall']:.3f}",
         f"{row['kept']:.3f}", f"{row['ms_per_photo']:.1f}"]
        for row in found
    ]  # fmt: skip
    text = (
        f"# Mask quality on `openmoji`\n\n{args.photos} photos of unseen classes at {SIZE} px, 14 × 14 patches, "
        f"ratio 0.7 where a masker has one. The object covers {float(objects.float().mean()):.3f} of a photo: that is "
        "the precision of chance. Pretrained weights of CLIP and of a ViT were not at hand where this was run, so "
        "`vxl` and `attention` know no class here, and what they are above chance comes from patches that stand out in "
        "random features; `--clip-weights openai` measures the real masker.\n\n"
        + table(["masker", "precision (± 95 %)", "recall", "kept", "ms a photo"], lines)
    )
    write("masks", {"chance": float(objects.float().mean()), "rows": found}, text)


if __name__ == "__main__":
    main()
