"""A GPU that is only pretended: everything is computed by the CPU, and devices are kept apart as CUDA keeps them.

Tensors carry a label, the device they would be on. A call that mixes labels fails where it would fail on a GPU, and so
does NumPy on a tensor that would be there. So code that forgets a device is found where no GPU is.
"""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
ANYWHERE = {"copy_", "__setitem__", "to", "type_as", "set_", "__set__"}
ON_THE_CPU = {"numpy", "__array__", "__dlpack__"}


def label(tensor: Tensor) -> torch.device | None:
    """Return where a tensor would be; None: made inside torch (such as a gradient), which knows best."""
    return tensor.__dict__.get("pretended", CPU if isinstance(tensor, nn.Parameter) else None)


def put(value: Any, device: torch.device) -> Any:
    """Label all tensors of a value, or all of a module."""
    if isinstance(value, nn.Module):
        for tensor in (*value.parameters(), *value.buffers()):
            tensor.__dict__["pretended"] = device
        return value
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            leaf.__dict__["pretended"] = device
    return value


class Pretended(TorchFunctionMode):
    """While it is active, ``device="cuda"`` works."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        getter = getattr(func, "__self__", None) if name == "__get__" else None
        if getter is Tensor.device:
            return label(args[0]) or CPU
        if getter is Tensor.is_cuda:
            return label(args[0]) == CUDA
        if name in ("pin_memory", "record_stream"):
            return args[0]
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        wanted, args = _wanted(name, args, kwargs)
        self._check(name, args, kwargs, tensors)
        result = func(*args, **kwargs)
        labels = {label(tensor) for tensor in tensors}
        if wanted is None:
            wanted = CUDA if CUDA in labels else CPU if CPU in labels or not tensors else None
        moves = name in ("to", "cpu", "cuda") and label(args[0]) != wanted
        if moves and result is args[0] and not isinstance(result, nn.Parameter):
            result = result.clone()  # another tensor, there
        return result if wanted is None else put(result, wanted)

    def _check(self, name: str, args: tuple, kwargs: dict, tensors: list[Tensor]) -> None:
        if name in ON_THE_CPU and label(tensors[0]) == CUDA:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        whole = [tensor for tensor in tensors if tensor.ndim]
        if name in ("__getitem__", "index", "index_put_") and label(args[0]) == CUDA:
            return  # an index may be on the CPU
        generator = kwargs.get("generator")
        if generator is not None and CUDA in (label(tensor) for tensor in tensors):
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if name not in ANYWHERE and {CUDA, CPU} <= {label(tensor) for tensor in whole}:
            found = [f"{tuple(tensor.shape)} on {label(tensor)}" for tensor in whole]
            raise RuntimeError(f"{name}: Expected all tensors to be on the same device, but found {', '.join(found)}")


def _wanted(name: str, args: tuple, kwargs: dict) -> tuple[torch.device | None, tuple]:
    """Take the device out of a call's arguments."""
    wanted = None
    if "device" in kwargs:
        given = kwargs.pop("device")
        wanted = None if given is None else torch.device(given)
        if kwargs.get("generator") is not None and wanted is not None and wanted.type == "cuda":
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    if name in ("cuda", "cpu"):
        wanted, args = (CUDA if name == "cuda" else CPU), args[:1]
    if name in ("to", "type_as"):
        own, *rest = args
        like = next((value for value in rest if isinstance(value, Tensor)), None)
        named = next((value for value in rest if isinstance(value, (torch.device, str))), None)
        wanted = (label(like) or CPU) if like is not None else torch.device(named) if named else wanted or label(own)
        dtypes = [value for value in (*rest, kwargs.pop("dtype", None)) if isinstance(value, torch.dtype)]
        args = (own, like) if name == "type_as" else (own, dtypes[0] if dtypes else own.dtype if like is None else like)
    if name in ("to", "cuda", "cpu"):
        kwargs.pop("non_blocking", None)
    if wanted is not None and wanted.type == "cuda":
        wanted = CUDA
    return wanted, args


@contextmanager
def pretended_cuda(monkeypatch):
    """Pretend a GPU within a block."""
    autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda kind, *args, **options: autocast("cpu", *args, **options))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=1))
    with Pretended():
        yield CUDA
