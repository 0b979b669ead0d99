"""Embedding at scale: images in shards, shared by any number of processes and machines.

A shard of the source becomes two files under ``OUT/parts/NAME``: the vectors, and then a JSON file with the images' ids
that says the shard is whole. Who works on it, and in which order, is a scheduler's matter (this process, ``torchrun``,
jobs with ``--shard``, Ray): none shares state but these files, a shard that is there is not done again, and so any of
them may be killed at any moment and started again. Shards and batches do not depend on who computes them, so the result
is the same bit for bit, as long as the processors are of one kind.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from zsbir.data.base import Dataset
from zsbir.engine.sources import Source
from zsbir.errors import ZsbirError
from zsbir.evaluation.embeddings import save_embeddings
from zsbir.files import read_json, reading, unique, write_whole
from zsbir.methods.base import Method
from zsbir.methods.embedding import embed, model_meta
from zsbir.types import Domain, Embeddings, Labels, Paths

SCHEMA = "zsbir-parts-2"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Share:
    """Which process this is of how many.

    Attributes:
        index: From 0.
        count: How many there are.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def here(cls, shard: str | None = None, environment: Mapping[str, str] | None = None) -> Share:
        """Return the share of this process: of a job ``"3/8"`` (from 1), times what ``torchrun`` says.

        Raises:
            ZsbirError: If `shard` is not such a pair.

        >>> Share.here("3/8", {})
        Share(index=2, count=8)
        >>> Share.here("2/2", {"RANK": "1", "WORLD_SIZE": "4"})
        Share(index=5, count=8)
        """
        known = os.environ if environment is None else environment
        rank, world = int(known.get("RANK", "0")), int(known.get("WORLD_SIZE", "1"))
        if shard is None:
            return cls(rank, world)
        number, _, count = shard.partition("/")
        if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
            raise ZsbirError(f"--shard {shard!r} must be a number and a count, from 1/8 to 8/8")
        return cls((int(number) - 1) * world + rank, int(count) * world)


@dataclass(frozen=True)
class Job:
    """Images to embed.

    Attributes:
        name: Of the result's files: ``"gallery"`` or ``"queries"``.
        domain: What the images are.
        source: Where they come from.
        labels: (n,) int64 positions in `classes` of a source of files, or None.
        classes: The class names.
        dataset: Opens the files; None: plain image files.
        meta: What the result says of its source.
    """

    name: str
    domain: Domain
    source: Source
    labels: Labels | None = None
    classes: tuple[str, ...] = ()
    dataset: Dataset | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """Return the SHA-256 of the shards' names and the labels: what two processes must agree on."""
        found = hashlib.sha256("\0".join(self.source.shards).encode("utf-8", "surrogateescape"))
        found.update(b"" if self.labels is None else np.ascontiguousarray(self.labels, dtype="<i8").tobytes())
        return found.hexdigest()


@dataclass(frozen=True, eq=False)
class Part:
    """What became of a shard.

    Attributes:
        vectors: (n, D) float32.
        rows: (n,) int64, the images' places in the shard.
        ids: Their names.
        skipped: Names of the images that could not be read, each with the reason.
        images: How many the shard has.
    """

    vectors: torch.Tensor
    rows: torch.Tensor
    ids: list[str]
    skipped: list[tuple[str, str]]
    images: int


class Parts:
    """The parts of a job in a folder.

    Args:
        job: What is embedded.
        out: The folder that all processes share.
        model: The model's fingerprint.
        settings: What else decides the vectors' last bits, such as the batch size.

    Raises:
        ZsbirError: If the folder holds something else, parts of another job, or cannot be written.
    """

    def __init__(self, job: Job, out: Path, model: str, settings: Mapping[str, Any]) -> None:
        self.job, self.out, self.model = job, out, model
        self.folder = out / "parts" / job.name
        if out.is_file() or (out.is_dir() and not (out / "parts").is_dir() and any(out.iterdir())):
            raise ZsbirError(f"{out} exists and holds no embeddings to go on with: choose another folder with --out")
        about = {
            "schema": SCHEMA, "model": model, "domain": job.domain, **settings,
            "shards": len(job.source.shards), "list": job.digest(),
        }  # fmt: skip
        file = self.folder / "job.json"
        if not file.is_file():
            write_whole(file, lambda part: part.write_text(json.dumps(about, indent=1)))
        held = read_json(file)
        for key, value in about.items():
            if held.get(key) != value:
                raise ZsbirError(
                    f"{out} was begun with another {key} ({held.get(key)}, now {value}): go on with the same settings, "
                    "or choose another folder"
                )

    def __len__(self) -> int:
        return len(self.job.source.shards)

    def missing(self) -> list[int]:
        """Return the shards that are not there yet."""
        there = {file.stem for file in self.folder.glob("[0-9]*.json")}
        return [number for number in range(len(self)) if f"{number:06d}" not in there]

    def embed(self, method: Method, share: Share, progress: bool = False, **options: Any) -> int:
        """Do the missing shards of one process; return how many. `options` as for `zsbir.methods.embedding.apply`."""
        mine = [number for number in self.missing() if number % share.count == share.index]
        for number in tqdm(mine, desc=f"embedding {self.job.name}", unit="shard", disable=not progress):
            self.embed_shard(method, number, **options)
        return len(mine)

    def embed_shard(self, method: Method, number: int, **options: Any) -> int:
        """Embed one shard and write its part; return how many images it has."""
        names: list[str] = []

        def images() -> Iterator[str | bytes]:
            for name, data in self.job.source.read(number):
                names.append(name)
                yield data

        broken: dict[int, str] = {}
        more = {"dataset": self.job.dataset, "skip": broken.__setitem__, **options}
        vectors = embed(method, images(), self.job.domain, **more).vectors
        rows = [row for row in range(len(names)) if row not in broken]
        ids = [names[row] for row in rows]
        skipped = [(names[row], reason) for row, reason in sorted(broken.items())]
        tensors = {"vectors": vectors, "rows": torch.tensor(rows, dtype=torch.int64)}
        stem = self.folder / f"{number:06d}"
        text = json.dumps({"images": len(names), "ids": ids, "skipped": skipped}, ensure_ascii=False)
        write_whole(stem.with_suffix(".safetensors"), lambda part: save_file(tensors, part))
        write_whole(stem.with_suffix(".json"), lambda part: part.write_bytes(text.encode("utf-8", "surrogateescape")))
        return len(names)

    def finish(self) -> dict[str, Any]:
        """Write ``OUT/manifest.json``, once all shards are there, and return it: counts, and the parts in order."""
        entry: dict[str, Any] = {"domain": self.job.domain, "images": 0, "vectors": 0, "skipped": 0, "parts": []}
        for number in range(len(self)):
            file = self.folder / f"{number:06d}.json"
            about = read_json(file)
            entry["images"] += about["images"]
            entry["vectors"] += len(about["ids"])
            entry["skipped"] += len(about["skipped"])
            entry["parts"].append(file.relative_to(self.out).with_suffix("").as_posix())
        file = self.out / MANIFEST
        known = read_json(file)["jobs"] if file.is_file() else {}
        manifest = {"schema": SCHEMA, "model": self.model, "jobs": {**known, self.job.name: entry}}
        write_whole(file, lambda part: part.write_text(json.dumps(manifest, indent=1)))
        return entry

    def merge(self, method: Method) -> Embeddings:
        """Put the parts together into ``OUT/NAME.safetensors`` and ``OUT/NAME.json``.

        Several processes may do it at once: all write the same.

        Raises:
            ZsbirError: If a part is damaged, or no image could be read.
        """
        found = [read_part(self.folder / f"{number:06d}") for number in range(len(self))]
        skipped = [reason for part in found for reason in part.skipped]
        whole = [part for part in found if len(part.rows)]  # a part with nothing read does not know the width
        if not whole:
            raise ZsbirError(f"none of the {len(skipped)} images can be read; the first: {skipped[0][1]}")
        firsts = np.cumsum([0] + [part.images for part in found])
        kept = np.concatenate([first + part.rows.numpy() for first, part in zip(firsts, found, strict=False)])
        labels = np.full(len(kept), -1, dtype=np.int64) if self.job.labels is None else self.job.labels[kept]
        merged = Embeddings(
            torch.cat([part.vectors for part in whole]), labels, self.job.classes,
            Paths(name for part in whole for name in part.ids), self.job.domain,
            meta={**model_meta(method), **self.job.meta, "skipped": skipped},
        )  # fmt: skip
        name = self.out / self.job.name
        draft = save_embeddings(merged, self.out / f".{unique(self.job.name)}.draft")
        draft.replace(name.with_suffix(".safetensors"))
        draft.with_suffix(".json").replace(name.with_suffix(".json"))
        return merged


def read_part(stem: Path) -> Part:
    """Read a part by its path without ending.

    Raises:
        ZsbirError: If it is missing or damaged; what to do is said.
    """
    try:
        tensors = load_file(stem.with_suffix(".safetensors"))
        about = read_json(stem.with_suffix(".json"))
        vectors, rows, ids = tensors["vectors"], tensors["rows"], about["ids"]
        skipped = [(str(name), str(reason)) for name, reason in about["skipped"]]
        fits = vectors.ndim == 2 and vectors.dtype == torch.float32 and rows.dtype == torch.int64
        if not fits or not len(vectors) == len(rows) == len(ids) == about["images"] - len(skipped):
            raise ValueError("its vectors, rows and ids do not fit each other")
        return Part(vectors, rows, [str(name) for name in ids], skipped, int(about["images"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, ZsbirError) as error:
        raise ZsbirError(f"{stem}.safetensors is damaged ({error}): delete {stem}.json and run again") from None


def read_parts(out: Path) -> tuple[str, Iterator[Part]]:
    """Return the model's fingerprint and the parts of the photos that `zsbir embed` left in a folder.

    Raises:
        ZsbirError: If there is no manifest (embedding has not ended), or no photos in it.
    """
    if not (out / MANIFEST).is_file():
        raise ZsbirError(f"{out} holds no {MANIFEST}: it is written when `zsbir embed` has done all shards")
    with reading("manifest", out / MANIFEST):
        manifest = read_json(out / MANIFEST)
        if "gallery" not in manifest["jobs"]:
            raise ZsbirError(f"{out} holds no embeddings of photos: an index is made of those")
        model, stems = str(manifest["model"]), [out / name for name in manifest["jobs"]["gallery"]["parts"]]
    return model, map(read_part, stems)
