"""A run folder made of the authors' checkpoint, so that every command can use it like a run of one's own."""

from __future__ import annotations

from pathlib import Path

from zsbir.cli._groups import DataOptions, ModelOptions, refuse
from zsbir.cli._options import build_method, free_folder, published_for
from zsbir.methods import METHODS


def run_of_weights(name: str, model: ModelOptions, data: DataOptions, out: Path | None) -> Path:
    """Write a run folder with the authors' weights, built as published, and return it.

    Args:
        name: Whose checkpoint it is.
        model: With the weights.
        data: With the dataset to evaluate on.
        out: The folder; None: a new one in ``runs``.

    Raises:
        ZsbirError: If there is no dataset, the folder is taken, or the weights do not fit.
    """
    refuse({"no_pretrained": model.no_pretrained}, "the checkpoint has all weights")
    from zsbir.engine.run import claim, write_run
    from zsbir.methods.released import load_released

    dataset = data.build("an authors' checkpoint needs --weights FILE and --dataset NAME (with --root)")
    assert data.dataset is not None
    assert model.weights is not None  # that is why this is called
    folder = out or free_folder(Path("runs"), f"{name}-released-{data.dataset}")
    published = {"published": True} if "published" in METHODS.parameters(name) else {}
    published |= published_for(name, data.dataset)
    method = build_method(name, dataset.train.classes, False, more={**published, **model.arguments()})
    said = load_released(method, model.weights)
    print(said)
    claim(folder)
    method.save(folder / "best")
    write_run(folder, method, dataset, method.recipe, 0, {"released": said})
    return folder
