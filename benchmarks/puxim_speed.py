"""A training step of PuXIM against a plain re-implementation of the published step: same model, batch and device.

Plain, as the release works: the two texts of each photo are encoded at every step, CLIP Surgery runs on one image at a
time with written-out attention and the (N, K, C) product, all in float32; the three parts of the triplet go through the
encoder one after the other. Times are the least of the repeats, taken in turn, in one run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _results import table, write
from torch import Tensor
from torch.nn import functional as F

import zsbir
from zsbir.clip import image_input
from zsbir.losses import reconstruction_loss
from zsbir.maskers.base import MaskRequest
from zsbir.maskers.store import MaskStore
from zsbir.methods.puxim import PuXIM
from zsbir.types import Batch

CLASSES = ("dog", "elephant", "giraffe", "guitar")


def plain_attention(block: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both paths of a surgery block from one qkv projection, softmax written out; y is (1, 1 + N, W)."""
    attention = block.attn
    heads, width = attention.num_heads, y.shape[2]
    qkv = F.linear(y, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = qkv.reshape(1, -1, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    scale = (width // heads) ** -0.5
    original = ((q @ k.transpose(-2, -1)) * scale).softmax(-1) @ v
    values = ((v @ v.transpose(-2, -1)) * scale).softmax(-1) @ v
    return tuple(attention.out_proj(x.transpose(1, 2).reshape(1, -1, width)) for x in (original, values))  # type: ignore[return-value]


def plain_mask(clip: Any, tokenizer: Any, image: Tensor, name: str, ratio: float = 0.7, blocks: int = 6) -> Tensor:
    """The mask (N,) of one photo normalised for CLIP (3, H, W): its texts are encoded, nothing is kept."""
    texts = F.normalize(clip.encode_text(tokenizer(["a", name]).to(image.device)), dim=1)
    visual = clip.visual
    x = visual._embeds(image[None])
    layers = list(visual.transformer.resblocks)
    for block in layers[: len(layers) - blocks]:
        original, _ = plain_attention(block, block.ln_1(x))
        x = x + original
        x = x + block.mlp(block.ln_2(x))
    surgery = x
    for block in layers[len(layers) - blocks :]:
        original, values = plain_attention(block, block.ln_1(x))
        surgery = surgery + values
        x = x + original
        x = x + block.mlp(block.ln_2(x))
    tokens = visual.ln_post(torch.cat([x[:, :1], surgery[:, 1:]], 1)) @ visual.proj
    tokens = (tokens / tokens.norm(dim=1, keepdim=True))[0]
    p = (2 * tokens[:1] @ texts.T).softmax(-1)
    product = tokens[:, None] * texts[None] * (p / p.mean(-1, keepdim=True)).reshape(1, -1, 1)
    scores = (product - product.mean(1, keepdim=True)).sum(-1)[1:, 1]
    mask = torch.ones_like(scores)
    mask[scores.argsort()[: int(len(scores) * ratio) + 1]] = 0
    return mask


def plain_masks(method: PuXIM, batch: Batch) -> Tensor:
    masker: Any = method.masker
    photos = torch.cat([batch.photo, batch.negative])  # type: ignore[list-item]
    names = batch.names(batch.photo_label) + batch.names(batch.negative_label)  # type: ignore[arg-type]
    mean, std = (torch.tensor(s, device=photos.device).view(3, 1, 1) for s in image_input(masker.clip.visual)[1:])
    with torch.no_grad():
        each = [
            plain_mask(masker.clip, masker._tokenizer, (photo - mean) / std, name)
            for photo, name in zip(photos, names, strict=True)
        ]
    return torch.stack(each)


def plain_step(method: PuXIM, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
    masks = plain_masks(method, batch)
    parts = [method.encoder(method.preprocess.normalise(x)) for x in (batch.sketch, batch.photo, batch.negative)]
    s, p, n = parts
    loss = F.triplet_margin_loss(s.vector, p.vector, n.vector, margin=1.0)
    photos = torch.cat([p.tokens, n.tokens])  # type: ignore[list-item]
    loss = loss + 0.05 * reconstruction_loss(photos, masks.bool())
    assert method.interaction is not None
    for x, label in ((p, 1), (n, 0)):
        logits = method.interaction(s.tokens, x.tokens)
        target = torch.full((len(logits),), label, device=logits.device)
        loss = loss + 0.05 * F.cross_entropy(logits, target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def our_step(method: PuXIM, batch: Batch, optimizer: torch.optim.Optimizer, bf16: bool) -> None:
    with torch.autocast(batch.photo.device.type, dtype=torch.bfloat16, enabled=bf16):
        loss = torch.stack(list(method(batch).values())).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def clock(runs: dict[str, Callable[[], Any]], repeats: int, cuda: bool) -> dict[str, float]:
    """Return the least seconds of each, measured in turn so that all see the same load."""
    least = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            if cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            if cuda:
                torch.cuda.synchronize()
            least[name] = min(least[name], time.perf_counter() - start)
    return least


def make_batch(rows: int, size: int, device: str) -> Batch:
    g = torch.Generator().manual_seed(0)
    images = [torch.rand(rows, 3, size, size, generator=g) for _ in range(3)]
    label = torch.arange(rows) % len(CLASSES)
    return Batch(
        sketch=images[0], photo=images[1], negative=images[2], label=label, photo_label=label,
        negative_label=(label + 1) % len(CLASSES), classes=CLASSES,
    ).to(device)  # fmt: skip


def measure(backbone: str, clip: str, rows: int, repeats: int, device: str) -> dict[str, Any]:
    """Return the seconds of masking and of the whole step with one encoder, and how far the masks agree."""
    cuda = device.startswith("cuda")
    torch.manual_seed(0)
    method = zsbir.build("puxim", backbone=backbone, masker={"name": "vxl", "model": clip, "blocks": 6})
    assert isinstance(method, PuXIM)
    method.to(device).train()
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-5, weight_decay=1e-3)
    batch = make_batch(rows, method.preprocess.size, device)
    masker: Any = method.masker
    masker.precision = "float32" if not cuda else "auto"
    assert batch.negative is not None
    assert batch.negative_label is not None
    grid = method.encoder.grid
    assert grid is not None
    photos = torch.cat([batch.photo, batch.negative])
    names = batch.names(batch.photo_label) + batch.names(batch.negative_label)
    ours = masker(MaskRequest(photos, names, grid))
    same = float((plain_masks(method, batch).bool() == ours).float().mean())
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        pixels = (photos.cpu().permute(0, 2, 3, 1) * 255).to(torch.uint8).numpy()
        files = [f"photo-{i}" for i in range(len(pixels))]
        store = MaskStore(masker, grid, folder)
        store.precompute(files, names, lambda file: pixels[int(file.split("-")[1])], device=device)

        def stored() -> Tensor:
            return torch.from_numpy(np.stack([store(file) for file in files])).to(device)

        masking = clock({
            "plain": lambda: plain_masks(method, batch),
            "cached text, batched": lambda: masker(MaskRequest(photos, names, grid)),
            "CLIP's image tower alone, batched": lambda: masker.clip.visual(photos),
        }, repeats, cuda)  # fmt: skip
        masking |= clock({"stored": stored}, 20, cuda)
        keep = stored()
    keep = keep.clone()
    with_masks = Batch(**{**vars(batch), "photo_keep": keep[:rows], "negative_keep": keep[rows:]})
    our_step(method, with_masks, optimizer, cuda)  # warms up, and makes the optimiser's state
    step = clock({
        "plain": lambda: plain_step(method, batch, optimizer),
        "cached text, batched": lambda: our_step(method, batch, optimizer, cuda),
        "stored": lambda: our_step(method, with_masks, optimizer, cuda),
    }, repeats, cuda)  # fmt: skip
    return {"backbone": backbone, "masking_s": masking, "step_s": step, "agreement": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--backbones",
        nargs="+",
        default=["vit_base_patch16_224", "vit_small_patch16_224", "vit_tiny_patch16_224"],
    )
    parser.add_argument("--clip", default="ViT-B-16-quickgelu")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*masks mean nothing.*")
    found = [measure(b, args.clip, args.batch_size, args.repeats, args.device) for b in args.backbones]
    lines = []
    for each in found:
        masking, step = each["masking_s"], each["step_s"]
        for name, seconds in masking.items():
            whole = [f"{step[name]:.3f}", f"{step['plain'] / step[name]:.2f}×"] if name in step else ["", ""]
            lines.append(
                [each["backbone"], name, f"{seconds * 1000:.2f}", f"{masking['plain'] / seconds:.1f}×", *whole]
            )
    kind = "CUDA, our step in bf16" if args.device.startswith("cuda") else "CPU, float32; GPU not measured"
    same = min(each["agreement"] for each in found)
    text = (
        f"# A training step of PuXIM\n\nEncoders with the convolutional stem, CLIP {args.clip} with random weights, "
        f"{args.batch_size} triplets, {kind}. `plain` re-implements the published step. The masks of both agree in at "
        f"least {100 * same:.2f} % of the patches. CLIP's image tower must run on every photo whose mask is not "
        "stored, so its time alone bounds what keeping the texts can bring.\n\n"
        + table(["encoder", "masks", "masking, ms", "against plain", "whole step, s", "against plain"], lines)
    )
    write("puxim_speed", {"settings": vars(args), "encoders": found}, text)


if __name__ == "__main__":
    main()
