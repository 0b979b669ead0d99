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
from _puxim_common import table, write
from torch import Tensor
from torch.nn import functional as F

import zsbir
from zsbir.clip import image_statistics
from zsbir.maskers.store import MaskStore
from zsbir.methods.puxim import PuXIM, reconstruction_loss
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
    """The mask (N,) of one normalised photo (3, H, W): its texts are encoded, nothing is kept."""
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
    mean, std = (torch.tensor(s, device=photos.device).view(3, 1, 1) for s in image_statistics(masker.clip.visual))
    with torch.no_grad():
        each = [
            plain_mask(masker.clip, masker._tokenizer, (photo * 0.5 + 0.5 - mean) / std, name)
            for photo, name in zip(photos, names, strict=True)
        ]
    return torch.stack(each)


def plain_step(method: PuXIM, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
    masks = plain_masks(method, batch)
    parts = [method.encoder(x) for x in (batch.sketch, batch.photo, batch.negative)]
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
    """Return the least seconds of each, measured in turn so that all see the same load.

    On a CPU these are the process's own CPU seconds, which other processes on a shared machine hardly change.
    """
    now = time.perf_counter if cuda else time.process_time
    least = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            if cuda:
                torch.cuda.synchronize()
            start = now()
            run()
            if cuda:
                torch.cuda.synchronize()
            least[name] = min(least[name], now() - start)
    return least


def make_batch(rows: int, size: int, device: str) -> Batch:
    g = torch.Generator().manual_seed(0)
    images = [torch.rand(rows, 3, size, size, generator=g) * 2 - 1 for _ in range(3)]
    label = torch.arange(rows) % len(CLASSES)
    return Batch(
        sketch=images[0], photo=images[1], negative=images[2], label=label, photo_label=label,
        negative_label=(label + 1) % len(CLASSES), classes=CLASSES,
    ).to(device)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--clip", default="ViT-B-16-quickgelu")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*masks mean nothing.*")
    cuda = args.device.startswith("cuda")
    torch.manual_seed(0)
    method = zsbir.build("puxim", backbone=args.backbone, masker={"name": "vxl", "model": args.clip, "blocks": 6})
    method.to(args.device).train()
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-5, weight_decay=1e-3)
    batch = make_batch(args.batch_size, method.image_size, args.device)
    masker = method.masker
    masker.precision = "float32" if not cuda else "auto"
    assert batch.negative is not None
    assert batch.negative_label is not None
    photos = torch.cat([batch.photo, batch.negative]) * 0.5 + 0.5
    names = batch.names(batch.photo_label) + batch.names(batch.negative_label)
    ours = masker(photos, names, method.encoder.grid)
    same = float((plain_masks(method, batch).bool() == ours).float().mean())
    with tempfile.TemporaryDirectory() as folder:
        pixels = (photos.cpu().permute(0, 2, 3, 1) * 255).to(torch.uint8).numpy()
        files = [f"photo-{i}" for i in range(len(pixels))]
        store = MaskStore(masker, method.encoder.grid, folder)
        store.precompute(files, names, lambda file: pixels[int(file.split("-")[1])], device=args.device)

        def stored() -> Tensor:
            return torch.from_numpy(np.stack([store(file) for file in files])).to(args.device)

        masking = clock({
            "plain": lambda: plain_masks(method, batch),
            "cached text, batched": lambda: masker(photos, names, method.encoder.grid),
        }, args.repeats, cuda)  # fmt: skip
        masking |= clock({"stored": stored}, 20, cuda)
        keep = stored()
        rows = args.batch_size
        with_masks = Batch(**{**vars(batch), "photo_keep": keep[:rows], "negative_keep": keep[rows:]})
        our_step(method, with_masks, optimizer, cuda)  # warms up, and makes the optimiser's state
        step = clock({
            "plain": lambda: plain_step(method, batch, optimizer),
            "cached text, batched": lambda: our_step(method, batch, optimizer, cuda),
            "stored": lambda: our_step(method, with_masks, optimizer, cuda),
        }, args.repeats, cuda)  # fmt: skip
    lines = [
        [name, f"{masking[name] * 1000:.2f}", f"{masking['plain'] / masking[name]:.1f}×", f"{step[name]:.3f}",
         f"{step['plain'] / step[name]:.2f}×"]
        for name in masking
    ]  # fmt: skip
    kind = "CUDA, our step in bf16" if cuda else "CPU seconds of one process, float32; GPU not measured"
    text = (
        f"# A training step of PuXIM\n\n{args.backbone} with the convolutional stem, CLIP {args.clip} with random "
        f"weights, {args.batch_size} triplets, {kind}. `plain` re-implements the published step. The masks of both "
        f"agree in {100 * same:.2f} % of the patches.\n\n"
        + table(["masks", "masking, ms", "against plain", "whole step, s", "against plain"], lines)
    )
    write("puxim_speed", {"settings": vars(args), "masking_s": masking, "step_s": step, "agreement": same}, text)


if __name__ == "__main__":
    main()
