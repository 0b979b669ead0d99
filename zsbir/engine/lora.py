"""Low-rank adapters (LoRA, arXiv 2106.09685) through `peft`: a large backbone trains a few small matrices.

An adapted layer with weight W computes ``(W + alpha / rank · B·A)·x``; A and B train, W does not, and B starts at 0, so
that training starts from the backbone as it is. What is saved for use has B·A added to W: it is a plain method, and
loads without `peft`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zsbir.arguments import Count, Positive, Ratio, checked
from zsbir.backbones.base import Backbone
from zsbir.backbones.weights import read_tensors
from zsbir.errors import ZsbirError, needing
from zsbir.methods.saving import plain_tensors

ATTENTION = ("*.attn.qkv", "*.attn.q", "*.attn.kv", "*.attn.[qkv]_proj", "*.attn.proj", "*.attn")
"""The attention layers of timm's and open_clip's vision transformers."""

ADAPTERS = "adapters.safetensors"


@checked("lora")
@dataclass(frozen=True)
class Lora:
    """The settings of adapters.

    Attributes:
        rank: Width of the two matrices.
        alpha: The product of the two matrices is multiplied by ``alpha / rank``.
        dropout: Share of an adapter's inputs that is dropped in training.
        targets: Shell patterns of the names of the layers to adapt (linear, convolution, or torch's multi-head
            attention as a whole), within the backbone; empty: `ATTENTION`.
    """

    rank: Count = 8
    alpha: Positive = 16.0
    dropout: Ratio = 0.0
    targets: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Lora:
        """Return the settings of a recipe's mapping; raises ZsbirError for an unknown one or an impossible value."""
        targets = values.get("targets", ())
        return cls(**{**values, "targets": (targets,) if isinstance(targets, str) else tuple(targets)})


class Adapters:
    """A method's adapters, from the start of training to the merge at its end.

    Args:
        method: Gets them, in place. In the networks around them only the adapters (and a timm net's classifier) train;
            the rest of the method trains as before.
        settings: Rank, strength and place.
        seed: Of the random matrices A.

    Raises:
        ZsbirError: If no layer matches (the message lists the layers), or `peft` is missing.
    """

    def __init__(self, method: nn.Module, settings: Lora, seed: int = 0) -> None:
        with needing("lora", "zsbir[lora]"):
            from peft import LoraConfig, inject_adapter_in_model
        self.method = method
        names, fixed = _plan(method, settings)
        before = {id(p): p.requires_grad for p in method.parameters()}
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]
            lora_dropout=settings.dropout,
            target_modules="|".join(re.escape(name) for name in names),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, method)
        self._frozen = [p for p in method.parameters() if before.get(id(p), False) and id(p) in fixed]
        for parameter in method.parameters():
            if id(parameter) in before:  # peft has frozen everything
                parameter.requires_grad_(before[id(parameter)] and id(parameter) not in fixed)

    @staticmethod
    def layers(method: nn.Module) -> Iterator[tuple[str, Any]]:
        """Yield a method's adapted layers by name; a layer with two names comes twice."""
        from peft.tuners.lora import LoraLayer

        inside: tuple[str, ...] = ()
        for name, module in method.named_modules(remove_duplicate=False):
            if isinstance(module, LoraLayer) and not name.startswith(inside):
                inside = (*inside, f"{name}.")
                yield name, module

    def plain_state(self, method: nn.Module) -> dict[str, Tensor]:
        """Return the state of the method, or of a copy, with the adapters merged, under its names without them."""
        state: dict[str, Tensor] = {k: v.detach() for k, v in method.state_dict().items()}
        for name, layer in self.layers(method):
            state = {k: v for k, v in state.items() if not k.startswith(f"{name}.")}
            plain = _merged(copy.deepcopy(layer))
            state.update({f"{name}.{k}": v.detach() for k, v in plain.state_dict().items()})
        return state

    def merge(self) -> None:
        """Turn the method, in place, into a plain one with the same outputs; its backbone can train again."""
        for name, layer in list(self.layers(self.method)):
            owner, _, last = name.rpartition(".")
            holder = self.method.get_submodule(owner)
            if getattr(holder, last) is layer:  # not yet done under another name
                setattr(holder, last, _merged(layer))
        for parameter in self._frozen:
            parameter.requires_grad_(True)

    def _state(self) -> dict[str, Tensor]:
        layers = self.layers(self.method)
        return {f"{name}.{k}": v for name, layer in layers for k, v in layer.state_dict().items()}

    def save(self, file: Path) -> None:
        """Write what resuming needs: the adapters, and the unchanged weights of the layers under them."""
        save_file(plain_tensors(self._state()), file)

    def load(self, file: Path) -> None:
        """Read what `save` wrote; raises ZsbirError if it is missing, broken or of other adapters."""
        state = read_tensors(file)
        if {k: v.shape for k, v in self._state().items()} != {k: v.shape for k, v in state.items()}:
            raise ZsbirError(f"{file} has other adapters than the run's recipe: it cannot be resumed")
        self.method.load_state_dict(state, strict=False)


def _merged(layer: Any) -> nn.Module:
    """Return the layer under an adapter, with the adapter in its weights."""
    if hasattr(layer, "unload_and_optionally_merge_module"):
        plain: nn.Module = layer.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
        return plain
    layer.merge()
    own: nn.Module = layer.get_base_layer()
    return own


def _plan(method: nn.Module, settings: Lora) -> tuple[list[str], set[int]]:
    """Return the names of the layers to adapt, and the ids of all parameters of their networks but the classifiers."""
    modules = dict(method.named_modules())
    nets = {name: net for name, net in modules.items() if isinstance(net, Backbone) or hasattr(net, "get_classifier")}
    found = [getattr(net, "get_classifier", lambda: None)() for net in nets.values()]
    heads = [head for head in found if isinstance(head, nn.Module)]
    in_heads = {id(part) for head in heads for part in head.modules()}
    attention = tuple(f"{name}." for name, module in modules.items() if isinstance(module, nn.MultiheadAttention))
    possible = [
        name
        for name, module in modules.items()
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.MultiheadAttention))
        and name.startswith(tuple(f"{net}." for net in nets))
        and not name.startswith(attention)  # its parts cannot be adapted one by one
        and id(module) not in in_heads
        and any(p.requires_grad for p in module.parameters(recurse=False))
    ]
    patterns = settings.targets or ATTENTION
    chosen = [name for name in possible if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        kinds = sorted({re.sub(r"\.\d+(?=\.|$)", ".*", name) for name in possible})
        listed = ", ".join(kinds) if kinds else "none: the method has no backbone that trains"
        raise ZsbirError(f"lora: no layer of the backbone matches {', '.join(patterns)}; give targets out of: {listed}")
    around = [net for name, net in nets.items() if any(layer.startswith(f"{name}.") for layer in chosen)]
    inside, own = ({id(p) for part in parts for p in part.parameters()} for parts in (around, heads))
    return chosen, inside - own
