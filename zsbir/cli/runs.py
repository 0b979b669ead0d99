"""The runs in a folder."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional


def runs(folder: Annotated[Path, Positional] = Path("runs"), json: bool = False) -> None:
    """List runs with their state and best score (mAP@all, or accuracy where that selects).

    Example: zsbir runs runs --json

    Args:
        folder: Where the run folders are.
        json: Print JSON.
    """
    from zsbir.errors import ZsbirError

    if not folder.is_dir():
        raise ZsbirError(f"there is no folder {folder}: give the one that holds your runs, or train one first")
    found = [_describe(file.parent) for file in sorted(folder.glob("*/run.json"))]
    if json:
        print(json_module.dumps(found, indent=1))
        return
    if not found:
        print(f"no runs in {folder}")
        return
    print(f"{'run':<32} {'method':<10} {'dataset':<18} {'state':<16} {'best score':>12}  selected on")
    for row in found:
        best = "-" if row["best"] is None else f"{row['best']:.4f}"
        print(f"{row['run']:<32} {row['method']:<10} {row['dataset']:<18} {row['state']:<16} {best:>12}  {row['on']}")


def _describe(folder: Path) -> dict[str, Any]:
    from zsbir.files import read_json

    run = read_json(folder / "run.json")
    state_file = folder / "last" / "state.json"
    state = read_json(state_file) if state_file.is_file() else None
    epochs = run["recipe"]["epochs"]
    done = 0 if state is None else state["epoch"]
    return {
        "run": folder.name,
        "method": run["method"]["name"],
        "dataset": run["dataset"]["name"],
        "state": "finished" if done >= epochs else f"{done} of {epochs} epochs",
        "best": None if state is None else state["best"],
        "on": run["settings"]["select_on"],
    }
