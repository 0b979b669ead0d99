"""Embed images once, evaluate or search them many times."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional


def embed(
    run: Annotated[Path, Positional],
    out: Path,
    part: Literal["test", "validation", "train"] = "test",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    batch_size: int = 64,
    workers: int = 2,
) -> None:
    """Embed one part of a run's dataset and save the vectors, labels and paths (safetensors and JSON).

    Args:
        run: A run folder of `zsbir train`, or its best/ or last/.
        out: A new folder; it gets queries (sketches) and gallery (photos).
        part: test = the unseen classes.
        device: Where to run.
        batch_size: Images a step.
        workers: Processes that decode images.
    """
    import torch

    import zsbir
    from zsbir.engine.embedding import embed_split
    from zsbir.engine.run import claim, read_run
    from zsbir.errors import ZsbirError
    from zsbir.evaluation.embeddings import save_embeddings

    if device == "cuda" and not torch.cuda.is_available():
        raise ZsbirError("CUDA was asked for, and there is none here: use --device cpu")
    folder = run if (run / "run.json").is_file() else run.parent
    dataset = zsbir.DATASETS.build(read_run(folder)["dataset"])
    method = zsbir.load(run)
    claim(out)
    where = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    split = {"test": dataset.test, "validation": dataset.validation, "train": dataset.train}[part]
    queries, gallery = embed_split(
        method, dataset, split, device=where, batch_size=batch_size, workers=workers, progress=True
    )
    save_embeddings(queries, out / "queries")
    save_embeddings(gallery, out / "gallery")
    print(f"{len(queries)} queries and {len(gallery)} photos in {out}\nnext: zsbir evaluate {out}")
