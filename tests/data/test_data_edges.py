"""Line drawings of photos."""

import math

import pytest
import torch

from zsbir.data.edges import edge_maps


def slow_ridges(image):
    """Return where a (H, W) strength with its gradient is a ridge, pixel by pixel, and that strength."""
    h, w = image.shape
    pad = torch.nn.functional.pad(image[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    gx, gy = torch.zeros(h, w), torch.zeros(h, w)
    for y in range(h):
        for x in range(w):
            p = pad[y : y + 3, x : x + 3]
            gx[y, x] = ((p[:, 0] - p[:, 2]) * torch.tensor([1.0, 2.0, 1.0])).sum() / 4
            gy[y, x] = ((p[0] - p[2]) * torch.tensor([1.0, 2.0, 1.0])).sum() / 4
    strength = (gx**2 + gy**2).sqrt()
    ridge = torch.zeros(h, w, dtype=torch.bool)
    steps = [(0, 1), (1, 1), (1, 0), (1, -1)]
    for y in range(h):
        for x in range(w):
            dy, dx = steps[round(math.atan2(gy[y, x], gx[y, x]) / (math.pi / 4)) % 4]
            around = [(y + dy, x + dx), (y - dy, x - dx)]
            values = [strength[a, b].item() for a, b in around if 0 <= a < h and 0 <= b < w]
            ridge[y, x] = all(strength[y, x].item() >= v for v in values)
    return ridge, strength


def test_gradient_and_ridges_equal_a_slow_version():
    from zsbir.data.edges import _gradient, _is_ridge

    image = torch.rand(12, 15, generator=torch.Generator().manual_seed(0))
    strength, direction = _gradient(image.expand(1, 3, -1, -1))
    ridge, expected = slow_ridges(image)
    assert torch.allclose(strength[0, 0], expected, atol=1e-6)
    assert torch.equal(_is_ridge(strength, direction)[0, 0], ridge)


@pytest.mark.parametrize("colours", [((0, 0, 0), (1, 1, 1)), ((1, 0, 0), (0, 0, 1))])
def test_a_square_becomes_its_outline(colours):
    inner, outer = (torch.tensor(c, dtype=torch.float32).view(3, 1, 1) for c in colours)
    image = outer.expand(3, 64, 64).clone()
    image[:, 16:48, 20:44] = inner
    drawn = edge_maps(image[None])[0, 0]
    assert drawn[32, 20] < 0.1  # the left side
    assert drawn[16, 32] < 0.1  # the top
    assert drawn[32, 32] == 1  # the middle of the square
    assert drawn[4, 4] == 1
    assert (drawn < 0.5).float().mean() < 0.2


def test_drawings_are_one_by_one_what_they_are_in_a_batch():
    images = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    together = edge_maps(images)
    assert together.shape == images.shape
    assert 0 <= together.min() <= together.max() <= 1
    for row, image in zip(together, images, strict=True):
        assert torch.allclose(row, edge_maps(image[None])[0], atol=1e-6)
