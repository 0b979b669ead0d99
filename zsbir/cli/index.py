"""Index photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional


def index(
    photos: Annotated[Path, Positional],
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    model: str | None = None,
    store: str = "exact",
    set: tuple[str, ...] = (),
    matcher: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    batch_size: int = 8,
    workers: int = 2,
) -> None:
    """Index a folder of photos, to find them by drawing. Run it again to continue, or after photos changed.

    Args:
        photos: A folder (searched at any depth), or a text file with a path a line.
        out: The index; one that exists is brought up to date.
        model: A run folder of `zsbir train`, or a method or backbone by name; default: CLIP, without training.
        store: Where vectors are kept: exact, faiss, milvus. Of a new index only.
        set: Settings of the store, key=value: kind=hnsw.
        matcher: Also fit this matcher on all photos, for `zsbir search --matcher`.
        device: Where to run.
        batch_size: Images a step.
        workers: Threads that decode images.
    """
    from zsbir.cli._options import assignments
    from zsbir.engine.devices import choose_device
    from zsbir.search.index import Index

    where = choose_device(device)
    if (out / "index.json").is_file():
        opened = Index.load(out, model, where)
        changes = opened.update(photos, batch_size=batch_size, workers=workers, progress=True)
        print(
            f"{changes.same} photos as before, {len(changes.new) + len(changes.copies)} new or changed, "
            f"{len(changes.gone)} removed"
        )
    else:
        spec = {"name": store, **assignments(set, "--set")}
        opened = Index.build(
            model, photos, out, store=spec, device=where, batch_size=batch_size, workers=workers, progress=True
        )
    if matcher is not None:
        opened.fit_matcher(matcher)
    skipped = opened.skipped()
    for path, reason in skipped[:20]:
        print(f"skipped {path}: {reason}")
    if len(skipped) > 20:
        print(f"... and {len(skipped) - 20} more")
    print(f"{len(opened)} photos in {out}, {len(skipped)} files skipped")
    print(f"next: zsbir search {out} SKETCH.png, or draw: zsbir serve {out}")
    opened.close()
