"""The maskers without CLIP, and the choice of patches."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zsbir.errors import ZsbirError
from zsbir.maskers import MASKERS
from zsbir.maskers._select import choose
from zsbir.maskers.base import MaskRequest
from zsbir.maskers.quality import coverage, precision, recall
from zsbir.types import Features

IMAGES = torch.rand(3, 3, 32, 32)
NAMES = ["dog", "cat", "cow"]


def objects():
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[0, :16, :16] = True
    masks[1, 20:23, 20:23] = True
    masks[2] = True
    return masks


@given(st.integers(1, 300), st.floats(0, 0.999))
def test_published_count(patches, ratio):
    keep = choose(torch.randn(2, patches), ratio)
    assert keep.sum(1).tolist() == [max(patches - int(patches * ratio) - 1, 1)] * 2


def test_published_example():
    assert int(choose(torch.randn(1, 196), 0.7).sum()) == 58


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.integers(1, 40))
def test_kept_are_the_highest(scores, count):
    keep = choose(torch.tensor([scores], dtype=torch.float32), 0.5, keep=count)[0].tolist()
    kept = sorted(s for s, k in zip(scores, keep, strict=True) if k)
    assert kept == sorted(scores)[-min(count, len(scores)) :]


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=30), st.floats(0, 1))
def test_threshold_is_relative_and_keeps_one(scores, threshold):
    row = np.array(scores, dtype=np.float32)
    keep = choose(torch.from_numpy(row)[None], 0.5, threshold=threshold)[0].numpy()
    assert keep.any()
    assert keep[row.shape[0] - 1 - row[::-1].argmax()]
    span = row.max() - row.min()
    if span > 1e-3:
        clear = np.abs((row - row.min()) / span - threshold) > 1e-4
        expected = (row - row.min()) / span > threshold
        last = np.zeros_like(expected)
        last[row.shape[0] - 1 - row[::-1].argmax()] = True
        assert np.array_equal(keep[clear], (expected | last)[clear])


def test_coverage_and_precision_by_hand():
    share = coverage(objects(), (4, 4))
    assert share[0].reshape(4, 4)[:2, :2].eq(1).all()
    assert share[0].sum() == 4
    assert share[1].reshape(4, 4)[2, 2] == pytest.approx(9 / 64)
    keep = torch.zeros(3, 16, dtype=torch.bool)
    keep[:, :2] = True
    assert precision(keep, objects(), (4, 4)).tolist() == [1.0, 0.0, 1.0]
    assert recall(keep, objects(), (4, 4)).tolist() == pytest.approx([0.5, 0.0, 2 / 16])


def test_none_keeps_all():
    assert MASKERS.build("none")(MaskRequest(IMAGES, NAMES, (4, 4))).all()


def test_random_follows_the_seed():
    masker = MASKERS.build("random", ratio=0.5)
    torch.manual_seed(1)
    first = masker(MaskRequest(IMAGES, NAMES, (4, 4)))
    second = masker(MaskRequest(IMAGES, NAMES, (4, 4)))
    torch.manual_seed(1)
    assert torch.equal(first, masker(MaskRequest(IMAGES, NAMES, (4, 4))))
    assert not torch.equal(first, second)
    assert first.sum(1).tolist() == [7, 7, 7]


def test_oracle_keeps_the_object_and_never_nothing():
    masker = MASKERS.build("oracle")
    keep = masker(MaskRequest(IMAGES, NAMES, (4, 4), objects=objects()))
    assert keep[0].reshape(4, 4)[:2, :2].all()
    assert keep.sum(1).tolist() == [4, 1, 16]
    assert keep[1].reshape(4, 4)[2, 2]
    assert MASKERS.build("oracle", ratio=0.5)(MaskRequest(IMAGES, NAMES, (4, 4), objects=objects())).sum(
        1
    ).tolist() == [7, 7, 7]
    with pytest.raises(ZsbirError, match="true object masks"):
        masker(MaskRequest(IMAGES, NAMES, (4, 4)))
    with pytest.raises(ZsbirError, match="share"):
        MASKERS.build("oracle", share=0.0)


def test_attention_reads_the_encoder():
    attention = torch.rand(3, 16, requires_grad=True)
    features = Features(torch.zeros(3, 8), None, (4, 4), attention)
    masker = MASKERS.build("attention", keep=3)
    keep = masker(MaskRequest(IMAGES, NAMES, (4, 4), features))
    assert keep.sum(1).tolist() == [3, 3, 3]
    for row in range(3):
        assert attention[row][keep[row]].min() > attention[row][~keep[row]].max()
    with pytest.raises(ZsbirError, match="needs the encoder's attention"):
        masker(MaskRequest(IMAGES, NAMES, (4, 4)))
    with pytest.raises(ZsbirError, match=r"over 16 patches, but the grid \(5, 5\) has 25"):
        masker(MaskRequest(IMAGES, NAMES, (5, 5), features))


@pytest.mark.parametrize("name", ["none", "random", "oracle", "attention"])
def test_heatmap_and_contract(name):
    masker = MASKERS.build(name)
    features = Features(torch.zeros(3, 8), None, (4, 4), torch.rand(3, 16))
    keep = masker(MaskRequest(IMAGES, NAMES, (4, 4), features, objects()))
    assert keep.dtype == torch.bool
    assert keep.shape == (3, 16)
    assert keep.any(1).all()
    assert masker.heatmap(MaskRequest(IMAGES, NAMES, (4, 4), features, objects())).shape == (3, 16)
    assert not list(masker.parameters())
