"""The settings for little data: a head on frozen stages, with each method's own losses."""

import pytest
import torch
from torch.nn import functional as F

import zsbir
from zsbir.backbones import BACKBONES
from zsbir.backbones.standard import SharedHead
from zsbir.engine.trainer import Trainer
from zsbir.errors import ZsbirError
from zsbir.losses import reconstruction_loss
from zsbir.types import Batch

NET = {"name": "timm", "model": "test_efficientnet", "image_size": 64, "pool": "stages"}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def build(method, net=NET, **options):
    torch.manual_seed(0)
    given = zsbir.METHODS.get(method).recipes["small-data"].options
    more = {"classes": ["dog", "cat"], "prior": 0.0} if method == "sbka" else {}
    return zsbir.build(method, **{**given, "head": 8, **more, **options, "backbone": net})


def batch(size=64):
    g = torch.Generator().manual_seed(0)
    sketch, photo, negative = (torch.rand(4, 3, size, size, generator=g) for _ in range(3))
    label = torch.arange(4) % 2
    return Batch(sketch, photo, label, label, negative=negative, negative_label=1 - label, classes=("dog", "cat"))


def test_the_head_standardises_each_domain_and_its_patches_alike():
    head = SharedHead(6, 4, dropout=0.0, keep=0.5)
    tokens = torch.randn(20, 5, 6) * 3 + 2
    standard = head.standard["sketch"]
    head(tokens.mean(1), "sketch")
    torch.testing.assert_close(standard.mean, tokens.mean((0, 1)))
    assert float(head.standard["photo"].seen) == 0
    head.eval()
    torch.testing.assert_close(head.patches(tokens, "sketch").mean(1), head(tokens.mean(1), "sketch"))
    unit = head.embed(tokens.mean(1), "sketch")
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(20))
    torch.testing.assert_close(unit[:, 4:].norm(dim=1) / unit[:, :4].norm(dim=1), torch.full((20,), 0.5))


def test_tokens_of_stages_have_the_vector_as_their_mean():
    net = BACKBONES.build(NET).eval()
    features = net(torch.randn(2, 3, 64, 64))
    assert features.tokens.shape == (2, net.grid[0] * net.grid[1], net.dim)
    torch.testing.assert_close(features.tokens.mean(1), features.vector)


def test_a_classifier_is_kept_beside_the_vector():
    plain, whole = (BACKBONES.build({**NET, "classifier": kept}).eval() for kept in (False, True))
    assert whole.head.out_features == 1000
    assert whole.head.in_features < whole.dim == plain.dim
    plain.net.load_state_dict(whole.net.state_dict(), strict=False)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(whole(images).vector, plain(images).vector)
    last = whole(images).vector[:, -whole.head.in_features :]
    torch.testing.assert_close(whole.head(last), whole.net(images))


@pytest.mark.parametrize("method", ["sbka", "puxim"])
def test_only_the_head_learns_and_it_learns_from_what_is_stored(shapes, method):
    options = {"classes": list(shapes.train.classes)} if method == "sbka" else {}
    built = build(method, {**NET, "image_size": 32}, **options)
    before = {name: tensor.clone() for name, tensor in built.state_dict().items()}
    given = {**zsbir.METHODS.get(method).recipes["small-data"].recipe, "epochs": 1, "batch_size": 6}
    trainer = Trainer(built, shapes, recipe=zsbir.Recipe(**{**vars(built.recipe), **given}), workers=0, progress=False)
    trainer.fit()
    assert built.stored is not None
    moved = {name for name, tensor in built.state_dict().items() if not torch.equal(tensor, before[name])}
    assert "shared.linear.weight" in moved
    assert not any(name.startswith(("student", "encoder")) for name in moved)


def test_sbka_keeps_its_losses_on_the_head():
    method = build("sbka", noise=0.1).eval()
    method.on_epoch(9, 10)
    data = batch()
    assert method.teacher.net.blocks is method.student.net.blocks
    terms = method(data)
    assert set(terms) == {"classification", "distillation", "noise", "alignment"}
    look = method.preprocess.normalise
    x = torch.cat([method.shared(method.student(look(images)).vector, domain)
                   for images, domain in ((data.sketch, "sketch"), (data.photo, "photo"))])  # fmt: skip
    cosines = F.normalize(x, dim=1) @ F.normalize(method.head.weight, dim=1).T
    expected = F.cross_entropy(cosines / method.temperature, torch.cat([data.label, data.photo_label]))
    torch.testing.assert_close(terms["classification"], expected)
    known = method.teacher.net(look(data.photo)).softmax(1)  # the teacher is the pretrained network as it is
    torch.testing.assert_close(terms["distillation"], -(known * method.labels(x[4:]).log_softmax(1)).sum(1).mean())
    terms["alignment"].backward()
    assert method.teacher.head.weight.grad is not None
    torch.testing.assert_close(method.embed(data.photo, "photo").vector, F.normalize(x[4:], dim=1))


def test_puxim_masks_and_matches_on_the_head():
    method = build("puxim", masker="attention", heads=2).eval()
    data = batch()
    s, p, n = (method.embed(images, domain) for images, domain in
               ((data.sketch, "sketch"), (data.photo, "photo"), (data.negative, "photo")))  # fmt: skip
    torch.testing.assert_close(p.vector.square().mean(1), torch.ones(4))
    torch.testing.assert_close(p.tokens.mean(1), p.vector, atol=1e-5, rtol=1e-4)
    terms = method(data)
    labels, photos = torch.cat([data.label, 1 - data.label]), torch.cat([p.vector, n.vector])
    gaps = [
        (anchor - photos[labels == own]).norm(dim=1)[:, None] - (anchor - photos[labels != own]).norm(dim=1)
        for anchor, own in zip(s.vector, data.label, strict=True)
    ]
    rows = F.relu(torch.cat([gap.flatten() for gap in gaps]) + method.margin)
    torch.testing.assert_close(terms["triplet"], rows[rows > 0].mean())
    keep = torch.zeros(8, p.tokens.shape[1], dtype=torch.bool)
    tokens, vectors = torch.cat([p.tokens, n.tokens]), torch.cat([p.vector, n.vector])
    order = F.cosine_similarity(tokens, vectors[:, None], dim=2).argsort(dim=1)
    keep.scatter_(1, order[:, int(keep.shape[1] * 0.7) + 1 :], True)
    torch.testing.assert_close(terms["reconstruction"], method.weight_rec * reconstruction_loss(tokens, keep))


def test_sbka_needs_a_linear_classifier():
    with pytest.raises(ZsbirError, match="linear classifier"):
        zsbir.build("sbka", backbone="levit_128s")
