"""clip-prompt: the token row by hand, what trains, and its terms."""

import pytest
import torch
from torch.nn import functional as F

import zsbir
from zsbir.clip import clip_tokenizer, create_clip
from zsbir.errors import ZsbirError

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def make(**options):
    torch.manual_seed(0)
    return zsbir.build("clip-prompt", model=CLIP, **options).eval()


def by_hand(method, images, prompts):
    visual = method.encoder.visual
    row = visual.conv1(method.preprocess.normalise(images)).flatten(2).transpose(1, 2)
    row = torch.cat([visual.class_embedding.expand(len(row), 1, -1), row], 1) + visual.positional_embedding
    row = visual.ln_pre(torch.cat([row, prompts.expand(len(row), -1, -1)], 1)[:, : row.shape[1] + len(prompts)])
    return visual.ln_post(visual.transformer(row))[:, 0] @ visual.proj


def test_prompts_stand_behind_the_patches():
    method = make(prompts=2)
    images = torch.rand(3, 3, 32, 32)
    method.encoder.visual.ln_pre._forward_pre_hooks.clear()
    expected = [by_hand(method, images, prompts) for prompts in method.prompts]
    method.encoder.visual.ln_pre.register_forward_pre_hook(method._append)
    for domain, vector in zip(("sketch", "photo"), expected, strict=True):
        found = method.embed(images, domain)
        assert torch.allclose(found.vector, vector, atol=1e-5)
        assert found.tokens.shape[1] == 4
    assert not torch.allclose(*expected)


def test_common_prompts_are_the_same_for_both():
    method, images = make(common=True), torch.rand(2, 3, 32, 32)
    assert torch.equal(method.embed(images, "sketch").vector, method.embed(images, "photo").vector)


@pytest.mark.parametrize(("train", "projection"), [("layernorm", False), ("released", True)])
def test_what_trains(train, projection):
    method = make(train=train)
    trains = {name for name, p in method.named_parameters() if p.requires_grad}
    assert {"prompts", "encoder.visual.ln_post.weight"} <= trains
    assert ("encoder.visual.proj" in trains) == projection
    assert any(name.endswith("in_proj_weight") for name in trains) == projection
    assert not any("conv1" in name or "mlp" in name for name in trains)
    groups = method.param_groups(method.recipe)
    assert groups[1]["lr"] == pytest.approx(method.recipe.lr / 100)
    assert sum(len(group["params"]) for group in groups) == len(trains)


def test_terms(triplets):
    method, batch = make(text=0.5, shuffle=0.3), triplets(32)
    terms = method(batch)
    s, p = method.embed(batch.sketch, "sketch").vector, method.embed(batch.photo, "photo").vector
    n = method.embed(batch.negative, "photo").vector
    gap = F.cosine_similarity(s, n) - F.cosine_similarity(s, p) + 0.2
    assert torch.allclose(terms["triplet"], gap.clamp(min=0).mean(), atol=1e-6)
    clip = create_clip(CLIP)
    texts = clip.encode_text(clip_tokenizer(CLIP)([f"a photo of a {name}" for name in batch.classes]), normalize=True)
    entropy = sum(
        F.cross_entropy(clip.logit_scale.exp() * F.normalize(x, dim=1) @ texts.T, batch.label) for x in (s, p)
    )
    assert torch.allclose(terms["text"], 0.5 * entropy, atol=1e-4)
    assert terms["shuffle"] >= 0
    assert make()(batch).keys() == {"triplet"}


def test_shuffling_moves_whole_patches():
    method = make()
    images = torch.arange(4.0).view(1, 1, 2, 2).repeat_interleave(16, 2).repeat_interleave(16, 3).expand(1, 3, 32, 32)
    moved = method._shuffled(images, torch.tensor([3, 0, 1, 2]))
    assert moved[0, 0, ::16, ::16].flatten().tolist() == [3, 0, 1, 2]
    assert torch.equal(method._shuffled(images, torch.arange(4)), images)


def test_a_clip_without_tokens_is_refused():
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
    with pytest.raises(ZsbirError, match="ViT"):
        zsbir.build("clip-prompt", model={**CLIP, "vision_cfg": vision})
