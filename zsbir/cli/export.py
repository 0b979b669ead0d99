"""Export a run's embedding towers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional


def export(
    run: Annotated[Path, Positional], out: Path, format: Literal["onnx", "torch-export", "immich"] = "onnx"
) -> None:
    """Export the sketch and the photo tower with a dynamic batch, and check them against the original.

    Both take (B, 3, H, W) float32 images in [0, 1] and give (B, D) embeddings.

    Example: zsbir export runs/a --out exported

    Args:
        run: A run folder of `zsbir train`, or its best/ or last/; or doodle.
        out: A new folder.
        format: onnx (runs under onnxruntime), torch-export (.pt2), or immich (the photo tower alone as ONNX with unit
            vectors, in the layout that Immich reads).
    """
    import zsbir
    from zsbir.engine.export import export as write
    from zsbir.engine.run import claim

    method = zsbir.load(run)
    claim(out, run=False)
    for name, difference in write(method, out, format).items():
        print(f"{out}/{name}: largest difference {difference:.1e}")
