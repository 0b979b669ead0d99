"""JPEG files decoded and made square on the GPU, by nvJPEG: processors alone cannot keep up with a fast one."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from zsbir.data.images import MOST_PIXELS, turn_of

_MODES = {"squash": "bilinear", "bicubic": "bicubic"}
_END = b"\xff\xd9"

_TURNS: dict[Image.Transpose, Callable[[Tensor], Tensor]] = {
    Image.Transpose.FLIP_LEFT_RIGHT: partial(torch.flip, dims=(2,)),
    Image.Transpose.FLIP_TOP_BOTTOM: partial(torch.flip, dims=(1,)),
    Image.Transpose.ROTATE_90: partial(torch.rot90, k=1, dims=(1, 2)),
    Image.Transpose.ROTATE_180: partial(torch.rot90, k=2, dims=(1, 2)),
    Image.Transpose.ROTATE_270: partial(torch.rot90, k=3, dims=(1, 2)),
    Image.Transpose.TRANSPOSE: lambda pixels: pixels.mT,
    Image.Transpose.TRANSVERSE: lambda pixels: torch.rot90(pixels.mT, 2, (1, 2)),
}


@dataclass(frozen=True, eq=False)
class Encoded:
    """A JPEG file to be decoded on a GPU.

    Attributes:
        data: (n,) uint8, its content, on the CPU.
        turn: What its EXIF block asks for.
    """

    data: Tensor
    turn: Image.Transpose | None


def makes_square(how: str) -> bool:
    """Tell whether `squares` knows a way of `zsbir.data.preprocess.WAYS`."""
    return how in _MODES


def encoded(data: bytes) -> Encoded | None:
    """Return a JPEG file to be decoded on a GPU; None: only the CPU decodes it, or says what is wrong with it.

    That is any other format, CMYK, a file that is cut off or whose head is damaged, and more than `MOST_PIXELS` pixels.
    """
    if not data.startswith(b"\xff\xd8") or _END not in data[-1024:]:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            if image.mode not in ("RGB", "L") or image.width * image.height > MOST_PIXELS:
                return None
            return Encoded(torch.frombuffer(bytearray(data), dtype=torch.uint8), turn_of(image))
    except Exception:  # Pillow raises anything on damaged heads
        return None


def squares(images: Sequence[Encoded], size: int, how: str, device: torch.device) -> Tensor:
    """Decode JPEG files and make squares of them.

    Args:
        images: At least one.
        size: Side in pixels.
        how: A way that `makes_square`.
        device: Where: CUDA, or the CPU for comparison.

    Returns:
        (n, 3, size, size) uint8 on the device. It differs by rounding from what the CPU makes of the same files, and by
        how nvJPEG enlarges the colour channels.

    Raises:
        RuntimeError: If one of them is damaged.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated", category=UserWarning)  # from torchvision 0.29 on
        decoded = decode_jpeg([image.data for image in images], mode=ImageReadMode.RGB, device=device)
    result = torch.empty(len(images), 3, size, size, dtype=torch.uint8, device=device)
    for row, image, pixels in zip(result, images, decoded, strict=True):
        turned = pixels if image.turn is None else _TURNS[image.turn](pixels)
        square = F.interpolate(turned[None].float(), (size, size), mode=_MODES[how], antialias=True)
        row.copy_(square[0].round_().clamp_(0, 255))
    return result
