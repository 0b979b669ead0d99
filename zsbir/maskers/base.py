"""The masker contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from zsbir.maskers import MASKERS
from zsbir.types import Features


@dataclass(frozen=True, eq=False)
class MaskRequest:
    """What a masker may look at to choose the patches of B photos.

    Attributes:
        images: (B, 3, H, W) float32 photos in [0, 1], not normalised: each masker normalises as it needs.
        class_names: The label of each photo, length B.
        grid: The patch grid (h, w) of the encoder; ``N = h * w``.
        features: The encoder's features of the same photos, for maskers with `needs_attention`.
        objects: (B, H, W) bool, True on the object, for maskers with `needs_objects`; None if the dataset has none.
    """

    images: Tensor
    class_names: Sequence[str]
    grid: tuple[int, int]
    features: Features | None = None
    objects: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(B, N): photos and patches."""
        return len(self.images), self.grid[0] * self.grid[1]


class Masker(nn.Module):
    """Chooses which patches of a photo to keep, without parameters that train and without gradient.

    Attributes:
        spec: Its name and arguments, recorded when it is made.
        needs_attention: True if it reads ``features.attention``.
        needs_objects: True if it reads ``objects``.
        depends_on_backbone: True if its masks change while the encoder trains, and so cannot be stored.
    """

    spec: dict[str, Any]
    needs_attention: bool = False
    needs_objects: bool = False
    depends_on_backbone: bool = False

    def forward(self, request: MaskRequest) -> Tensor:
        """Return which patches to keep.

        Returns:
            (B, N) bool, row-major over the grid, True = keep. Every row keeps at least one patch.
        """
        raise TypeError(f"{type(self).__name__} has no forward")

    def heatmap(self, request: MaskRequest) -> Tensor:
        """Return (B, N) float scores, higher = more of the object; by default the kept patches as 0 and 1."""
        return self.forward(request).float()


def masker_spec(masker: str | Mapping[str, Any], clip_weights: str | None, pretrained: bool) -> Mapping[str, Any]:
    """Return a masker's spec, with the source of CLIP's weights filled in if the masker has one and names none.

    Args:
        masker: Name or mapping.
        clip_weights: A tag of open_clip or a file; None: ``"openai"`` if `pretrained`, else random weights.
        pretrained: Whether the method starts from pretrained weights.
    """
    spec: dict[str, Any] = {"name": masker} if isinstance(masker, str) else dict(masker)
    if spec.get("weights") is None and "weights" in MASKERS.parameters(str(spec.get("name"))):
        spec["weights"] = clip_weights or ("openai" if pretrained else None)
    return spec
