"""PuXIM's interaction decoder, and the matcher that re-ranks with it."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from zsbir.arguments import Count
from zsbir.errors import ZsbirError
from zsbir.matchers import MATCHERS
from zsbir.matchers._vectors import normalise, same_width
from zsbir.matchers.base import Fitted, Matcher
from zsbir.types import Embeddings

PREFIX = "interaction."


def sequence(vector: Tensor, tokens: Tensor) -> Tensor:
    """Return what the decoder reads of (B, N, D) patch tokens: before them the vector, where it is (B, D) too.

    For a ViT the vector is the class token.
    """
    return torch.cat([vector.unsqueeze(1), tokens], dim=1) if vector.shape[1] == tokens.shape[2] else tokens


class InteractionDecoder(nn.Module):
    """Says whether a sketch and a photo show the same class, from their tokens.

    Transformer decoder layers, which start as copies of one, with the sketch's tokens as queries and the photo's as
    memory, a linear layer to two logits per token, and the mean over tokens.

    Args:
        dim: Width D of the tokens.
        layers: Number of decoder layers.
        heads: Attention heads; must divide `dim`.
        hidden: Width of the feed-forward part.
        dropout: In training, PyTorch's default.
        over: What attention is over: ``"tokens"``, or ``"batch"``: PuXIM's release runs layers that expect (N, B, D)
            on (B, N, D), so that each token sees the same token of the batch's other images.
    """

    def __init__(
        self,
        dim: int,
        layers: int = 4,
        heads: int = 4,
        hidden: int = 1024,
        dropout: float = 0.1,
        over: Literal["tokens", "batch"] = "tokens",
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ZsbirError(f"the interaction decoder's {heads} heads do not divide the token width {dim}")
        first = nn.TransformerDecoderLayer(dim, heads, hidden, dropout, batch_first=over == "tokens")
        self.layers = nn.ModuleList(copy.deepcopy(first) for _ in range(layers))
        self.classify = nn.Linear(dim, 2)

    def forward(self, sketch: Tensor, photo: Tensor) -> Tensor:
        """Return (B, 2) logits (0: another class, 1: the same) of (B, N, D) sketch and (B, M, D) photo tokens."""
        x = sketch
        for layer in self.layers:
            x = layer(x, photo)
        logits: Tensor = self.classify(x)
        return logits.mean(dim=1)


def load_decoder(source: str | Path, heads: int = 4) -> InteractionDecoder:
    """Read the interaction decoder out of a trained PuXIM; its sizes are those of the tensors.

    Args:
        source: A run folder, a checkpoint folder, or a ``.safetensors`` file.
        heads: Attention heads, which the tensors do not show.

    Raises:
        ZsbirError: If there is no file, or no interaction decoder in it.
    """
    from safetensors.torch import load_file

    path = Path(source)
    places = [path, *(path / part / "model.safetensors" for part in ("best", "last", "."))]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise ZsbirError(f"{path} holds no checkpoint: the matcher 'relation' needs weights=RUN of a trained puxim")
    try:
        state = load_file(file)
    except Exception as error:  # safetensors raises its own kinds for broken files
        raise ZsbirError(f"the weights file {file} cannot be read: {error}") from error
    own = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    if "classify.weight" not in own:
        raise ZsbirError(f"{file} has no interaction decoder: the matcher 'relation' needs a puxim trained with it")
    layers = len({name.split(".")[1] for name in own if name.startswith("layers.")})
    decoder = InteractionDecoder(
        own["classify.weight"].shape[1], layers, heads, own["layers.0.linear1.weight"].shape[0] if layers else 1
    )
    decoder.load_state_dict(own)
    return decoder.eval().requires_grad_(False)


@MATCHERS.register("relation")
class RelationMatcher(Matcher):
    """Cosine ranking, its top k re-ranked by PuXIM's interaction decoder on the patch tokens.

    Args:
        weights: A run or checkpoint of `puxim` with the trained decoder.
        top: How many of a query's best photos are re-ranked; the others stay behind them in cosine order.
        chunk: Sketch–photo pairs that are decoded at once; bounds memory.
        heads: Attention heads of the decoder.

    Needs the tokens of both sides (`Embeddings.tokens`): N × D floats an image, 600 kB for ViT-B/16. A re-ranked photo
    scores 2 + the decoder's probability of the same class, the others their cosine.
    """

    needs_tokens: ClassVar[bool] = True
    _vectors = Fitted[Tensor]()
    _tokens = Fitted[Tensor]()

    def __init__(self, weights: str | None = None, top: Count = 100, chunk: Count = 256, heads: Count = 4) -> None:
        self.top, self.chunk = top, chunk
        self.decoder = None if weights is None else load_decoder(weights, heads)
        self.pairs = 0
        self.seconds = 0.0

    @classmethod
    def of(cls, decoder: InteractionDecoder, top: int = 100, chunk: int = 256) -> RelationMatcher:
        """Return a matcher with a decoder that is in memory, such as ``method.interaction``."""
        matcher = cls(top=top, chunk=chunk)
        matcher.decoder = decoder
        matcher.spec = {"name": "relation", "weights": "in memory", "top": top, "chunk": chunk}
        return matcher

    def fit(self, gallery: Embeddings) -> RelationMatcher:
        """Take the gallery in.

        Raises:
            ZsbirError: If there is no decoder, or the gallery has no tokens.
        """
        if self.decoder is None:
            raise ZsbirError("the matcher 'relation' needs a trained decoder: weights=RUN, the run folder of a puxim")
        self._tokens = _tokens_of(gallery, "gallery")
        self._gallery = gallery.vectors
        self._vectors = normalise(gallery.vectors.float())
        self.decoder.to(gallery.vectors.device).eval()
        return self

    @torch.inference_mode()
    def scores(self, queries: Embeddings) -> Tensor:
        """Return (q, n) float scores on the gallery's device."""
        same_width(queries, self._vectors.shape[1])
        tokens = _tokens_of(queries, "queries")
        start = time.perf_counter()
        cosine = normalise(queries.vectors.float().to(self._vectors.device)) @ self._vectors.T
        best = cosine.topk(min(self.top, cosine.shape[1]), dim=1).indices
        rows = torch.arange(len(best), device=best.device).repeat_interleave(best.shape[1])
        columns = best.flatten()
        same = [
            self._decode(queries.vectors, tokens, r, c)
            for r, c in zip(torch.split(rows, self.chunk), torch.split(columns, self.chunk), strict=True)
        ]
        cosine[rows, columns] = 2 + torch.cat(same)
        self.pairs += len(rows)
        self.seconds += time.perf_counter() - start
        return cosine

    def _decode(self, vectors: Tensor, tokens: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        assert self.decoder is not None  # `fit` made sure
        device = self._vectors.device

        def rows_of(held: Tensor, which: Tensor) -> Tensor:
            return held[which.to(held.device)].to(device).float()

        sketch = sequence(rows_of(vectors, rows), rows_of(tokens, rows))
        photo = sequence(rows_of(self._gallery, columns), rows_of(self._tokens, columns))
        logits: Tensor = self.decoder(sketch, photo)
        return logits.float().softmax(dim=1)[:, 1]

    def describe(self) -> str:
        """Return settings and cost: the pairs decoded so far, and the time it took."""
        cost = f"; {self.pairs} pairs decoded in {self.seconds:.1f} s" if self.pairs else ""
        return f"{super().describe()}; cosine, then the interaction decoder on the top {self.top}{cost}"


def _tokens_of(embeddings: Embeddings, side: str) -> Tensor:
    if embeddings.tokens is None:
        raise ZsbirError(
            f"the matcher 'relation' needs the patch tokens of the {side}, and these embeddings have none: embed with "
            "tokens, by a method whose backbone has them"
        )
    return embeddings.tokens
