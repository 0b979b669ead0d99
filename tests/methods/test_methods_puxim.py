"""PuXIM's encoder, losses and decoder against slow versions; it learns a handful of triplets."""

import warnings
from functools import partial

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import zsbir
from zsbir.backbones import BACKBONES
from zsbir.backbones.conv_stem import conv_stem
from zsbir.errors import ZsbirError
from zsbir.losses import cosine_triplet_loss, reconstruction_loss
from zsbir.maskers import MASKERS
from zsbir.maskers.base import masker_spec
from zsbir.matchers.relation import RelationMatcher, load_pairs
from zsbir.pairs import InteractionDecoder, sequence
from zsbir.types import Batch, Embeddings

TINY = {"backbone": "tiny", "masker": "random", "hidden": 32, "layers": 2}


def batch_of(rows=4, size=64, seed=0, **more):
    g = torch.Generator().manual_seed(seed)
    images = [torch.rand(rows, 3, size, size, generator=g) for _ in range(3)]
    label = torch.arange(rows) % 2
    return Batch(
        sketch=images[0], photo=images[1], negative=images[2], label=label, photo_label=label,
        negative_label=1 - label, classes=("dog", "cat"), **more,
    )  # fmt: skip


def test_conv_stem_is_the_published_one():
    stem = conv_stem(768, 16)
    convolutions = [m for m in stem if isinstance(m, torch.nn.Conv2d)]
    shapes = [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0], c.padding[0]) for c in convolutions]
    assert shapes == [(3, 64, 7, 2, 3), (64, 128, 3, 2, 1), (128, 256, 3, 2, 1), (256, 768, 3, 2, 1)]
    assert all(c.bias is None for c in convolutions)
    assert [type(m).__name__ for m in stem] == ["Conv2d", "ReLU"] * 3 + ["Conv2d"]
    for patch in (4, 8, 14, 16, 32):
        assert conv_stem(24, patch)(torch.randn(1, 3, 4 * patch, 4 * patch)).shape == (1, 24, 4, 4)
    with pytest.raises(ZsbirError, match="even patch size"):
        conv_stem(24, 7)


def test_encoder_averages_stem_and_patch_embedding():
    encoder = BACKBONES.build("conv-stem", model="test_vit", image_size=32).eval()
    plain = timm.create_model("test_vit", img_size=32, num_classes=0, norm_layer=partial(nn.LayerNorm, eps=1e-5)).eval()
    state = {k.replace("vit.net.", "").replace("proj.patch.", "proj."): v for k, v in encoder.state_dict().items()}
    plain.load_state_dict({k: v for k, v in state.items() if ".proj.stem." not in k})
    images = torch.randn(2, 3, 32, 32)
    stem = encoder.vit.net.patch_embed.proj.stem(images)
    x = (plain.patch_embed.proj(images) + stem) / 2
    x = plain._pos_embed(x.permute(0, 2, 3, 1))
    x = plain.norm(plain.blocks(plain.norm_pre(x)))
    features = encoder(images)
    torch.testing.assert_close(features.vector, x[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features.tokens, x[:, 1:], atol=1e-5, rtol=1e-4)
    assert features.grid == (2, 2)
    attention = encoder.with_attention(images).attention
    assert attention.shape == (2, 4)
    assert (attention.sum(1) < 1).all()  # the rest goes to the class token
    with pytest.raises(ZsbirError, match="needs a timm ViT"):
        BACKBONES.build("conv-stem", model="resnet18")


def test_encoder_drops_out_where_the_release_does():
    encoder = BACKBONES.build("conv-stem", model="vit_tiny_patch16_224")
    places = [name for name, m in encoder.named_modules() if isinstance(m, nn.Dropout) and m.p == 0.1]
    assert len(places) == 37  # after the positions, and in each of 12 blocks the attention and two layers
    assert sum(name.endswith(("attn.proj_drop", "mlp.drop1", "mlp.drop2")) for name in places) == 36
    assert {m.p for m in encoder.modules() if isinstance(m, nn.Dropout)} == {0.0, 0.1}
    assert {m.eps for m in encoder.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}
    method = zsbir.build("puxim", backbone={"name": "test_vit", "dropout": 0.0}, masker="none")
    assert not any(m.p for m in method.encoder.modules() if isinstance(m, nn.Dropout))


def test_open_clip_backbone():
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8, "head_width": 32},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
    }
    backbone = BACKBONES.build("open-clip", model=config, image_size=48)
    features = backbone(torch.randn(2, 3, 48, 48))
    assert features.vector.shape == (2, 24)
    assert features.tokens.shape == (2, 36, 64)
    assert (backbone.dim, backbone.grid, backbone.image_size) == (24, (6, 6), 48)
    features.vector.sum().backward()
    assert backbone.visual.conv1.weight.grad is not None
    assert backbone.mean == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)
    method = zsbir.build("puxim", backbone=backbone, masker="random")
    assert method.interaction.classify.in_features == 64
    assert set(method(batch_of(2, 48))) == {"triplet", "reconstruction", "interaction"}


def test_reconstruction_equals_the_formula():
    tokens = torch.randn(3, 5, 4, dtype=torch.float32, requires_grad=True)
    keep = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]], dtype=torch.bool)
    loss = reconstruction_loss(tokens, keep)
    slow = 0.0
    for b in range(3):
        for n in range(5):
            for c in range(4):
                masked = tokens[b, n, c] if keep[b, n] else 0.0
                slow = slow + (tokens[b, n, c] - masked) ** 2 / 60
    torch.testing.assert_close(loss, slow)
    gradient = torch.autograd.grad(loss, tokens)[0]
    torch.testing.assert_close(gradient, 2 * tokens.detach() * ~keep.unsqueeze(2) / 60)


def test_cosine_triplet_equals_the_formula():
    a, p, n = (torch.randn(6, 5) for _ in range(3))
    rows = [
        max(0.0, float((1 - F.cosine_similarity(x, y, 0)) - (1 - F.cosine_similarity(x, z, 0)) + 0.2))
        for x, y, z in zip(a, p, n, strict=True)
    ]
    assert float(cosine_triplet_loss(a, p, n)) == pytest.approx(sum(rows) / 6, abs=1e-6)


def slow_attention(module, query, memory):
    """One head and one query at a time, of one image."""
    width, heads = query.shape[1], module.num_heads
    wq, wk, wv = module.in_proj_weight.split(width)
    bq, bk, bv = module.in_proj_bias.split(width)
    q, k, v = query @ wq.T + bq, memory @ wk.T + bk, memory @ wv.T + bv
    d = width // heads
    out = torch.zeros_like(query)
    for h in range(heads):
        part = slice(h * d, (h + 1) * d)
        for i in range(len(query)):
            weights = torch.softmax(k[:, part] @ q[i, part] / d**0.5, dim=0)
            out[i, part] = weights @ v[:, part]
    return module.out_proj(out)


def test_interaction_attends_over_tokens():
    decoder = InteractionDecoder(8, layers=2, heads=2, hidden=16).eval()
    sketch, photo = torch.randn(3, 4, 8), torch.randn(3, 5, 8)
    logits = decoder(sketch, photo)
    for b in range(3):
        x = sketch[b]
        for layer in decoder.layers:
            x = layer.norm1(x + slow_attention(layer.self_attn, x, x))
            x = layer.norm2(x + slow_attention(layer.multihead_attn, x, photo[b]))
            x = layer.norm3(x + layer.linear2(F.relu(layer.linear1(x))))
        torch.testing.assert_close(logits[b], decoder.classify(x).mean(0), atol=1e-5, rtol=1e-4)
    # Another image in the batch changes nothing: the release's layers mix them.
    other = decoder(torch.cat([sketch[:1], torch.randn(2, 4, 8)]), torch.cat([photo[:1], torch.randn(2, 5, 8)]))
    torch.testing.assert_close(other[0], logits[0], atol=1e-6, rtol=1e-5)


def test_decoder_starts_as_copies_of_one_layer_and_reads_the_class_token():
    decoder = InteractionDecoder(8, layers=3, heads=2, hidden=16)
    first, *others = (dict(layer.named_parameters()) for layer in decoder.layers)
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)
    assert len({id(layer.linear1.weight) for layer in decoder.layers}) == 3
    vector, tokens = torch.randn(2, 8), torch.randn(2, 5, 8)
    assert torch.equal(sequence(vector, tokens), torch.cat([vector[:, None], tokens], dim=1))
    assert sequence(torch.randn(2, 6), tokens) is tokens  # a projected vector is no token


def test_decoder_over_the_batch_mixes_images_as_released():
    decoder = InteractionDecoder(8, layers=1, heads=2, hidden=16, over="batch").eval()
    sketch, photo = torch.randn(3, 4, 8), torch.randn(3, 4, 8)
    by_hand = InteractionDecoder(8, layers=1, heads=2, hidden=16).eval()
    by_hand.load_state_dict(decoder.state_dict())
    turned = by_hand.layers[0](sketch.transpose(0, 1), photo.transpose(0, 1)).transpose(0, 1)
    torch.testing.assert_close(decoder(sketch, photo), by_hand.classify(turned).mean(1))
    assert not torch.allclose(decoder(sketch[:1], photo[:1])[0], decoder(sketch, photo)[0], atol=1e-4)


def test_published_is_the_releases_batch_size_and_decoder():
    published, own = zsbir.build("puxim", **TINY, published=True), zsbir.build("puxim", **TINY)
    assert (published.recipe.batch_size, own.recipe.batch_size) == (2, 32)
    assert (published.recipe.anchor, own.recipe.anchor) == ("class", "class")
    maskers = [zsbir.build("puxim", **{**TINY, "masker": "vxl"}, published=how).masker for how in (True, False)]
    assert [(m.raw, m.statistics) for m in maskers] == [(True, "half"), (False, "clip")]
    kept = zsbir.build("puxim", **{**TINY, "masker": {"name": "vxl", "prompts": "ensemble"}}, published=True).masker
    assert (kept.raw, kept.statistics, len(kept.templates)) == (False, "half", 80)
    assert [m.interaction.layers[0].self_attn.batch_first for m in (published, own)] == [False, True]


@pytest.mark.parametrize("match", ["mask", "non-mask"])
def test_terms_equal_the_formulas(match):
    method = zsbir.build("puxim", **TINY, match=match).eval()
    keep = torch.rand(2, 4, 16) > 0.5
    batch = batch_of(photo_keep=keep[0], negative_keep=keep[1])
    terms = method(batch)
    s, p, n = (method.embed(x, "photo") for x in (batch.sketch, batch.photo, batch.negative))
    if match == "mask":
        triplet = F.triplet_margin_loss(s.vector, p.vector, n.vector, margin=1.0)
        both = [reconstruction_loss(x.tokens, k) for x, k in zip((p, n), keep, strict=True)]
        torch.testing.assert_close(terms["reconstruction"], 0.05 * (both[0] + both[1]) / 2)
    else:
        triplet = cosine_triplet_loss(s.vector, p.vector, n.vector, 0.2)
        assert "reconstruction" not in terms
    torch.testing.assert_close(terms["triplet"], triplet)
    s, p, n = (torch.cat([x.vector[:, None], x.tokens], dim=1) for x in (s, p, n))
    same, other = (F.log_softmax(method.interaction(s, x), dim=1) for x in (p, n))
    expected = -(same[:, 1].sum() + other[:, 0].sum()) / 8
    torch.testing.assert_close(terms["interaction"], 0.1 * expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("masker", ["random", "none", "oracle", "attention", "vxl"])
def test_every_masker_trains(masker):
    options = {"backbone": "test_vit", "image_size": 32, "layers": 1, "hidden": 16}
    spec = {"name": masker}
    if masker == "vxl":
        spec |= {"blocks": 1, "model": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
            "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
        }}  # fmt: skip
    method = zsbir.build("puxim", **options, masker=spec)
    objects = torch.zeros(4, 32, 32, dtype=torch.bool)
    objects[:, :16] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        terms = method(batch_of(size=32, photo_object=objects, negative_object=objects))
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None for p in method.parameters())  # or DDP would stop
    kept = {"none": 1.0, "oracle": 0.5}.get(masker, 0.25)
    assert float(method.logged["kept"]) == kept
    assert (float(terms["reconstruction"].detach()) == 0) == (masker == "none")


def with_spec(masker):
    masker.spec = {"name": "none"}
    return masker


def test_masker_sees_photos_in_unit_range_and_their_names():
    seen = {}

    class Spy(MASKERS.get("none")):
        def forward(self, request):
            seen.update(images=request.images, names=list(request.class_names), grid=request.grid)
            return super().forward(request)

    method = zsbir.build("puxim", **{**TINY, "masker": with_spec(Spy())})
    batch = batch_of(2)
    method(batch)
    assert torch.equal(seen["images"], torch.cat([batch.photo, batch.negative]))
    assert seen["names"] == ["dog", "cat", "cat", "dog"]
    assert seen["grid"] == (4, 4)


def test_stored_masks_replace_the_masker():
    class Never(MASKERS.get("none")):
        def forward(self, *_, **__):
            raise AssertionError("the masker ran")

    method = zsbir.build("puxim", **{**TINY, "masker": with_spec(Never())})
    keep = torch.ones(4, 16, dtype=torch.bool)
    method(batch_of(photo_keep=keep, negative_keep=keep))
    assert float(method.logged["kept"]) == 1.0


def test_a_handful_of_triplets_is_learned():
    torch.manual_seed(0)
    method = zsbir.build("puxim", **{**TINY, "backbone": {"name": "tiny", "image_size": 32}})
    keep = torch.rand(2, 4, 4) > 0.5
    batch = batch_of(size=32, photo_keep=keep[0], negative_keep=keep[1])
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    history = []
    for _ in range(200):
        terms = method(batch)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        history.append({name: float(value.detach()) for name, value in terms.items()})
    for name in ("triplet", "reconstruction", "interaction"):
        assert min(h[name] for h in history[-20:]) < 0.5 * history[0][name], name
    assert float(method.logged["interaction_accuracy"]) == 1.0


def test_switches_remove_their_parts():
    plain = zsbir.build("puxim", **TINY, reconstruction=0.0, interaction=0.0)
    assert plain.interaction is None
    assert set(plain(batch_of())) == {"triplet"}
    with pytest.raises(ZsbirError, match="trains on triplets"):
        plain(Batch(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64), torch.zeros(1), torch.zeros(1)))
    for wrong in (
        {"match": "other"}, {"backbone": "tiny", "stem": True}, {"backbone": "resnet18", "stem": True},
        {"backbone": "tiny", "heads": 5}, {"masker": MASKERS.build("none"), "clip_weights": "openai"},
    ):  # fmt: skip
        with pytest.raises(ZsbirError):
            zsbir.build("puxim", **{"masker": "none", **wrong})


def test_stem_is_where_a_vit_is_named():
    vit = zsbir.build("puxim", backbone="test_vit", image_size=32, masker="none")
    assert vit.encoder.spec["name"] == "conv-stem"
    bare = zsbir.build("puxim", backbone="test_vit", image_size=32, masker="none", stem=False)
    assert bare.encoder.spec["name"] == "timm"
    assert zsbir.build("puxim", backbone="resnet18", masker="none").encoder.spec["name"] == "timm"


def test_clip_weights_reach_the_masker_and_come_back_after_a_checkpoint(tmp_path):
    assert masker_spec("vxl", None, False)["weights"] is None
    assert masker_spec("vxl", None, True)["weights"] == "openai"
    assert masker_spec("vxl", "clip.pt", True)["weights"] == "clip.pt"
    assert masker_spec({"name": "vxl", "weights": "mine.pt"}, "clip.pt", True)["weights"] == "mine.pt"
    assert "weights" not in masker_spec("random", "clip.pt", True)
    zsbir.build("puxim", **{**TINY, "masker": "vxl", "clip_weights": "absent.pt"}).save(tmp_path / "model")
    with pytest.raises(ZsbirError, match=r"absent\.pt"):  # read only to train on, not to load and embed
        zsbir.load(tmp_path / "model")(batch_of())


def test_state_holds_no_clip_and_loads_strictly():
    method = zsbir.build("puxim", **{**TINY, "masker": "vxl"})
    assert not any(name.startswith("masker") for name in method.state_dict())
    other = zsbir.build(method.spec)
    other.load_state_dict(method.state_dict(), strict=True)
    batch = batch_of()
    torch.testing.assert_close(
        other.eval().embed(batch.photo, "photo").vector, method.eval().embed(batch.photo, "photo").vector
    )


def embeddings(method, images, domain, tokens=True):
    with torch.no_grad():
        features = method.embed(images, domain)
    return Embeddings(features.vector, torch.zeros(len(images)).long().numpy(), domain=domain,
                      tokens=features.tokens if tokens else None)  # fmt: skip


def test_relation_reranks_the_top_of_the_cosine_ranking():
    method = zsbir.build("puxim", **TINY).eval()
    g = torch.Generator().manual_seed(1)
    queries = embeddings(method, torch.rand(3, 3, 64, 64, generator=g), "sketch")
    gallery = embeddings(method, torch.rand(7, 3, 64, 64, generator=g), "photo")
    cosine = F.normalize(queries.vectors, dim=1) @ F.normalize(gallery.vectors, dim=1).T
    method.requires_grad_(False)
    whole = RelationMatcher.of(method.interaction, top=4, chunk=5).fit(gallery).scores(queries)
    for q in range(3):
        best = cosine[q].argsort(descending=True)
        for place, g_ in enumerate(best.tolist()):
            sides = (queries.vectors[q, None, None], queries.tokens[q : q + 1]), (
                gallery.vectors[g_, None, None], gallery.tokens[g_ : g_ + 1])  # fmt: skip
            pair = method.interaction(*(torch.cat(side, dim=1) for side in sides))
            expected = 2 + float(pair.softmax(1)[0, 1]) if place < 4 else float(cosine[q, g_])
            assert float(whole[q, g_]) == pytest.approx(expected, abs=1e-5)
    other = RelationMatcher.of(method.interaction, top=4, chunk=256).fit(gallery)
    torch.testing.assert_close(other.scores(queries), whole)
    assert "12 pairs scored" in other.describe()


def test_relation_reads_a_checkpoint(tmp_path):
    from safetensors.torch import save_file

    method = zsbir.build("puxim", **TINY).eval()
    (tmp_path / "best").mkdir()
    save_file({k: v.contiguous() for k, v in method.state_dict().items()}, tmp_path / "best" / "model.safetensors")
    decoder = load_pairs(tmp_path)
    a, b = torch.randn(2, 5, 128), torch.randn(2, 6, 128)
    torch.testing.assert_close(decoder(a, b), method.interaction(a, b))
    matcher = zsbir.MATCHERS.build("relation", weights=str(tmp_path), top=2)
    images = torch.rand(3, 3, 64, 64)
    with pytest.raises(ZsbirError, match="patch tokens of the gallery"):
        matcher.fit(embeddings(method, images, "photo", tokens=False))
    assert matcher.fit(embeddings(method, images, "photo")).scores(embeddings(method, images, "sketch")).shape == (3, 3)
    with pytest.raises(ZsbirError, match="needs a trained network"):
        zsbir.MATCHERS.build("relation").fit(embeddings(method, images, "photo"))
    with pytest.raises(ZsbirError, match="holds no checkpoint"):
        load_pairs(tmp_path / "absent")
    save_file({"x": a}, tmp_path / "other.safetensors")
    with pytest.raises(ZsbirError, match="no network for pairs"):
        load_pairs(tmp_path / "other.safetensors")
