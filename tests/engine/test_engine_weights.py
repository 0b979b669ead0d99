"""Frozen parameters, layer-wise rates, averaged weights, and exported towers."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import zsbir
from tests.engine.conftest import same_weights
from zsbir.engine.learner import Average, lr_factor, make_optimizer
from zsbir.engine.trainer import Trainer
from zsbir.errors import ZsbirError


def test_frozen_by_name_stays_as_it_is(shapes, small_dann, recipe):
    method = small_dann()
    before = {k: v.clone() for k, v in method.state_dict().items()}
    frozen = zsbir.Recipe(**{**recipe.__dict__, "freeze": ("*backbone.net.0.*",)})
    Trainer(method, shapes, recipe=frozen, workers=0, progress=False).fit()
    changed = {k for k, v in method.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert not any("backbone.net.0." in name for name in changed)
    with pytest.raises(ZsbirError, match="matches no parameter name"):
        make_optimizer(method, zsbir.Recipe(freeze=("nothing.like.*",)))


def test_fixed_norms_keep_their_statistics_and_still_train(shapes, recipe):
    torch.manual_seed(0)
    method = zsbir.build("dann", backbone={"name": "test_efficientnet", "image_size": 32}, shared=True)
    norms = {n: m for n, m in method.photo.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    before = {n: (m.running_mean.clone(), m.running_var.clone(), m.weight.clone()) for n, m in norms.items()}
    fixed = zsbir.Recipe(**{**recipe.__dict__, "fixed_norm": True, "lr": 1e-2})
    Trainer(method, shapes, recipe=fixed, workers=0, progress=False, select_on="none").fit()
    assert norms
    for name, norm in norms.items():
        assert torch.equal(norm.running_mean, before[name][0])
        assert torch.equal(norm.running_var, before[name][1])
    assert any(not torch.equal(norm.weight, before[name][2]) for name, norm in norms.items())
    plain = zsbir.Recipe(**{**fixed.__dict__, "fixed_norm": False})
    Trainer(method, shapes, recipe=plain, workers=0, progress=False, select_on="none").fit()
    assert any(not torch.equal(norm.running_mean, before[name][0]) for name, norm in norms.items())


def test_each_layer_trains_at_half_the_rate_of_the_one_above():
    method = zsbir.build("dann", backbone={"name": "test_vit", "image_size": 160}, shared=True)
    optimizer = make_optimizer(method, zsbir.Recipe(lr=1.0, layer_decay=0.5))
    rate = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
    net = next(m for m in method.modules() if hasattr(m, "group_matcher"))
    for height, layer in enumerate(reversed([net.patch_embed, *net.blocks])):
        assert {rate[id(p)] for p in layer.parameters()} == {0.5**height}
    assert {rate[id(p)] for p in net.norm.parameters()} == {1.0}  # timm counts it to the last block
    assert {rate[id(p)] for p in method.parameters() if id(p) not in {id(q) for q in net.parameters()}} == {1.0}
    with pytest.raises(ZsbirError, match="needs a timm backbone"):
        make_optimizer(zsbir.build("dann", backbone="tiny"), zsbir.Recipe(layer_decay=0.5))


def test_warm_up_ends_at_its_last_step():
    recipe = zsbir.Recipe(epochs=2, warmup=4)
    assert [lr_factor(recipe, step, 5) for step in range(10)] == [0.25, 0.5, 0.75, *[1.0] * 7]


def test_gradients_are_clipped(shapes, small_dann, monkeypatch):
    seen = []
    step = torch.optim.SGD.step

    def watched(self, *args, **options):
        gradients = [p.grad.flatten() for group in self.param_groups for p in group["params"] if p.grad is not None]
        seen.append(torch.cat(gradients).norm().item())
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    recipe = zsbir.Recipe(epochs=1, batch_size=6, optimizer="sgd", lr=1e-3)
    Trainer(small_dann(), shapes, recipe=recipe, workers=0, progress=False).fit()
    free = seen[:]
    seen.clear()
    clip = min(free) / 2
    Trainer(small_dann(), shapes, recipe=replace(recipe, clip=clip), workers=0, progress=False).fit()
    assert len(seen) == len(free) == 3
    assert seen == pytest.approx([clip] * 3, rel=1e-3)


def test_average_is_the_recursion_it_says():
    layer = torch.nn.Linear(2, 1, bias=False)
    average = Average(layer, 0.9)
    expected = layer.weight.detach().clone()
    for step in range(200):
        with torch.no_grad():
            layer.weight.add_(0.1 * (step % 3))
        average.after(step, layer)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * layer.weight.detach()
        assert torch.allclose(average.module.weight, expected, atol=1e-5), step


def test_run_with_average_resumes_exactly(shapes, small_dann, recipe, tmp_path):
    averaged = zsbir.Recipe(**{**recipe.__dict__, "ema": 0.9})
    whole = Trainer(small_dann(), shapes, recipe=averaged, out=tmp_path / "a", workers=0, progress=False).fit()
    cut = Trainer(small_dann(), shapes, recipe=averaged, out=tmp_path / "b", workers=0, save_every=2, progress=False)
    cut.loader.epoch = _stop_after(cut.loader.epoch, 5)
    with pytest.raises(RuntimeError, match="pulled"):
        cut.fit()
    again = Trainer.resume(tmp_path / "b", workers=0, progress=False)
    assert again.step == 4  # the last checkpoint, not the last step
    assert same_weights(whole, again.fit())
    assert same_weights(zsbir.load(tmp_path / "b" / "best"), whole)


def _stop_after(real, steps):
    left = iter(range(steps))

    def epoch(*where):
        for raw in real(*where):
            if next(left, None) is None:
                raise RuntimeError("the plug was pulled")
            yield raw

    return epoch


@pytest.mark.parametrize("kind", ["torch-export", "onnx"])
def test_exported_towers_equal_the_original(small_dann, tmp_path, kind):
    from zsbir.engine.export import export

    if kind == "onnx":
        pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
        pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    differences = export(small_dann().eval(), tmp_path, kind)
    ending = "onnx" if kind == "onnx" else "pt2"
    assert sorted(differences) == [f"photo.{ending}", f"sketch.{ending}"]
    assert max(differences.values()) < 1e-4


def test_export_in_immichs_layout(tmp_path):
    """A photo goes through the files as Immich's service takes it: shortest side, middle, mean and deviation."""
    pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    from zsbir.engine.export import export

    method = zsbir.build("dann", backbone={"name": "tiny", "image_size": 32, "width": 8}, head=[16]).eval()
    assert export(method, tmp_path, "immich")["visual/model.onnx"] < 1e-4
    files = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file())
    assert files == ["config.json", "visual/model.onnx", "visual/preprocess_cfg.json"]
    prepare = json.loads((tmp_path / "visual" / "preprocess_cfg.json").read_text())
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8))
    how = Image.Resampling[prepare["interpolation"].upper()]
    square = photo.resize((int(80 / 48 * 32), 32), how).crop((10, 0, 42, 32))
    pixels = (np.asarray(square, dtype=np.float32) / 255 - prepare["mean"]) / prepare["std"]
    session = onnxruntime.InferenceSession(str(tmp_path / "visual" / "model.onnx"))
    (found,) = session.run(None, {"image": pixels.transpose(2, 0, 1)[None].astype(np.float32)})
    expected = method.encode_photos(square)
    np.testing.assert_allclose(found, torch.nn.functional.normalize(torch.as_tensor(expected), dim=1), atol=1e-4)
    assert json.loads((tmp_path / "config.json").read_text())["embed_dim"] == found.shape[1] == 16
    assert prepare["size"] == [32, 32]


def test_hub_mixin_round_trip(small_dann, tmp_path):
    from zsbir.methods.base import Method

    method = small_dann()
    method.save_pretrained(tmp_path)
    assert same_weights(Method.from_pretrained(str(tmp_path)), method)
