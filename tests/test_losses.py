"""Losses against independent slow versions, and the reversal's gradients against numeric ones."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from zsbir.errors import ZsbirError
from zsbir.losses import batch_triplet_loss, gradient_reversal, soft_cross_entropy, triplet_loss


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_reversal_passes_gradcheck_first_and_second_order():
    # With strength -1 the layer is the identity in both directions, so numeric and analytic gradients must agree.
    x = draw(4, 3).requires_grad_()

    def through(x):
        return torch.tanh(gradient_reversal(x, -1.0)).square()

    assert gradcheck(through, (x,))
    assert gradgradcheck(through, (x,))


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 2.5])
def test_reversal_gradient_is_minus_strength_times_plain_gradient(strength):
    x = draw(5, 2).requires_grad_()
    (plain,) = torch.autograd.grad(torch.sin(x).sum(), x)
    (turned,) = torch.autograd.grad(torch.sin(gradient_reversal(x, strength)).sum(), x)
    assert torch.allclose(turned, -strength * plain)
    # The backward pass itself, -strength times the incoming gradient, is linear: its own derivative is checked.
    assert gradgradcheck(lambda x: gradient_reversal(x, strength), (x,))


def test_reversal_is_the_identity_forward_and_keeps_its_input():
    x = draw(3, 2)
    assert torch.equal(gradient_reversal(x, 0.7), x)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(1, 5), st.floats(0.01, 2), st.integers(0, 100))
def test_triplet_loss_equals_a_loop(rows, width, margin, seed):
    a, p, n = draw(3, rows, width, seed=seed)
    slow = 0.0
    for i in range(rows):
        near = math.sqrt(sum((a[i, k] - p[i, k]).item() ** 2 for k in range(width)))
        far = math.sqrt(sum((a[i, k] - n[i, k]).item() ** 2 for k in range(width)))
        slow += max(0.0, near - far + margin) / rows
    assert triplet_loss(a, p, n, margin).item() == pytest.approx(slow, abs=1e-4)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 6), st.integers(2, 8), st.floats(0.01, 2), st.integers(0, 100))
def test_batch_triplet_loss_equals_three_loops(rows, photos, margin, seed):
    a, p = draw(rows, 3, seed=seed), draw(photos, 3, seed=seed + 1000)
    label, photo_label = torch.arange(rows) % 2, torch.arange(photos) % 3
    broken = []
    for i in range(rows):
        for j in range(photos):
            for k in range(photos):
                if label[i] == photo_label[j] and label[i] != photo_label[k]:
                    value = (a[i] - p[j]).norm() - (a[i] - p[k]).norm() + margin
                    broken += [value.item()] if value > 0 else []
    expected = sum(broken) / len(broken) if broken else 0.0
    assert batch_triplet_loss(a, p, label, photo_label, margin).item() == pytest.approx(expected, abs=1e-9)


def test_batch_triplet_loss_has_finite_gradients_for_equal_vectors():
    a = torch.ones(2, 3, requires_grad=True)
    batch_triplet_loss(a, torch.ones(2, 3), torch.tensor([0, 1]), torch.tensor([0, 1])).backward()
    assert torch.isfinite(a.grad).all()


def test_half_precision_is_computed_in_float32():
    a, p, n = (400 * x.half() for x in draw(3, 4, 64))
    assert triplet_loss(a, p, n).dtype == torch.float32
    assert torch.isfinite(triplet_loss(a, p, n))


def test_soft_cross_entropy_of_one_hot_targets_is_cross_entropy():
    logits, label = draw(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    target = torch.nn.functional.one_hot(label, 4).double()
    assert torch.allclose(soft_cross_entropy(logits, target), torch.nn.functional.cross_entropy(logits, label))


def test_soft_cross_entropy_counts_only_rows_with_weight():
    logits, target = draw(4, 3), draw(4, 3, seed=1).softmax(dim=1)
    weight = torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert torch.allclose(soft_cross_entropy(logits, target, weight), soft_cross_entropy(logits[::2], target[::2]))
    assert soft_cross_entropy(logits, target, torch.zeros(4)) == 0


def test_soft_cross_entropy_refuses_other_shapes():
    with pytest.raises(ZsbirError, match="same shape"):
        soft_cross_entropy(draw(2, 3), draw(2, 4))
