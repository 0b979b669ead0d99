"""A run folder made of the authors' checkpoint, so that every command can use it like a run of one's own."""

from __future__ import annotations

from pathlib import Path

from zsbir.cli._evaluation import DataOptions, ModelOptions, refuse
from zsbir.errors import ZsbirError


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
    if data.dataset is None or model.weights is None:
        raise ZsbirError("an authors' checkpoint needs --weights FILE and --dataset NAME (with --root)")
    refuse({"no_pretrained": model.no_pretrained}, "the checkpoint has all weights")
    from zsbir.cli._options import assignments, build_dataset, build_method, free_folder, published_for
    from zsbir.engine.run import claim, write_run
    from zsbir.methods import METHODS
    from zsbir.methods.released import load_released

    folder = out or free_folder(Path("runs"), f"{name}-released-{data.dataset}")
    more = assignments(data.set_data, "--set-data")
    dataset = build_dataset(data.dataset, data.root, data.unseen, None, data.split, more)
    published = {"published": True} if "published" in METHODS.parameters(name) else {}
    published |= published_for(name, data.dataset)
    own = assignments(model.set_method, "--set-method")
    if model.backbone is not None:
        own["backbone"] = {"name": model.backbone, **own["backbone"]} if "backbone" in own else model.backbone
    method = build_method(name, dataset.train.classes, False, more={**published, **own})
    said = load_released(method, model.weights)
    print(said)
    claim(folder)
    method.save(folder / "best")
    write_run(folder, method, dataset, method.recipe, 0, {"released": said})
    return folder
