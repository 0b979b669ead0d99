"""The method contract, the recipe by which a method is trained, and loading a trained one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from torch import Tensor

from zsbir.arguments import Count, Natural, NonNegative, OpenProportion, Positive, Proportion, checked
from zsbir.backbones.weights import without_weights
from zsbir.data.base import Dataset
from zsbir.data.preprocess import Preprocess
from zsbir.errors import ZsbirError
from zsbir.files import reading
from zsbir.methods import METHODS, saving
from zsbir.methods.embedding import Encoder, as_device
from zsbir.types import Batch


@checked("recipe")
@dataclass(frozen=True)
class Recipe:
    """The training settings of a method; the published values are its defaults.

    Attributes:
        epochs: Number of epochs.
        batch_size: Rows (triplets, or images for ``sampling="mixed"``) a step and process.
        samples_per_epoch: Rows an epoch; None: every sketch once (triplets) or the shorter domain once (mixed).
        sampling: ``"triplet"`` (sketch anchor, positive photo, negative photo), ``"mixed"`` (both domains at once) or
            ``"balanced"`` (`batch_size` sketches and as many photos, `per_class` of each class).
        per_class: Sketches, and photos, of each class in a balanced batch.
        anchor: What triplets draw evenly, ``"sketch"`` or ``"class"``, see `zsbir.data.sampling.triplet_plan`.
        sketch_share: Share of sketches in a mixed batch, in (0, 1).
        optimizer: ``"adam"``, ``"adamw"`` or ``"sgd"`` (momentum 0.9).
        lr: Learning rate at the start.
        weight_decay: As the optimiser defines it.
        schedule: ``"constant"``, ``"cosine"`` (to 0 at the end) or ``"exponential"`` (times `decay` at the end).
        decay: Factor of the learning rate at the end of ``"exponential"``.
        warmup: Steps of linear warm-up.
        clip: Largest gradient norm; None: no clipping.
        augment: ``"none"``, ``"affine"`` (flip, scale, rotation, shift, with probability `augment_probability`), or
            ``"affine-corner"``: about the top left corner, not the centre, as released with SBKA.
        augment_probability: Share of the samples that are augmented.
        sketch_fill: Value outside a warped sketch, in [0, 1] (1: white, its background; 0: black, as released with
            SBKA); None: repeat the border.
        photo_fill: Likewise for photos.
        freeze: Shell patterns of the names of parameters that do not train, such as ``"*.blocks.[0-5].*"``.
        fixed_norm: BatchNorm layers keep the statistics they start with, as in evaluation: those of small batches of
            two domains are poor, and a pretrained backbone at a low rate does not recover from them.
        layer_decay: Each layer of a timm backbone trains at this share of the rate of the layer above; None: at the
            same rate.
        lora: Train low-rank adapters of the backbone instead of its weights: ``{"rank": 8, "alpha": 16}``, see
            `zsbir.engine.lora.Lora`; None: train the weights.
        ema: Decay, in (0, 1), of an average of the weights, which is validated and saved as ``best``; None: no average.
    """

    epochs: Count = 20
    batch_size: Count = 64
    samples_per_epoch: Count | None = None
    sampling: Literal["triplet", "mixed", "balanced"] = "triplet"
    per_class: Count = 2
    anchor: Literal["sketch", "class"] = "sketch"
    sketch_share: OpenProportion = 1 / 3
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Positive = 1e-4
    weight_decay: NonNegative = 0.0
    schedule: Literal["constant", "cosine", "exponential"] = "constant"
    decay: Positive = 1e-3
    warmup: Natural = 0
    clip: Positive | None = None
    augment: Literal["none", "affine", "affine-corner"] = "none"
    augment_probability: Proportion = 0.7
    sketch_fill: Proportion | None = 1.0
    photo_fill: Proportion | None = None
    freeze: tuple[str, ...] = ()
    fixed_norm: bool = False
    layer_decay: Proportion | None = None
    lora: Mapping[str, Any] | None = None
    ema: OpenProportion | None = None


@dataclass(frozen=True)
class RecipeSet:
    """Settings that belong together, chosen by name: ``zsbir train METHOD --recipe small-data``.

    Attributes:
        options: Arguments of the method.
        recipe: Fields of its recipe.
    """

    options: Mapping[str, Any]
    recipe: Mapping[str, Any]


class Method(Encoder, ModelHubMixin):
    """A published system: embeds both domains, and gives its training losses.

    Attributes:
        recipe: The published training settings.
        recipes: Other settings by name.
        trains: False for a method without gradient, which `fit` alone makes ready.
        has_unused_parameters: True if some trainable parameters get no gradient in some steps; distributed training
            then looks for them.
        select_from: The first epoch, from 0, that ``select_on="accuracy"`` may choose.
        embeds_with: The parts that embed: a released checkpoint must hold all of their weights.
        logged: Other figures of the last step than losses (schedules, accuracies), by name; set by `forward`.
    """

    recipe: Recipe = Recipe()
    recipes: Mapping[str, RecipeSet] = {}
    trains: bool = True
    has_unused_parameters: bool = False
    select_from: int = 0
    embeds_with: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.logged: dict[str, Tensor | float] = {}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted loss terms by name, each a scalar; the trainer minimises their sum.

        It must be called `forward` because distributed training hooks into that.
        """
        raise ZsbirError(f"{type(self).__name__} has nothing to train: evaluate it as it is, or train another method")

    def classify(self, images: Tensor) -> Tensor:
        """Return (B, C) logits over the training classes, for ``select_on="accuracy"``, if the method has them."""
        raise ZsbirError(f"{type(self).__name__} has no classifier")

    def fit(self, dataset: Dataset, *, seed: int = 0, **options: Any) -> None:
        """Measure what the method learns from seen classes without gradient; for most methods nothing.

        Args:
            dataset: Its training part is measured.
            seed: Of the order, where it matters.
            **options: As for `zsbir.methods.embedding.apply`: device, batch_size, workers, progress, cache.
        """

    def on_epoch(self, epoch: int, epochs: int) -> None:
        """Set schedules at the start of an epoch, counted from 0; they may depend on nothing else (exact resume)."""

    def param_groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups; by default all trainable parameters at the recipe's rate."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def save(self, folder: str | Path) -> None:
        """Write spec and weights to a folder that `zsbir.load` reads; once whole, it replaces the one that is there."""
        saving.save(self, folder)

    def _save_pretrained(self, save_directory: Path) -> None:
        # Called by ModelHubMixin's push_to_hub and save_pretrained, which make the folder.
        saving.write_method(save_directory, self)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, revision: str | None = None, **options: Any) -> Method:
        # Called by ModelHubMixin.from_pretrained, with a local folder or the name of a repository on the hub.
        if Path(model_id).is_dir():
            return load(model_id)
        known = ("cache_dir", "force_download", "local_files_only", "token")
        return load(snapshot_download(model_id, revision=revision, **{k: options[k] for k in known if k in options}))

    def released_state(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of the authors' checkpoint under this method's names, and remove them from `given`.

        Args:
            given: All tensors of the file by dotted name, see `zsbir.methods.released.load_released`.
        """
        raise ZsbirError(f"{type(self).__name__} has no released checkpoint that zsbir can read")

    @classmethod
    def published_for(cls, dataset: str) -> dict[str, Any]:
        """Return the constructor's arguments published for a dataset, given by its registry name."""
        return {}

    def negative_weights(self, classes: Sequence[str]) -> Tensor | None:
        """Return (C, C) weights for drawing the negative class (rows: the anchor's class), or None for uniform."""
        return None


PACKAGED = "doodle"
"""The method whose trained weights are part of the package."""


def load(path: str | Path, device: torch.device | str = "cpu") -> Method:
    """Rebuild a trained method from a checkpoint, in evaluation mode.

    Args:
        path: A run folder (its ``best``, or else ``last``), a checkpoint folder, or ``"doodle"``, the model that comes
            with zsbir.
        device: Where to put it.

    Returns:
        zsbir.methods.base.Method: Built from its own spec and filled with the saved weights. This needs neither the
        network nor the weights it was trained from.

    Raises:
        ZsbirError: If there is no such checkpoint or device, or the checkpoint is damaged or of a newer zsbir.
    """
    place = as_device(device)
    if str(path) == PACKAGED and not Path(path).exists():
        return METHODS.build(PACKAGED).to(place).eval()
    folder = saving.resolve(path)
    with reading("checkpoint", folder):
        record = saving.read_method(folder)
        with without_weights():
            method = METHODS.build(record["method"])
        saving.fill(method, folder / "model.safetensors")
        method.preprocess = Preprocess(**record["preprocess"])
    return method.to(place).eval()
