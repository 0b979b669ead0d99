"""The matcher contract, fitted matchers on disk, and what matchers do with vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from zsbir.errors import ZsbirError
from zsbir.files import read_json, reading, write_json, write_whole
from zsbir.matchers import MATCHERS
from zsbir.registry import spec_of
from zsbir.types import Embeddings

T = TypeVar("T")

RECORD = "matcher.json"
TENSORS = "matcher.safetensors"
FORMAT = 1


class Fitted(Generic[T]):
    """An attribute that `fit` sets; reading it before raises a ZsbirError."""

    def __get__(self, matcher: object, owner: type) -> T:
        raise ZsbirError(f"{owner.__name__} has no gallery yet: call fit(gallery) first")


class Matcher:
    """Scores queries against a gallery: higher is better, always.

    `fit` sees the gallery once; `scores` is then called with chunks of queries by the caller, which bounds memory.

    Attributes:
        spec: The name and the arguments it was made with.
        transductive: True if `fit` learns from the gallery as a whole (it then says so in every report).
        needs_tokens: True if it scores patch tokens (`Embeddings.tokens`) besides vectors.
    """

    spec: dict[str, Any]
    transductive: ClassVar[bool] = False
    needs_tokens: ClassVar[bool] = False
    _gallery = Fitted[Tensor]()  # what most matchers keep of it: the vectors, (n, D)

    def fit(self, gallery: Embeddings) -> Matcher:
        """Take the gallery (n photos) in; returns self."""
        raise TypeError(f"{type(self).__name__} has no fit")

    def scores(self, queries: Embeddings) -> Tensor:
        """Return (q, n) float scores of a chunk of queries against the fitted gallery, on the gallery's device."""
        raise TypeError(f"{type(self).__name__} has no scores")

    def variants(self) -> Sequence[Matcher]:
        """Return the matchers this one stands for: several for a published sweep, else just itself."""
        return [self]

    def describe(self) -> str:
        """Return one line for reports: name, settings, and what was fitted on."""
        spec = getattr(self, "spec", {"name": type(self).__name__})
        settings = ", ".join(f"{key}={value}" for key, value in spec.items() if key != "name")
        note = "; transductive: fitted on the gallery" if self.transductive else ""
        return f"{spec['name']}({settings}){note}"

    def __repr__(self) -> str:
        return f"<{self.describe()}>"

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the JSON values of the fitted state, which `restore` takes back.

        Raises:
            ZsbirError: If this kind of matcher keeps no state worth saving.
        """
        raise ZsbirError(f"{type(self).__name__} cannot be saved: save the gallery's embeddings and fit it again")

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        raise ZsbirError(f"{type(self).__name__} keeps no state")

    def save(self, folder: str | Path) -> None:
        """Write the fitted matcher to `folder` (made if need be): ``matcher.json`` and ``matcher.safetensors``.

        Raises:
            ZsbirError: If this kind of matcher keeps no state worth saving, or was not fitted.
        """
        tensors, values = self.state()
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_whole(Path(folder) / TENSORS, lambda part: save_file(held, part))
        write_json(Path(folder) / RECORD, {"format": FORMAT, "spec": spec_of(self), "state": values})

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> Self:
        """Read from `folder` a matcher that `save` wrote, ready for `scores`, with its tensors on `device`.

        ``Matcher.load`` reads any kind.

        Raises:
            ZsbirError: If a file is missing or is not what it should be, or holds another kind of matcher.
        """
        source = Path(folder)
        with reading("matcher in", source):
            record = read_json(source / RECORD)
            if record["format"] != FORMAT:
                raise ValueError(f"it is not of format {FORMAT}: save it again with this version")
            matcher = MATCHERS.build(record["spec"])
            if not isinstance(matcher, cls):
                raise ValueError(f"it is a {type(matcher).__name__}, not a {cls.__name__}")
            matcher.restore(load_file(source / TENSORS, device=device), record["state"])
            return matcher


def normalise(vectors: Tensor) -> Tensor:
    """Return (n, D) vectors of Euclidean length 1; a zero vector stays zero.

    Each is brought near 1 first, so that no square overflows or vanishes.
    """
    return torch.nn.functional.normalize(vectors / power_of_two(vectors.abs().amax(dim=1, keepdim=True)), dim=1)


def power_of_two(size: Tensor) -> Tensor:
    """Return a power of two near each size: dividing by it changes no digit."""
    return torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent.clamp(-126, 126))


def same_width(queries: Embeddings, width: int) -> None:
    """Raise ZsbirError unless the queries are `width` wide."""
    if queries.vectors.shape[1] != width:
        raise ZsbirError(
            f"the queries have {queries.vectors.shape[1]} dimensions and the gallery {width}: embed both with one model"
        )


def unit_queries(queries: Embeddings, gallery: Tensor) -> Tensor:
    """Return (q, D) queries of length 1, of the gallery's type and device; raises ZsbirError if the widths differ."""
    same_width(queries, gallery.shape[1])
    return normalise(queries.vectors.to(gallery))


def top_neighbours(vectors: Tensor, most: int, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """Return the `most` rows nearest to each of the (n, D) rows of length 1, itself left out, chunk by chunk.

    Returns (n, min(most, n − 1)) cosine similarities, descending, and int64 positions; memory is bounded to chunk · n.
    """
    found = []
    for start in range(0, len(vectors), chunk):
        similar = vectors[start : start + chunk] @ vectors.T
        similar.diagonal(start).fill_(-torch.inf)
        found.append(similar.topk(min(most, len(vectors) - 1), dim=1))
    return torch.cat([best.values for best in found]), torch.cat([best.indices for best in found])
