"""The matcher that re-ranks with a network that has seen sketch and photo together: PuXIM's, or ZSE's."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from zsbir.arguments import Count
from zsbir.errors import ZsbirError
from zsbir.files import read_json, reading
from zsbir.matchers import MATCHERS
from zsbir.matchers.base import Fitted, Matcher, normalise, unit_queries
from zsbir.pairs import CrossRelation, InteractionDecoder, sequence
from zsbir.types import Embeddings

Pairs = InteractionDecoder | CrossRelation


def load_pairs(source: str | Path) -> Pairs:
    """Read the network that scores pairs from a trained `puxim` or `zse`; the tensors give its sizes.

    Args:
        source: A run folder, a checkpoint folder, or a ``.safetensors`` file, with its ``method.json`` beside it.

    Raises:
        ZsbirError: If there is no file, or no such network in it.
    """
    from safetensors.torch import load_file

    path = Path(source)
    places = [path, *(path / part / "model.safetensors" for part in ("best", "last", "."))]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise ZsbirError(f"{path} holds no checkpoint: the matcher 'relation' needs weights=RUN of a puxim or zse")
    with reading("weights file", file):
        state = load_file(file)
    record = file.with_name("method.json")
    spec = read_json(record)["method"] if record.is_file() else {}
    for prefix, make in (("interaction.", _interaction), ("relation.", _relation)):
        own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if own:
            pairs = make(own, spec)
            pairs.load_state_dict(own)
            return pairs.eval().requires_grad_(False)
    raise ZsbirError(f"{file} has no network for pairs: the matcher 'relation' needs a trained puxim or zse")


def _interaction(own: dict[str, Tensor], spec: dict[str, Any]) -> Pairs:
    layers = _count(own, "layers.")
    hidden = own["layers.0.linear1.weight"].shape[0] if layers else 1
    return InteractionDecoder(own["classify.weight"].shape[1], layers, spec.get("heads", 4), hidden)


def _relation(own: dict[str, Tensor], spec: dict[str, Any]) -> Pairs:
    channels, dim = own["reduce.weight"].shape[:2]
    side = 2 * round(own["network.0.weight"].shape[1] ** 0.25)
    hidden, layers = own["of_sketches.0.feed.0.weight"].shape[0], _count(own, "of_sketches.")
    layout = spec.get("layout", "grid")
    return CrossRelation(dim, (side, side), spec.get("heads", 8), hidden, layers, channels, layout=layout)


def _count(own: dict[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in own if name.startswith(prefix)})


@MATCHERS.register("relation")
class RelationMatcher(Matcher):
    """Cosine ranking, its top k re-ranked by PuXIM's interaction decoder or ZSE's relation network on the patch tokens.

    Args:
        weights: A run or checkpoint of `puxim` or `zse`.
        top: How many of a query's best photos are re-ranked; the others stay behind them in cosine order. With as many
            as the gallery has, every pair is scored.
        chunk: Sketch–photo pairs that are scored at once; bounds memory.

    Needs the tokens of both sides (`Embeddings.tokens`): N × D floats an image, 600 kB for ViT-B/16. A re-ranked photo
    scores 2 + the network's probability of the same class, the others their cosine.
    """

    needs_tokens: ClassVar[bool] = True
    _vectors = Fitted[Tensor]()
    _tokens = Fitted[Tensor]()

    def __init__(self, weights: str | None = None, top: Count = 100, chunk: Count = 256) -> None:
        self.top, self.chunk = top, chunk
        self.network = None if weights is None else load_pairs(weights)
        self.pairs = 0
        self.seconds = 0.0

    @classmethod
    def of(cls, network: Pairs, top: int = 100, chunk: int = 256) -> RelationMatcher:
        """Return a matcher with a network in memory: a puxim's ``interaction``, or a zse's ``relation``."""
        matcher = cls(top=top, chunk=chunk)
        matcher.network = network
        matcher.spec = {"name": "relation", "weights": "in memory", "top": top, "chunk": chunk}
        return matcher

    def fit(self, gallery: Embeddings) -> RelationMatcher:
        """Take the gallery in.

        Raises:
            ZsbirError: If there is no network, or the gallery has no tokens.
        """
        if self.network is None:
            raise ZsbirError(
                "the matcher 'relation' needs a trained network: weights=RUN, the run folder of a puxim or zse"
            )
        self._tokens = _tokens_of(gallery, "gallery")
        self._gallery = gallery.vectors
        self._vectors = normalise(gallery.vectors.float())
        self.network.to(gallery.vectors.device).eval()
        return self

    @torch.inference_mode()
    def scores(self, queries: Embeddings) -> Tensor:
        """Return (q, n) float scores on the gallery's device."""
        start = time.perf_counter()
        cosine = unit_queries(queries, self._vectors) @ self._vectors.T
        tokens = _tokens_of(queries, "queries")
        assert self.network is not None  # `fit` made sure
        best = cosine.topk(min(self.top, cosine.shape[1]), dim=1).indices
        rows, columns = torch.arange(len(best), device=best.device).repeat_interleave(best.shape[1]), best.flatten()
        same = [
            self.network.same(
                self._sequence(queries.vectors, tokens, r), self._sequence(self._gallery, self._tokens, c)
            )
            for r, c in zip(rows.split(self.chunk), columns.split(self.chunk), strict=True)
        ]
        cosine[rows, columns] = 2 + torch.cat(same)
        self.pairs += len(rows)
        self.seconds += time.perf_counter() - start
        return cosine

    def _sequence(self, vectors: Tensor, tokens: Tensor, which: Tensor) -> Tensor:
        """Return what the network reads of the chosen images, on the gallery's device."""
        device = self._vectors.device
        return sequence(*(held[which.to(held.device)].to(device).float() for held in (vectors, tokens)))

    def describe(self) -> str:
        """Return settings and cost: the pairs scored so far, and the time it took."""
        cost = f"; {self.pairs} pairs scored in {self.seconds:.1f} s" if self.pairs else ""
        return f"{super().describe()}; cosine, then the trained network on the top {self.top}{cost}"


def _tokens_of(embeddings: Embeddings, side: str) -> Tensor:
    if embeddings.tokens is None:
        raise ZsbirError(
            f"the matcher 'relation' needs the patch tokens of the {side}, and these embeddings have none: embed with "
            "tokens, by a method whose backbone has them"
        )
    return embeddings.tokens
