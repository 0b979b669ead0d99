"""PuXIM: purified cross-domain matching, "mask and match".

Purified Zero-Shot Sketch-Based Image Retrieval, IEEE Transactions on Multimedia, and its released code. A masker (the
VxL sampler: CLIP Surgery with the class name) finds the photo patches that show the class, and one encoder for both
domains learns with three terms. With sketch s, photo p of its class, photo n of another, class tokens f, patch tokens
t (N, D) and masks m (N,)::

    L_tri = max(0, ‖f(s) − f(p)‖ − ‖f(s) − f(n)‖ + 1)                     match="mask"
          = max(0, cos-dist(f(s), f(p)) − cos-dist(f(s), f(n)) + 0.2)     match="non-mask", without L_rec
    L_rec = mean over p and n of (t − t·m)²
    L_int = cross-entropy of the interaction decoder: 1 for (s, p), 0 for (s, n)
    loss  = L_tri + 0.05·L_rec + 0.1·L_int

To embed, the encoder alone runs: no text, no mask, no decoder.

With a `head`, for little data, the encoder is a convolutional net whose map gives the patch tokens, and their mean the
class token; both go through one linear layer after each domain's features are standardised, and the class token has
mean square 1, as a ViT's last norm leaves it. Its attention to a patch is their cosine. See ``--recipe small-data``.

Deviations from the release:

- The interaction decoder attends over tokens; the release's layers mix the images of a batch (``decoder="batch"``).
- The batch size is 32; the release's is 2, at the same rate.
- The release also loads a second sketch of the class; that is left out. Photos are drawn evenly from all of a class;
  the release never draws the first file.
- The best checkpoint is chosen on held-out seen classes; the release chooses it on the test classes:
  ``select_on="test"``.
- Masks are made from photos normalised as CLIP expects, with class names as people say them; the release gives CLIP
  the encoder's images and the dataset's names. Texts are encoded once per class, with the same result.
- ``published=True`` turns back decoder, batch size, names and CLIP's images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from zsbir.arguments import Count, Natural, NonNegative, Ratio
from zsbir.backbones import BACKBONES
from zsbir.backbones.base import Backbone, build_backbone
from zsbir.backbones.standard import SharedHead
from zsbir.backbones.weights import vit_names
from zsbir.data.preprocess import Preprocess
from zsbir.errors import ZsbirError
from zsbir.losses import batch_triplet_loss, cosine_triplet_loss, reconstruction_loss, triplet_loss
from zsbir.maskers import MASKERS
from zsbir.maskers.base import Masker, MaskRequest, masker_spec
from zsbir.methods import METHODS
from zsbir.methods.base import Method, Recipe, RecipeSet
from zsbir.methods.released import take
from zsbir.pairs import InteractionDecoder, sequence
from zsbir.types import Batch, Domain, Features


@METHODS.register("puxim")
class PuXIM(Method):
    """Mask and match: CLIP masks the background of photos, one ViT learns to reconstruct, interact and compare.

    Args:
        backbone: The encoder of both domains: name, mapping or instance; it must give tokens.
        pretrained: Start from timm's weights for the encoder, and OpenAI's for CLIP (needs the network once).
        weights: A local file with the encoder's weights instead.
        clip_weights: Weights of the masker's CLIP: a tag of open_clip or a local file. None: see `pretrained`.
        image_size: Side of the input in pixels; None: the backbone's own.
        stem: Average the patch embedding with a convolutional stem, as published. None: if the backbone is the name of
            a timm ViT.
        masker: Name, mapping or instance.
        match: ``"mask"``: Euclidean triplets with margin 1 and L_rec; ``"non-mask"``: cosine with margin 0.2, no masks.
        margin: Another margin.
        reconstruction: Weight of L_rec; 0: without it.
        interaction: Weight of L_int; 0: without it, and without the decoder.
        decoder: What the interaction decoder attends over: ``"tokens"`` (None), or as released ``"batch"``.
        layers: Its layers.
        heads: Its attention heads.
        hidden: Its feed-forward width.
        head: Width of a linear layer on the encoder's class and patch tokens; 0: no layer, as published.
        dropout: Share of the encoder's features hidden from the class token's layer in a training step.
        tune: How many of the encoder's last stages are computed in every step; those below are frozen, and their output
            stored. None: all, as published.
        batch_negatives: Compare every sketch with all photos of the batch, not only with its own two.
        published: Compute as the release does what is left at None; in batches of 2; and ``vxl`` with raw class names
            and photos normalised with 0.5.
        preprocess: Changes to how images are prepared (as published: sketches cropped to the drawing and padded, photos
            bicubic), see `zsbir.data.preprocess.Preprocess`.
    """

    recipes: Mapping[str, RecipeSet] = {
        "small-data": RecipeSet(
            {
                "backbone": {"name": "lite0", "pool": "stages"}, "tune": 2, "head": 256, "batch_negatives": True,
                "margin": 4.5, "masker": "attention", "layers": 1, "hidden": 512,
                "preprocess": {"sketch": "squash", "photo": "squash"},
            },
            {
                "epochs": 5, "batch_size": 32, "samples_per_epoch": None, "anchor": "sketch", "optimizer": "adamw",
                "lr": 2e-3, "weight_decay": 1e-2, "schedule": "cosine", "fixed_norm": True, "freeze": ("encoder.*",),
            },
        )
    }  # fmt: skip
    embeds_with = ("encoder",)
    recipe = Recipe(epochs=50, batch_size=32, samples_per_epoch=5000, anchor="class", lr=1e-5, weight_decay=1e-3)

    def __init__(
        self,
        backbone: str | Mapping[str, Any] | Backbone = "vit_base_patch16_224",
        pretrained: bool = False,
        weights: str | None = None,
        clip_weights: str | None = None,
        image_size: Count | None = None,
        stem: bool | None = None,
        masker: str | Mapping[str, Any] | Masker = "vxl",
        match: Literal["mask", "non-mask"] = "mask",
        margin: NonNegative | None = None,
        reconstruction: NonNegative = 0.05,
        interaction: NonNegative = 0.1,
        decoder: Literal["tokens", "batch"] | None = None,
        layers: Count = 4,
        heads: Count = 4,
        hidden: Count = 1024,
        head: Natural = 0,
        dropout: Ratio = 0.7,
        tune: Natural | None = None,
        batch_negatives: bool = False,
        published: bool = False,
        preprocess: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        decoder = decoder or ("batch" if published else "tokens")
        if published:
            self.recipe = replace(self.recipe, batch_size=2)
        self.encoder = _encoder(backbone, pretrained, weights, image_size, stem)
        if self.encoder.grid is None:
            raise ZsbirError("puxim needs a backbone with patch tokens, such as 'vit_base_patch16_224'")
        self.preprocess = Preprocess.of(self.encoder, preprocess, sketch="crop-pad-released", photo="bicubic")
        if isinstance(masker, (str, Mapping)):
            named = {"name": masker} if isinstance(masker, str) else masker
            released = {"prompts": "raw", "statistics": "half"} if published and named.get("name") == "vxl" else {}
            masker = masker_spec({**released, **named}, clip_weights, pretrained)
        elif clip_weights is not None:
            raise ZsbirError("clip_weights has no effect on a ready masker: give it its weights, or name it instead")
        self.masker = MASKERS.build(masker)
        self.metric, usual = (triplet_loss, 1.0) if match == "mask" else (cosine_triplet_loss, 0.2)
        self.margin = usual if margin is None else margin
        self.weight_rec, self.weight_int = reconstruction if match == "mask" else 0.0, interaction
        if tune is not None:
            self.encoder.train_last(tune)
        self.shared = SharedHead(self.encoder.dim, head, dropout) if head else None
        self.batch_negatives = batch_negatives
        tokens = None if head else self.encoder.example().tokens
        width = head or (self.encoder.dim if tokens is None else int(tokens.shape[2]))
        self.interaction = InteractionDecoder(width, layers, heads, hidden, over=decoder) if interaction else None

    def embed(self, images: Tensor, domain: Domain) -> Features:
        """Return the class token (B, D), patch tokens and grid of (B, 3, H, W) images; one encoder for both domains."""
        # shape[0], not len(): torch.export would take that for a constant.
        return self._headed(self.encoder(self.preprocess.normalise(images)), {domain: images.shape[0]})

    @property
    def trunk(self) -> Backbone:
        """The encoder, whose frozen part can be stored."""
        return self.encoder

    def _headed(self, seen: Features, rows: Mapping[Domain, int]) -> Features:
        """Return class and patch tokens after the head, if there is one, with its attention; `rows` by domain."""
        if self.shared is None:
            return seen
        assert seen.tokens is not None
        sizes = list(rows.values())
        sides = list(zip(rows, seen.vector.split(sizes), seen.tokens.split(sizes), strict=True))
        vector = torch.cat([self.shared(vectors, domain) for domain, vectors, _ in sides])
        tokens = torch.cat([self.shared.patches(patches, domain) for domain, _, patches in sides])
        size = vector.square().mean(dim=1, keepdim=True).sqrt() + 1e-6
        attention = F.cosine_similarity(tokens.detach(), vector.detach()[:, None], dim=2)
        return Features(vector / size, tokens / size[:, None], seen.grid, attention)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms ``triplet``, ``reconstruction`` and ``interaction`` of a batch of triplets."""
        images = self.preprocess.normalise(torch.cat(batch.triplet()))
        masked = self.weight_rec > 0
        attend = masked and self.masker.needs_attention and batch.photo_keep is None and self.shared is None
        seen = self.encoder.with_attention(images) if attend else self.encoder(images)
        features = self._headed(seen, {"sketch": len(batch.sketch), "photo": 2 * len(batch.sketch)})
        sketch, photo, negative = features.vector.chunk(3)
        if self.batch_negatives:
            assert batch.negative_label is not None
            label = torch.cat([batch.photo_label, batch.negative_label])
            triplet = batch_triplet_loss(sketch, torch.cat([photo, negative]), batch.label, label, self.margin)
        else:
            triplet = self.metric(sketch, photo, negative, self.margin)
        terms = {"triplet": triplet}
        tokens = features.tokens
        assert tokens is not None
        if masked:
            keep = self._keep(batch, features)
            terms["reconstruction"] = self.weight_rec * reconstruction_loss(tokens[len(sketch) :], keep)
            self.logged["kept"] = keep.float().mean()
        if self.interaction is not None:
            terms["interaction"] = self.weight_int * self._interact(sequence(features.vector, tokens))
        return terms

    def _interact(self, tokens: Tensor) -> Tensor:
        sketch, *photos = tokens.chunk(3)
        assert self.interaction is not None
        # One after the other: a decoder over the batch must not mix positives with negatives.
        logits = torch.cat([self.interaction(sketch, photo) for photo in photos])
        label = torch.arange(2, device=logits.device).flip(0).repeat_interleave(len(sketch))
        self.logged["interaction_accuracy"] = (logits.detach().argmax(1) == label).float().mean()
        return F.cross_entropy(logits, label)

    @torch.no_grad()
    def _keep(self, batch: Batch, features: Features) -> Tensor:
        """Return (2B, N) bool for the photos and the negatives: stored masks, or what the masker says."""
        if batch.photo_keep is not None and batch.negative_keep is not None:
            return torch.cat([batch.photo_keep, batch.negative_keep])
        assert batch.negative_label is not None
        assert self.encoder.grid is not None
        photos = torch.cat(batch.triplet()[1:])
        names = batch.names(batch.photo_label) + batch.names(batch.negative_label)
        objects = None
        if batch.photo_object is not None and batch.negative_object is not None:
            objects = torch.cat([batch.photo_object, batch.negative_object])
        count = len(batch.sketch)
        attention = None if features.attention is None else features.attention[count:]
        of_photos = Features(features.vector[count:], None, features.grid, attention)
        keep: Tensor = self.masker(MaskRequest(photos, names, self.encoder.grid, of_photos, objects))
        return keep

    def released_state(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the encoder and the decoder of the release's ``best.pth``; its CLIP and unused layers are left."""
        projection = "patch_embed.proj."
        vit = vit_names(take(given, "network.vit.model."))
        given |= take(vit, "mlp_head.", "network.vit.model.mlp_head.")
        vit |= {f"{projection}patch.{k}": vit.pop(projection + k) for k in ("weight", "bias") if projection + k in vit}
        state = take(vit, "", "encoder.vit.net.") | take(given, "network.decoder.fc.", "interaction.classify.")
        for layer in range(4):
            state |= take(given, f"network.decoder.encoder{layer + 1}.layers.0.", f"interaction.layers.{layer}.")
        return state


def _encoder(
    backbone: str | Mapping[str, Any] | Backbone,
    pretrained: bool,
    weights: str | None,
    image_size: int | None,
    stem: bool | None,
) -> Backbone:
    if not isinstance(backbone, Backbone):
        spec = {"name": backbone} if isinstance(backbone, str) else dict(backbone)
        name = str(spec.get("name"))
        bare = name not in BACKBONES and timm.is_model(name.split(".")[0])
        if stem and not bare:
            raise ZsbirError(f"stem=True needs the name of a timm ViT as backbone, not {name!r}: use stem=None")
        family = timm.model_entrypoint(name.split(".")[0]).__module__ if bare else ""
        if bare and (stem or (stem is None and family.endswith(("vision_transformer", "deit")))):
            backbone = {**spec, "name": "conv-stem", "model": name}
        stem = None
    return build_backbone(backbone, pretrained, weights, image_size, stem=stem or None)
