"""A run folder made of the authors' checkpoint, so that every command can use it like a run of one's own."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from zsbir.errors import ZsbirError


@dataclass(frozen=True)
class ReleasedOptions:
    """Instead of a run: the authors' checkpoint, from which a run folder is made.

    Attributes:
        method: Whose checkpoint it is: puxim (best.pth), sbka (model_best.pth.tar) or dann (last.pth.tar).
        weights: The file.
        dataset: The dataset to evaluate on.
        root: Its folder.
        set_method: Further arguments of the method: key=value ...
        set_data: Further arguments of the dataset: key=value ...
    """

    method: str | None = None
    weights: Path | None = None
    dataset: str | None = None
    root: Path | None = None
    set_method: tuple[str, ...] = ()
    set_data: tuple[str, ...] = ()

    @property
    def given(self) -> bool:
        """Whether any of them is."""
        return any(getattr(self, item.name) for item in fields(self))


def run_of_weights(options: ReleasedOptions, out: Path | None) -> Path:
    """Write a run folder with the authors' weights, built as published, and return it.

    Args:
        options: Method, weights and dataset must be given.
        out: The folder; None: a new one in ``runs``.

    Raises:
        ZsbirError: If one of the three is missing, the folder is taken, or the weights do not fit.
    """
    if options.method is None or options.weights is None or options.dataset is None:
        raise ZsbirError("an authors' checkpoint needs --method NAME, --weights FILE and --dataset NAME (with --root)")
    from zsbir.cli._options import assignments, build_dataset, build_method, free_folder, published_for
    from zsbir.engine.run import claim, describe, write_run
    from zsbir.methods import METHODS
    from zsbir.methods.released import load_released

    folder = out or free_folder(Path("runs"), f"{options.method}-released-{options.dataset}")
    dataset = build_dataset(options.dataset, options.root, more=assignments(options.set_data, "--set-data"))
    published = {"published": True} if "published" in METHODS.parameters(options.method) else {}
    published |= published_for(options.method, options.dataset)
    more = {**published, **assignments(options.set_method, "--set-method")}
    method = build_method(options.method, dataset.train.classes, False, more=more)
    said = load_released(method, options.weights)
    print(said)
    claim(folder)
    method.save(folder / "best")
    write_run(folder, describe(method, dataset, method.recipe, 0, {"released": said}))
    return folder
