"""The authors' own checkpoints: read safely, renamed, and put into a method."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

from torch import Tensor

from zsbir.backbones.weights import misfits, read_tensors
from zsbir.errors import ZsbirError
from zsbir.methods.base import Method

logger = logging.getLogger("zsbir")


def load_released(method: Method, file: str | Path) -> str:
    """Put the weights of an authors' checkpoint into a method.

    PuXIM's ``best.pth``, SBKA's ``model_best.pth.tar`` and DANN's ``last.pth.tar`` are read without running any code in
    them. The parts that embed must fit; the method's other parts are filled if they fit.

    Args:
        method: Built with the sizes of the checkpoint; filled in place.
        file: The checkpoint.

    Returns:
        A sentence: what was loaded, which parts of the method were left, and which of the file were not used.

    Raises:
        ZsbirError: If the file cannot be read or does not fit the parts that embed; the message lists what differs.
    """
    given = read_tensors(file)
    state, own = method.released_state(given), method.state_dict()
    left: list[str] = []
    for part in dict.fromkeys(_part(name) for name in own):
        mine, theirs = ({k: v for k, v in tensors.items() if _part(k) == part} for tensors in (own, state))
        wrong = misfits(mine, theirs)
        if wrong and part in method.embeds_with:
            raise ZsbirError(f"{file} does not fit the {part} of {type(method).__name__}: {wrong}")
        if wrong:
            left.append(part)
            given |= theirs
            state = {name: tensor for name, tensor in state.items() if name not in theirs}
    method.load_state_dict(state, strict=False)
    unused = Counter(".".join(name.split(".")[:2]) for name in given)
    lists = {
        "loaded": ", ".join(dict.fromkeys(map(_part, state))),
        "as it was": ", ".join(left),
        "of the file not used": ", ".join(f"{name} ({count} tensors)" for name, count in unused.items()),
    }
    said = f"{file}: " + "; ".join(f"{what}: {names}" for what, names in lists.items() if names)
    logger.info(said)
    return said


def _part(name: str) -> str:
    return name.partition(".")[0]


def take(given: dict[str, Tensor], prefix: str, new: str = "") -> dict[str, Tensor]:
    """Remove the tensors whose names begin with `prefix`, and return them with `new` in its place."""
    return {new + name.removeprefix(prefix): given.pop(name) for name in list(given) if name.startswith(prefix)}
