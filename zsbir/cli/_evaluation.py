"""What `zsbir evaluate` evaluates: a run with its dataset, or saved embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zsbir.errors import ZsbirError

if TYPE_CHECKING:
    from PIL import Image

    from zsbir.data.base import Dataset
    from zsbir.methods.base import Method
    from zsbir.types import Embeddings, Records, Split

Part = Literal["test", "validation"]


@dataclass(frozen=True)
class Subject:
    """Something that can be evaluated.

    Attributes:
        folder: Where its evaluation goes by default.
        queries: Embeddings of the sketches.
        gallery: Embeddings of the photos.
        matcher: Its own matcher.
        notes: What its report must say.
        openers: Open a sketch and a photo by the path the embeddings have; None where there are no images.
        seen: Gives the embeddings of the seen classes; None where there is no model.
    """

    folder: Path
    queries: Embeddings
    gallery: Embeddings
    matcher: str | Mapping[str, Any]
    notes: tuple[str, ...] = ()
    openers: tuple[Callable[[str], Image.Image], Callable[[str], Image.Image]] | None = None
    seen: Callable[[], tuple[Embeddings, Embeddings]] | None = None


def find_subject(
    path: Path,
    part: Part,
    matcher: str | Mapping[str, Any] | None,
    device: str,
    batch_size: int,
    workers: int,
    progress: bool,
) -> Subject:
    """Load embeddings, or a run and embed its dataset.

    Args:
        path: A folder of embeddings, an ``.npz`` file, a run folder or one of its checkpoints.
        part: Which part of a run's dataset.
        matcher: The matcher asked for; it decides whether patch tokens are kept.
        device: ``auto``, ``cpu`` or ``cuda``.
        batch_size: Images a step.
        workers: Processes that decode images.
        progress: Show a bar.

    Raises:
        ZsbirError: If there is nothing to evaluate, or CUDA is asked for and missing.
    """
    from zsbir.evaluation.embeddings import is_pair, load_pair

    if is_pair(path):
        from dataclasses import replace

        where = _device(device)
        queries, gallery = load_pair(path)
        if where != "cpu":
            gallery = replace(gallery, vectors=gallery.vectors.to(where))
        folder = path if path.is_dir() else path.with_suffix("")
        return Subject(folder, queries, gallery, gallery.meta.get("matcher", "cosine"), _embedding_notes(gallery.meta))
    folder = path if (path / "run.json").is_file() else path.parent
    if not (folder / "run.json").is_file():
        raise ZsbirError(
            f"{path} is nothing to evaluate: give a run folder (with run.json), or a folder of embeddings (with "
            "queries and gallery as .safetensors, .npz or .npy)"
        )
    return _run_subject(path, folder, part, matcher, _device(device), batch_size, workers, progress)


def _run_subject(
    path: Path,
    folder: Path,
    part: Part,
    matcher: str | Mapping[str, Any] | None,
    device: str,
    batch_size: int,
    workers: int,
    progress: bool,
) -> Subject:
    import zsbir
    from zsbir.engine.embedding import embed_split
    from zsbir.engine.run import read_run
    from zsbir.evaluation.distributed import gather_embeddings, own_share
    from zsbir.matchers import MATCHERS
    from zsbir.types import Split as Share

    run = read_run(folder)
    dataset = zsbir.DATASETS.build(run["dataset"])
    method = zsbir.load(path)
    chosen = method.matcher if matcher is None else matcher
    tokens = bool(getattr(MATCHERS.get(_name(chosen)), "needs_tokens", False))
    split = dataset.test if part == "test" else dataset.validation
    if not split.classes:
        raise ZsbirError(f"the run {folder} held out no validation classes: evaluate its test classes")

    def embedded(some: Split) -> tuple[Embeddings, Embeddings]:
        sketches, photos = (records.where(own_share(len(records))) for records in (some.sketches, some.photos))
        queries, gallery = embed_split(
            method,
            dataset,
            Share(sketches, photos, some.classes),
            device=device,
            batch_size=batch_size,
            workers=workers,
            progress=progress,
            tokens=tokens,
        )
        return gather_embeddings(queries), gather_embeddings(gallery)

    queries, gallery = _on(device, *embedded(split))
    return Subject(
        folder,
        queries,
        gallery,
        chosen,
        _run_notes(run, dataset, method, part),
        (_opener(dataset, split.sketches), _opener(dataset, split.photos)),
        # The generalised gallery: seen images kept out of training, where the dataset has them.
        lambda: _on(device, *embedded(dataset.seen_test if len(dataset.seen_test.photos) else dataset.train)),
    )


def _opener(dataset: Dataset, records: Records) -> Callable[[str], Image.Image]:
    return lambda path: dataset.open(str(records.root / path))


def _name(matcher: str | Mapping[str, Any]) -> str:
    return matcher if isinstance(matcher, str) else str(matcher["name"])


def _on(device: str, queries: Embeddings, gallery: Embeddings) -> tuple[Embeddings, Embeddings]:
    from dataclasses import replace

    return queries, replace(gallery, vectors=gallery.vectors.to(device))


def _run_notes(run: Mapping[str, Any], dataset: Dataset, method: Method, part: Part) -> tuple[str, ...]:
    from zsbir.data.purity import imagenet_purity

    notes = list(dataset.notes)
    if run.get("settings", {}).get("select_on") == "test":
        notes.append("not honest model selection: the checkpoint was chosen on the test classes")
    if part == "validation":
        notes.append("these are the held-out seen classes (validation), not the unseen ones")
    backbone = method.spec.get("backbone")
    purity = imagenet_purity(dataset.test.classes)
    if part != "validation" and len(purity.unknown) < purity.total:
        notes.append(f"{purity.sentence()} (it counts if the backbone was pretrained on ImageNet)")
    manifest = getattr(dataset, "manifest_hash", None)
    if manifest:
        notes.append(f"dataset manifest {manifest}")
    if backbone is not None:
        notes.append(
            f"method {method.spec['name']}, backbone {backbone if isinstance(backbone, str) else backbone['name']}"
        )
    return tuple(notes)


def _embedding_notes(meta: Mapping[str, Any]) -> tuple[str, ...]:
    manifest = meta.get("manifest")
    return (f"dataset manifest {manifest}",) if manifest else ()


def _device(device: str) -> str:
    import torch

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise ZsbirError("CUDA was asked for, and there is none here: use --device cpu")
    return "cuda" if there and device != "cpu" else "cpu"
