"""The authors' checkpoints: files of their form are read safely, fitted or refused, and compute what the release does.

``reference/released_*.json`` has the names and shapes of the tensors in the authors' files, for small
networks, and what their code computes in float64 with the weights and images made here.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torchvision.models import densenet121

import zsbir
from zsbir.backbones.weights import load_weights, read_tensors
from zsbir.errors import ZsbirError
from zsbir.methods.released import load_released
from zsbir.types import Batch

REFERENCE = Path(__file__).parents[1] / "reference"


def weight(name, shape):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    x = rng.standard_normal(shape)
    if len(shape) == 1 and name.endswith("weight"):
        x = 1 + 0.1 * x
    else:
        x *= 0.5 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1
    return torch.from_numpy(x)


def images(rows, size, seed):
    return torch.from_numpy(np.random.default_rng(seed).random((rows, 3, size, size)))


def reference(name):
    held = json.loads((REFERENCE / f"released_{name}.json").read_text(encoding="utf-8"))
    return held["values"], {key: tuple(shape) for key, shape in held["shapes"].items()}


def without_dropout(module):
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        if isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0


def embedded(method, images):
    """Return the vectors in float64, which `embed` itself does not take."""
    return type(method).embed.__wrapped__(method.eval(), images, "photo").vector


def check_gradients(method, expected):
    found = {name: float(p.grad.norm()) for name, p in method.named_parameters() if name in expected}
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.fixture(scope="module")
def best_pth(tmp_path_factory):
    """PuXIM's ``best.pth``, with an encoder of one block for 80 px."""
    _, shapes = reference("puxim")
    file = tmp_path_factory.mktemp("puxim") / "best.pth"
    bare = {name.removeprefix("network."): shape for name, shape in shapes.items()}
    torch.save({"epoch": 3, "network": {name: weight(name, shape) for name, shape in bare.items()}}, file)
    return file


@pytest.fixture
def one_block(monkeypatch):
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, depth=1))


@pytest.fixture
def small_convnext(monkeypatch):
    small = partial(timm.create_model, depths=(1, 1, 1, 1), dims=(8, 16, 32, 768))
    monkeypatch.setattr(timm, "create_model", small)


def small_puxim(image_size=80, **options):
    backbone = {"name": "vit_base_patch16_224", "image_size": image_size}
    return zsbir.build("puxim", backbone=backbone, masker="none", **options).double()


def test_puxim_computes_what_its_release_does(one_block, best_pth):
    values, _ = reference("puxim")
    method = small_puxim(published=True)
    said = load_released(method, best_pth)
    assert "loaded: encoder, interaction;" in said
    assert "network.mlp_head (2 tensors), network.proj (2 tensors), network.vit (2 tensors)" in said
    without_dropout(method)
    sketch, photo, negative = (images(2, 80, seed) for seed in (1, 2, 3))
    vector = embedded(method, sketch)
    torch.testing.assert_close(vector[:, :6], torch.tensor(values["vector"], dtype=torch.float64), atol=1e-10, rtol=0)
    keep = torch.from_numpy(np.random.default_rng(9).random((4, 25)) > 0.6)
    label = torch.arange(2)
    terms = method(
        Batch(sketch, photo, label, label, negative, 1 - label, ("a", "b"), photo_keep=keep[:2], negative_keep=keep[2:])
    )
    assert {name: float(term.detach()) for name, term in terms.items()} == pytest.approx(values["terms"], abs=1e-10)
    sum(terms.values()).backward()
    check_gradients(method, values["gradients"])


def test_puxims_own_decoder_differs_from_the_releases_as_its_page_says(one_block, best_pth):
    values, _ = reference("puxim")
    method = small_puxim()
    load_released(method, best_pth)
    without_dropout(method)
    sketch, photo, negative = (images(2, 80, seed) for seed in (1, 2, 3))
    keep, label = torch.ones(2, 25, dtype=torch.bool), torch.arange(2)
    batch = Batch(sketch, photo, label, label, negative, 1 - label, photo_keep=keep, negative_keep=keep)
    difference = abs(float(method(batch)["interaction"].detach()) - values["terms"]["interaction"])
    assert difference == pytest.approx(6.4e-4, rel=0.01)


def test_a_checkpoint_that_does_not_fit_is_refused_with_what_differs(monkeypatch, best_pth):
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, depth=2))
    method = small_puxim(96)
    with pytest.raises(ZsbirError) as error:
        load_released(method, best_pth)
    for said in ("does not fit the encoder of PuXIM", "it lacks encoder.vit.net.blocks.1.norm1.weight",
                 "of another shape are encoder.vit.net.pos_embed"):  # fmt: skip
        assert said in str(error.value)
    small = zsbir.build("puxim", backbone="tiny", masker="none")
    with pytest.raises(ZsbirError, match="unknown are"):
        load_released(small, best_pth)
    with pytest.raises(ZsbirError, match="Frozen has no released checkpoint"):
        load_released(zsbir.build("frozen", backbone="tiny", pretrained=False), best_pth)


def test_parts_that_do_not_embed_may_be_left_as_they_were(one_block, best_pth):
    method = small_puxim(layers=2)
    before = method.interaction.classify.weight.detach().clone()
    said = load_released(method, best_pth)
    assert "as it was: interaction;" in said
    assert torch.equal(method.interaction.classify.weight, before)


def sbka_file(folder, **changed):
    _, shapes = reference("sbka")
    state = {name.removeprefix("state_dict."): shape for name, shape in shapes.items()}
    tensors = {name: weight("student." + name.removeprefix("module."), shape) for name, shape in state.items()}
    file = folder / "model_best.pth.tar"
    # As the release saves it: the best accuracy is a NumPy number.
    record = {"epoch": 12, "state_dict": tensors, "best_acc1": torch.tensor(71.3).numpy(), "optimizer": {"state": {}}}
    torch.save({**record, **changed}, file)
    return file


def test_sbka_computes_what_its_release_does(small_convnext, tmp_path):
    values, shapes = reference("sbka")
    names = [name.removeprefix("state_dict.module.") for name in shapes if ".linear." not in name]
    teacher = tmp_path / "convnextv2_tiny_1k_224_ema.pt"
    torch.save({"model": {n: weight(f"teacher.{n}", shapes[f"state_dict.module.{n}"]) for n in names}}, teacher)
    method = zsbir.build("sbka", classes=["pig", "banana", "chair"], image_size=64).double()
    said = load_released(method, sbka_file(tmp_path))
    assert "loaded: student, head; as it was: similarity, has_similarity, teacher" in said
    load_weights(method.teacher.net, teacher)
    sketch, photo = images(2, 64, 1), images(4, 64, 2)
    vector = embedded(method, torch.cat([sketch, photo]))
    torch.testing.assert_close(vector[:, :6], torch.tensor(values["vector"], dtype=torch.float64), atol=1e-10, rtol=0)
    method.train()
    label = torch.arange(6) % 3
    method.on_epoch(9, 20)
    torch.manual_seed(0)
    terms = method(Batch(sketch, photo, label[:2], label[2:], classes=method.classes))
    found = {name: float(term.detach()) for name, term in terms.items()}
    # The noise comes from torch's generator, which may change between versions: its term is checked by definition.
    found.pop("noise")
    assert found == pytest.approx({k: v for k, v in values["warmup"]["terms"].items() if k != "noise"}, abs=1e-9)


def test_sbkas_head_of_other_classes_is_left(small_convnext, tmp_path):
    method = zsbir.build("sbka", classes=["pig"], image_size=64)
    said = load_released(method, sbka_file(tmp_path))
    assert "loaded: student; as it was: similarity, has_similarity, teacher, head; of the file not used: head." in said


def test_a_file_written_with_an_older_numpy_is_read(tmp_path):
    file = sbka_file(tmp_path, state_dict={"module.norm.weight": torch.ones(3)})
    old = tmp_path / "old.pth.tar"
    with zipfile.ZipFile(file) as given, zipfile.ZipFile(old, "w") as written:
        for item in given.infolist():
            content = given.read(item)
            written.writestr(item.filename, content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_tensors(old).keys() == {"state_dict.module.norm.weight"}


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_code_in_a_checkpoint_is_refused_and_not_run(small_convnext, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZsbirError, match="cannot be read"):
        load_released(zsbir.build("sbka", classes=["pig"], image_size=64), sbka_file(tmp_path, args=Harmful()))
    assert not (tmp_path / "harm").exists()


def test_dann_embeds_as_its_release_does(tmp_path):
    towers = {"image_model": densenet121(weights=None).features, "sketch_model": densenet121(weights=None).features}
    domain = zsbir.build("dann", backbone="tiny").domain.state_dict()
    for tower in towers.values():
        for norm in tower.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_(0, 0.1)
    state = {name: {f"net.{k}": v for k, v in tower.state_dict().items()} for name, tower in towers.items()}
    domain = {f"net.{k}": torch.ones([1024 if side == 128 else side for side in v.shape]) for k, v in domain.items()}
    torch.save({"iteration": 7, **state, "domain_model": domain, "optim_dict": {}}, tmp_path / "last.pth.tar")
    method = zsbir.build("dann", published=True).eval()
    assert load_released(method, tmp_path / "last.pth.tar").endswith("loaded: photo, sketch, domain")
    photo, sketch = images(1, 224, 0).float(), images(1, 224, 1).float()
    with torch.no_grad():
        for domain_name, name, given in (("photo", "image_model", photo), ("sketch", "sketch_model", sketch)):
            expected = nn.MaxPool2d(7)(towers[name].eval()(given)).flatten(1)
            torch.testing.assert_close(method.embed(given, domain_name).vector, expected, atol=1e-5, rtol=1e-4)
            assert (expected < 0).any()


def test_puxims_vit_file_fills_a_timm_vit(monkeypatch, tmp_path):
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, depth=2))
    _, shapes = reference("puxim")
    names = {n.removeprefix("network.vit.model."): shape for n, shape in shapes.items() if ".vit.model." in n}
    state = {n: weight(n, shape).float() for n, shape in names.items() if not n.startswith("scale")}
    state |= {n.replace("layers.0.0", "layers.1.0"): v + 1 for n, v in state.items() if "layers.0.0" in n}
    torch.save(state, tmp_path / "ViT-B_16.pth")
    backbone = zsbir.BACKBONES.build("conv-stem", weights=str(tmp_path / "ViT-B_16.pth"), image_size=80)
    net = backbone.vit.net
    assert torch.equal(net.patch_embed.proj.patch.weight, state["embedding.weight"])
    assert torch.equal(net.blocks[1].mlp.fc2.weight, state["transformer.layers.1.0.mlp.net.3.weight"])
    assert torch.equal(net.pos_embed, state["pos_embedding"])
    del state["transformer.layers.1.0.layer_norm_out.bias"]
    torch.save(state, tmp_path / "incomplete.pth")
    with pytest.raises(ZsbirError, match=r"do not fit VisionTransformer: it lacks blocks\.1\.norm2\.bias"):
        zsbir.BACKBONES.build("conv-stem", weights=str(tmp_path / "incomplete.pth"), image_size=80)
