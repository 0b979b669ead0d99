"""Make `doodle`, the model that comes with zsbir: heads on Lite0's features, trained on drawings and photos.

It learns from TU-Berlin's sketches and QuickDraw's strokes with photos of Caltech-101 and Tiny ImageNet (76 classes),
and is measured on Sketchy and PACS, which it never sees. Features are computed once and kept under ``--work``: a run
that was stopped goes on where it was.

    python benchmarks/doodle.py --data DATA --work WORK

``DATA`` holds ``tuberlin76`` (``sketch/CLASS``, ``photo/CLASS``), ``quickdraw`` (``WORD.ndjson``), and to measure
``sketchy-mini`` and ``pacs6``.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from _results import table, write
from PIL import Image, ImageFilter, ImageOps
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import zsbir
from zsbir.data.images import load_image
from zsbir.data.preprocess import crop_pad
from zsbir.data.strokes import StrokeStyle, load_drawing
from zsbir.evaluation import evaluate_embeddings
from zsbir.methods.contrastive import Contrastive
from zsbir.names import canonical
from zsbir.types import Batch

SIDE = 224
LITE0_WIDTH = 1280
SHOWN = range(12, 16)  # the drawings of a word that `drawings.py` chooses from: no model learns from them
POSES = 4  # of each of QuickDraw's drawings
SHARES = (0.3, 0.3, 0.4)  # of TU-Berlin's sketches as they are, the same posed, and QuickDraw's drawings
OPTIONS = {"temperature": 0.07}
HEADS = 3
KEEP = 0.5  # of the length of the heads' outputs: the standardised features themselves
WORDS = {  # QuickDraw's words for the classes that it calls otherwise
    "car_sedan": "car", "flower_with_stem": "flower", "head-phones": "headphones", "tablelamp": "floor lamp",
    "bear_animal": "bear", "socks": "sock", "ice-cream-cone": "ice cream", "rollerblades": "rollerskates",
}  # fmt: skip
MORE_WORDS = {"cup": ["cup", "coffee cup", "mug"], "bus": ["bus", "school bus"]}

View = Callable[[str], Image.Image]


def ink_crop(image: Image.Image, margin: float) -> Image.Image:
    """Return the drawn part in the middle of a white square, with a margin given as a share of its longer side."""
    drawn = np.asarray(image.convert("L")) < 200
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    if not len(rows):
        return image
    image = image.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    side = int(max(image.size) * (1 + 2 * margin)) + 1
    square = Image.new("RGB", (side, side), (255, 255, 255))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def drawn(file: str) -> Image.Image:
    """Return a sketch cropped to its ink."""
    return ink_crop(load_image(file), 0.06)


def cropped(file: str) -> Image.Image:
    """Return a sketch as the model prepares it."""
    return Image.fromarray(crop_pad(load_image(file), SIDE))


def posed(file: str, *pose: int) -> Image.Image:
    """Return a drawing with another line width, mirrored, turned, stretched, in another margin, sometimes blurred."""
    rng = np.random.default_rng([sum(map(ord, "s3")), sum(map(ord, file)) * 7919 % 100003, *pose])
    strokes = ".ndjson#" in file
    style = StrokeStyle(256, float(rng.uniform(1.8, 8)), 0.08) if strokes else StrokeStyle()
    image = load_drawing(file, style) if strokes else load_image(file)
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    if not strokes:
        thicker = rng.random()
        if thicker < 0.5:
            image = image.filter(ImageFilter.MinFilter(3 if thicker < 0.35 else 5))
    image = ink_crop(image, 0.02).resize((300, 300), Image.Resampling.BILINEAR)
    angle = rng.normal(0, 10)
    across, down = rng.uniform(0.8, 1.2, 2)
    image = image.rotate(angle, Image.Resampling.BILINEAR, expand=True, fillcolor=(255, 255, 255))
    image = image.resize((int(image.width * across), int(image.height * down)), Image.Resampling.BILINEAR)
    image = ink_crop(image, rng.uniform(0.02, 0.2))
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2))) if rng.random() < 0.25 else image


class Lower(nn.Module):
    """The frozen part of a model."""

    def __init__(self, model: Contrastive) -> None:
        super().__init__()
        self.backbone = model.backbone

    def forward(self, images: Tensor) -> Tensor:
        """Return (n, D) features of normalised images."""
        return self.backbone.lower(images)


def fast(model: Contrastive) -> nn.Module:
    """Return the frozen part with its normalisations folded into its convolutions: the same to 2e-6, and faster."""
    traced = torch.jit.trace(Lower(model).eval(), torch.zeros(2, 3, SIDE, SIDE))
    frozen: nn.Module = torch.jit.freeze(traced)
    return frozen


@torch.no_grad()
def features(model: Contrastive, name: str, files: Sequence[str], view: View, work: Path) -> Tensor:
    """Return (n, D) features of the frozen backbone, from `work` where they are there."""
    kept = work / f"{name}.npy"
    if not kept.is_file():
        lower, rows = fast(model), []
        for start in tqdm(range(0, len(files), 16), desc=name):
            images = [view(f).resize((SIDE, SIDE), Image.Resampling.BILINEAR) for f in files[start : start + 16]]
            pixels = torch.from_numpy(np.stack([np.asarray(i, dtype=np.float32) / 255 for i in images]))
            rows.append(lower(model.preprocess.normalise(pixels.permute(0, 3, 1, 2))).half().numpy())
        work.mkdir(parents=True, exist_ok=True)
        np.save(kept, np.concatenate(rows))
    return torch.from_numpy(np.load(kept)).float()


def listing(root: Path, domain: str, known: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the files of the class folders under ``root/domain``, sorted, and their classes' positions in `known`."""
    files = [(known.index(folder.name), str(file)) for folder in sorted((root / domain).iterdir())
             if folder.name in known for file in sorted(folder.iterdir())]  # fmt: skip
    return [file for _, file in files], np.array([label for label, _ in files])


def quickdraw(root: Path, known: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the drawings of every word that is one of the classes, and their classes' positions in `known`."""
    word_of = {c: MORE_WORDS.get(c, [WORDS.get(c, c.replace("_", " "))]) for c in known}
    there = {file.stem.replace("-", " "): file for file in root.glob("*.ndjson")}
    pairs = [
        (f"{there[word]}#{i}", label)
        for label, name in enumerate(known)
        for word in (w.replace("-", " ") for w in word_of[name])
        if word in there
        for i in range(len(there[word].read_bytes().splitlines()))
        if i not in SHOWN
    ]
    return [file for file, _ in pairs], np.array([label for _, label in pairs])


class Pool:
    """Features of one kind of image by class."""

    def __init__(self, vectors: Tensor, labels: np.ndarray, classes: int) -> None:
        self.vectors = vectors
        self.rows = [np.flatnonzero(labels == c) for c in range(classes)]

    def draw(self, label: int, rng: np.random.Generator) -> Tensor:
        """Return a random vector of a class."""
        return self.vectors[rng.choice(self.rows[label])]


def train(model: Contrastive, sketches: Sequence[Pool], shares: Sequence[float], photos: Pool, seen: Sequence[int],
          steps: int, seed: int) -> None:  # fmt: skip
    """Train a head on class-balanced batches: 32 classes, two drawings and two photos of each.

    Args:
        model: Its backbone is frozen.
        sketches: Kinds of drawing.
        shares: How often a drawing is of each kind, where its class has that kind.
        photos: The photos.
        seen: The classes to train on.
        steps: How many.
        seed: Of the draws and of dropout.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.head.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in tqdm(range(steps), desc="head"):
        label = np.repeat(rng.permutation(seen)[:32], 2)
        chosen = []
        for c in label:
            weights = np.array([s * bool(len(p.rows[c])) for s, p in zip(shares, sketches, strict=True)])
            chosen.append(sketches[rng.choice(len(sketches), p=weights / weights.sum())].draw(c, rng))
        photo = torch.stack([photos.draw(c, rng) for c in label])
        where = torch.from_numpy(label)
        loss = sum(model(Batch(torch.stack(chosen), photo, where, where)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


@torch.no_grad()
def merged(heads: Sequence[nn.Linear], vectors: Tensor) -> nn.Linear:
    """Return one linear layer as wide as one head that gives nearly what the heads and the kept features give together.

    Args:
        heads: Trained from other seeds.
        vectors: (n, D) standardised features: on these the principal directions of all outputs side by side are found.
    """
    width = vectors.shape[1]
    outputs: list[tuple[Tensor, Tensor, float]] = [(h.weight, h.bias, len(heads) ** -0.5) for h in heads]
    outputs.append((torch.eye(width), torch.zeros(width), KEEP))
    scales = [share / (vectors @ weight.T + bias).norm(dim=1).mean() for weight, bias, share in outputs]
    weight = torch.cat([scale * weight for scale, (weight, _, _) in zip(scales, outputs, strict=True)])
    bias = torch.cat([scale * bias for scale, (_, bias, _) in zip(scales, outputs, strict=True)])
    together = F.normalize(vectors @ weight.T + bias, dim=1)
    most = torch.linalg.eigh(together.T @ together).eigenvectors.flip(1)[:, : heads[0].out_features]
    found = nn.Linear(width, heads[0].out_features)
    found.weight.copy_(most.T @ weight)
    found.bias.copy_(most.T @ bias)
    return found


def report(data: Path, work: Path, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return mAP@all (`standard`) on Sketchy's classes that are among those trained on, on its others, and on PACS's.

    "Lite0 alone" sees sketches and photos squashed, and its last features are compared as they are.
    """
    model = zsbir.build("doodle").eval()
    assert isinstance(model, Contrastive)
    sketchy = data / "sketchy-mini" / "256x256"
    inner = next((sketchy / "photo").iterdir()).name
    names = sorted(folder.name for folder in (sketchy / "photo" / inner).iterdir())
    known = {canonical(name) for name in classes}
    parts = {
        "Sketchy, never seen": [name for name in names if canonical(name) not in known],
        "Sketchy, seen": [name for name in names if canonical(name) in known],
        "PACS, never seen": ["giraffe", "horse", "house"],
    }
    found: dict[str, dict[str, float]] = {}
    for name, root, inside, every in (("sketchy", sketchy, inner, names), ("pacs", data / "pacs6", "", None)):
        every = every or sorted(folder.name for folder in (root / "photo").iterdir())
        drawings, drawing_labels = listing(root, f"sketch/{inside}", every)
        first = np.array([i for i, c in enumerate(drawing_labels) if (drawing_labels[:i] == c).sum() < 10])
        drawings, drawing_labels = [drawings[i] for i in first], drawing_labels[first]
        photos, photo_labels = listing(root, f"photo/{inside}", every)
        plain = features(model, f"{name}-plain", drawings, load_image, work)
        seen = features(model, f"{name}-cropped", drawings, cropped, work)
        gallery = features(model, f"{name}-photos", photos, load_image, work)
        with torch.no_grad():
            ours = model.embed(seen, "sketch").vector, model.embed(gallery, "photo").vector
        lite0 = plain[:, -LITE0_WIDTH:], gallery[:, -LITE0_WIDTH:]
        for part, wanted in parts.items():
            if part.lower().startswith(name):
                keep = [np.isin(labels, [every.index(c) for c in wanted]) for labels in (drawing_labels, photo_labels)]
                found[f"{part}: {len(wanted)} classes"] = {
                    kind: round(_score(q[keep[0]], drawing_labels[keep[0]], g[keep[1]], photo_labels[keep[1]]), 3)
                    for kind, (q, g) in {"Lite0 alone": lite0, "doodle": ours}.items()
                }
    return found


def _score(queries: Tensor, query_labels: np.ndarray, gallery: Tensor, gallery_labels: np.ndarray) -> float:
    found = evaluate_embeddings(queries, query_labels, gallery, gallery_labels, ks=())
    return float(found["standard"]["mAP@all"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(zsbir.__file__).parent / "models" / "doodle")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--measure", action="store_true", help="measure the model that is there")
    arguments = parser.parse_args()
    classes = sorted(folder.name for folder in (arguments.data / "tuberlin76" / "photo").iterdir())
    if not arguments.measure:
        make(arguments.data, arguments.work, arguments.out, arguments.steps, classes)
    found = report(arguments.data, arguments.work, classes)
    lines = [[part, *(f"{value:.3f}" for value in values.values())] for part, values in found.items()]
    write("doodle", {"mAP@all": found}, table(["mAP@all", "Lite0 alone", "doodle"], lines))


def make(data: Path, work: Path, out: Path, steps: int, classes: Sequence[str]) -> None:
    """Train the heads on all classes, merge them, and write what training gave in half precision."""
    torch.manual_seed(0)
    model = zsbir.build("contrastive", backbone={"name": "lite0", "pretrained": True, "pool": "stages"}, **OPTIONS)
    assert isinstance(model, Contrastive)
    model.eval()
    sketches, sketch_labels = listing(data / "tuberlin76", "sketch", classes)
    photos, photo_labels = listing(data / "tuberlin76", "photo", classes)
    drawings, drawing_labels = quickdraw(data / "quickdraw", classes)
    poses = [features(model, f"quickdraw-{i}", drawings, lambda f, i=i: posed(f, i), work) for i in range(POSES)]
    kinds = [
        Pool(features(model, "tuberlin", sketches, drawn, work), sketch_labels, len(classes)),
        Pool(features(model, "tuberlin-posed", sketches, posed, work), sketch_labels, len(classes)),
        Pool(torch.cat(poses), np.tile(drawing_labels, POSES), len(classes)),
    ]
    photo_pool = Pool(features(model, "photos", photos, load_image, work), photo_labels, len(classes))
    head, heads = model.head.linear, []
    assert isinstance(head, nn.Linear)
    for seed in range(HEADS):
        head.reset_parameters()
        train(model, kinds, SHARES, photo_pool, range(len(classes)), steps, seed)
        heads.append(copy.deepcopy(head))
    with torch.no_grad():
        standard = model.head.standard
        drawn_and_photos = [standard["sketch"](kinds[1].vectors), standard["photo"](photo_pool.vectors)]
    model.head.linear = merged(heads, torch.cat(drawn_and_photos))
    trained = {n: v.half().contiguous() for n, v in model.state_dict().items() if not n.startswith("backbone.")}
    out.mkdir(parents=True, exist_ok=True)
    save_file(trained, out / "model.safetensors")
    print(f"{out}: {sum(v.nbytes for v in trained.values()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
