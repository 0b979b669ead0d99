"""SBKA: the published two-optimiser step, its terms by definition, the two phases, the prior."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zsbir
from tests.data.data_trees import benchmark_tree
from zsbir import cli
from zsbir.data.semantic import imagenet_labels, semantic_prior
from zsbir.engine.trainer import Trainer
from zsbir.errors import ZsbirError
from zsbir.methods.sbka import PRESETS, SBKA
from zsbir.types import Batch

CLASSES = ("pig", "banana", "chair")
SIZE = 32


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def method() -> SBKA:
    built = zsbir.build("sbka", classes=list(CLASSES), backbone="test_convnext2", image_size=SIZE)
    # A random head of std 0.02 and equal teacher and student would hide mistakes.
    generator = torch.Generator().manual_seed(5)
    for parameter in (*built.student.parameters(), *built.teacher.head.parameters(), *built.head.parameters()):
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return built


def batch(sketches: int = 3, photos: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        sketch=torch.rand(sketches, 3, SIZE, SIZE, generator=generator),
        photo=torch.rand(photos, 3, SIZE, SIZE, generator=generator),
        label=torch.arange(sketches) % 3,
        photo_label=torch.arange(photos) % 3,
        classes=CLASSES,
    )


def images_of(method, data):
    return method.preprocess.normalise(torch.cat([data.sketch, data.photo]))


def published_sce(source, target, tag, prior):
    per_row = (-F.log_softmax(source, dim=1) * F.softmax(target + prior, dim=1)).sum(1)
    return (per_row * tag).sum() / tag.sum()


def published_step(method: SBKA, data: Batch, aligning: bool, opt_student, opt_teacher) -> None:
    """The release's step: two optimisers, nothing detached, `retain_graph`, the teacher's gradient zeroed between."""
    images, label = images_of(method, data), torch.cat([data.label, data.photo_label])
    tag = torch.cat([torch.zeros(len(data.label)), torch.ones(len(data.photo_label))])
    prior = 0.3 * torch.from_numpy(semantic_prior(CLASSES).similarity)[label]
    x = method.student(images).vector
    y, y_kd = method.head(x), method.student.head(x)
    with torch.set_grad_enabled(aligning):
        teacher = method.teacher(images).vector
        teacher = method.teacher.head(teacher)
    z = torch.randn_like(x)
    loss = (
        F.cross_entropy(y, label)
        + published_sce(y_kd, teacher, tag, prior)
        + 0.1 * nn.KLDivLoss(reduction="batchmean")(F.log_softmax(x, dim=1), F.softmax(z, dim=1))
    )
    opt_student.zero_grad()
    loss.backward(retain_graph=aligning)
    if aligning:
        opt_teacher.zero_grad()
        published_sce(teacher, y_kd, tag, prior).backward()
        opt_teacher.step()
    opt_student.step()


@pytest.mark.parametrize("aligning", [False, True])
def test_one_optimiser_gives_the_two_optimisers_gradients_and_steps(method, aligning):
    method.train()
    other = copy.deepcopy(method)
    recipe = method.recipe
    optimizer = torch.optim.Adam(method.param_groups(recipe), lr=recipe.lr, weight_decay=recipe.weight_decay)
    student = [*other.student.parameters(), *other.head.parameters()]
    opt_student = torch.optim.Adam(student, lr=1e-4, weight_decay=5e-4)
    opt_teacher = torch.optim.Adam(other.teacher.head.parameters(), lr=1e-4, weight_decay=5e-4)
    method.on_epoch(10 if aligning else 9, 20)
    for step in range(3):
        torch.manual_seed(step)
        optimizer.zero_grad()
        torch.stack(list(method(batch()).values())).sum().backward()
        torch.manual_seed(step)
        published_step(other, batch(), aligning, opt_student, opt_teacher)
        for (name, ours), theirs in zip(method.named_parameters(), other.parameters(), strict=True):
            if ours.grad is None:
                assert theirs.grad is None, name
            else:
                torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-5, msg=name)
        optimizer.step()
    for (name, ours), theirs in zip(method.named_parameters(), other.parameters(), strict=True):
        # Adam divides by the gradient's size: where that is rounding error, so is the step.
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0, msg=name)
    moved = any(p.grad is not None and p.grad.abs().sum() > 0 for p in method.teacher.head.parameters())
    assert moved == aligning


def test_terms_by_definition(method):
    method.on_epoch(10, 20)
    data = batch()
    torch.manual_seed(0)
    terms = method(data)
    images, label = images_of(method, data), torch.cat([data.label, data.photo_label])
    x = method.student(images).vector
    torch.manual_seed(0)
    z = torch.randn_like(x).softmax(1)
    similarity = torch.from_numpy(semantic_prior(CLASSES).similarity)
    student, teacher = method.student.head(x), method.teacher.head(method.teacher(images).vector)
    y = method.head(x)
    rows = {"distillation": 0.0, "alignment": 0.0}
    for i in range(3, 8):  # the photos
        p = 0.3 * similarity[label[i]]
        rows["distillation"] += (
            float(-(torch.softmax(teacher[i] + p, 0) * torch.log_softmax(student[i], 0)).sum().detach()) / 5
        )
        rows["alignment"] += (
            float(-(torch.softmax(student[i] + p, 0) * torch.log_softmax(teacher[i], 0)).sum().detach()) / 5
        )
    for name, value in rows.items():
        assert float(terms[name]) == pytest.approx(value, rel=1e-5)
    expected = -torch.log_softmax(y, 1)[torch.arange(8), label].mean()
    assert float(terms["classification"]) == pytest.approx(float(expected.detach()), rel=1e-5)
    kl = (z * (z.log() - torch.log_softmax(x, 1))).sum() / 8
    assert float(terms["noise"]) == pytest.approx(0.1 * float(kl.detach()), rel=1e-4)


def test_sketches_get_no_distillation(method):
    method.on_epoch(10, 20)
    data = batch()
    before = method(data)
    changed = method(Batch(torch.zeros_like(data.sketch), data.photo, data.label, data.photo_label))
    for name in ("distillation", "alignment"):
        assert float(before[name]) == pytest.approx(float(changed[name]), rel=1e-6)
    assert float(before["classification"]) != pytest.approx(float(changed["classification"]), rel=1e-6)


@pytest.mark.parametrize(("preset", "last"), [("sketchy", 9), ("tuberlin", 5), ("quickdraw", 3)])
def test_phases_and_presets(preset, last):
    method = zsbir.build("sbka", classes=list(CLASSES), backbone="test_convnext2", preset=preset, image_size=SIZE)
    for epoch in range(20):
        method.on_epoch(epoch, 20)
        assert ("alignment" in method(batch())) == (epoch > last)
        if epoch == last + 1:
            break
    recipe = method.recipe
    assert (recipe.sampling, recipe.epochs, recipe.lr, recipe.weight_decay) == ("mixed", 20, 1e-4, 5e-4)
    assert (recipe.schedule, recipe.decay, recipe.augment) == ("exponential", 1e-3, "affine")
    assert recipe.batch_size == (110 if preset == "quickdraw" else 210)
    assert recipe.sketch_share == pytest.approx(1 / 3 if preset == "sketchy" else 0.1)
    groups = method.param_groups(recipe)
    assert groups[1]["lr"] == pytest.approx(5e-5 if preset == "tuberlin" else 1e-4)
    assert sum(len(g["params"]) for g in groups) == len([p for p in method.parameters() if p.requires_grad])


def test_published_augments_as_released():
    published = zsbir.build("sbka", classes=list(CLASSES), backbone="test_convnext2", image_size=SIZE, published=True)
    recipe = published.recipe
    assert (recipe.augment, recipe.sketch_fill, recipe.photo_fill) == ("affine-corner", 0.0, 0.0)
    own = zsbir.build("sbka", classes=list(CLASSES), backbone="test_convnext2", image_size=SIZE).recipe
    assert (own.augment, own.sketch_fill, own.photo_fill) == ("affine", 1.0, None)


def test_the_teachers_rate_follows_the_recipe(method):
    """Also where somebody has given the method a recipe of their own."""
    published = method.param_groups(method.recipe)[1]["lr"]
    method.recipe = replace(method.recipe, lr=method.recipe.lr / 2)
    assert method.param_groups(method.recipe)[1]["lr"] == pytest.approx(published / 2)


def test_only_the_teachers_head_is_trainable_and_stays_in_evaluation(method):
    method.train()
    assert not method.teacher.training
    assert method.student.training
    trainable = {name for name, p in method.teacher.named_parameters() if p.requires_grad}
    assert len(trainable) == 2
    assert all("head" in name for name in trainable)


def test_head_starts_as_published():
    method = zsbir.build("sbka", classes=["x"] * 50, backbone="test_convnext2", prior=0.0)
    assert float(method.head.weight.std()) == pytest.approx(2e-5, rel=0.1)
    assert float(method.head.bias.abs().max()) == 0
    same = zip(method.student.parameters(), method.teacher.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_embedding_is_of_length_one_and_the_same_for_both_domains(method):
    images = batch().photo
    sketch, photo = (method.eval().embed(images, domain).vector for domain in ("sketch", "photo"))
    assert torch.equal(sketch, photo)
    torch.testing.assert_close(sketch.norm(dim=1), torch.ones(5))
    assert method.classify(images).shape == (5, 3)


def test_prior_travels_with_the_weights(method):
    method(batch())
    again = zsbir.build({**method.spec, "wordnet": "/nowhere"})
    again.load_state_dict(method.state_dict())
    assert torch.equal(again.similarity, method.similarity)
    again(batch())  # reads no WordNet


def test_classes_without_a_prior_are_named():
    method = zsbir.build("sbka", classes=["pig", "flurb"], backbone="test_convnext2", image_size=SIZE)
    data = Batch(batch().sketch[:2], batch().photo[:2], torch.tensor([0, 1]), torch.tensor([0, 1]))
    with pytest.warns(UserWarning, match="no semantic prior for 1 classes.*flurb"):
        method(data)
    assert float(method.similarity[0].max()) == 1
    assert float(method.similarity[1].max()) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "convnextv3"}, "Did you mean"),
        ({"preset": "coco"}, "'sketchy', 'tuberlin' or 'quickdraw'"),
        ({"prior": -1.0}, "at least 0"),
        ({"weights": "none.safetensors"}, "there is no weights file"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ZsbirError, match=message):
        SBKA(**{"backbone": "test_convnext2", **settings})


def test_training_without_class_names_is_refused():
    with pytest.raises(ZsbirError, match="names of the seen classes"):
        SBKA(backbone="test_convnext2", image_size=SIZE)(batch())


def test_other_labels_need_their_synsets(method, monkeypatch):
    fresh = zsbir.build(
        "sbka", classes=list(CLASSES), backbone="test_convnext2", label_synsets=list(imagenet_labels()[:10])
    )
    with pytest.raises(ZsbirError, match="wordnet=FOLDER"):
        fresh(batch())


def test_default_matcher_is_one_to_many_without_labels():
    matcher = zsbir.MATCHERS.build(SBKA.matcher)
    assert matcher.clusters == "auto"
    assert matcher.transductive
    assert set(PRESETS) == {"sketchy", "tuberlin", "quickdraw"}


@pytest.mark.parametrize(("name", "preset", "shown"), [
    ("quickdraw-30", "quickdraw", (3, 0.0, 0.1)), ("tuberlin-30", "tuberlin", (5, 0.3, 0.1)),
    ("sketchy-21", "sketchy", (9, 0.3, 1 / 3)),
])  # fmt: skip
def test_training_takes_the_presets_of_its_data_set_and_says_so(name, preset, shown, tmp_path, monkeypatch, capsys):
    held = []
    monkeypatch.setattr(Trainer, "fit", lambda self: held.append(self))
    root = benchmark_tree(tmp_path / "data", name)
    command = ["train", "sbka", "--dataset", name, "--root", str(root), "--backbone", "test_convnext2",
               "--no-pretrained", "--batch-size", "20", "--device", "cpu"]  # fmt: skip
    assert cli.main([*command, "--out", str(tmp_path / "run")]) == 0
    assert f"settings published for {name}: preset={preset} (--set changes it)" in capsys.readouterr().out
    method = held[0].method
    assert (method.warmup, method.prior_weight, held[0].recipe.sketch_share) == pytest.approx(shown)
    assert method.spec["preset"] == preset
    other = next(one for one in PRESETS if one != preset)
    assert cli.main([*command, "--out", str(tmp_path / "own"), "--set", f"preset={other}", "warmup=1"]) == 0
    assert "settings published" not in capsys.readouterr().out
    assert (held[1].method.spec["preset"], held[1].method.warmup) == (other, 1)


def test_other_data_has_no_published_settings():
    assert SBKA.published_for("openmoji") == {}
