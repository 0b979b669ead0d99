"""Line drawings of photos, without training: smoothing, colour gradients, thinning to ridges (J. Canny, PAMI 1986)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SIGMA = 2 / 224
"""Width of the smoothing, as a share of the image's side."""
SHARE = 0.93
"""Share of the pixels with a weaker gradient than a full black line."""
FAINT = 0.6
"""Lines fainter than this are left out."""


def edge_maps(images: Tensor) -> Tensor:
    """Turn photos into line drawings: dark lines, about three pixels wide, on white.

    A frozen network takes a drawing and the edge map of a photo for much more alike than the drawing and the photo.
    Each step runs in batches on the images' device; nothing is learned. Double thresholding with hysteresis, Canny's
    last step, is left out: it follows lines pixel by pixel.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].

    Returns:
        (B, 3, H, W) float32 in [0, 1], the three channels equal. An image without any edge becomes white.

    >>> edge_maps(torch.zeros(1, 3, 32, 32)).min().item()
    1.0
    """
    with torch.autocast(images.device.type, enabled=False):
        strength, direction = _gradient(_smooth(images.float(), SIGMA * images.shape[-1]))
        ridge = strength * _is_ridge(strength, direction)
        # Every 7th pixel is enough to know the quantile by.
        full = torch.quantile(strength.flatten(1)[:, ::7], SHARE, dim=1).clamp_min(1e-3).view(-1, 1, 1, 1)
        lines = (ridge / full).clamp(0, 1)
        lines = F.max_pool2d(torch.where(lines > FAINT, lines, torch.zeros_like(lines)), 3, 1, 1)
    return (1 - lines).expand(-1, 3, -1, -1)


def _smooth(images: Tensor, sigma: float) -> Tensor:
    """Return the images under a Gaussian of `sigma` pixels; the border is repeated."""
    reach = max(1, int(3 * sigma))
    at = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-(at**2) / (2 * max(sigma, 1e-3) ** 2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    across = F.conv2d(F.pad(images, (reach, reach, 0, 0), mode="replicate"), kernel, groups=3)
    return F.conv2d(F.pad(across, (0, 0, reach, reach), mode="replicate"), kernel.transpose(2, 3), groups=3)


def _gradient(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, 1, H, W) strength and (B, 2, H, W) vector of Sobel's gradient in the channel where it is strongest."""
    b, c, h, w = images.shape
    sobel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]], device=images.device) / 4
    kernels = torch.stack([sobel, sobel.T])[:, None].to(images.dtype)
    padded = F.pad(images.reshape(b * c, 1, h, w), (1, 1, 1, 1), mode="replicate")
    gradient = F.conv2d(padded, kernels).view(b, c, 2, h, w)
    squares = gradient.square().sum(dim=2)
    best = squares.argmax(dim=1, keepdim=True)
    vector = gradient.gather(1, best[:, :, None].expand(-1, -1, 2, -1, -1))[:, 0]
    return squares.gather(1, best).sqrt(), vector


def _is_ridge(strength: Tensor, direction: Tensor) -> Tensor:
    """Return (B, 1, H, W) bool: no weaker than both neighbours along the gradient, to the nearest 45 degrees."""
    h, w = strength.shape[2:]
    padded = F.pad(strength, (1, 1, 1, 1))
    sector = (torch.atan2(direction[:, 1], direction[:, 0]) / (torch.pi / 4)).round().long().remainder(4)

    def neighbour(down: int, right: int) -> Tensor:
        return padded[:, 0, 1 + down : 1 + down + h, 1 + right : 1 + right + w]

    steps = ((0, 1), (1, 1), (1, 0), (1, -1))
    beside = torch.stack([torch.maximum(neighbour(y, x), neighbour(-y, -x)) for y, x in steps])
    return strength >= beside.gather(0, sector[None])[0][:, None]
