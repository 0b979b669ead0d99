"""Adapters: they alone train, start from the backbone as it is, resume exactly and merge into a plain method."""

import pytest
import torch

import zsbir
from tests.engine.conftest import same_weights
from zsbir.engine.lora import Adapters, Lora
from zsbir.engine.run import recipe_from
from zsbir.engine.trainer import Trainer
from zsbir.errors import ZsbirError

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
VIT = {"name": "test_vit", "image_size": 32}


def build(backbone=VIT, **options):
    torch.manual_seed(0)
    return zsbir.build("dann", backbone=backbone, head=[8], pool="model", **options)


def perturb(method):
    """Make the adapters do something, as training would."""
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)


@pytest.mark.parametrize(
    "backbone", [VIT, {"name": "open-clip", "model": CLIP, "image_size": 32}], ids=["timm", "open-clip"]
)
@pytest.mark.parametrize("shared", [False, True])
def test_adapters_start_silent_alone_learn_and_merge(backbone, shared):
    method = build(backbone, shared=shared, domain_loss_ratio=0.0).eval()
    names = set(method.state_dict())
    images = torch.rand(3, 3, 32, 32)
    before = method.embed(images, "sketch").vector
    adapters = Adapters(method, Lora(rank=2))
    assert torch.equal(method.embed(images, "sketch").vector, before)
    method.embed(images, "sketch").vector.sum().backward()
    moved = {name for name, p in method.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any("lora_B" in name for name in moved)
    assert all("lora_" in name or ".head." in name for name in moved)
    assert all("lora_" in n or ".head." in n for n, p in method.named_parameters() if p.requires_grad)
    perturb(method)
    with torch.no_grad():
        changed = method.embed(images, "sketch").vector
    assert not torch.allclose(changed, before, atol=1e-3)
    state = adapters.plain_state(method)
    assert set(state) == names
    adapters.merge()
    assert set(method.state_dict()) == names
    assert torch.allclose(method.embed(images, "sketch").vector, changed, atol=1e-5)
    assert all(torch.equal(v, state[k]) for k, v in method.state_dict().items())
    assert all(p.requires_grad for p in method.parameters())


def test_networks_outside_of_the_backbone_train_as_before():
    torch.manual_seed(0)
    method = zsbir.build("sbka", classes=["a", "b"], backbone="test_vit", image_size=160, prior=0.0)
    Adapters(method, Lora(rank=2))
    training = {name for name, p in method.named_parameters() if p.requires_grad}
    assert {"head.weight", "student.net.head.weight", "teacher.net.head.weight"} <= training
    assert all("lora_" in name or "head." in name for name in training)
    assert not any("lora_" in name for name in training if name.startswith("teacher"))


def test_same_seed_same_adapters():
    states = []
    for seed in (1, 1, 2):
        method = build()
        torch.manual_seed(seed * 77)
        Adapters(method, Lora(), seed)
        states.append({k: v for k, v in method.state_dict().items() if "lora_A" in k})
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())
    assert any(not torch.equal(v, states[2][k]) for k, v in states[0].items())


@pytest.fixture
def lora_recipe(recipe):
    return recipe_from({"lora": {"rank": 2, "dropout": 0.1}, "ema": 0.8}, recipe)


def test_run_resumes_exactly_and_saves_plain_methods(shapes, lora_recipe, tmp_path, rows):
    whole = Trainer(build(), shapes, recipe=lora_recipe, out=tmp_path / "a", workers=0, progress=False).fit()
    assert not any("lora" in name for name in whole.state_dict())
    cut = Trainer(build(), shapes, recipe=lora_recipe, out=tmp_path / "b", workers=0, save_every=2, progress=False)
    real, left = cut.loader.epoch, iter(range(5))

    def pulled(*where):
        for raw in real(*where):
            if next(left, None) is None:
                raise RuntimeError("the plug was pulled")
            yield raw

    cut.loader.epoch = pulled
    with pytest.raises(RuntimeError, match="pulled"):
        cut.fit()
    assert set(zsbir.load(tmp_path / "b" / "last").state_dict()) == set(whole.state_dict())
    again = Trainer.resume(tmp_path / "b", workers=0, progress=False)
    assert again.step == 4
    assert same_weights(whole, again.fit())
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert same_weights(zsbir.load(tmp_path / "b" / "best"), whole)
    start = build()
    assert not same_weights(start, whole)
    untouched = [k for k in whole.state_dict() if "blocks" in k and "mlp" in k]
    assert all(torch.equal(whole.state_dict()[k], start.state_dict()[k]) for k in untouched)


def test_wrong_settings_are_named(shapes, recipe):
    with pytest.raises(ZsbirError, match=r"lora has no argument 'ranks'\. Did you mean 'rank'"):
        recipe_from({"lora": {"ranks": 2}}, recipe)
    with pytest.raises(ZsbirError, match="rank=0 must be a whole number of at least 1"):
        recipe_from({"lora": {"rank": 0}}, recipe)
    method = zsbir.build("dann", backbone={"name": "tiny", "image_size": 32, "width": 8})
    with pytest.raises(ZsbirError, match=r"no layer of the backbone matches .*net\.\*"):
        Trainer(method, shapes, recipe=recipe_from({"lora": {"rank": 2}}, recipe), workers=0)
