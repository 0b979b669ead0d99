"""Show which patches of photos a masker keeps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional

from zsbir.cli._options import assignments, at_least
from zsbir.errors import ZsbirError

if TYPE_CHECKING:
    from zsbir.backbones.base import Backbone
    from zsbir.maskers.base import Masker


def masks(
    what: Annotated[str, Positional],
    photos: Annotated[Path, Positional],
    label: str | None = None,
    out: Path = Path("masks.png"),
    limit: int = 8,
    backbone: str = "vit_base_patch16_224",
    pretrained: bool = True,
    weights: Path | None = None,
    clip_weights: str | None = None,
    set: tuple[str, ...] = (),
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Draw the heat map and the kept patches over photos: from left to right photo, heat map, what is kept.

    Example: zsbir masks vxl photos --label giraffe --out masks.png

    Args:
        what: The run folder of a trained puxim, or a masker's name, see `zsbir list`.
        photos: A photo, or a folder of photos (with class folders, too).
        label: The class name to look for; default: the name of each photo's folder.
        out: The picture to write.
        limit: How many photos to show, evenly spread over all.
        backbone: For a masker's name: the encoder, which sets the grid and whose attention `attention` reads.
        pretrained: For a masker's name: start encoder and CLIP from pretrained weights.
        weights: For a masker's name: a local file with the encoder's weights.
        clip_weights: Weights of CLIP: a tag of open_clip or a local file; default: the run's, or openai.
        set: For a masker's name: its arguments: key=value ..., such as ratio=0.5.
        device: Where to run.
    """
    import numpy as np
    import torch

    from zsbir.data.batches import to_unit
    from zsbir.data.images import load_image
    from zsbir.data.preprocess import Preprocess, squash
    from zsbir.files import writing
    from zsbir.maskers.base import MaskRequest
    from zsbir.maskers.picture import mask_picture
    from zsbir.methods.embedding import as_device

    files = _photos(photos, limit)
    masker, encoder = _from_run(what, clip_weights) if Path(what).exists() else _by_name(
        what, backbone, pretrained, weights, clip_weights, set
    )  # fmt: skip
    place = as_device(device)
    if encoder.grid is None:
        raise ZsbirError("masks need a backbone with patch tokens, such as --backbone vit_base_patch16_224")
    pixels = np.stack([squash(load_image(file), encoder.image_size) for file in files])
    names = [label or file.parent.name for file in files]
    images = to_unit(torch.from_numpy(pixels).permute(0, 3, 1, 2), place)
    features = None
    with torch.no_grad():
        if masker.needs_attention:
            features = encoder.to(place).eval().with_attention(Preprocess.of(encoder).normalise(images))
        request = MaskRequest(images, names, encoder.grid, features)
        heat = masker.heatmap(request)
        keep = masker(request)
    titles = [f"{file.name}: {name}" for file, name in zip(files, names, strict=True)]
    with writing("picture", out):
        mask_picture(pixels, heat, keep, encoder.grid, titles).save(out)
    print(f"wrote {out}: {len(files)} photos, {100 * float(keep.float().mean()):.0f} % of the patches kept")


def _photos(where: Path, limit: int) -> list[Path]:
    from zsbir.data.formats import kind_of

    at_least(limit=(limit, 1))
    if where.is_file():
        return [where]
    if not where.is_dir():
        raise ZsbirError(f"there is no photo or folder {where}")
    found = sorted(file for file in where.rglob("*") if file.is_file() and kind_of(file.name) in ("image", "svg"))
    if not found:
        raise ZsbirError(f"the folder {where} holds no images")
    step = max(len(found) / limit, 1.0)
    return [found[int(i * step)] for i in range(min(limit, len(found)))]


def _from_run(run: str, clip_weights: str | None) -> tuple[Masker, Backbone]:
    import zsbir
    from zsbir.maskers import MASKERS
    from zsbir.methods.puxim import PuXIM
    from zsbir.registry import spec_of

    method = zsbir.load(run)
    if not isinstance(method, PuXIM):
        raise ZsbirError(f"{run} is a run of {method.spec['name']!r}, which has no masker: give one of puxim")
    own = method.masker
    return own if clip_weights is None else MASKERS.build(spec_of(own), weights=clip_weights), method.encoder


def _by_name(
    name: str, backbone: str, pretrained: bool, weights: Path | None, clip_weights: str | None, words: tuple[str, ...]
) -> tuple[Masker, Backbone]:
    from zsbir.backbones import BACKBONES
    from zsbir.maskers import MASKERS
    from zsbir.maskers.base import masker_spec

    spec = {"name": name, **assignments(words, "--set")}
    masker = MASKERS.build(masker_spec(spec, clip_weights, pretrained))
    options: dict[str, Any] = {}
    if masker.needs_attention:  # of the others, only the grid is used
        options = {"pretrained": pretrained, "weights": None if weights is None else str(weights)}
    return masker, BACKBONES.build(backbone, **options)
