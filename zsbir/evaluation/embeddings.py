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
from zsbir.files import read_json, reading
from zsbir.types import Domain, Embeddings, Labels, Paths

SCHEMA = "zsbir-embeddings-1"
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
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        "vectors": embeddings.vectors.detach().cpu().contiguous(),
        "labels": torch.from_numpy(np.ascontiguousarray(embeddings.labels, dtype=np.int64)),
    }
    if embeddings.tokens is not None:
        tensors["tokens"] = embeddings.tokens.detach().cpu().contiguous()
    save_file(tensors, path)
    about = {
        "schema": SCHEMA,
        "domain": embeddings.domain,
        "classes": list(embeddings.classes),
        "paths": list(embeddings.paths),
        "meta": embeddings.meta,
    }
    path.with_suffix(".json").write_text(json.dumps(about, ensure_ascii=False) + "\n", encoding="utf-8")
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
        arrays = _load_npz(path)
        return _foreign(path, arrays, {"vectors": "vectors", "labels": "labels"}, domain)
    if path.suffix == ".npy":
        labels = path.with_name(f"{path.stem}_labels.npy")
        names = path.with_name(f"{path.stem}_labels.txt")
        if labels.is_file():
            given = _load_npy(labels)
        elif names.is_file():
            given = np.array(names.read_text(encoding="utf-8").splitlines())
        else:
            raise ZsbirError(f"{path} needs its labels beside it, in {labels.name} or {names.name} (one a line)")
        arrays = {"vectors": _load_npy(path), "labels": given}
        return _foreign(path, arrays, {"vectors": "vectors", "labels": "labels"}, domain)
    raise ZsbirError(f"{path} is no embeddings file: expected .safetensors, .npz or .npy")


def load_pair(where: str | Path) -> tuple[Embeddings, Embeddings]:
    """Read queries and gallery from a folder or from one ``.npz`` file, see the module's head.

    Raises:
        ZsbirError: If one side is missing or cannot be read.
    """
    path = Path(where)
    if path.is_file():
        arrays = _load_npz(path)
        sides = [
            _foreign(
                path,
                arrays,
                {"vectors": many, "labels": f"{one}_labels", "paths": f"{one}_paths", "classes": "classes"},
                domain,
            )
            for many, one, domain in _SIDES
        ]
        return sides[0], sides[1]
    found = []
    for name, _, domain in _SIDES:
        files = [path / f"{name}{end}" for end in (".safetensors", ".npz", ".npy")]
        there = [file for file in files if file.is_file()]
        if not there:
            raise ZsbirError(f"{path} holds no {name}.safetensors, {name}.npz or {name}.npy")
        found.append(load_embeddings(there[0], domain))
    return found[0], found[1]


def is_pair(where: str | Path) -> bool:
    """Return whether `load_pair` can be expected to read `where`."""
    path = Path(where)
    if path.is_file():
        return path.suffix == ".npz"
    return any((path / f"queries{end}").is_file() for end in (".safetensors", ".npz", ".npy"))


def _load_own(path: Path) -> Embeddings:
    about_file = path.with_suffix(".json")
    with reading("embeddings", path):
        return _from_files(path, load_file(path), read_json(about_file))


def _from_files(path: Path, tensors: Mapping[str, torch.Tensor], about: Any) -> Embeddings:
    about_file = path.with_suffix(".json")
    if about.get("schema") != SCHEMA or not {"vectors", "labels"} <= tensors.keys():
        raise ZsbirError(f"{path} holds no embeddings of zsbir ({about_file.name} has no schema {SCHEMA})")
    labels = tensors["labels"].numpy()
    if not len(labels) == len(tensors["vectors"]):
        raise ZsbirError(f"{path} has {len(tensors['vectors'])} vectors but {len(labels)} labels")
    return Embeddings(
        tensors["vectors"],
        labels,
        tuple(about["classes"]),
        Paths(about["paths"]),
        about["domain"],
        tensors.get("tokens"),
        about["meta"],
    )


def _load_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with np.load(path) as data:
            return {name: data[name] for name in data.files}
    except (ValueError, OSError) as error:
        raise ZsbirError(f"{path} cannot be read as plain arrays (pickled objects are refused): {error}") from None


def _load_npy(path: Path) -> npt.NDArray[Any]:
    try:
        return np.asarray(np.load(path))
    except (ValueError, OSError) as error:
        raise ZsbirError(f"{path} cannot be read as a plain array (pickled objects are refused): {error}") from None


def _foreign(path: Path, arrays: Mapping[str, npt.NDArray[Any]], keys: Mapping[str, str], domain: Domain) -> Embeddings:
    for need in ("vectors", "labels"):
        if keys[need] not in arrays:
            raise ZsbirError(f"{path} has no array {keys[need]!r}; it has {', '.join(arrays) or 'none'}")
    vectors, given = arrays[keys["vectors"]], arrays[keys["labels"]]
    if vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise ZsbirError(f"{path}: {keys['vectors']!r} must be (n, D) floats, not {vectors.dtype} {vectors.shape}")
    if given.shape != (len(vectors),) or given.dtype.kind not in "iuU":
        raise ZsbirError(
            f"{path}: {keys['labels']!r} must be {len(vectors)} whole numbers or names, not {given.dtype} {given.shape}"
        )
    classes, labels = _named(given, arrays.get(keys.get("classes", "classes")))
    paths = arrays.get(keys.get("paths", "paths"))
    return Embeddings(
        torch.from_numpy(np.ascontiguousarray(vectors)),
        labels,
        classes,
        Paths(() if paths is None else (str(p) for p in paths)),
        domain,
        meta={"source": path.name},
    )


def _named(given: npt.NDArray[Any], classes: npt.NDArray[Any] | None) -> tuple[tuple[str, ...], Labels]:
    if given.dtype.kind == "U":
        names, labels = np.unique(given, return_inverse=True)
        return tuple(str(n) for n in names), labels.astype(np.int64)
    labels = given.astype(np.int64)
    return (() if classes is None else tuple(str(c) for c in classes)), labels
