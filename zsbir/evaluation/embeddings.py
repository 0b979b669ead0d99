"""Embeddings on disk: safetensors and JSON, nothing unpickled.

A folder of embeddings holds ``queries.safetensors`` with ``queries.json`` and ``gallery.safetensors`` with
``gallery.json``. Embeddings from elsewhere are read from ``.npz`` or ``.npy`` files under the same two names, or from
one ``.npz`` file with the arrays ``queries``, ``query_labels``, ``gallery`` and ``gallery_labels``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from zsbir.errors import ZsbirError
from zsbir.files import read_json, reading, write_whole
from zsbir.types import Domain, Embeddings, Paths

SCHEMA = "zsbir-embeddings-1"
_ENDS = (".safetensors", ".npz", ".npy")
_SIDES: tuple[tuple[str, str, Domain], ...] = (("queries", "query", "sketch"), ("gallery", "gallery", "photo"))


def save_embeddings(embeddings: Embeddings, file: str | Path) -> Path:
    """Write one side as ``FILE.safetensors`` (vectors, labels, tokens) and ``FILE.json`` (classes, paths, meta).

    Args:
        embeddings: What to write.
        file: With or without the ending.

    Returns:
        The path of the safetensors file.
    """
    path = Path(file).with_suffix(".safetensors")
    labels = torch.from_numpy(np.ascontiguousarray(embeddings.labels, dtype=np.int64))
    tensors = {"vectors": embeddings.vectors, "labels": labels, "tokens": embeddings.tokens}
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items() if tensor is not None}
    write_whole(path, lambda part: save_file(held, part))
    about = {
        "schema": SCHEMA,
        "domain": embeddings.domain,
        "classes": list(embeddings.classes),
        "paths": list(embeddings.paths),
        "meta": embeddings.meta,
    }
    text = json.dumps(about, ensure_ascii=False) + "\n"
    write_whole(path.with_suffix(".json"), lambda part: part.write_text(text, encoding="utf-8"))
    return path


def save_pair(queries: Embeddings, gallery: Embeddings, folder: str | Path) -> Path:
    """Write both sides of an evaluation into `folder`, which `load_pair` reads; returns the folder."""
    save_embeddings(queries, Path(folder) / "queries")
    save_embeddings(gallery, Path(folder) / "gallery")
    return Path(folder)


def load_embeddings(file: str | Path, domain: Domain = "photo") -> Embeddings:
    """Read one side.

    Args:
        file: ``.safetensors`` with its ``.json``; ``.npz`` with ``vectors`` (n, D), ``labels`` (n,) and, if known,
            ``classes`` and ``paths``; or ``.npy`` (n, D) with ``NAME_labels.npy`` or ``NAME_labels.txt`` beside it.
            Labels are numbers from 0 or class names.
        domain: What the images are, where the file does not say.

    Raises:
        ZsbirError: If the file is missing, of another kind, or lacks something.
    """
    path = Path(file)
    if not path.is_file():
        raise ZsbirError(f"there is no embeddings file {path}")
    if path.suffix == ".safetensors":
        return _load_own(path)
    if path.suffix == ".npz":
        return _foreign(path, _load(path), domain)
    if path.suffix != ".npy":
        raise ZsbirError(f"{path} is not an embeddings file: expected {', '.join(_ENDS[:-1])} or {_ENDS[-1]}")
    labels, names = (path.with_name(f"{path.stem}_labels{end}") for end in (".npy", ".txt"))
    if labels.is_file():
        given = _load(labels)
    elif names.is_file():
        given = np.array(names.read_text(encoding="utf-8").splitlines())
    else:
        raise ZsbirError(f"{path} needs its labels beside it, in {labels.name} or {names.name} (one a line)")
    return _foreign(path, {"vectors": _load(path), "labels": given}, domain)


def load_pair(where: str | Path) -> tuple[Embeddings, Embeddings]:
    """Read queries and gallery from a folder or from one ``.npz`` file, see the module's head.

    Raises:
        ZsbirError: If one side is missing or cannot be read.
    """
    path = Path(where)
    found = []
    for many, one, domain in _SIDES:
        if path.is_file():
            found.append(_foreign(path, _load(path), domain, many, f"{one}_labels", f"{one}_paths"))
            continue
        file = next((path / f"{many}{end}" for end in _ENDS if (path / f"{many}{end}").is_file()), None)
        if file is None:
            raise ZsbirError(f"{path} holds no {many}.safetensors, {many}.npz or {many}.npy")
        found.append(load_embeddings(file, domain))
    return found[0], found[1]


def is_pair(where: str | Path) -> bool:
    """Return whether `load_pair` can be expected to read `where`."""
    path = Path(where)
    return path.suffix == ".npz" if path.is_file() else any((path / f"queries{end}").is_file() for end in _ENDS)


def _load_own(path: Path) -> Embeddings:
    with reading("embeddings", path):
        tensors, about = load_file(path), read_json(path.with_suffix(".json"))
        if about.get("schema") != SCHEMA or not {"vectors", "labels"} <= tensors.keys():
            raise ZsbirError(f"{path} holds no embeddings of zsbir ({path.stem}.json has no schema {SCHEMA})")
        vectors, labels = tensors["vectors"], tensors["labels"].numpy()
        if len(labels) != len(vectors):
            raise ZsbirError(f"{path} has {len(vectors)} vectors but {len(labels)} labels")
        classes, paths = tuple(about["classes"]), Paths(about["paths"])
        return Embeddings(vectors, labels, classes, paths, about["domain"], tensors.get("tokens"), about["meta"])


def _load(path: Path) -> Any:
    """Return the array of an .npy file, or those of an .npz file by name."""
    with reading("plain arrays (pickled objects are refused) in", path):
        held = np.load(path)
        return {name: held[name] for name in held.files} if path.suffix == ".npz" else np.asarray(held)


def _foreign(
    path: Path,
    arrays: Mapping[str, npt.NDArray[Any]],
    domain: Domain,
    vectors: str = "vectors",
    labels: str = "labels",
    paths: str = "paths",
) -> Embeddings:
    """Return embeddings from arrays under these names."""
    for need in (vectors, labels):
        if need not in arrays:
            raise ZsbirError(f"{path} has no array {need!r}; it has {', '.join(arrays) or 'none'}")
    rows, given = arrays[vectors], arrays[labels]
    if rows.ndim != 2 or rows.dtype.kind != "f":
        raise ZsbirError(f"{path}: {vectors!r} must be (n, D) floats, not {rows.dtype} {rows.shape}")
    if given.shape != (len(rows),) or given.dtype.kind not in "iuU":
        raise ZsbirError(
            f"{path}: {labels!r} must be {len(rows)} whole numbers or names, not {given.dtype} {given.shape}"
        )
    classes = arrays.get("classes", np.array([]))
    if given.dtype.kind == "U":
        classes, given = np.unique(given, return_inverse=True)
    return Embeddings(
        torch.from_numpy(np.ascontiguousarray(rows)),
        given.astype(np.int64),
        tuple(map(str, classes)),
        Paths(map(str, arrays.get(paths, ()))),
        domain,
        meta={"source": path.name},
    )
