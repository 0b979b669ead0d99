"""Embedding graphs for other runtimes: ONNX and torch.export, checked against the original."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from zsbir.errors import ZsbirError
from zsbir.methods.base import Method
from zsbir.types import Domain

Format = Literal["onnx", "torch-export"]


class Graph(nn.Module):
    """One domain's path from an image to its embedding, as one graph.

    Args:
        method: Whose `embed` it is.
        domain: Which domain.
    """

    def __init__(self, method: Method, domain: Domain) -> None:
        super().__init__()
        self.method = method
        self.domain: Domain = domain

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, D) embeddings of (B, 3, H, W) float32 images in [0, 1]."""
        return self.method.embed(images, self.domain).vector


def export(method: Method, out: Path, kind: Format) -> dict[str, float]:
    """Write the graphs of both domains with a dynamic batch, and compare each with the original on random images.

    Args:
        method: In evaluation mode.
        out: An existing folder; it gets ``sketch.onnx`` and ``photo.onnx``, or ``sketch.pt2`` and ``photo.pt2``.
        kind: ``"onnx"`` (needs the extra ``export``) or ``"torch-export"``.

    Returns:
        The largest absolute difference of each domain, over batches of 1 and 3 images.

    Raises:
        ZsbirError: If the extra is missing, or the method cannot be exported.
    """
    differences: dict[str, float] = {}
    for domain in ("sketch", "photo"):
        graph = Graph(method, domain).eval()
        size = method.preprocess.size
        example = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        batch = torch.export.Dim("batch", min=1, max=4096)
        try:
            if kind == "onnx":
                file = out / f"{domain}.onnx"
                run = _onnx(graph, example, file, batch)
            else:
                program = torch.export.export(graph, (example,), dynamic_shapes={"images": {0: batch}})
                torch.export.save(program, out / f"{domain}.pt2")
                run = program.module()
        except ImportError as error:
            raise ZsbirError(f"export to ONNX needs {error.name}: pip install 'zsbir[export]'") from error
        checks = [torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(n)) for n in (1, 3)]
        with torch.inference_mode():
            differences[domain] = max((graph(x) - run(x)).abs().max().item() for x in checks)
    return differences


def _onnx(graph: Graph, example: Tensor, file: Path, batch: object) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    torch.onnx.export(
        graph, (example,), file, dynamo=True, external_data=False, verbose=False,
        input_names=["images"], output_names=["embedding"], dynamic_shapes={"images": {0: batch}},
    )  # fmt: skip
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0])
