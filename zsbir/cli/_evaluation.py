"""What the commands evaluate: a run, a method by name on a dataset, or saved embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zsbir.cli._options import DataOptions, NamedOptions, WorkOptions, assignments, free_folder, published_for, refuse
from zsbir.errors import ZsbirError

if TYPE_CHECKING:
    from zsbir.data.base import Dataset
    from zsbir.evaluation.pictures import Opener
    from zsbir.matchers.base import Matcher
    from zsbir.methods.base import Method
    from zsbir.types import Embeddings, Paths, Records, Split

Part = Literal["test", "validation"]
Choose = Callable[["Paths"], Sequence[int]]
"""From the files of all sketches to the positions of those that are wanted."""


@dataclass(frozen=True)
class Model:
    """A method and its dataset."""

    folder: Path  # where its evaluation goes by default, and what is kept for the next one
    method: Method
    dataset: Dataset
    part: Part
    start: Mapping[str, Any]  # the spec it was made from, with weights as before training
    seed: int  # of its start
    notes: tuple[str, ...]  # what its reports must say

    def split(self, choose: Choose | None = None) -> Split:
        """Return the part's images, of the sketches those chosen; raises ZsbirError if the part is empty."""
        import numpy as np

        split: Split = getattr(self.dataset, self.part)
        if not split.classes:
            raise ZsbirError(f"{self.folder} held out no validation classes: leave out --part for its test classes")
        if choose is None:
            return split
        rows = np.asarray(choose(split.sketches.paths), dtype=np.int64)
        return replace(split, sketches=split.sketches.take(rows))

    def embed(
        self, split: Split, work: WorkOptions, method: Method | None = None, tokens: bool = False
    ) -> tuple[Embeddings, Embeddings]:
        """Embed a split, each process its share; return all sketches and photos, the photos on the device."""
        from zsbir.evaluation.distributed import gather_embeddings, is_first, own_share
        from zsbir.methods.embedding import embed_split

        sketches, photos = (records.where(own_share(len(records))) for records in (split.sketches, split.photos))
        queries, gallery = embed_split(
            self.method if method is None else method,
            self.dataset,
            replace(split, sketches=sketches, photos=photos),
            progress=is_first(),
            tokens=tokens,
            **work.options(),
        )
        return gather_embeddings(queries), _on(work.device, gather_embeddings(gallery))

    def rebuilt(self, spec: Mapping[str, Any]) -> Method:
        """Build a method from the run's seed; raises ZsbirError if its pretrained weights are not here."""
        import torch

        from zsbir.methods import METHODS

        torch.manual_seed(self.seed)
        return METHODS.build(spec)


def find_model(path: Path, part: Part, data: DataOptions = DataOptions(), model: NamedOptions | None = None) -> Model:
    """Return the method and dataset of a run or, with `model`, of a method's name; raises ZsbirError for neither."""
    import zsbir
    from zsbir.engine.run import dataset_of, read_run
    from zsbir.methods import METHODS
    from zsbir.registry import close_matches

    folder = path if (path / "run.json").is_file() else path.parent
    if not path.exists():
        if model is not None and str(path) in METHODS:
            return _named(str(path), part, data, model)
        plain = model is not None and path.parent == Path()
        near = f". It is no method either. {close_matches(str(path), METHODS.names())}" if plain else ""
        raise ZsbirError(f"{path} does not exist: give a run folder of `zsbir train`, or a folder of embeddings{near}")
    if not (folder / "run.json").is_file():
        raise ZsbirError(
            f"{path} cannot be evaluated: give a run folder (with run.json), or a folder of embeddings (with "
            "queries and gallery as .safetensors, .npz or .npy)"
        )
    given = vars(data) | vars(model or NamedOptions()) | {"root": None}
    refuse(given, f"{path} is a run, which has its dataset and its method")
    run, method = read_run(folder), zsbir.load(path)
    dataset = dataset_of(run, data.root)
    notes = _notes(dataset, method, part, run["settings"])
    return Model(folder, method, dataset, part, run["method"], run["seed"], notes)


def _named(name: str, part: Part, data: DataOptions, model: NamedOptions) -> Model:
    import torch

    dataset = _dataset(name, data)
    torch.manual_seed(0)
    method = model.build(name, dataset.train.classes, assignments(model.set_method, "--set-method"), "--set-method")
    notes = (*_notes(dataset, method, part, {}), *(() if name == "frozen" else ("as built, not trained",)))
    return Model(Path("evaluations") / f"{name}-{data.dataset}", method, dataset, part, method.spec, 0, notes)


def _dataset(name: str, data: DataOptions) -> Dataset:
    if data.dataset is None:
        raise ZsbirError(f"{name} is a method: name the dataset to evaluate it on with --dataset")
    return data.open(data.dataset, data.validation)


def run_of_weights(name: str, model: NamedOptions, data: DataOptions, out: Path | None) -> Path:
    """Write a run folder of the method `name`, built as published, with the authors' weights, and return the folder."""
    from zsbir.engine.run import claim, write_run
    from zsbir.methods import METHODS
    from zsbir.methods.released import load_released

    refuse({"no_pretrained": model.no_pretrained}, "the checkpoint has all weights")
    dataset = _dataset(name, data)
    assert model.weights is not None  # that is why this is called
    folder = out or free_folder(Path("runs"), f"{name}-released-{data.dataset}")
    published = {"published": True} if "published" in METHODS.parameters(name) else {}
    published |= published_for(name, str(data.dataset)) | assignments(model.set_method, "--set-method")
    bare = replace(model, weights=None, no_pretrained=True)
    method = bare.build(name, dataset.train.classes, published, "--set-method")
    said = load_released(method, model.weights)
    print(said)
    claim(folder)
    method.save(folder / "best")
    write_run(folder, method, dataset, method.recipe, 0, {"released": said})
    return folder


@dataclass(frozen=True)
class Subject:
    """Embeddings that can be evaluated."""

    folder: Path  # where its evaluation goes by default
    queries: Embeddings
    gallery: Embeddings
    matcher: Matcher  # the one asked for, or its own
    notes: tuple[str, ...] = ()  # what its report must say
    openers: tuple[Opener, Opener] | None = None  # of sketches and photos; None where the images are not here
    model: Model | None = None  # what made them; None for saved embeddings


def find_subject(
    path: Path,
    part: Part,
    matcher: Mapping[str, Any] | None,
    work: WorkOptions,
    data: DataOptions = DataOptions(),
    model: NamedOptions | None = None,
    choose: Choose | None = None,
) -> Subject:
    """Load embeddings, or a model, and embed its dataset: of the sketches those whose positions `choose` gives.

    `path` is a folder of embeddings, an ``.npz`` file, a run or its checkpoint, or with `model` a method's name.

    Raises:
        ZsbirError: If there is nothing to evaluate, CUDA is asked for and missing, or an option does not fit.
    """
    from zsbir.evaluation.embeddings import is_pair
    from zsbir.matchers import MATCHERS

    if is_pair(path):
        given = vars(data) | vars(model or NamedOptions()) | vars(work)
        given |= {"root": None, "device": None, "part": part != "test"}
        refuse(given, f"{path} holds embeddings, which were made before")
        return _saved(path, matcher, work, data.root, choose)
    found = find_model(path, part, data, model)
    built = MATCHERS.build(found.method.matcher if matcher is None else matcher)
    split = found.split(choose)
    sides = found.embed(split, work, tokens=built.needs_tokens)
    return Subject(found.folder, *sides, built, found.notes, openers_of(found.dataset, split), found)


def _saved(
    path: Path, matcher: Mapping[str, Any] | None, work: WorkOptions, root: Path | None, choose: Choose | None
) -> Subject:
    import numpy as np

    from zsbir.data import DATASETS
    from zsbir.evaluation.embeddings import load_pair
    from zsbir.matchers import MATCHERS

    queries, gallery = load_pair(path)
    if choose is not None:
        queries = queries.take(np.asarray(choose(queries.paths), dtype=np.int64))
    meta, openers = gallery.meta, None
    if not meta.get("dataset") or not len(queries.paths) or not len(gallery.paths):
        refuse({"root": root}, "these embeddings do not name their dataset and files")
    else:
        try:
            dataset = DATASETS.build(meta["dataset"], **({} if root is None else {"root": str(root)}))
            openers = openers_of(dataset, dataset.test)
        except ZsbirError:
            if root is not None:  # else the images are not here, and are not shown
                raise
    return Subject(
        path if path.is_dir() else path.with_suffix(""),
        queries,
        _on(work.device, gallery),
        MATCHERS.build(meta.get("matcher", "cosine") if matcher is None else matcher),
        (f"dataset manifest {meta['manifest']}",) if meta.get("manifest") else (),
        openers,
    )


def openers_of(dataset: Dataset, split: Split) -> tuple[Opener, Opener]:
    def opener(records: Records) -> Opener:
        return lambda path: dataset.open(str(records.root / path))

    return opener(split.sketches), opener(split.photos)


def _on(device: str, gallery: Embeddings) -> Embeddings:
    from zsbir.methods.embedding import as_device

    return replace(gallery, vectors=gallery.vectors.to(as_device(device)))


def _notes(dataset: Dataset, method: Method, part: Part, settings: Mapping[str, Any]) -> tuple[str, ...]:
    from zsbir.data.imagenet import imagenet_overlap

    notes = list(dataset.notes)
    if settings.get("select_on") == "test":
        notes.append("not honest model selection: the checkpoint was chosen on the test classes")
    if "released" in settings:
        notes.append(f"the authors' checkpoint: {settings['released']}")
    overlap = imagenet_overlap(dataset.test.classes)
    if part == "validation":
        notes.append("these are the held-out seen classes (validation), not the unseen ones")
    elif len(overlap.unknown) < overlap.total:
        notes.append(f"{overlap.sentence()} (it counts if the backbone was pretrained on ImageNet)")
    if manifest := getattr(dataset, "manifest_hash", None):
        notes.append(f"dataset manifest {manifest}")
    if (backbone := method.spec.get("backbone")) is not None:
        name = backbone if isinstance(backbone, str) else backbone["name"]
        notes.append(f"method {method.spec['name']}, backbone {name}")
    return tuple(notes)
