"""Every registry entry keeps its contract: a new plugin is tested without writing a test."""

import json
from typing import get_type_hints

import numpy as np
import pytest
import torch

import zsbir
from zsbir import BACKBONES, DATASETS, MASKERS, MATCHERS, METHODS, PROTOCOLS
from zsbir.arguments import fits
from zsbir.evaluation.scoring import evaluate_scores
from zsbir.maskers.base import MaskRequest
from zsbir.search.stores import STORES
from zsbir.types import Batch, Embeddings, Paths

# Small settings where the published defaults are large; a new entry needs none unless its defaults are.
TINY_VIT = {"name": "vit_tiny_patch16_224", "image_size": 32}
TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
SMALL = {
    "clip-prompt": {"model": TINY_CLIP},
    "cmca": {"backbone": TINY_VIT, "image_size": None, "rank": 2},
    "modality-aware": {"model": TINY_CLIP},
    "zse": {"backbone": TINY_VIT, "heads": 3, "hidden": 16, "channels": 8},
    "dann": {"backbone": {"name": "tiny", "image_size": 32}},
    "contrastive": {"backbone": {"name": "tiny", "image_size": 32}},
    "frozen": {"backbone": {"name": "tiny", "image_size": 32}},
    "puxim": {"backbone": TINY_VIT, "masker": "random"},
    "sbka": {"backbone": "test_convnext2"},
}
CLASSES = ("bat", "cow", "door")


def build(registry, name):
    return registry.build(name, **(SMALL.get(name, {}) if registry is zsbir.METHODS else {}))


def batch_for(method, rows=4):
    size = method.preprocess.size
    images = [torch.rand(rows, 3, size, size, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    label = torch.arange(rows) % 3
    mixed = method.recipe.sampling == "mixed"
    objects = torch.zeros(rows, size, size, dtype=torch.bool)
    objects[:, : size // 2] = True
    return Batch(
        sketch=images[0],
        photo=images[1],
        label=label,
        photo_label=label,
        negative=None if mixed else images[2],
        negative_label=None if mixed else (label + 1) % 3,
        classes=CLASSES,
        photo_object=objects,
        negative_object=None if mixed else objects,
    )


@pytest.fixture(params=zsbir.METHODS.names())
def method(request):
    parameters = zsbir.METHODS.parameters(request.param)
    extra = {"classes": list(CLASSES)} if "classes" in parameters else {}
    return zsbir.build(request.param, **SMALL.get(request.param, {}), **extra)


def test_spec_rebuilds_the_method(method):
    spec = json.loads(json.dumps(method.spec))
    again = zsbir.build(spec)
    assert again.spec == method.spec
    assert again.state_dict().keys() == method.state_dict().keys()


def test_method_embeds_both_domains(method):
    method.eval()
    images = torch.rand(2, 3, method.preprocess.size, method.preprocess.size)
    with torch.inference_mode():
        for domain in ("sketch", "photo"):
            vector = method.embed(images, domain).vector
            assert vector.shape[0] == 2
            assert vector.ndim == 2
            assert torch.isfinite(vector).all()
            assert torch.allclose(vector[:1], method.embed(images[:1], domain).vector, atol=1e-5)


def test_method_trains_one_step(method):
    if not any(p.requires_grad for p in method.parameters()):
        with pytest.raises(zsbir.ZsbirError, match="nothing to train"):
            method(batch_for(method))
        return
    method.on_epoch(0, 2)
    method.train()
    terms = method(batch_for(method))
    assert terms
    for name, term in terms.items():
        assert term.shape == (), name
        assert torch.isfinite(term), name
    sum(terms.values()).backward()
    trained = [p for group in method.param_groups(method.recipe) for p in group["params"]]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
    assert len(trained) == len({id(p) for p in trained})


def test_method_is_saved_and_loaded(method, tmp_path):
    method.save(tmp_path / "last")
    again = zsbir.load(tmp_path)
    images = torch.rand(2, 3, method.preprocess.size, method.preprocess.size)
    with torch.inference_mode():
        assert torch.equal(method.eval().embed(images, "photo").vector, again.embed(images, "photo").vector)


@pytest.mark.parametrize("name", [n for n in zsbir.BACKBONES.names() if n != "open-clip"])
def test_backbone(name):
    backbone = zsbir.BACKBONES.build(name).eval()
    size = backbone.image_size
    with torch.inference_mode():
        features = backbone(torch.rand(2, 3, size, size))
    assert features.vector.shape == (2, backbone.dim)
    if backbone.grid is not None:
        assert features.tokens is not None
        assert features.tokens.shape[:2] == (2, backbone.grid[0] * backbone.grid[1])
    assert len(backbone.mean) == len(backbone.std) == 3


@pytest.mark.parametrize("name", [n for n in zsbir.MASKERS.names() if n != "vxl"])
def test_masker(name):
    masker = zsbir.MASKERS.build(name)
    backbone = zsbir.BACKBONES.build(TINY_VIT).eval()
    images = torch.rand(3, 3, 32, 32)
    features = backbone.with_attention(images) if masker.needs_attention else None
    objects = torch.zeros(3, 32, 32, dtype=torch.bool)
    objects[:, :16] = True
    keep = masker(MaskRequest(images, CLASSES, (2, 2), features, objects))
    assert keep.shape == (3, 4)
    assert keep.dtype == torch.bool
    assert keep.any(dim=1).all()
    assert not list(masker.parameters()) or not any(p.requires_grad for p in masker.parameters())


def embeddings(n, seed, domain="photo"):
    generator = torch.Generator().manual_seed(seed)
    labels = np.arange(n) % 3
    centres = 2 * torch.randn(3, 16, generator=torch.Generator().manual_seed(99)).sign()
    vectors = centres[labels] + torch.randn(n, 16, generator=generator)
    return Embeddings(vectors, labels, CLASSES, Paths(f"{domain}/{i}.png" for i in range(n)), domain)


@pytest.mark.parametrize("name", [n for n in zsbir.MATCHERS.names() if n != "relation"])
def test_matcher(name):
    matcher = zsbir.MATCHERS.build(name)
    gallery, queries = embeddings(60, 0), embeddings(9, 1, "sketch")
    assert matcher.fit(gallery) is matcher
    scores = matcher.scores(queries)
    assert scores.shape == (9, 60)
    assert torch.isfinite(scores).all()
    assert name in matcher.describe()
    # Higher is better: the classes are far apart, so the best photo of nearly every query is of its class.
    best = gallery.labels[scores.argmax(dim=1).numpy()]
    assert (best == queries.labels).mean() > 0.8


@pytest.mark.parametrize("name", zsbir.PROTOCOLS.names())
def test_protocol(name):
    protocol = zsbir.PROTOCOLS.build(name)
    assert protocol.name == name
    assert zsbir.PROTOCOLS.build(protocol.spec) == protocol
    labels = np.arange(30) % 3
    right = torch.tensor(labels[:, None] == labels[None, :]).float()
    order = torch.linspace(0, 0.5, 30)  # no two scores of a query are equal
    best, worst = (evaluate_scores(scores + order, labels, labels, [name], ks=(5,))[name] for scores in (right, -right))
    assert best.keys() == worst.keys()
    assert ("P@5" in best) == (protocol.precision_at is not None)
    assert ("mAP@5" in best) == (protocol.ap_at is not None)
    for metric, value in best.items():
        assert value == pytest.approx(1), metric
        assert 0 <= worst[metric] < 0.4, metric


REGISTRIES = [METHODS, DATASETS, BACKBONES, MASKERS, MATCHERS, PROTOCOLS, STORES]


@pytest.mark.parametrize(("registry", "name"), [(r, name) for r in REGISTRIES for name in r.names()])
def test_arguments_can_be_checked(registry, name):
    """Every constructor's annotations can be read, and its defaults agree with them."""
    made = registry.get(name)
    hints = get_type_hints(made.__init__ if isinstance(made, type) else made, include_extras=True)
    for key, parameter in registry.parameters(name).items():
        assert parameter.default is parameter.empty or fits(parameter.default, hints[key]), key
    with pytest.raises(zsbir.ZsbirError, match="no argument 'nonsense'"):
        made(nonsense=1)


@pytest.mark.parametrize(
    ("registry", "name"), [(r, name) for r in (MASKERS, MATCHERS, PROTOCOLS, STORES) for name in r.names()]
)
def test_constructor_and_build_are_equal(registry, name):
    assert registry.get(name)().spec == registry.build(name).spec


# Some methods only: each takes seconds, and the others share what these embed with.
@pytest.mark.parametrize(
    ("name", "options"), [("clip-prompt", {}), ("frozen", {}), ("puxim", {}), ("puxim", {"head": 16}), ("sbka", {})]
)
def test_a_method_exports_for_any_batch_size(name, options, tmp_path):
    from zsbir.engine.export import export

    extra = {"classes": list(CLASSES)} if name == "sbka" else {}
    method = zsbir.build(name, **SMALL[name], **extra, **options).eval()
    assert max(export(method, tmp_path, "torch-export").values()) < 1e-4
