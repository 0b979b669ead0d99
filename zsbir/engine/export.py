"""Graphs that embed in other runtimes: ONNX, torch.export and Immich, checked against the original."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsbir.errors import needing
from zsbir.files import write_json
from zsbir.methods.base import Method
from zsbir.types import Domain

Format = Literal["onnx", "torch-export", "immich"]


class Graph(nn.Module):
    """One domain's path from an image to its embedding, as one graph.

    Args:
        method: Whose `embed` it is.
        domain: Which domain.
        unit: Give the embedding length 1.
    """

    def __init__(self, method: Method, domain: Domain, unit: bool = False) -> None:
        super().__init__()
        self.method, self.domain, self.unit = method, domain, unit

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, D) embeddings of (B, 3, H, W) float32 images in [0, 1]."""
        vectors = self.method.embed(images, self.domain).vector
        return F.normalize(vectors, dim=1) if self.unit else vectors


def export(method: Method, out: Path, kind: Format) -> dict[str, float]:
    """Write the graphs of both domains with a dynamic batch, and compare each with the original on random images.

    Args:
        method: In evaluation mode.
        out: An existing folder; it gets ``sketch.onnx`` and ``photo.onnx``, or ``sketch.pt2`` and ``photo.pt2``, or
            ``visual/model.onnx``, ``visual/preprocess_cfg.json`` and ``config.json``.
        kind: ``"onnx"`` (needs the extra ``export``), ``"torch-export"``, or ``"immich"``: only the photo tower, as
            ONNX with embeddings of length 1, in the layout that Immich's machine learning service reads.

    Returns:
        The largest absolute difference of each file's embeddings, over batches of 1 and 3 images.

    Raises:
        ZsbirError: If the extra is missing, or the method cannot be exported.
    """
    ending = "pt2" if kind == "torch-export" else "onnx"
    domains: dict[str, Domain] = {f"sketch.{ending}": "sketch", f"photo.{ending}": "photo"}
    if kind == "immich":
        domains = {"visual/model.onnx": "photo"}
        (out / "visual").mkdir()
    differences: dict[str, float] = {}
    for name, domain in domains.items():
        graph = Graph(method, domain, unit=kind == "immich").eval()
        size = method.preprocess.size
        example = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        batch = torch.export.Dim("batch", min=1, max=4096)
        if ending == "onnx":
            with needing("export to ONNX", "zsbir[export]"):
                run = _onnx(graph, example, out / name, batch, "image" if kind == "immich" else "images")
        else:
            program = torch.export.export(graph, (example,), dynamic_shapes={"images": {0: batch}})
            torch.export.save(program, out / name)
            run = program.module()
        checks = [torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(n)) for n in (1, 3)]
        with torch.inference_mode():
            originals = [graph(x) for x in checks]
            differences[name] = max((y - run(x)).abs().max().item() for x, y in zip(checks, originals, strict=True))
        if kind == "immich":
            _describe(method, out, originals[0].shape[1])
    return differences


def _describe(method: Method, out: Path, width: int) -> None:
    """Write the files that Immich reads with the graph; mean 0 and deviation 1, as the graph itself normalises."""
    size = method.preprocess.size
    interpolation = "bicubic" if method.preprocess.photo in ("bicubic", "pad-black") else "bilinear"
    prepare = {"size": [size, size], "mode": "RGB", "mean": [0.0] * 3, "std": [1.0] * 3,
               "interpolation": interpolation, "resize_mode": "shortest", "fill_color": 0}  # fmt: skip
    write_json(out / "visual" / "preprocess_cfg.json", prepare)
    write_json(out / "config.json", {"embed_dim": width, "vision_cfg": {"image_size": size}, "text_cfg": {}})


def _onnx(graph: Graph, example: Tensor, file: Path, batch: object, name: str) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    torch.onnx.export(
        graph, (example,), file, dynamo=True, external_data=False, verbose=False,
        input_names=[name], output_names=["embedding"], dynamic_shapes={"images": {0: batch}},
    )  # fmt: skip
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])
