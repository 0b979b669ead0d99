"""DANN: its losses term by term, λ, frozen towers, and what it says of its domain classifier."""

import logging
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import zsbir
from zsbir.errors import ZsbirError
from zsbir.methods._dann import DomainWatch, reversal_strength
from zsbir.types import Batch


def make(**options):
    torch.manual_seed(0)
    return zsbir.build("dann", backbone={"name": "tiny", "image_size": 32, "width": 4}, **options)


def a_batch(rows=6, files=False):
    generator = torch.Generator().manual_seed(1)
    sketch, photo, negative = torch.rand(3, rows, 3, 32, 32, generator=generator)
    label = torch.arange(rows) % 3
    fields = ("sketch", "photo", "negative")
    names = {field: [f"{field}{i}" for i in range(rows)] for field in fields} if files else {}
    return Batch(
        sketch, photo, label, label, negative, (label + 1) % 3, ("a", "b", "c"), files=names
    )  # fmt: skip


def test_terms_are_the_published_sum():
    method, batch = make(domain_loss_ratio=0.5, triplet_loss_ratio=2.0, margin=1.5), a_batch()
    method.train()
    terms = method(batch)
    look = method.preprocess.normalise
    s, p, n = (
        method.sketch(look(batch.sketch)), method.photo(look(batch.photo)), method.photo(look(batch.negative))
    )  # fmt: skip
    triplet = F.triplet_margin_loss(s, p, n, margin=1.5)
    assert torch.allclose(terms["triplet"], 2 * triplet, atol=1e-5)
    logits = method.domain(torch.cat([p, n, s])).squeeze(1).chunk(3)
    parts = [
        F.binary_cross_entropy(torch.sigmoid(x), torch.full_like(x, y)) for x, y in zip(logits, (1, 1, 0), strict=True)
    ]
    assert torch.allclose(terms["domain"], 0.5 * sum(parts), atol=1e-5)


def test_separate_domain_batches_hide_the_domains_mean_from_the_classifier():
    # BatchNorm over one domain alone removes its mean, so a shift of a whole domain changes nothing: the reason why
    # the three parts go through the classifier together by default.
    for how, seen in (("separate", False), ("joint", True)):
        method = make(domain_batches=how)
        method.train()
        p, n, s = torch.randn(3, 8, method.photo.dim, generator=torch.Generator().manual_seed(2))
        here, there = method._domain_loss(p, n, s), method._domain_loss(p, n, s + 7)
        assert torch.allclose(here, there, atol=1e-3) != seen


def test_reversal_turns_the_towers_gradient_but_not_the_classifiers():
    def gradients(strength):
        method = make()
        method.train()
        method.strength = strength
        method(a_batch())["domain"].backward()
        tower = next(p for p in method.sketch.backbone.parameters() if p.grad is not None)
        return tower.grad.clone(), next(method.domain.parameters()).grad.clone()

    tower, domain = gradients(1.0)
    half_tower, half_domain = gradients(0.5)
    plain_tower, plain_domain = gradients(-1.0)
    assert tower.abs().sum() > 0
    assert torch.allclose(tower, 2 * half_tower, atol=1e-7)
    assert torch.allclose(tower, -plain_tower, atol=1e-7)
    assert torch.allclose(domain, half_domain)
    assert torch.allclose(domain, plain_domain)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("ramp", [0, 0, 0.2, 0.8, 1, 1]), ("step", [0, 0, 0, 0, 1, 1]), ("constant", [1] * 6)],
)
def test_schedules(schedule, expected):
    found = [reversal_strength(schedule, epoch, 50, 25) for epoch in (0, 4, 5, 20, 25, 49)]
    assert found == pytest.approx(expected)


def test_ganin_schedule_follows_its_formula_and_grows():
    values = [reversal_strength("ganin", epoch, 10) for epoch in range(11)]
    assert values[0] == 0
    assert values[5] == pytest.approx(torch.tanh(torch.tensor(2.5)).item())  # 2/(1+e^-2x)-1 = tanh x
    assert values == sorted(values)


def test_strength_depends_on_the_epoch_alone():
    method, other = make(grl_threshold_epoch=10), make(grl_threshold_epoch=10)
    for epoch in range(8):
        method.on_epoch(epoch, 20)
    other.on_epoch(7, 20)
    assert method.strength == other.strength == pytest.approx(0.7)


def test_logs_strength_and_balanced_accuracy():
    method = make(schedule="constant")
    method.train()
    method(a_batch())
    assert method.logged["lambda"] == 1.0
    assert 0 <= float(method.logged["domain_accuracy"]) <= 1


def test_unknown_schedule_is_refused():
    with pytest.raises(ZsbirError, match="'ramp', 'step', 'ganin', 'constant' or None"):
        make(schedule="linear")


@pytest.mark.parametrize(("accuracy", "word"), [(1.0, "at 100 %"), (0.5, "at chance")])
def test_a_stuck_classifier_is_said_once(caplog, accuracy, word):
    watch = DomainWatch(window=5)
    with caplog.at_level(logging.WARNING, logger="zsbir"):
        for _ in range(20):
            watch.add(torch.tensor(accuracy), 1.0)
    assert [word in record.getMessage() for record in caplog.records] == [True]


def test_a_working_classifier_is_not_mentioned(caplog):
    watch = DomainWatch(window=5)
    with caplog.at_level(logging.WARNING, logger="zsbir"):
        for _ in range(20):
            watch.add(torch.tensor(0.8), 1.0)
    assert not caplog.records


def test_frozen_backbone_is_shared_and_stays_as_it_is():
    method = make(freeze="backbone", head=[8])
    assert method.photo.backbone is method.sketch.backbone
    assert method.photo.head is not method.sketch.head
    method.train()
    assert not method.photo.backbone.training
    sum(method(a_batch()).values()).backward()
    assert all(p.grad is None for p in method.photo.backbone.parameters())
    assert all(p.grad is not None for p in method.photo.head.parameters())


def test_stored_vectors_stand_for_the_images_of_a_frozen_backbone():
    method = make(freeze="backbone", head=[8], pool="model").eval()
    images = torch.rand(3, 3, 32, 32)
    stored = method.trunk.lower(method.preprocess.normalise(images))
    assert torch.equal(method.embed(stored, "sketch").vector, method.embed(images, "sketch").vector)
    assert make(freeze="backbone", head=[8], pool="max").trunk is None  # its maps are pooled here
    assert make().trunk is None


def test_a_shared_head_keeps_its_own_standard_of_each_domain():
    method = make(shared="head", head=[8], pool="model", standardise=True, dropout=0.1)
    linear = [next(m for m in tower.head if isinstance(m, torch.nn.Linear)) for tower in (method.sketch, method.photo)]
    assert linear[0] is linear[1]
    assert method.sketch.head[0] is not method.photo.head[0]
    method.train()
    method(a_batch())
    assert not torch.equal(method.sketch.head[0].mean, method.photo.head[0].mean)


def test_frozen_without_a_head_is_refused():
    with pytest.raises(ZsbirError, match="nothing to train"):
        make(freeze="backbone")


def test_towers_start_equal_and_train_apart_unless_shared():
    method = make()
    assert all(torch.equal(a, b) for a, b in zip(method.photo.parameters(), method.sketch.parameters(), strict=True))
    assert method.photo is not method.sketch
    shared = make(shared=True)
    assert shared.photo is shared.sketch


def test_max_pool_is_the_largest_token():
    method, images = make().eval(), a_batch().sketch
    tokens = method.sketch.backbone(method.preprocess.normalise(images)).tokens
    assert torch.allclose(method.embed(images, "sketch").vector, tokens.amax(dim=1))


def test_unit_embeddings_have_length_one():
    vector = make(unit=True, head=[8, 4]).eval().embed(a_batch().photo, "photo").vector
    assert vector.shape == (6, 4)
    assert torch.allclose(vector.norm(dim=1), torch.ones(6))


def test_needs_triplets():
    with pytest.raises(ZsbirError, match="triplets"):
        make()(replace(a_batch(), negative=None))


def test_negative_weights_come_from_the_source(tmp_path):
    file = tmp_path / "vectors.txt"
    file.write_text("cat 0 0\ndog 0 1\nship 0 3\n")
    weights = make(negatives=str(file)).negative_weights(["cat", "dog", "ship"])
    expected = torch.tensor([[0, 1, 1 / 3], [1, 0, 1 / 2], [1 / 3, 1 / 2, 0]], dtype=torch.float64)
    assert torch.allclose(weights, expected)
    assert make().negative_weights(["cat", "dog"]) is None


def test_statistics_of_the_release():
    assert make(statistics="unit").preprocess.mean == (0.0, 0.0, 0.0)
    assert make(statistics="unit").preprocess.std == (1.0, 1.0, 1.0)


def test_published_is_what_the_release_computes_and_yields_to_what_is_named():
    published, other = make(published=True), make(published=True, schedule="ganin")
    assert (published.schedule, published.domain_batches) == ("step", "separate")
    assert (published.preprocess.mean, published.preprocess.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert (other.schedule, other.domain_batches) == ("ganin", "separate")
    assert (make().schedule, make().domain_batches, make().preprocess.mean) == ("ramp", "joint", (0.5, 0.5, 0.5))


@pytest.mark.parametrize("last_relu", [False, True])
def test_a_densenet_ends_in_its_batch_norm_unless_a_relu_is_asked_for(last_relu):
    more = {"last_relu": True} if last_relu else {}
    method = zsbir.build("dann", backbone={"name": "densenet121", "image_size": 32, **more}).eval()
    net = method.photo.backbone.net
    last = net.features.norm5
    torch.nn.init.constant_(last.bias, -3.0)  # most channels fall below 0 everywhere
    seen = []
    last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    vector = method.embed(torch.randn(2, 3, 32, 32), "photo").vector
    expected = F.batch_norm(seen[0], last.running_mean, last.running_var, last.weight, last.bias, eps=last.eps)
    expected = expected.clamp(min=0) if last_relu else expected
    torch.testing.assert_close(vector, expected.amax(dim=(2, 3)))
    assert bool((vector < 0).any()) != last_relu
    with pytest.raises(ZsbirError, match="not for timm's resnet18"):
        zsbir.BACKBONES.build("resnet18", last_relu=False)


def test_the_published_network_takes_a_step_with_the_published_settings():
    # DenseNet-121 twice, max-pooled, Adam; smaller images than the published 224 pixels, for time. Its thousand small
    # operations are slower on two threads that wait for each other than on one.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _published_step()
    finally:
        torch.set_num_threads(threads)


def _published_step():
    torch.manual_seed(0)
    method = zsbir.build("dann", backbone={"name": "densenet121", "image_size": 32})
    assert zsbir.METHODS.parameters("dann")["backbone"].default == "densenet121.tv_in1k"
    method.on_epoch(25, 50)
    method.train()
    optimizer = torch.optim.Adam(method.parameters(), lr=method.recipe.lr)
    sketch, photo, negative = torch.randn(3, 2, 3, 32, 32)
    label = torch.arange(2)
    before = [next(tower.backbone.parameters()).detach().clone() for tower in (method.sketch, method.photo)]
    terms = method(Batch(sketch, photo, label, label, negative, 1 - label))
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    optimizer.step()
    assert set(terms) == {"triplet", "domain"}
    assert all(torch.isfinite(term) for term in terms.values())
    for tower, old in zip((method.sketch, method.photo), before, strict=True):
        assert not torch.equal(next(tower.backbone.parameters()), old)
    assert method.eval().embed(photo, "photo").vector.shape == (2, 1024)
