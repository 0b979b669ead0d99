"""What the commands evaluate: a run, a method by name on a dataset, or saved embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, arg

from zsbir.errors import ZsbirError

if TYPE_CHECKING:
    from PIL import Image

    from zsbir.data.base import Dataset
    from zsbir.matchers.base import Matcher
    from zsbir.methods.base import Method
    from zsbir.types import Embeddings, Paths, Records, Split

Part = Literal["test", "validation"]
Openers = tuple[Callable[[str], "Image.Image"], Callable[[str], "Image.Image"]]
Choose = Callable[["Paths"], Sequence[int]]
"""From the files of all sketches to the positions of those that are wanted."""


@dataclass(frozen=True)
class DataOptions:
    """The dataset of a method by name; a run has its own.

    Attributes:
        dataset: A dataset's name, see `zsbir list`.
        root: The dataset's folder; for a run, where it is now.
        unseen: Test classes for the dataset `folder`: names with commas, or how many.
        split: A split manifest from `zsbir datasets split`.
        set_data: Further arguments of the dataset: key=value ...
    """

    dataset: str | None = None
    root: Path | None = None
    unseen: str | None = None
    split: Path | None = None
    set_data: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelOptions:
    """The settings of a method by name; a run has its own.

    Attributes:
        method: The method, in place of RUN.
        backbone: A backbone's name, or any timm model's.
        weights: A file: of `frozen` the backbone's weights, else the authors' checkpoint (best.pth of puxim,
            model_best.pth.tar of sbka, last.pth.tar of dann), of which a run folder is made.
        no_pretrained: Random weights, not pretrained ones.
        set_method: Further arguments of the method: key=value ..., with dots for parts.
    """

    method: str | None = None
    backbone: str | None = None
    weights: Path | None = None
    no_pretrained: FlagCreatePairsOff[bool] = False
    set_method: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkOptions:
    """How images are embedded.

    Attributes:
        device: Where to run.
        batch_size: Images a step.
        workers: Processes that decode images.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_size: Annotated[int | None, arg(help_behavior_hint="(default: found on CUDA, else 32)")] = None
    workers: Annotated[int | None, arg(help_behavior_hint="(default: 2)")] = None

    def __post_init__(self) -> None:
        if (self.batch_size or 1) < 1 or (self.workers or 0) < 0 or self.batch_size == 0:
            raise ZsbirError(
                f"the batch size must be 1 or more and the workers 0 or more, not {self.batch_size} and {self.workers}"
            )


def refuse(given: Mapping[str, Any], why: str) -> None:
    """Raise ZsbirError if one of the options differs from its default, here None, False or nothing."""
    named = [
        f"--{name.replace('_', '-')}"
        for name, value in given.items()
        if not (value is None or value is False or value == ())
    ]
    if named:
        raise ZsbirError(f"{why}: leave out {', '.join(named)}")


def values_of(options: Any) -> dict[str, Any]:
    """Return a group's options by name."""
    return {item.name: getattr(options, item.name) for item in fields(options)}


@dataclass(frozen=True)
class Model:
    """A method and its dataset.

    Attributes:
        folder: Where its evaluation goes by default, and what is kept for the next one.
        method: Ready to embed.
        dataset: Its dataset.
        part: Which part is looked at.
        start: The spec it was made from, with weights as before training.
        seed: Of its start.
        notes: What its reports must say.
    """

    folder: Path
    method: Method
    dataset: Dataset
    part: Part
    start: Mapping[str, Any]
    seed: int
    notes: tuple[str, ...]

    def split(self, choose: Choose | None = None) -> Split:
        """Return the part's images, of the sketches those chosen.

        Raises:
            ZsbirError: If the part is empty.
        """
        import numpy as np

        from zsbir.types import Records
        from zsbir.types import Split as Share

        split = self.dataset.test if self.part == "test" else self.dataset.validation
        if not split.classes:
            raise ZsbirError(f"{self.folder} held out no validation classes: leave out --part for its test classes")
        if choose is None:
            return split
        rows, all_ = np.asarray(choose(split.sketches.paths), dtype=np.int64), split.sketches
        return Share(Records(all_.root, all_.paths.take(rows), all_.labels[rows]), split.photos, split.classes)

    def embed(
        self, split: Split, work: WorkOptions, method: Method | None = None, tokens: bool = False
    ) -> tuple[Embeddings, Embeddings]:
        """Embed a split, each process its share; return all sketches and photos, the photos on the device."""
        from zsbir.engine.devices import choose_device
        from zsbir.evaluation.distributed import gather_embeddings, is_first, own_share
        from zsbir.methods.embedding import embed_split
        from zsbir.types import Split as Share

        device = choose_device(work.device)
        sketches, photos = (records.where(own_share(len(records))) for records in (split.sketches, split.photos))
        queries, gallery = embed_split(
            self.method if method is None else method,
            self.dataset,
            Share(sketches, photos, split.classes),
            device=device,
            batch_size=work.batch_size,
            workers=2 if work.workers is None else work.workers,
            progress=is_first(),
            tokens=tokens,
        )
        return _on(device, gather_embeddings(queries), gather_embeddings(gallery))

    def untrained(self) -> Method:
        """Return the method as it was before its first step: the same spec, seed and pretrained weights.

        Raises:
            ZsbirError: If its pretrained weights are not here.
        """
        import torch

        from zsbir.methods import METHODS

        torch.manual_seed(self.seed)
        return METHODS.build(self.start)

    def frozen(self) -> Method | None:
        """Return its backbone without training, the baseline; None if the method is just that, or has no backbone.

        Raises:
            ZsbirError: If its pretrained weights are not here.
        """
        import torch

        from zsbir.methods import METHODS

        if self.start["name"] == "frozen" or not self.start.get("backbone"):
            return None
        torch.manual_seed(self.seed)
        given = {key: self.start[key] for key in ("pretrained", "weights") if self.start.get(key)}
        return METHODS.build("frozen", backbone=self.start["backbone"], **given)


def find_model(path: Path, part: Part, data: DataOptions | None = None, model: ModelOptions | None = None) -> Model:
    """Return the method and dataset of a run, or those named by the options.

    Raises:
        ZsbirError: If there is no such run or method, or an option does not fit.
    """
    from zsbir.methods import METHODS

    data, model = data or DataOptions(), model or ModelOptions()
    if not path.exists() and str(path) in METHODS:
        return _named(str(path), part, data, model)
    import zsbir
    from zsbir.engine.run import dataset_of, read_run

    folder = run_folder(path)
    given = {**values_of(data), **values_of(model), "root": None}
    refuse(given, f"{path} is a run, which has its dataset and its method")
    run, method = read_run(folder), zsbir.load(path)
    dataset = dataset_of(run, data.root)
    notes = _notes(dataset, method, part, run["settings"])
    return Model(folder, method, dataset, part, run["method"], run["seed"], notes)


def _named(name: str, part: Part, data: DataOptions, model: ModelOptions) -> Model:
    import torch

    from zsbir.cli._options import assignments, build_dataset, build_method

    if data.dataset is None:
        raise ZsbirError(f"{name} is a method: name the dataset to evaluate it on with --dataset")
    dataset = build_dataset(
        data.dataset, data.root, data.unseen, None, data.split, assignments(data.set_data, "--set-data")
    )
    parts = assignments(model.set_method, "--set-method")
    if model.backbone is not None:
        parts["backbone"] = {"name": model.backbone, **parts["backbone"]} if "backbone" in parts else model.backbone
    torch.manual_seed(0)
    method = build_method(name, dataset.train.classes, not model.no_pretrained, model.weights, parts)
    folder = Path("evaluations") / f"{name}-{data.dataset}"
    notes = (*_notes(dataset, method, part, {}), *(() if name == "frozen" else ("as built, not trained",)))
    return Model(folder, method, dataset, part, method.spec, 0, notes)


def run_folder(path: Path) -> Path:
    """Return the run folder that a path means: itself, or where its ``best`` or ``last`` is in.

    Raises:
        ZsbirError: If it is no run.
    """
    from zsbir.methods import METHODS
    from zsbir.registry import close_matches

    folder = path if (path / "run.json").is_file() else path.parent
    if not path.exists():
        near = "" if path.parent != Path() else f" It is no method either. {close_matches(str(path), METHODS.names())}"
        raise ZsbirError(f"{path} does not exist: give a run folder of `zsbir train`, or a folder of embeddings.{near}")
    if not (folder / "run.json").is_file():
        raise ZsbirError(
            f"{path} is nothing to evaluate: give a run folder (with run.json), or a folder of embeddings (with "
            "queries and gallery as .safetensors, .npz or .npy)"
        )
    return folder


@dataclass(frozen=True)
class Subject:
    """Embeddings that can be evaluated.

    Attributes:
        folder: Where its evaluation goes by default.
        queries: Embeddings of the sketches.
        gallery: Embeddings of the photos.
        matcher: The one asked for, or its own.
        notes: What its report must say.
        openers: Open a sketch and a photo by the path the embeddings have; None where there are no images.
        model: What made them; None for saved embeddings.
    """

    folder: Path
    queries: Embeddings
    gallery: Embeddings
    matcher: Matcher
    notes: tuple[str, ...] = ()
    openers: Openers | None = None
    model: Model | None = None


def find_subject(
    path: Path,
    part: Part,
    matcher: Mapping[str, Any] | None,
    work: WorkOptions,
    data: DataOptions | None = None,
    model: ModelOptions | None = None,
    choose: Choose | None = None,
) -> Subject:
    """Load embeddings, or a model, and embed its dataset.

    Args:
        path: A folder of embeddings, an ``.npz`` file, a run folder or one of its checkpoints, or a method's name.
        part: Which part of a model's dataset.
        matcher: The matcher asked for; it decides whether patch tokens are kept.
        work: How images are embedded.
        data: The dataset of a method by name.
        model: Its settings.
        choose: Gives the positions of the sketches that are wanted, from the files of all; None: all of them.

    Raises:
        ZsbirError: If there is nothing to evaluate, CUDA is asked for and missing, or an option does not fit.
    """
    from zsbir.evaluation.embeddings import is_pair
    from zsbir.matchers import MATCHERS

    if is_pair(path):
        given = {**values_of(data or DataOptions()), **values_of(model or ModelOptions()), "root": None,
                 "part": part != "test", "batch_size": work.batch_size, "workers": work.workers}  # fmt: skip
        refuse(given, f"{path} holds embeddings, which were made before")
        return _saved(path, matcher, work, None if data is None else data.root, choose)
    found = find_model(path, part, data, model)
    built = MATCHERS.build(found.method.matcher if matcher is None else matcher)
    split = found.split(choose)
    sides = found.embed(split, work, tokens=built.needs_tokens)
    openers = _opener(found.dataset, split.sketches), _opener(found.dataset, split.photos)
    return Subject(found.folder, *sides, built, found.notes, openers, found)


def _saved(
    path: Path, matcher: Mapping[str, Any] | None, work: WorkOptions, root: Path | None, choose: Choose | None
) -> Subject:
    import numpy as np

    from zsbir.engine.devices import choose_device
    from zsbir.evaluation.embeddings import load_pair
    from zsbir.evaluation.scoring import take
    from zsbir.matchers import MATCHERS

    queries, gallery = load_pair(path)
    if choose is not None:
        queries = take(queries, np.asarray(choose(queries.paths), dtype=np.int64), paths=True)
    manifest = gallery.meta.get("manifest")
    return Subject(
        path if path.is_dir() else path.with_suffix(""),
        *_on(choose_device(work.device), queries, gallery),
        MATCHERS.build(gallery.meta.get("matcher", "cosine") if matcher is None else matcher),
        (f"dataset manifest {manifest}",) if manifest else (),
        _saved_openers(queries, gallery, root),
    )


def _saved_openers(queries: Embeddings, gallery: Embeddings, root: Path | None) -> Openers | None:
    """Return what opens the images of saved embeddings; None where their dataset is not named, or not here."""
    from zsbir.data import DATASETS

    spec = gallery.meta.get("dataset")
    if not spec or not len(queries.paths) or not len(gallery.paths):
        refuse({"root": root}, "these embeddings do not name their dataset and files")
        return None
    try:
        dataset = DATASETS.build(spec, **({} if root is None else {"root": str(root)}))
    except ZsbirError:
        if root is not None:
            raise
        return None
    return _opener(dataset, dataset.test.sketches), _opener(dataset, dataset.test.photos)


def _opener(dataset: Dataset, records: Records) -> Callable[[str], Image.Image]:
    return lambda path: dataset.open(str(records.root / path))


def _on(device: str, queries: Embeddings, gallery: Embeddings) -> tuple[Embeddings, Embeddings]:
    return queries, replace(gallery, vectors=gallery.vectors.to(device))


def _notes(dataset: Dataset, method: Method, part: Part, settings: Mapping[str, Any]) -> tuple[str, ...]:
    from zsbir.data.imagenet import imagenet_overlap

    notes = list(dataset.notes)
    if settings.get("select_on") == "test":
        notes.append("not honest model selection: the checkpoint was chosen on the test classes")
    if "released" in settings:
        notes.append(f"the authors' checkpoint: {settings['released']}")
    if part == "validation":
        notes.append("these are the held-out seen classes (validation), not the unseen ones")
    overlap = imagenet_overlap(dataset.test.classes)
    if part != "validation" and len(overlap.unknown) < overlap.total:
        notes.append(f"{overlap.sentence()} (it counts if the backbone was pretrained on ImageNet)")
    manifest = getattr(dataset, "manifest_hash", None)
    if manifest:
        notes.append(f"dataset manifest {manifest}")
    backbone = method.spec.get("backbone")
    if backbone is not None:
        name = backbone if isinstance(backbone, str) else backbone["name"]
        notes.append(f"method {method.spec['name']}, backbone {name}")
    return tuple(notes)
