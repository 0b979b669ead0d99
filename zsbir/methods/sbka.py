"""SBKA: symmetrical bidirectional knowledge alignment (arXiv 2312.10320).

A student network embeds sketches and photos: its vector x goes to a new head over the seen classes (y) and to the
pretrained head over ImageNet (y_kd). A teacher, the same pretrained network, is frozen except for its head (t). With
σ the softmax, p = w · the semantic similarity of the sample's class to the ImageNet labels, and z ~ N(0, 1)::

    SCE(a, b) = mean over the photos of  −Σ_c σ(b + p)_c · log σ(a)_c
    L  = CE(y, class) + SCE(y_kd, t) + 0.1 · KL(σ(z) ‖ σ(x))
    L₂ = SCE(t, y_kd)                        after the warm-up, in which the teacher's head is fixed

The published code runs two optimisers with ``retain_graph``: the student follows the gradient of L + L₂ (L₂ detaches
nothing), the teacher's head that of L₂ alone, since the gradient of L is zeroed there first. The sum L + L₂ with t
detached inside L has exactly these gradients, so one optimiser with two parameter groups does the same.

Deviations: augmentation is about the image's centre, with white around sketches and the border around photos
(``published=True``: about the corner, with black); the teacher's trunk stays in evaluation mode and without gradient
(for ConvNeXt this is the same); the default matcher chooses K on the gallery without labels, where the paper reports
the best of a grid on the test labels.

With a `head`, student and teacher share a frozen trunk: x is one linear layer on the trunk's features, standardised by
domain, and the student's ImageNet head sits on x. The losses stay; see ``--recipe small-data``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsbir.arguments import Natural, NonNegative, Positive, Ratio
from zsbir.backbones.base import Backbone, build_backbone
from zsbir.backbones.standard import SharedHead
from zsbir.backbones.weights import timm_names
from zsbir.data.preprocess import Preprocess
from zsbir.data.semantic import semantic_prior
from zsbir.errors import ZsbirError
from zsbir.losses import soft_cross_entropy
from zsbir.methods import METHODS
from zsbir.methods.base import Method, Recipe, RecipeSet
from zsbir.methods.released import take
from zsbir.types import Batch, Domain, Features


class Preset(NamedTuple):
    """What is published for one dataset.

    Attributes:
        warmup: Last epoch, from 0, in which the teacher's head is fixed.
        sketch_share: Share of sketches in a batch.
        batch_size: Images a batch.
        prior: Weight of the semantic similarity; 0: none.
        teacher_lr: Learning rate of the teacher's head.
    """

    warmup: int
    sketch_share: float
    batch_size: int
    prior: float
    teacher_lr: float


PRESETS = {
    "sketchy": Preset(warmup=9, sketch_share=1 / 3, batch_size=210, prior=0.3, teacher_lr=1e-4),
    "tuberlin": Preset(warmup=5, sketch_share=1 / 10, batch_size=210, prior=0.3, teacher_lr=5e-5),
    "quickdraw": Preset(warmup=3, sketch_share=1 / 10, batch_size=110, prior=0.0, teacher_lr=1e-4),
}


@METHODS.register("sbka")
class SBKA(Method):
    """SBKA: a student and a teacher that teach each other's ImageNet head, and one-to-many cluster matching.

    Args:
        classes: Names of the seen classes; a label is a position in it. Needed to train.
        backbone: Any timm model with a linear classifier, or ``lite0``: name or mapping.
        pretrained: Load its pretrained weights, head included (timm's need the network once).
        weights: A local weights file for the backbone, head included, instead.
        preset: Published settings: ``"sketchy"``, ``"tuberlin"`` or ``"quickdraw"``; `zsbir train` takes those of its
            dataset.
        warmup: Last epoch, from 0, in which the teacher's head is fixed; None: the preset's.
        prior: Weight of the semantic similarity, 0 for none; None: the preset's.
        noise: Weight of the KL term.
        head: Width of x, a linear layer on each domain's frozen features; 0: the trunk's own features, as published.
        dropout: Share of the features hidden from this layer in a training step.
        temperature: The classes' logits are cosines divided by it; None: a linear layer, as published.
        image_size: Side of the input in pixels; None: the model's own.
        label_synsets: WordNet ids of the pretrained head's labels in order; None: ImageNet-1k.
        published: As the release augments: about the corner, with black outside.
        wordnet: Folder of WordNet's files, for classes or labels that the shipped tables lack.
        preprocess: Changes to how images are prepared, see `zsbir.data.preprocess.Preprocess`.

    Raises:
        ZsbirError: For an unknown model, or one without a linear classifier.
    """

    matcher: str | Mapping[str, Any] = {"name": "one-to-many", "subspaces": 2, "clusters": "auto"}
    recipes: Mapping[str, RecipeSet] = {
        "small-data": RecipeSet(
            {
                "backbone": {"name": "lite0", "pool": "stages"}, "head": 512, "temperature": 0.1, "warmup": 5,
            },
            {
                "epochs": 12, "batch_size": 128, "sketch_share": 0.5, "optimizer": "adamw", "lr": 1e-3,
                "weight_decay": 1e-2, "schedule": "cosine", "augment": "none",
            },
        )
    }  # fmt: skip
    embeds_with = ("student",)
    recipe = Recipe(
        epochs=20, batch_size=210, sampling="mixed", sketch_share=1 / 3, optimizer="adam", lr=1e-4, weight_decay=5e-4,
        schedule="exponential", decay=1e-3, augment="affine", augment_probability=0.7,
    )  # fmt: skip
    student: Any
    teacher: Any
    has_unused_parameters: bool = True  # the teacher's head, up to the warm-up

    def __init__(
        self,
        classes: Sequence[str] = (),
        backbone: str | Mapping[str, Any] = "convnextv2_tiny.fcmae_ft_in1k",
        pretrained: bool = False,
        weights: str | None = None,
        preset: Literal["sketchy", "tuberlin", "quickdraw"] = "sketchy",
        warmup: int | None = None,
        prior: NonNegative | None = None,
        noise: NonNegative = 0.1,
        head: Natural = 0,
        dropout: Ratio = 0.7,
        temperature: Positive | None = None,
        image_size: int | None = None,
        label_synsets: Sequence[str] | None = None,
        wordnet: str | None = None,
        published: bool = False,
        preprocess: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        settings = PRESETS[preset]
        self.classes, self.preset, self.noise, self.wordnet = tuple(classes), preset, noise, wordnet
        self.prior_weight = settings.prior if prior is None else prior
        self.warmup = settings.warmup if warmup is None else warmup
        self.select_from = self.warmup + 1  # published: the best checkpoint is one after the warm-up
        self.label_synsets = None if label_synsets is None else tuple(label_synsets)
        self.temperature = temperature
        self.recipe = replace(self.recipe, batch_size=settings.batch_size, sketch_share=settings.sketch_share)
        if published:
            self.recipe = replace(self.recipe, augment="affine-corner", sketch_fill=0.0, photo_fill=0.0)
        self.student = build_backbone(backbone, pretrained, weights, image_size, classifier=True)
        pretrained_head = self.student.head
        if not isinstance(pretrained_head, nn.Linear):
            raise ZsbirError(f"sbka needs a model with a linear classifier, not {type(pretrained_head).__name__}")
        self.shared = SharedHead(self.student.dim, head, dropout) if head else None
        self.labels = nn.Linear(head, pretrained_head.out_features) if head else None
        if head:
            self.student.train_last(0)
        # The teacher shares a frozen trunk.
        trunk = [part for part in self.student.net.children() if part is not pretrained_head] if head else []
        self.teacher = copy.deepcopy(self.student, {id(part): part for part in trunk}).requires_grad_(False).eval()
        self.teacher.head.requires_grad_(True)
        self.head = nn.Linear(head or self.student.dim, max(len(self.classes), 1))
        nn.init.trunc_normal_(self.head.weight, std=2e-5)
        nn.init.zeros_(self.head.bias)
        self.preprocess = Preprocess.of(self.student, preprocess)
        # Filled at the first training step: a saved model must load without WordNet.
        self.similarity: nn.Buffer = nn.Buffer(torch.zeros(len(self.classes), pretrained_head.out_features))
        self.has_similarity: nn.Buffer = nn.Buffer(torch.zeros((), dtype=torch.bool))
        self.aligning = False

    @property
    def trunk(self) -> Backbone | None:
        """The trunk, if it is frozen."""
        return self.student if self.shared is not None else None

    def embed(self, images: Tensor, domain: Domain) -> Features:
        """Return the student's vectors, L2-normalised; the network is the same for both domains."""
        seen = self.student.features(self.preprocess.normalise(images)).vector
        return Features(F.normalize(seen, dim=1) if self.shared is None else self.shared.embed(seen, domain))

    def classify(self, images: Tensor) -> Tensor:
        """Return the (B, C) logits over the seen classes, for model selection on held-out drawings of them."""
        seen = self.student.features(self.preprocess.normalise(images)).vector
        return self._logits(seen if self.shared is None else self.shared(seen, "sketch"))

    def _logits(self, vector: Tensor) -> Tensor:
        if self.temperature is None:
            logits: Tensor = self.head(vector)
            return logits
        return F.linear(F.normalize(vector, dim=1), F.normalize(self.head.weight, dim=1)) / self.temperature

    def train(self, mode: bool = True) -> SBKA:
        """Switch the student; the teacher always stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def on_epoch(self, epoch: int, epochs: int) -> None:
        """Let the teacher's head learn after the warm-up epoch."""
        self.aligning = epoch > self.warmup

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``classification``, ``distillation``, ``noise`` and, after the warm-up, ``alignment``."""
        if not self.classes:
            raise ZsbirError("sbka needs the names of the seen classes to train: build it with classes=[...]")
        images = self.preprocess.normalise(torch.cat([batch.sketch, batch.photo]))
        label = torch.cat([batch.label, batch.photo_label])
        is_photo = torch.cat([torch.zeros(len(batch.label)), torch.ones(len(batch.photo_label))]).to(images.device)
        seen = self.student.features(images).vector
        if self.shared is None or self.labels is None:
            vector, student = seen, self.student.head(seen)
            with torch.no_grad():
                known = self.teacher.features(images).vector
        else:
            sketch, photo = seen.split([len(batch.label), len(batch.photo_label)])
            vector = torch.cat([self.shared(sketch, "sketch"), self.shared(photo, "photo")])
            student, known = self.labels(vector), seen.float()
        known = known[:, -self.teacher.head.in_features :]  # the last, of several stages side by side
        with torch.set_grad_enabled(self.aligning and torch.is_grad_enabled()):
            teacher = self.teacher.head(known)
        prior = self._prior()[label]
        logits = self._logits(vector)
        terms = {
            "classification": F.cross_entropy(logits, label),
            "distillation": soft_cross_entropy(student, F.softmax(teacher.detach() + prior, dim=1), is_photo),
        }
        if self.noise:
            target = F.softmax(torch.randn_like(vector), dim=1)
            terms["noise"] = self.noise * F.kl_div(F.log_softmax(vector, dim=1), target, reduction="batchmean")
        if self.aligning:
            terms["alignment"] = soft_cross_entropy(teacher, F.softmax(student + prior, dim=1), is_photo)
        self.logged = {"accuracy": (logits.argmax(1) == label).float().mean().detach()}
        return terms

    def param_groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Return the student with both heads, and the teacher's head at its own share of the recipe's rate."""
        share = PRESETS[self.preset].teacher_lr / type(self).recipe.lr
        teacher = list(self.teacher.head.parameters())
        known = {id(parameter) for parameter in teacher}
        student = [p for p in self.parameters() if p.requires_grad and id(p) not in known]
        return [{"params": student}, {"params": teacher, "lr": recipe.lr * share}]

    @classmethod
    def published_for(cls, dataset: str) -> dict[str, Any]:
        """Return the preset of the dataset's family: ``"quickdraw"`` for ``"quickdraw-30"``."""
        family = dataset.partition("-")[0]
        return {"preset": family} if family in PRESETS else {}

    def released_state(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the student and its head over the seen classes, of the release's ``model_best.pth.tar``."""
        net = take(given, "state_dict.module.")
        head = take(net, "linear.", "head.")
        return take(timm_names(self.student.net, net), "", "student.net.") | head

    def _prior(self) -> Tensor:
        """Return what is added to the logits of a target, by class: (C, labels)."""
        if self.prior_weight and not self.has_similarity:
            if self.label_synsets is None and self.teacher.head.out_features != 1000:
                raise ZsbirError(
                    f"sbka: the backbone has {self.teacher.head.out_features} labels, not ImageNet's 1,000: give "
                    "label_synsets and wordnet, or prior=0"
                )
            found = semantic_prior(self.classes, self.label_synsets, self.wordnet, self.preset)
            if found.similarity.shape != self.similarity.shape:
                given, labels = found.similarity.shape[1], self.similarity.shape[1]
                raise ZsbirError(f"sbka: {given} label_synsets for {labels} labels")
            self.similarity.copy_(torch.from_numpy(found.similarity))
            self.has_similarity.fill_(True)
        return self.prior_weight * self.similarity
