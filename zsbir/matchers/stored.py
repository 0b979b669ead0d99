"""Saved matchers: a fitted gallery on disk as safetensors and JSON, applied to new queries without fitting again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from zsbir.errors import ZsbirError
from zsbir.matchers import MATCHERS
from zsbir.matchers.base import Matcher
from zsbir.registry import spec_of

RECORD = "matcher.json"
TENSORS = "matcher.safetensors"
FORMAT = 1


@runtime_checkable
class Storable(Protocol):
    """A matcher whose fitted state can be written and read back."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the JSON values of the fitted state."""

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take the state back in."""


def save_matcher(matcher: Matcher, folder: str | Path) -> None:
    """Write a fitted matcher to `folder` (made if need be): ``matcher.json`` and ``matcher.safetensors``.

    Raises:
        ZsbirError: If this kind of matcher keeps no state worth saving, or has not been fitted.
    """
    if not isinstance(matcher, Storable):
        raise ZsbirError(f"{type(matcher).__name__} cannot be saved: save the gallery's embeddings and fit it again")
    tensors, values = matcher.state()
    record = {"format": FORMAT, "spec": spec_of(matcher), "state": values}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / TENSORS)
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def load_matcher(folder: str | Path, device: str = "cpu") -> Matcher:
    """Read a matcher that `save_matcher` wrote.

    Args:
        folder: Where it is.
        device: Where its tensors go.

    Returns:
        The fitted matcher, ready for `scores`.

    Raises:
        ZsbirError: If a file is missing or is not what it should be.
    """
    folder = Path(folder)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS, device=device)
    except (OSError, ValueError, SafetensorError) as error:
        raise ZsbirError(f"no saved matcher can be read from {folder}: {error}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ZsbirError(f"{folder / RECORD} is not of format {FORMAT}: save the matcher again with this version")
    matcher = MATCHERS.build(record["spec"])
    if not isinstance(matcher, Storable):
        raise ZsbirError(f"{folder / RECORD} names the matcher {record['spec'].get('name')!r}, which keeps no state")
    try:
        matcher.restore(tensors, record["state"])
    except (KeyError, TypeError) as error:
        raise ZsbirError(f"{folder} holds an incomplete matcher ({error!r}): save it again") from None
    return matcher
