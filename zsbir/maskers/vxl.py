"""PuXIM's visual-cross-linguistic sampler: masks from CLIP Surgery with the class name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zsbir.arguments import Count, Proportion, Ratio
from zsbir.clip import clip_tokenizer, create_clip, image_input
from zsbir.errors import ZsbirError
from zsbir.maskers import MASKERS
from zsbir.maskers._select import ScoreMasker
from zsbir.maskers._surgery import check_tower, feature_surgery, surgery_tokens
from zsbir.maskers.base import MaskRequest
from zsbir.names import prompt_name


@MASKERS.register("vxl")
class VxL(ScoreMasker):
    """CLIP Surgery: keeps the patches that match the class name, as PuXIM's VxL sampler does.

    The texts of a photo are a generic word and the class name; the map is each patch's similarity to the class name
    after feature surgery, and the patches with the lowest similarity are masked. Texts are encoded once a class.

    Args:
        model: A ViT of open_clip by name, or its configuration as a mapping. The default is the published CLIP
            ViT-B/16, whose weights were trained with the quick GELU.
        weights: A pretrained tag of open_clip, such as ``"openai"``, or a local weights file. None: random weights,
            whose masks mean nothing; a warning says so at the first use.
        ratio: Share r of the patches that is masked; see PuXIM's page for the published count.
        keep: Number of patches to keep instead.
        threshold: Keep instead the patches above it, in maps scaled to [0, 1].
        blocks: How many of the last blocks get the surgery path.
        prompts: ``"word"``: the class name alone, as `zsbir.names.prompt_name` spells it; ``"raw"``: as the dataset
            spells it, as in PuXIM's release; ``"ensemble"``: the mean over open_clip's ImageNet templates; or other
            templates, with ``{}`` in the place of the name.
        generic: The text for what all photos have in common.
        norm: Axis over which the image tokens are normalised: ``"tokens"`` as in the published code, or ``"features"``
            as in CLIP.
        statistics: Photos are normalised with CLIP's own mean and std (``"clip"``), or both 0.5 (``"half"``, as in
            PuXIM's release).
        image_size: Side of CLIP's input in pixels. None: the encoder's grid times CLIP's patch size, but at least the
            size CLIP was trained at. If CLIP's grid is not the encoder's, the map is resized to that.
        precision: ``"auto"``: bfloat16 on a GPU, float32 elsewhere; or one of the two. Maps are made in float32.

    CLIP is made at the first use and is not saved: a trained method embeds without it.
    """

    def __init__(
        self,
        model: str | Mapping[str, Any] = "ViT-B-16-quickgelu",
        weights: str | None = None,
        ratio: Ratio = 0.7,
        keep: Count | None = None,
        threshold: Proportion | None = None,
        blocks: Count = 6,
        prompts: str | Sequence[str] = "word",
        generic: str = "a",
        norm: Literal["tokens", "features"] = "tokens",
        statistics: Literal["clip", "half"] = "clip",
        image_size: Count | None = None,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
    ) -> None:
        super().__init__(ratio, keep, threshold)
        self.model, self.weights, self.blocks = model, weights, blocks
        self.templates, self.generic, self.raw = _templates(prompts), generic, prompts == "raw"
        self.statistics = statistics
        self.norm, self.image_size, self.precision = norm, image_size, precision
        # A list, so that torch does not register it as a submodule: it is frozen and not saved.
        self._clip: list[Any] = []
        self._tokenizer: Any = None
        self._texts: dict[str, Tensor] = {}

    @property
    def clip(self) -> Any:
        """The open_clip model, made at the first use.

        Raises:
            ZsbirError: If its weights are neither here nor can be downloaded, or its image tower is of another kind.
        """
        if not self._clip:
            if self.weights is None:
                warnings.warn(
                    "the masker 'vxl' runs a CLIP with random weights, so its masks mean nothing: give "
                    "clip_weights='openai' (network) or clip_weights=FILE",
                    stacklevel=4,
                )
            made = create_clip(self.model, self.weights)
            check_tower(made.visual, self.blocks)
            self._clip.append(made)
        return self._clip[0]

    def heatmap(self, request: MaskRequest) -> Tensor:
        """Return (B, N) float32: the similarity of each patch to its photo's class name."""
        images, grid = request.images, request.grid
        # CLIP runs in its own dtype, not in the trainer's precision.
        self._place(images.device)
        with torch.inference_mode(), torch.autocast(images.device.type, enabled=False):
            tokens = surgery_tokens(self.clip.visual, self._prepare(images, grid), self.blocks).float()
            texts = self.text_features([self.generic, *request.class_names])
            pairs = torch.stack([texts[:1].expand(len(images), -1), texts[1:]], dim=1)
            maps = self.similarity(tokens, pairs)[:, 1:, 1]
        maps = maps.clone()  # tensors of inference mode cannot be saved for a backward pass
        if (own := self._clip_grid(grid)) != grid:
            square = maps.reshape(len(maps), 1, *own)
            maps = F.interpolate(square, size=grid, mode="bilinear", align_corners=False, antialias=True).flatten(1)
        return maps

    def similarity(self, tokens: Tensor, texts: Tensor) -> Tensor:
        """Return (B, 1 + N, K) float of raw tokens (B, 1 + N, C) to texts (B, K, C) of norm 1: normalise, surgery."""
        axis = 1 if self.norm == "tokens" else 2
        return feature_surgery(tokens / tokens.norm(dim=axis, keepdim=True), texts)

    def text_features(self, names: Sequence[str]) -> Tensor:
        """Return (n, C) float32 of norm 1: text features of names in the prompts, and of the generic word alone."""
        missing = [name for name in dict.fromkeys(names) if name not in self._texts]
        if missing:
            self._texts.update(zip(missing, self._encode(missing), strict=True))
        return torch.stack([self._texts[name] for name in names])

    def _encode(self, names: list[str]) -> list[Tensor]:
        if self._tokenizer is None:
            self._tokenizer = clip_tokenizer(self.model)
        spoken = [name if self.raw or name == self.generic else prompt_name(name) for name in names]
        made = [("{}",) if name == self.generic else self.templates for name in names]
        texts = [t.replace("{}", word) for word, templates in zip(spoken, made, strict=True) for t in templates]
        device = self.clip.visual.conv1.weight.device
        ids = self._tokenizer(texts).to(device)
        features = torch.cat([self.clip.encode_text(part, normalize=True).float() for part in torch.split(ids, 256)])
        parts = torch.split(features, [len(templates) for templates in made])
        return [F.normalize(part.mean(dim=0), dim=0) for part in parts]

    def _place(self, device: torch.device) -> None:
        wanted = {"auto": "bfloat16" if device.type == "cuda" else "float32"}.get(self.precision, self.precision)
        weight = self.clip.visual.conv1.weight
        if weight.device != device or weight.dtype != getattr(torch, wanted):
            self.clip.to(device=device, dtype=getattr(torch, wanted))
            self._texts.clear()

    def _clip_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        visual = self.clip.visual
        if self.image_size is not None:
            return self.image_size // visual.patch_size[0], self.image_size // visual.patch_size[1]
        small = grid[0] < visual.grid_size[0] or grid[1] < visual.grid_size[1]
        return tuple(visual.grid_size) if small else grid

    def _prepare(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        visual = self.clip.visual
        h, w = self._clip_grid(grid)
        size = (h * visual.patch_size[0], w * visual.patch_size[1])
        if tuple(images.shape[2:]) != size:
            images = F.interpolate(images.float(), size=size, mode="bicubic", align_corners=False, antialias=True)
        statistics = ((0.5,) * 3,) * 2 if self.statistics == "half" else image_input(visual)[1:]
        mean, std = (torch.tensor(s, device=images.device).view(3, 1, 1) for s in statistics)
        return ((images - mean) / std).to(visual.conv1.weight.dtype)


def _templates(prompts: str | Sequence[str]) -> tuple[str, ...]:
    if prompts in ("word", "raw"):
        return ("{}",)
    if prompts == "ensemble":
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        return tuple(make("{}") for make in OPENAI_IMAGENET_TEMPLATES)
    given = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    wrong = [template for template in given if "{}" not in template]
    if wrong or not given:
        raise ZsbirError(f"prompts={prompts!r}: say 'word', 'raw', 'ensemble', or give templates that contain {{}}")
    return given
