"""What `zsbir evaluate` evaluates: a run with its dataset, or saved embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zsbir.errors import ZsbirError

if TYPE_CHECKING:
    from PIL import Image

    from zsbir.data.base import Dataset
    from zsbir.methods.base import Method
    from zsbir.types import Embeddings, Paths, Records, Split

Part = Literal["test", "validation"]
Openers = tuple[Callable[[str], "Image.Image"], Callable[[str], "Image.Image"]]


@dataclass(frozen=True)
class Work:
    """How embeddings are made.

    Attributes:
        device: ``auto``, ``cpu`` or ``cuda``.
        batch_size: Images a step.
        workers: Processes that decode images.
        progress: Show a bar.
    """

    device: str = "auto"
    batch_size: int = 64
    workers: int = 2
    progress: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0:
            raise ZsbirError(
                f"the batch size must be 1 or more and the workers 0 or more, not {self.batch_size} and {self.workers}"
            )


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
    openers: Openers | None = None
    seen: Callable[[], tuple[Embeddings, Embeddings]] | None = None


def find_subject(
    path: Path,
    part: Part,
    matcher: str | Mapping[str, Any] | None,
    work: Work,
    choose: Callable[[Paths], Sequence[int]] | None = None,
) -> Subject:
    """Load embeddings, or a run and embed its dataset.

    Args:
        path: A folder of embeddings, an ``.npz`` file, a run folder or one of its checkpoints.
        part: Which part of a run's dataset.
        matcher: The matcher asked for; it decides whether patch tokens are kept.
        work: How a run's dataset is embedded.
        choose: Gives the positions of the sketches that are wanted, from the files of all; None: all of them.

    Raises:
        ZsbirError: If there is nothing to evaluate, or CUDA is asked for and missing.
    """
    from zsbir.evaluation.embeddings import is_pair

    if is_pair(path):
        return _saved_subject(path, work, choose)
    folder = run_folder(path)
    return _run_subject(path, folder, part, matcher, work, choose)


def run_folder(path: Path) -> Path:
    """Return the run folder that a path means: itself, or where its ``best`` or ``last`` is in.

    Raises:
        ZsbirError: If it is no run.
    """
    folder = path if (path / "run.json").is_file() else path.parent
    if not path.exists():
        raise ZsbirError(f"{path} does not exist: give a run folder of `zsbir train`, or a folder of embeddings")
    if not (folder / "run.json").is_file():
        raise ZsbirError(
            f"{path} is nothing to evaluate: give a run folder (with run.json), or a folder of embeddings (with "
            "queries and gallery as .safetensors, .npz or .npy)"
        )
    return folder


def _saved_subject(path: Path, work: Work, choose: Callable[[Paths], Sequence[int]] | None) -> Subject:
    import numpy as np

    from zsbir.engine.devices import choose_device
    from zsbir.evaluation.embeddings import load_pair
    from zsbir.evaluation.scoring import take

    queries, gallery = load_pair(path)
    if choose is not None:
        queries = take(queries, np.asarray(choose(queries.paths), dtype=np.int64), paths=True)
    folder = path if path.is_dir() else path.with_suffix("")
    matcher = gallery.meta.get("matcher", "cosine")
    notes, openers = _embedding_notes(gallery.meta), _saved_openers(queries, gallery)
    return Subject(folder, *_on(choose_device(work.device), queries, gallery), matcher, notes, openers)


def _saved_openers(queries: Embeddings, gallery: Embeddings) -> Openers | None:
    """Return what opens the images of saved embeddings; None where their dataset is not named, or not here."""
    from zsbir.data import DATASETS

    spec = gallery.meta.get("dataset")
    if not spec or not len(queries.paths) or not len(gallery.paths):
        return None
    try:
        dataset = DATASETS.build(spec)
    except ZsbirError:
        return None
    return _opener(dataset, dataset.test.sketches), _opener(dataset, dataset.test.photos)


def _run_subject(
    path: Path,
    folder: Path,
    part: Part,
    matcher: str | Mapping[str, Any] | None,
    work: Work,
    choose: Callable[[Paths], Sequence[int]] | None,
) -> Subject:
    import numpy as np

    import zsbir
    from zsbir.engine.run import read_run
    from zsbir.matchers import MATCHERS
    from zsbir.types import Records
    from zsbir.types import Split as Share

    run = read_run(folder)
    dataset = zsbir.DATASETS.build(run["dataset"])
    method = zsbir.load(path)
    chosen = method.matcher if matcher is None else matcher
    tokens = bool(getattr(MATCHERS.get(_name(chosen)), "needs_tokens", False))
    split = dataset.test if part == "test" else dataset.validation
    if not split.classes:
        raise ZsbirError(f"the run {folder} held out no validation classes: evaluate its test classes")
    if choose is not None:
        rows, all_ = np.asarray(choose(split.sketches.paths), dtype=np.int64), split.sketches
        split = Share(Records(all_.root, all_.paths.take(rows), all_.labels[rows]), split.photos, split.classes)
    openers = _opener(dataset, split.sketches), _opener(dataset, split.photos)
    return Subject(
        folder,
        *embed_shares(method, dataset, split, work, tokens),
        chosen,
        _run_notes(run, dataset, method, part),
        openers,
        # The generalised gallery: seen images kept out of training, where the dataset has them.
        lambda: embed_shares(
            method, dataset, dataset.seen_test if len(dataset.seen_test.photos) else dataset.train, work, tokens
        ),
    )


def embed_shares(
    method: Method, dataset: Dataset, split: Split, work: Work, tokens: bool = False
) -> tuple[Embeddings, Embeddings]:
    """Embed a split, each process its share; return all sketches and photos, the photos on the device."""
    from zsbir.engine.devices import choose_device
    from zsbir.evaluation.distributed import gather_embeddings, own_share
    from zsbir.methods.embedding import embed_split
    from zsbir.types import Split as Share

    device = choose_device(work.device)
    sketches, photos = (records.where(own_share(len(records))) for records in (split.sketches, split.photos))
    queries, gallery = embed_split(
        method,
        dataset,
        Share(sketches, photos, split.classes),
        device=device,
        batch_size=work.batch_size,
        workers=work.workers,
        progress=work.progress,
        tokens=tokens,
    )
    return _on(device, gather_embeddings(queries), gather_embeddings(gallery))


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
    if "released" in run.get("settings", {}):
        notes.append(f"the authors' checkpoint: {run['settings']['released']}")
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
