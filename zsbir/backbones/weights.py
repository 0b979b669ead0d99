"""Weights from files and downloads, with one sentence that says what to do when they cannot be loaded."""

from __future__ import annotations

import logging
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from zsbir.errors import ZsbirError
from zsbir.files import reading

T = TypeVar("T")

_off: ContextVar[bool] = ContextVar("weights_off", default=False)


@contextmanager
def without_weights() -> Iterator[None]:
    """Build networks with random weights in a block, whatever their arguments say: a checkpoint will fill them.

    In the block, `wanted`, which backbones ask before a download, is False, and `load_weights` does nothing.
    """
    token = _off.set(True)
    try:
        yield
    finally:
        _off.reset(token)


def wanted(pretrained: bool) -> bool:
    """Return whether to load pretrained weights: if the argument says so, but never within `without_weights`."""
    return pretrained and not _off.get()


def read_tensors(file: str | Path) -> dict[str, Tensor]:
    """Read the tensors of ``.safetensors``, or of a PyTorch file without unpickling code.

    Returns:
        All tensors by name; those in mappings within the file have dotted names (``"state_dict.conv1.weight"``).

    Raises:
        ZsbirError: If the file is missing, cannot be read, or holds no tensors.
    """
    path = Path(file)
    if not path.is_file():
        raise ZsbirError(f"there is no weights file {path}")
    with reading("weights file", path):
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        try:
            # Training scripts keep their best accuracy as a NumPy number beside the weights.
            with torch.serialization.safe_globals(_numpy_numbers()):
                state = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:  # torch's own message advises to unpickle the file
            kinds = "neither safetensors nor a PyTorch file that holds tensors alone"
            raise ZsbirError(f"the weights file {path} cannot be read: it is {kinds}") from None
    tensors = dict(_tensors(state, ""))
    if not tensors:
        raise ZsbirError(f"the weights file {path} holds no tensors by name")
    return tensors


def _tensors(state: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for key, value in state.items() if isinstance(state, Mapping) else ():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        else:
            yield from _tensors(value, f"{prefix}{key}.")


def _numpy_numbers() -> list[Any]:
    inner: Any = import_module(f"numpy.{'_core' if hasattr(np, '_core') else 'core'}.multiarray")  # NumPy 2, NumPy 1
    rebuild, scalar = inner._reconstruct, inner.scalar
    named = [(f, f"numpy.{core}.multiarray.{f.__name__}") for f in (rebuild, scalar) for core in ("core", "_core")]
    return [*named, np.ndarray, np.dtype, np.dtypes.Float32DType, np.dtypes.Float64DType]


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """Read a network's weights by name, out of the file's ``state_dict`` or ``model`` if it has one.

    Raises:
        ZsbirError: As `read_tensors`.
    """
    tensors = read_tensors(file)
    for key in ("state_dict.", "model_state_dict.", "model."):
        inner = {name.removeprefix(key): tensor for name, tensor in tensors.items() if name.startswith(key)}
        tensors = inner or tensors
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def load_weights(module: nn.Module, file: str | Path, skip: tuple[str, ...] = ()) -> None:
    """Load a weights file into `module`: by its names, by those of another layout, or in order if every shape agrees.

    Other layouts are those that timm converts (Facebook's ConvNeXt, DINOv2, ...), and PuXIM's ViT.

    Args:
        module: What to fill.
        file: A file that `read_weights` reads.
        skip: Prefixes of names to leave out, such as those of a classifier that `module` lacks.

    Raises:
        ZsbirError: If nothing fits; the message lists what differs.
    """
    if _off.get():
        return
    given, own = read_weights(file), module.state_dict()
    for state in (given, vit_names(given), timm_names(module, given)):
        kept = {name: tensor for name, tensor in state.items() if not name.startswith(skip)}
        if all(name in kept and kept[name].shape == tensor.shape for name, tensor in own.items()):
            module.load_state_dict({name: kept[name] for name in own})
            return
    in_order = [v for k, v in given.items() if not k.endswith("num_batches_tracked") and not k.startswith(skip)]
    wanted = [k for k in own if not k.endswith("num_batches_tracked")]
    if len(in_order) >= len(wanted) and all(own[k].shape == v.shape for k, v in zip(wanted, in_order, strict=False)):
        module.load_state_dict(dict(zip(wanted, in_order, strict=False)), strict=False)
        return
    raise ZsbirError(f"the weights in {file} do not fit {type(module).__name__}: {misfits(own, vit_names(given))}")


def misfits(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Say which of a module's tensors are missing in a file or have another shape there, and which are not its own."""
    lists = {
        "it lacks": [name for name in own if name not in given],
        "of another shape are": [n for n, t in own.items() if n in given and given[n].shape != t.shape],
        "unknown are": [name for name in given if name not in own],
    }
    said = [
        f"{what} {', '.join(n[:3])}{f' and {len(n) - 3} more' if len(n) > 3 else ''}" for what, n in lists.items() if n
    ]
    return "; ".join(said)


def timm_names(module: nn.Module, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names of a timm model, converted by timm if it knows their layout."""
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    try:
        return dict(given if convert is None else convert(dict(given), module))
    except KeyError:  # it looks up shapes by name: it does not know this layout
        return dict(given)


VIT = (
    (r"cls", "cls_token"),
    (r"pos_embedding", "pos_embed"),
    (r"embedding\.", "patch_embed.proj."),
    (r"scale\.seq\.", "patch_embed.proj.stem."),
    (r"transformer\.encoder_norm\.", "norm."),
    (r"transformer\.layers\.(\d+)\.0\.layer_norm_input\.", r"blocks.\1.norm1."),
    (r"transformer\.layers\.(\d+)\.0\.layer_norm_out\.", r"blocks.\1.norm2."),
    (r"transformer\.layers\.(\d+)\.0\.attention\.to_qkv\.", r"blocks.\1.attn.qkv."),
    (r"transformer\.layers\.(\d+)\.0\.attention\.to_out\.0\.", r"blocks.\1.attn.proj."),
    (r"transformer\.layers\.(\d+)\.0\.mlp\.net\.0\.", r"blocks.\1.mlp.fc1."),
    (r"transformer\.layers\.(\d+)\.0\.mlp\.net\.3\.", r"blocks.\1.mlp.fc2."),
)
"""The layout of PuXIM's ViT (``ViT-B_16.pth``): how each name begins, and the beginning of timm's name."""


def vit_names(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of PuXIM's ViT under timm's names; other tensors keep theirs."""

    def renamed(name: str) -> str:
        for pattern, new in VIT:
            if re.match(pattern, name):
                return re.sub(f"^{pattern}", new, name)
        return name

    return {renamed(name): tensor for name, tensor in given.items()}


def fetch(make: Callable[[], T], what: str) -> T:
    """Run `make`, which may download weights; a failure becomes one sentence that says what to do.

    Args:
        make: Builds a model with its pretrained weights.
        what: Whose weights, for the message: ``"timm's vit_base_patch16_224"``.
    """
    # The hub client warns at each of a dozen retries; the one sentence below says it all.
    retries = logging.getLogger("huggingface_hub.utils._http")
    level = retries.level
    retries.setLevel(logging.ERROR)
    try:
        return make()
    except Exception as error:  # hub clients raise many kinds, and each means the same to the user
        reason = str(error).strip().split("\n")[0][:200]
        raise ZsbirError(
            f"the pretrained weights of {what} cannot be downloaded ({type(error).__name__}: {reason}): connect to the "
            "network, give a local file with weights=FILE (--weights FILE), or start from random weights "
            "(pretrained=False, --no-pretrained)"
        ) from error
    finally:
        retries.setLevel(level)
