"""A picture of a masker's choice: photo, heat map and kept patches side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

Pixels = npt.NDArray[np.uint8]

# A perceptually ordered scale from dark blue over green to yellow, as five (R, G, B) stops.
STOPS = np.array([[48, 18, 80], [50, 90, 150], [33, 145, 140], [110, 205, 90], [253, 231, 37]], dtype=np.float64)
MARGIN, LINE = 6, 14


def mask_picture(
    photos: Pixels, heat: Tensor, keep: Tensor, grid: tuple[int, int], titles: Sequence[str]
) -> Image.Image:
    """Return one row per photo: the photo, the heat map over it, and the patches that are kept.

    Args:
        photos: (B, S, S, 3) uint8.
        heat: (B, N) float, higher = more of the object; each map is scaled by its own range.
        keep: (B, N) bool, True = keep.
        grid: The patch grid (h, w).
        titles: The title of each row, length B.

    Returns:
        An RGB picture, 3 S and some margin wide. Masked patches are darkened, kept ones outlined.
    """
    count, side = photos.shape[:2]
    sheet = Image.new("RGB", (3 * side + 4 * MARGIN, count * (side + LINE + MARGIN) + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for i in range(count):
        top = MARGIN + i * (side + LINE + MARGIN)
        share = 100 * float(keep[i].float().mean())
        title = f"{titles[i]}  ·  {int(keep[i].sum())} of {keep.shape[1]} patches kept ({share:.0f} %)"
        draw.text((MARGIN, top), title, fill="black")
        panels = (photos[i], _heated(photos[i], heat[i], grid), _masked(photos[i], keep[i], grid))
        for column, panel in enumerate(panels):
            sheet.paste(Image.fromarray(panel), (MARGIN + column * (side + MARGIN), top + LINE))
    return sheet


def _heated(photo: Pixels, heat: Tensor, grid: tuple[int, int]) -> Pixels:
    square = heat.float().cpu().reshape(1, 1, *grid)
    square = (square - square.min()) / (square.max() - square.min()).clamp_min(1e-12)
    smooth = F.interpolate(square, photo.shape[:2], mode="bilinear", align_corners=False)[0, 0].clamp(0, 1).numpy()
    at = smooth * (len(STOPS) - 1)
    low = np.minimum(at.astype(int), len(STOPS) - 2)
    colour = STOPS[low] + (STOPS[low + 1] - STOPS[low]) * (at - low)[..., None]
    grey = photo.mean(axis=2, keepdims=True)
    mixed: Pixels = (0.35 * grey + 0.65 * colour).astype(np.uint8)
    return mixed


def _masked(photo: Pixels, keep: Tensor, grid: tuple[int, int]) -> Pixels:
    side_h, side_w = photo.shape[:2]
    square = keep.cpu().reshape(1, 1, *grid).float()
    full = F.interpolate(square, (side_h, side_w), mode="nearest")[0, 0].numpy() > 0.5
    out = np.where(full[..., None], photo, (0.2 * photo + 0.8 * 60).astype(np.uint8))
    # A kept pixel next to a masked one lies on the outline.
    around = np.pad(full, 1, mode="edge")
    inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    out[full & ~inside] = (255, 220, 0)
    return out.astype(np.uint8)
