"""CLIP Surgery against the published code's values and against slow versions written from the formulas."""

import json
import warnings
import zlib
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from torch.nn import functional as F

from zsbir.errors import ZsbirError
from zsbir.maskers import MASKERS
from zsbir.maskers._select import choose
from zsbir.maskers._surgery import check_tower, feature_surgery, position_embedding, surgery_tokens
from zsbir.maskers.base import MaskRequest
from zsbir.maskers.vxl import VxL

REFERENCE = Path(__file__).parents[1] / "reference"
SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 64, "patch_size": 8, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def small(**options):
    masker = MASKERS.build("vxl", model=SMALL, blocks=2, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _ = masker.clip
    return masker


@pytest.fixture(scope="module")
def reference():
    config = json.loads((REFERENCE / "clip_surgery.json").read_text())
    with np.load(REFERENCE / "clip_surgery.npz") as file:
        values = {name: torch.from_numpy(file[name]) for name in file}
    model = open_clip.CLIP(**{k: config[k] for k in ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")}).eval()
    for name, parameter in model.named_parameters():
        z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(parameter.shape)).astype(np.float32)
        if name == "logit_scale":
            z = np.float32(2.0)
        elif "ln_" in name and name.endswith("weight"):
            z = 1 + 0.1 * z
        elif z.ndim == 1:
            z = 0.1 * z
        else:
            z = z * 1.5 / np.sqrt(np.prod(z.shape[1:]))
        parameter.data = torch.tensor(np.asarray(z, dtype=np.float32))
    images = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 3, 64, 64)).astype(np.float32))
    return model.requires_grad_(False), images, config["surgery_blocks"], values


def test_published_values(reference):
    model, images, blocks, values = reference
    tokens = surgery_tokens(model.visual, images, blocks)
    torch.testing.assert_close(tokens, values["image_tokens"], atol=1e-4, rtol=0)
    texts = model.encode_text(values["tokens"], normalize=True)
    torch.testing.assert_close(texts, values["text_features"], atol=1e-4, rtol=0)
    masker = VxL(model=SMALL)
    torch.testing.assert_close(masker.similarity(tokens, texts[None]), values["all_similarity"], atol=1e-4, rtol=0)
    pairs = torch.stack([texts[:1].expand(3, -1), texts[1:]], dim=1)
    maps = masker.similarity(tokens, pairs)[:, 1:, 1]
    torch.testing.assert_close(maps, values["pair_similarity"], atol=1e-4, rtol=0)
    for percent in (30, 50, 70):
        assert torch.equal(choose(maps, percent / 100).float(), values[f"mask_r{percent}"])


def slow_tokens(visual, image, blocks):
    """One image, one head and one query at a time."""
    p = visual.patch_size[0]
    h, w = image.shape[1] // p, image.shape[2] // p
    x = [visual.class_embedding]
    for i in range(h):
        for j in range(w):
            patch = image[:, i * p : (i + 1) * p, j * p : (j + 1) * p]
            x.append((visual.conv1.weight * patch).sum((1, 2, 3)))
    position = visual.positional_embedding
    if (h, w) != tuple(visual.grid_size):
        maps = position[1:].T.reshape(1, -1, *visual.grid_size)
        maps = F.interpolate(maps, (h, w), mode="bilinear", align_corners=False)
        position = torch.cat([position[:1], maps.reshape(maps.shape[1], -1).T])
    x = visual.ln_pre(torch.stack(x) + position)
    layers = list(visual.transformer.resblocks)
    surgery = x
    for number, block in enumerate(layers):
        y = block.ln_1(x)
        width, heads = y.shape[1], block.attn.num_heads
        q, k, v = (y @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).split(width, dim=1)
        original, values = torch.zeros_like(y), torch.zeros_like(y)
        d = width // heads
        for head in range(heads):
            part = slice(head * d, (head + 1) * d)
            for row in range(len(y)):
                a = torch.softmax(k[:, part] @ q[row, part] * d**-0.5, dim=0)
                original[row, part] = a @ v[:, part]
                a = torch.softmax(v[:, part] @ v[row, part] * d**-0.5, dim=0)
                values[row, part] = a @ v[:, part]
        out = block.attn.out_proj
        if number == len(layers) - blocks:
            surgery = x
        if number >= len(layers) - blocks:
            surgery = surgery + out(values)
        x = x + out(original)
        x = x + block.mlp(block.ln_2(x))
    tokens = torch.cat([x[:1], surgery[1:]])
    return visual.ln_post(tokens) @ visual.proj


def slow_similarity(tokens, texts, axis):
    """The formula as it is written, with the (N, K, C) tensor, for one image."""
    f = tokens / tokens.norm(dim=axis, keepdim=True)
    p = torch.softmax(2 * f[0] @ texts.T, dim=0)
    w = p / p.mean()
    g = torch.empty(len(f), len(texts), f.shape[1])
    for n in range(len(f)):
        for k in range(len(texts)):
            g[n, k] = f[n] * texts[k] * w[k]
    return (g - g.mean(dim=1, keepdim=True)).sum(dim=2)


@pytest.mark.parametrize(("blocks", "size"), [(1, 32), (2, 32), (3, 48)])
def test_tokens_equal_slow_version(blocks, size):
    visual = small().clip.visual
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))
    fast = surgery_tokens(visual, images, blocks)
    slow = torch.stack([slow_tokens(visual, image, blocks) for image in images])
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("norm", ["tokens", "features"])
def test_heatmap_equals_slow_version_image_by_image(norm):
    masker = small(norm=norm)
    photos = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    names = ["dog", "alarm_clock", "dog"]
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    maps = masker.heatmap(MaskRequest(photos, names, (4, 4)))
    for photo, name, found in zip(photos, names, maps, strict=True):
        tokens = slow_tokens(masker.clip.visual, (photo - mean) / std, 2)
        texts = masker.clip.encode_text(tokenizer(["a", name.replace("_", " ")]), normalize=True)
        slow = slow_similarity(tokens, texts, 0 if norm == "tokens" else 1)[1:, 1]
        torch.testing.assert_close(found, slow, atol=1e-5, rtol=1e-4)
    keep = masker(MaskRequest(photos, names, (4, 4)))
    assert keep.sum(1).tolist() == [16 - int(16 * 0.7) - 1] * 3


def test_each_text_is_encoded_once(monkeypatch):
    masker = small()
    encoded = []
    original = masker.clip.encode_text
    monkeypatch.setattr(masker.clip, "encode_text", lambda ids, **kw: encoded.append(len(ids)) or original(ids, **kw))
    for names in (["dog", "cat", "dog"], ["cat", "dog", "cow"], ["cow", "cow", "cow"]):
        masker(MaskRequest(torch.rand(3, 3, 32, 32), names, (4, 4)))
    assert encoded == [3, 1]  # "a", dog, cat; then cow


def test_templates_are_averaged():
    masker = small(prompts=["a photo of a {}.", "a {} in the wild"])
    features = masker.text_features(["a", "dog"])
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    encode = masker.clip.encode_text
    each = encode(tokenizer(["a photo of a dog.", "a dog in the wild"]), normalize=True)
    torch.testing.assert_close(features[1], F.normalize(each.mean(0), dim=0))
    torch.testing.assert_close(features[0], encode(tokenizer(["a"]), normalize=True)[0])
    assert len(small(prompts="ensemble").templates) == len(open_clip.OPENAI_IMAGENET_TEMPLATES)
    with pytest.raises(ZsbirError, match="templates that contain"):
        VxL(prompts="photo")


def test_raw_names_and_plain_statistics_are_puxims_release():
    masker, spoken = small(prompts="raw", statistics="half"), small()
    spoken.clip.load_state_dict(masker.clip.state_dict())
    encode, tokenizer = masker.clip.encode_text, open_clip.SimpleTokenizer(context_length=16)
    for name, said in (("hot-air_balloon", "hot air balloon"), ("saw", "hand saw")):
        texts = encode(tokenizer([name, said]), normalize=True)
        torch.testing.assert_close(masker.text_features(["a", name])[1], texts[0])
        torch.testing.assert_close(spoken.text_features(["a", name])[1], texts[1])
        assert not torch.allclose(texts[0], texts[1])
    photos = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(masker._prepare(photos, (4, 4)), 2 * photos - 1)


def test_map_is_resized_to_the_encoder_grid():
    masker = small()
    photos = torch.rand(2, 3, 40, 40)
    assert masker.heatmap(MaskRequest(photos, ["dog", "cat"], (2, 2))).shape == (2, 4)  # CLIP at its own 4 × 4
    assert masker.heatmap(MaskRequest(photos, ["dog", "cat"], (6, 6))).shape == (2, 36)  # CLIP at 48 px
    assert small(image_size=64).heatmap(MaskRequest(photos, ["dog", "cat"], (2, 2))).shape == (2, 4)


@pytest.mark.parametrize("more", [{}, {"pool_type": "avg"}, {"pool_type": "avg", "final_ln_after_pool": True}])
def test_first_row_is_the_image_feature_of_the_tower(more):
    model = open_clip.CLIP(**{**SMALL, "vision_cfg": {**SMALL["vision_cfg"], **more}}).eval()
    images = torch.randn(2, 3, 32, 32)
    check_tower(model.visual, 2)
    torch.testing.assert_close(surgery_tokens(model.visual, images, 2)[:, 0], model.encode_image(images))


def test_position_embedding_at_its_own_size_is_itself():
    visual = small().clip.visual
    assert position_embedding(visual, (4, 4)) is visual.positional_embedding
    assert position_embedding(visual, (5, 3)).shape == (16, 64)


def test_frozen_quiet_and_usable_in_a_loss():
    masker = small()
    assert list(masker.parameters()) == []
    assert masker.state_dict() == {}
    before = torch.random.get_rng_state()
    again = small()
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(again.clip.visual.proj, masker.clip.visual.proj)
    keep = masker(MaskRequest(torch.rand(1, 3, 32, 32), ["dog"], (4, 4)))
    x = torch.ones(1, 16, requires_grad=True)
    (x * keep * x).sum().backward()  # an inference tensor could not be saved for this
    torch.testing.assert_close(x.grad, 2.0 * keep)


def test_autocast_outside_changes_nothing():
    masker = small()
    photos = torch.rand(1, 3, 32, 32)
    plain = masker.heatmap(MaskRequest(photos, ["dog"], (4, 4)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = masker.heatmap(MaskRequest(photos, ["dog"], (4, 4)))
    assert torch.equal(plain, cast)
    low = small(precision="bfloat16")
    assert low.heatmap(MaskRequest(photos, ["dog"], (4, 4))).dtype == torch.float32
    assert low.clip.visual.conv1.weight.dtype == torch.bfloat16


def test_random_clip_warns_and_weights_are_needed_by_name(tmp_path):
    with pytest.warns(UserWarning, match="masks mean nothing"):
        _ = VxL(model=SMALL, blocks=2).clip
    with pytest.raises(ZsbirError, match="no CLIP weights file"):
        _ = VxL(model=SMALL, weights=str(tmp_path / "absent.pt")).clip
    file = tmp_path / "clip.pt"
    state = {k: v + 1 for k, v in small().clip.state_dict().items()}
    torch.save(state, file)
    loaded = VxL(model=SMALL, weights=str(file), blocks=2).clip
    torch.testing.assert_close(loaded.visual.proj, state["visual.proj"])
    file.write_bytes(b"not weights")
    with pytest.raises(ZsbirError, match="cannot be loaded"):
        _ = VxL(model=SMALL, weights=str(file), blocks=2).clip
    with pytest.raises(ZsbirError, match="no model 'ViT-B-61'"):
        _ = VxL(model="ViT-B-61").clip


@pytest.mark.parametrize(
    "name", ["ViT-B-32", "ViT-L-14-336", "ViT-B-16-plus-240", "ViT-L-14-CLIPA", "EVA02-B-16", "RN50", "coca_ViT-B-32"]
)
def test_towers_that_surgery_can_be_done_on(name):
    with torch.device("cpu" if name.startswith("EVA") else "meta"):  # older timm builds no EVA on meta
        config = open_clip.get_model_config(name)
        visual = open_clip.model._build_vision_tower(config["embed_dim"], config["vision_cfg"])
    if name.startswith("ViT"):
        check_tower(visual, 6)
        with pytest.raises(ZsbirError, match="blocks=99 must be between 1 and"):
            check_tower(visual, 99)
    else:
        with pytest.raises(ZsbirError, match="CLIP Surgery needs"):
            check_tower(visual, 6)


def test_feature_surgery_keeps_batches_apart():
    tokens, texts = torch.randn(4, 10, 8), F.normalize(torch.randn(4, 3, 8), dim=2)
    together = feature_surgery(tokens, texts)
    for i in range(4):
        alone = feature_surgery(tokens[i : i + 1], texts[i : i + 1])[0]
        torch.testing.assert_close(together[i], alone, atol=1e-6, rtol=1e-5)


def test_wrong_arguments():
    for wrong in ({"norm": "rows"}, {"precision": "fp8"}, {"ratio": 1.0}, {"keep": 0}, {"keep": 3, "threshold": 0.5}):
        with pytest.raises(ZsbirError):
            VxL(**wrong)
