"""Do clip-prompt, zse, cmca and modality-aware learn? Small ones from random weights, on drawn and on real data.

python benchmarks/newer_methods.py --root SKETCHY          (a tree of sketchy-25; without it the embedded data alone)

No pretrained CLIP or DINOv2 is used, so the figures say that training works, not what the methods can do.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from _results import table, write
from safetensors.torch import save_file
from torch import Tensor

import zsbir

VIT = {"name": "vit_tiny_patch16_224", "image_size": 64}
CLIP = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 128, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}
METHODS = {  # constructor arguments, learning rate: random weights need higher rates than published
    "modality-aware": ({"model": CLIP, "clip_lr": 0.1}, 5e-3),
    "clip-prompt": ({"model": CLIP, "encoder_lr": 0.1}, 1e-2),  # on the CLIP that modality-aware has trained
    "cmca": ({"backbone": VIT, "image_size": None, "rank": 16}, 1e-3),
    "zse": ({"backbone": VIT, "heads": 3, "hidden": 128, "channels": 64}, 1e-4),
}


def curve(name: str, dataset: zsbir.Dataset, args: argparse.Namespace, clip: Path) -> tuple[list[float], list[float]]:
    """Train; return the mean loss of each epoch, and mAP@all on unseen classes before and after."""
    options, lr = METHODS[name]
    torch.manual_seed(0)
    method = zsbir.build(name, **options, **({"weights": str(clip)} if name == "clip-prompt" else {}))
    scores = [score(method, dataset)]
    sampling = method.recipe.sampling
    recipe = zsbir.Recipe(epochs=1, batch_size=32, samples_per_epoch=args.samples, lr=lr, sampling=sampling)
    losses = []
    for epoch in range(args.epochs):
        seen: list[Tensor] = []
        hook = method.register_forward_hook(lambda _m, _i, terms, seen=seen: seen.append(sum(terms.values()).detach()))
        zsbir.Trainer(method, dataset, recipe=recipe, seed=epoch, workers=0, progress=False, select_on="none").fit()
        hook.remove()
        losses.append(float(torch.stack(seen).mean()))
    if name == "modality-aware":
        save_file({key: value.contiguous() for key, value in method.clip.state_dict().items()}, clip)
    return losses, [*scores, score(method, dataset)]


def score(method: zsbir.Method, dataset: zsbir.Dataset) -> float:
    """Return mAP@all (`standard`) on the unseen classes."""
    queries, gallery = zsbir.embed_split(method, dataset, dataset.test)
    report = zsbir.Evaluator(["standard"], matcher="cosine").evaluate(queries, gallery)
    return float(report.results["standard"]["mAP@all"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--samples", type=int, default=480, help="rows an epoch")
    args = parser.parse_args()
    data = {"openmoji": zsbir.DATASETS.build("openmoji", categories=60, unseen=15, validation=5, samples=4)}
    if args.root:
        data["sketchy-25"] = zsbir.DATASETS.build("sketchy-25", root=str(args.root))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for place, dataset in data.items():
            for name in METHODS:
                losses, (before, after) = curve(name, dataset, args, Path(folder) / f"{place}.safetensors")
                row = {"method": name, "data": place, "loss": losses, "before": before, "after": after}
                print(row, flush=True)
                rows.append(row)
    lines = [
        (
            r["method"],
            r["data"],
            " → ".join(f"{loss:.3f}" for loss in r["loss"]),
            f"{r['before']:.3f} → {r['after']:.3f}",
        )
        for r in rows
    ]
    head = ("method", "data", "mean loss of each epoch", "unseen mAP@all before and after")
    write("newer_methods", {"epochs": args.epochs, "samples": args.samples, "rows": rows}, table(head, lines))


if __name__ == "__main__":
    main()
