"""CMCA: the low-rank updates against merged weights, the domains' own last block, and its loss."""

import copy

import pytest
import torch
from torch.nn import functional as F

import zsbir
from zsbir.errors import ZsbirError
from zsbir.methods.cmca import LowRank

VIT = {"name": "vit_tiny_patch16_224", "image_size": 32}


@pytest.fixture
def method():
    torch.manual_seed(0)
    made = zsbir.build("cmca", backbone=VIT, image_size=None, rank=3).eval()
    for update in made.updates:
        torch.nn.init.normal_(update.up, std=0.1)
    return made


def test_updates_are_the_merged_weights(method):
    images = torch.rand(2, 3, 32, 32)
    for number, domain in enumerate(("sketch", "photo")):
        plain = copy.deepcopy(method.encoder)
        for block in plain.net.blocks:
            for owner, name in ((block.attn, "qkv"), (block.attn, "proj"), (block.mlp, "fc1"), (block.mlp, "fc2")):
                update = getattr(owner, name)
                which = number if len(update.up) == 2 else 0
                merged = [up @ down for up, down in zip(update.up[which], update.down[which], strict=True)]
                update.linear.weight.data += torch.cat(merged)
                setattr(owner, name, update.linear)
        expected = plain(method.preprocess.normalise(images)).vector
        assert torch.allclose(method.embed(images, domain).vector, expected, atol=1e-5)


def test_only_the_last_block_knows_the_domain(method):
    assert [len(update.up) for update in method.updates[-5:]] == [1, 2, 2, 2, 2]
    images = torch.rand(2, 3, 32, 32)
    assert not torch.allclose(method.embed(images, "sketch").vector, method.embed(images, "photo").vector)


def test_an_update_starts_as_the_frozen_map():
    torch.manual_seed(0)
    linear = torch.nn.Linear(8, 6)
    update, x = LowRank(linear, 2, 3, 2), torch.randn(4, 8)
    update.domain = 1
    assert torch.equal(update(x), linear(x))
    assert update.down.abs().max() <= 8**-0.5
    assert {name for name, p in update.named_parameters() if p.requires_grad} == {"down", "up"}


def test_loss_and_what_trains(method, triplets):
    batch = triplets(32)
    s, p, n = (
        method.embed(x, d).vector
        for x, d in ((batch.sketch, "sketch"), (batch.photo, "photo"), (batch.negative, "photo"))
    )
    expected = torch.stack([F.relu(F.cosine_similarity(a, c, 0) - F.cosine_similarity(a, b, 0) + 0.2)
                            for a, b, c in zip(s, p, n, strict=True)]).mean()  # fmt: skip
    assert torch.allclose(method(batch)["triplet"], expected, atol=1e-6)
    names = {name.rsplit(".", 1)[-1] for name, p in method.named_parameters() if p.requires_grad}
    assert names == {"down", "up"}


def test_what_is_no_vit_is_refused():
    with pytest.raises(ZsbirError, match="timm ViT"):
        zsbir.build("cmca", backbone="tiny", image_size=None)
    with pytest.raises(ZsbirError, match="own_blocks=99"):
        zsbir.build("cmca", backbone=VIT, image_size=None, own_blocks=99)


@pytest.mark.parametrize(("dataset", "expected"), [("tuberlin-30", 0.04), ("quickdraw-30", 0.04), ("sketchy-21", 0.2)])
def test_the_margin_comes_with_the_data_set(dataset, expected):
    small = {"backbone": "vit_tiny_patch16_224", "image_size": 32, "rank": 2}
    assert zsbir.build("cmca", **small, **zsbir.METHODS.get("cmca").published_for(dataset)).margin == expected
