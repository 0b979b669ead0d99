"""Reading weight files, and saying in one sentence what to do when weights cannot be had."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from zsbir.errors import ZsbirError

T = TypeVar("T")


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """Read a state dict from ``.safetensors``, or from a PyTorch file without unpickling code.

    Raises:
        ZsbirError: If the file is missing, cannot be read, or holds no tensors.
    """
    path = Path(file)
    if not path.is_file():
        raise ZsbirError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ZsbirError(f"the weights file {path} cannot be read: {error}") from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, dict) else {}
    if not tensors:
        raise ZsbirError(f"the weights file {path} holds no tensors by name")
    return tensors


def load_weights(module: nn.Module, file: str | Path, skip: tuple[str, ...] = ()) -> None:
    """Load a weights file into `module`, by name; or in order, where the names differ but every shape agrees.

    Args:
        module: What to fill.
        file: A file that `read_weights` reads.
        skip: Prefixes of the file's names to leave out, such as a classifier that `module` does not have.

    Raises:
        ZsbirError: If neither way fits; the message names the first difference.
    """
    given = {k.removeprefix("module."): v for k, v in read_weights(file).items()}
    given = {k: v for k, v in given.items() if not k.startswith(skip)} if skip else given
    own = module.state_dict()
    if set(own) <= set(given) and all(own[k].shape == given[k].shape for k in own):
        module.load_state_dict({k: given[k] for k in own})
        return
    in_order = [v for k, v in given.items() if not k.endswith("num_batches_tracked")]
    wanted = [k for k in own if not k.endswith("num_batches_tracked")]
    if len(in_order) >= len(wanted) and all(own[k].shape == v.shape for k, v in zip(wanted, in_order, strict=False)):
        module.load_state_dict(dict(zip(wanted, in_order, strict=False)), strict=False)
        return
    missing = [k for k in own if k not in given]
    shapes = [k for k in own if k in given and own[k].shape != given[k].shape]
    first = f"it lacks {missing[0]!r} ({len(missing)} in all)" if missing else f"{shapes[0]!r} has another shape"
    raise ZsbirError(f"the weights in {file} do not fit {type(module).__name__}: {first}")


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
            f"the pretrained weights of {what} cannot be had ({type(error).__name__}: {reason}): connect to the "
            "network, give a local file with weights=FILE (--weights FILE), or start from random weights "
            "(pretrained=False, --no-pretrained)"
        ) from error
    finally:
        retries.setLevel(level)
