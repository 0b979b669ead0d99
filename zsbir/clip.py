"""CLIP models of open_clip: made, fed, and one sentence that says what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from zsbir.errors import ZsbirError
from zsbir.registry import close_matches

Tokenizer = Callable[[list[str]], Tensor]


def create_clip(model: str | Mapping[str, Any], weights: str | None = None, image_size: int | None = None) -> Any:
    """Make an open_clip model on the CPU in float32, in evaluation mode.

    Args:
        model: An open_clip name (``"ViT-B-16-quickgelu"``) or its configuration as a mapping with the keys
            ``embed_dim``, ``vision_cfg`` and ``text_cfg``.
        weights: A pretrained tag of open_clip (``"openai"``; needs the network once), a local weights file
            (``.safetensors`` or a PyTorch state dict), or None: random weights, the same at every call.
        image_size: Side of the input in pixels; None: the model's own.

    Returns:
        The open_clip model: ``visual``, ``encode_text`` and so on.

    Raises:
        ZsbirError: If the model is unknown, or its weights are missing or do not fit.
    """
    if isinstance(model, str) and open_clip.get_model_config(model) is None:
        raise ZsbirError(f"open_clip has no model {model!r}. {close_matches(model, open_clip.list_models())}")
    # With a forked random state, so that making a frozen CLIP does not change a seeded training run.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            made = _make(model, weights, image_size)
        except ZsbirError:
            raise
        except Exception as error:  # open_clip and the hub client raise many kinds; each means the same to the user
            name = model if isinstance(model, str) else "the configuration given"
            reason = str(error).strip().split("\n")[0][:200]
            tags = open_clip.list_pretrained_tags_by_model(model) if isinstance(model, str) else []
            known = f" (tags: {', '.join(tags)})" if tags else ""
            raise ZsbirError(
                f"the weights {weights!r} of CLIP {name} cannot be loaded ({type(error).__name__}: {reason}): connect "
                f"to the network for a tag of open_clip{known}, or give a local weights file with clip_weights=FILE "
                "(--set clip_weights=FILE); for the masker or backbone alone it is weights=FILE"
            ) from error
    return made.eval().requires_grad_(False)


def _make(model: str | Mapping[str, Any], weights: str | None, image_size: int | None) -> Any:
    if isinstance(model, str):
        return open_clip.create_model(
            model, pretrained=weights, force_image_size=image_size, pretrained_text=False, weights_only=True
        )
    config = deepcopy(dict(model))
    if image_size is not None:
        config["vision_cfg"]["image_size"] = image_size
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    made = kind(**config)
    if weights is not None:
        if not Path(weights).is_file():
            raise ZsbirError(f"there is no CLIP weights file {weights}")
        open_clip.factory.load_checkpoint(made, weights, weights_only=True)
    return made


def clip_tokenizer(model: str | Mapping[str, Any]) -> Tokenizer:
    """Return what turns a list of n texts into (n, context length) int64 token ids for `model`.

    Raises:
        ZsbirError: If the model's tokenizer has to be downloaded and cannot be.
    """
    if not isinstance(model, str):
        length = int(model["text_cfg"].get("context_length", 77))
        simple: Tokenizer = open_clip.SimpleTokenizer(context_length=length)
        return simple
    try:
        found: Tokenizer = open_clip.get_tokenizer(model)
    except Exception as error:  # as in create_clip
        raise ZsbirError(
            f"the tokenizer of CLIP {model} cannot be loaded ({type(error).__name__}): connect to the network, or use "
            "a model with open_clip's own tokenizer, such as 'ViT-B-16-quickgelu'"
        ) from error
    return found


def image_input(visual: Any) -> tuple[int, tuple[float, float, float], tuple[float, float, float]]:
    """Return what an open_clip image tower expects: side in pixels; mean and std per channel of images in [0, 1]."""
    size = visual.image_size
    side = int(size[0] if isinstance(size, (tuple, list)) else size)
    mean = getattr(visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
    std = getattr(visual, "image_std", None) or open_clip.OPENAI_DATASET_STD
    return side, (float(mean[0]), float(mean[1]), float(mean[2])), (float(std[0]), float(std[1]), float(std[2]))
