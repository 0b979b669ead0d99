"""Embedding at scale: a list of images in blocks of fixed size, shared by any number of processes and machines.

Block ``i`` is done by process ``i % count``, and written as two files under ``OUT/parts/NAME``: the vectors, and then
a JSON file that says the block is whole. Processes need nothing but the common folder: no process waits for another,
a block that is there is not done again, and whoever ends last puts the blocks together. Blocks and batches are the same
whoever computes them, so the result is the same bit for bit, as long as the processors are of one kind.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from zsbir.data.base import Dataset
from zsbir.errors import ZsbirError
from zsbir.evaluation.embeddings import save_embeddings
from zsbir.files import read_json, unique, write_whole
from zsbir.methods.base import Method
from zsbir.methods.embedding import embed, model_meta
from zsbir.types import Domain, Embeddings, Labels, Paths

SCHEMA = "zsbir-parts-1"


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
    """A list of images to embed.

    Attributes:
        name: Of the result's files: ``"gallery"`` or ``"queries"``.
        domain: What the images are.
        files: Their full paths.
        paths: Their names in the result, (n,).
        labels: (n,) int64 positions in `classes`, or None.
        classes: The class names.
        dataset: Opens the files; None: plain image files.
        meta: What the result says of its source.
    """

    name: str
    domain: Domain
    files: Paths
    paths: Paths
    labels: Labels | None = None
    classes: tuple[str, ...] = ()
    dataset: Dataset | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """Return the SHA-256 of the names and labels: what two processes must agree on."""
        found = hashlib.sha256("\0".join(self.paths).encode("utf-8", "surrogateescape"))
        found.update(b"" if self.labels is None else np.ascontiguousarray(self.labels, dtype="<i8").tobytes())
        return found.hexdigest()


class Parts:
    """The blocks of a job in a folder.

    Args:
        job: What is embedded.
        out: The folder that all processes share.
        model: The model's fingerprint.
        block: Images a block.
        settings: What else decides the vectors' last bits, such as the batch size.

    Raises:
        ZsbirError: If the folder holds something else, parts of another job, or cannot be written.
    """

    def __init__(self, job: Job, out: Path, model: str, block: int, settings: Mapping[str, Any]) -> None:
        if block < 1:
            raise ZsbirError(f"--block {block}: a block has at least one image")
        self.job, self.out, self.block = job, out, block
        self.folder = out / "parts" / job.name
        if out.is_file() or (out.is_dir() and not (out / "parts").is_dir() and any(out.iterdir())):
            raise ZsbirError(f"{out} exists and holds no embeddings to go on with: choose another folder with --out")
        about = {
            "schema": SCHEMA, "images": len(job.files), "list": job.digest(), "domain": job.domain, "model": model,
            "block": block, **settings,
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
        return -(-len(self.job.files) // self.block)

    def missing(self) -> list[int]:
        """Return the blocks that are not there yet."""
        there = {file.stem for file in self.folder.glob("[0-9]*.json")}
        return [number for number in range(len(self)) if f"{number:06d}" not in there]

    def embed(self, method: Method, share: Share, progress: bool = False, **options: Any) -> int:
        """Do the missing blocks of one process; returns how many. `options` as for `zsbir.methods.embedding.apply`."""
        mine = [number for number in self.missing() if number % share.count == share.index]
        images = sum(len(self._rows(number)) for number in mine)
        with tqdm(total=images, desc=f"embedding {self.job.name}", unit="img", disable=not progress) as bar:
            for number in mine:
                self._embed_block(method, number, options)
                bar.update(len(self._rows(number)))
        return len(mine)

    def _rows(self, number: int) -> range:
        return range(number * self.block, min((number + 1) * self.block, len(self.job.files)))

    def _embed_block(self, method: Method, number: int, options: Mapping[str, Any]) -> None:
        rows = self._rows(number)
        broken: dict[int, str] = {}
        found = embed(
            method, self.job.files[rows.start : rows.stop], self.job.domain, dataset=self.job.dataset,
            skip=broken.__setitem__, **options,
        )  # fmt: skip
        kept = [row for place, row in enumerate(rows) if place not in broken]
        tensors = {"vectors": found.vectors, "rows": torch.tensor(kept, dtype=torch.int64)}
        skipped = [[self.job.paths[rows[place]], reason] for place, reason in sorted(broken.items())]
        stem = self.folder / f"{number:06d}"
        write_whole(stem.with_suffix(".safetensors"), lambda part: save_file(tensors, part))
        text = json.dumps({"first": rows.start, "images": len(rows), "skipped": skipped}, ensure_ascii=False)
        write_whole(stem.with_suffix(".json"), lambda part: part.write_text(text, encoding="utf-8"))

    def merge(self, method: Method) -> Embeddings:
        """Put the blocks together into ``OUT/NAME.safetensors`` and ``OUT/NAME.json``.

        Several processes may do it at once: all write the same.

        Raises:
            ZsbirError: If a block is damaged.
        """
        vectors: list[Tensor] = []
        rows: list[Tensor] = []
        skipped: list[list[str]] = []
        for number in range(len(self)):
            stem = self.folder / f"{number:06d}"
            try:
                part = load_file(stem.with_suffix(".safetensors"))
            except (OSError, SafetensorError) as error:
                raise ZsbirError(f"{stem}.safetensors is damaged ({error}): delete {stem}.json and run again") from None
            skipped += read_json(stem.with_suffix(".json"))["skipped"]
            if len(part["rows"]):  # a block with nothing to read does not know the width
                vectors.append(part["vectors"])
                rows.append(part["rows"])
        if not vectors:
            raise ZsbirError(f"none of the {len(self.job.files)} images can be read; the first: {skipped[0][1]}")
        kept = torch.cat(rows).numpy()
        labels = np.full(len(kept), -1, dtype=np.int64) if self.job.labels is None else self.job.labels[kept]
        meta = {**model_meta(method), **self.job.meta, "skipped": skipped}
        merged = Embeddings(
            torch.cat(vectors), labels, self.job.classes, self.job.paths.take(kept), self.job.domain, meta=meta
        )
        name = self.out / self.job.name
        draft = save_embeddings(merged, self.out / f".{unique(self.job.name)}.draft")
        draft.replace(name.with_suffix(".safetensors"))
        draft.with_suffix(".json").replace(name.with_suffix(".json"))
        return merged
