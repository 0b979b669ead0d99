"""CLIP Surgery around open_clip's own image tower: patch tokens that can be compared with words.

Li et al., CLIP Surgery for Better Explainability with Enhancement in Open-Vocabulary Tasks (arXiv:2304.05653), in the
form that PuXIM uses. CLIP is not copied: its blocks run unchanged, and the surgery path reads their weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zsbir.errors import ZsbirError


def check_tower(visual: Any, blocks: int) -> None:
    """Raise ZsbirError for an image tower that is no ViT of open_clip, pools by attention, or has too few blocks."""
    layers = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if layers is None or not hasattr(visual, "class_embedding"):
        raise ZsbirError(
            f"CLIP Surgery needs a ViT of open_clip, but this image tower is a {type(visual).__name__}: use a model "
            "such as 'ViT-B-16-quickgelu'"
        )
    plain = visual.attn_pool is None and visual.pool_type in ("tok", "avg")
    if not plain or not hasattr(layers[0].attn, "in_proj_weight"):
        raise ZsbirError(
            "CLIP Surgery needs the class token, or the mean of the patches, as the image feature; this tower pools "
            "by attention: use a model such as 'ViT-B-16-quickgelu'"
        )
    if not 1 <= blocks <= len(layers):
        raise ZsbirError(f"blocks={blocks} must be between 1 and {len(layers)}, the blocks of the image tower")


def position_embedding(visual: Any, grid: tuple[int, int]) -> Tensor:
    """Return (1 + N, W): the tower's position embedding, interpolated bilinearly to another patch grid (h, w)."""
    whole: Tensor = visual.positional_embedding
    if tuple(visual.grid_size) == grid:
        return whole
    maps = whole[1:].reshape(1, *visual.grid_size, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(maps.float(), size=grid, mode="bilinear", align_corners=False)
    return torch.cat([whole[:1], resized.flatten(2)[0].T.to(whole.dtype)])


def surgery_tokens(visual: Any, images: Tensor, blocks: int = 6) -> Tensor:
    """Return the image tokens after surgery on the last blocks, projected to the space of the texts.

    In each of the last `blocks` blocks the value projection attends to itself: the surgery path adds up
    softmax(v vᵀ·s) v, computed from the original path's normalised input, without the MLP. The original path runs on
    untouched. The class token is taken from the original path, the patch tokens from the surgery path. In towers whose
    image feature is the mean of the patches (CLIPA), that mean takes the class token's place.

    Args:
        visual: A VisionTransformer of open_clip that `check_tower` accepts.
        images: (B, 3, H, W), normalised as CLIP expects; H and W are multiples of the patch size, of any size.
        blocks: How many of the last blocks get the second path.

    Returns:
        (B, 1 + N, C) float in the tower's dtype, not normalised; row 0 is the class token.
    """
    patches = visual.conv1(images)
    grid = (patches.shape[2], patches.shape[3])
    patches = patches.flatten(2).transpose(1, 2)
    start = visual.class_embedding.expand(len(images), 1, -1).to(patches.dtype)
    x = torch.cat([start, patches], dim=1) + position_embedding(visual, grid)
    x = visual.ln_pre(visual.patch_dropout(x))
    layers = visual.transformer.resblocks
    for block in layers[: len(layers) - blocks]:
        x = block(x)
    surgery = x
    for block in layers[len(layers) - blocks :]:
        surgery = surgery + block.ls_1(_value_attention(block, x))
        x = block(x)
    image = visual._pool(x)[0].unsqueeze(1)  # with ln_post, as the tower itself ends
    tokens: Tensor = torch.cat([image, visual.ln_post(surgery[:, 1:])], dim=1)
    return tokens @ visual.proj if visual.proj is not None else tokens


def _value_attention(block: Any, x: Tensor) -> Tensor:
    """Return (B, 1 + N, W): softmax(v vᵀ·s) v of one block, through its output projection."""
    attention, width = block.attn, x.shape[2]
    bias = attention.in_proj_bias
    v = F.linear(block.ln_1(x), attention.in_proj_weight[2 * width :], None if bias is None else bias[2 * width :])
    v = v.reshape(*v.shape[:2], attention.num_heads, -1).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(v, v, v).transpose(1, 2).flatten(2)
    # Two steps that only open_clip's "custom" blocks have; both are the identity in the usual models.
    mixed = getattr(attention, "ln_inner", torch.nn.Identity())(mixed)
    projected: Tensor = getattr(block, "ln_attn", torch.nn.Identity())(attention.out_proj(mixed))
    return projected


def feature_surgery(tokens: Tensor, texts: Tensor) -> Tensor:
    """Return how similar each token is to each text, without what all texts have in common.

    With F the tokens (row 0 the class token) and T the texts of one image: p = softmax(2·F₀Tᵀ), w = p / mean(p),
    G[n, k, c] = F[n, c]·T[k, c]·w[k]; the mean of G over k is subtracted, and the sum over c is the similarity. Since
    F factors out, this is one matrix product: F · (w[k]·T[k] − mean over k)ᵀ.

    Args:
        tokens: (B, 1 + N, C) float, normalised.
        texts: (B, K, C) or (1, K, C) float, each text of norm 1; K ≥ 2, or nothing is left.

    Returns:
        (B, 1 + N, K) float.
    """
    probability = (2 * tokens[:, :1] @ texts.transpose(1, 2)).softmax(dim=-1)
    weight = probability / probability.mean(dim=-1, keepdim=True)
    weighted = texts * weight.transpose(1, 2)
    return tokens @ (weighted - weighted.mean(dim=1, keepdim=True)).transpose(1, 2)
