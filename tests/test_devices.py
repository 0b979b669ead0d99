"""On a GPU everything is where it has to be, and gives what the CPU gives; the GPU is pretended where there is none."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import zsbir
from tests.pretended import CUDA, Pretended, label, pretended_cuda, put
from tests.test_contracts import CLASSES, SMALL, TINY_CLIP, TINY_VIT, batch_for, embeddings, method  # noqa: F401
from zsbir.data.batches import RawBatch, affine_matrices, to_batch
from zsbir.evaluation import evaluate_embeddings
from zsbir.evaluation.domain_gap import domain_gap
from zsbir.evaluation.evaluator import Evaluator
from zsbir.evaluation.settings import binary, few_queries, generalised
from zsbir.maskers.base import MaskRequest
from zsbir.methods.embedding import embed
from zsbir.methods.features import StoredFeatures

pytestmark = pytest.mark.cuda
REAL = torch.cuda.is_available()


@contextmanager
def gpu(monkeypatch):
    """Give the device, which is a real one where there is one."""
    if REAL:
        yield torch.device("cuda", 0)
    else:
        with pretended_cuda(monkeypatch) as device:
            yield device


def there(value, device):
    """Return a copy of tensors, or of a record's tensors, on the device."""
    moved = {name: part.to(device) for name, part in vars(value).items() if isinstance(part, torch.Tensor)}
    return replace(value, **moved)


def sides(queries, gallery):
    """Return sketches and photos of three classes, whose tensors are known to be on the CPU."""
    made = embeddings(queries, 1, "sketch"), embeddings(gallery, 2)
    for side in made:
        put(side.vectors, torch.device("cpu"))
    return made


def moved(module, device):
    return module.to(device) if REAL else put(module, device)


def test_what_is_pretended_fails_where_cuda_fails():
    with Pretended():
        x, y = torch.zeros(3, 2, device="cuda"), torch.ones(3, 2)
        assert (x.device, y.device, (x + 1).device, x.cpu().device) == (CUDA, torch.device("cpu"), CUDA, y.device)
        assert (x[torch.tensor([0])] * torch.tensor(2.0)).device == x.device
        for wrong in (
            lambda: x + y, lambda: torch.cat([x, y]), lambda: y[torch.zeros(1, dtype=torch.int64, device="cuda")],
            lambda: torch.rand(2, generator=torch.Generator(), device="cuda"), lambda: torch.nn.Linear(2, 2)(x),
        ):  # fmt: skip
            with pytest.raises(RuntimeError, match="Expected"):
                wrong()
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()


def test_a_step_and_embeddings(method, monkeypatch):  # noqa: F811
    images = torch.rand(2, 3, method.preprocess.size, method.preprocess.size)
    with torch.no_grad():
        expected = [method.eval().embed(images, domain).vector for domain in ("sketch", "photo")]
    batch, trains = batch_for(method), any(p.requires_grad for p in method.parameters())
    with gpu(monkeypatch) as device:
        moved(method, device)
        with torch.no_grad():
            found = [method.embed(images.to(device), domain).vector for domain in ("sketch", "photo")]
        assert {vector.device for vector in found} == {device}
        torch.testing.assert_close([vector.cpu() for vector in found], expected, atol=1e-3, rtol=1e-3)
        if not trains:
            return
        method.train()
        method.on_epoch(0, 2)
        terms = method(there(batch, device))
        assert {term.device for term in terms.values()} == {device}
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 1.0)
        torch.optim.AdamW(method.param_groups(method.recipe)).step()


def test_batches_are_augmented_on_the_device(monkeypatch):
    rng = np.random.default_rng(0)
    raw = RawBatch()
    for name in ("sketch", "photo"):
        raw.images[name] = torch.from_numpy(rng.integers(0, 256, (4, 3, 16, 16), dtype=np.uint8))
        raw.labels[name] = torch.arange(4)
        raw.warp[name] = torch.from_numpy(affine_matrices(4, rng, 0.9, False))
    raw.objects["photo"] = torch.ones(4, 16, 16, dtype=torch.bool)
    expected = to_batch(raw, CLASSES)
    with gpu(monkeypatch) as device:
        found = to_batch(raw, CLASSES, device)
        for name in ("sketch", "photo", "label", "photo_object"):
            assert getattr(found, name).device == device
            torch.testing.assert_close(getattr(found, name).cpu(), getattr(expected, name))


@pytest.mark.filterwarnings("ignore:one-to-many:UserWarning")
@pytest.mark.parametrize("name", [name for name in zsbir.MATCHERS.names() if name != "relation"])
def test_matchers(name, monkeypatch):
    queries, gallery = sides(6, 40)
    expected = zsbir.MATCHERS.build(name).fit(gallery).scores(queries)
    with gpu(monkeypatch) as device:
        for asked in (queries, there(queries, device)):
            matcher = zsbir.MATCHERS.build(name)
            found = matcher.fit(there(gallery, device)).scores(asked)
            assert found.device == device
            torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["puxim", "zse"])
def test_matching_by_a_trained_network(name, tmp_path, monkeypatch):
    made = zsbir.build(name, **SMALL[name]).eval()
    made.save(tmp_path / "run")
    images = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8)
    queries, gallery = embed(made, images[:3], "sketch", tokens=True), embed(made, images[3:], "photo", tokens=True)
    expected = zsbir.MATCHERS.build("relation", weights=tmp_path / "run").fit(gallery).scores(queries)
    with gpu(monkeypatch) as device:
        matcher = zsbir.MATCHERS.build("relation", weights=tmp_path / "run")
        found = matcher.fit(there(gallery, device)).scores(queries)
        assert found.device == device
        torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=1e-3)


def test_every_protocol(monkeypatch):
    queries, gallery = embeddings(20, 1, "sketch"), embeddings(60, 2)
    names = zsbir.PROTOCOLS.names()
    sides = (queries.labels, gallery.labels)
    expected = evaluate_embeddings(queries.vectors, sides[0], gallery.vectors, sides[1], names, (5, 10))
    with gpu(monkeypatch) as device:
        vectors = (queries.vectors.to(device), gallery.vectors.to(device))
        found = evaluate_embeddings(vectors[0], sides[0], vectors[1], sides[1], names, (5, 10))
    for protocol, metrics in expected.items():
        assert found[protocol] == pytest.approx(metrics, abs=1e-6)


def test_reports_of_every_kind(monkeypatch):
    """As commands do it: the photos are on the device, the sketches are not."""
    queries, gallery = sides(12, 40)
    evaluator = Evaluator(("standard", "sbka"), ks=(5,), resamples=20)
    kinds = {
        "plain": lambda q, g: evaluator.evaluate(q, g),
        "matched": lambda q, g: evaluator.like("k-reciprocal").evaluate(q, g),
        "binary": lambda q, g: binary(evaluator, q, g, 8),
        "generalised": lambda q, g: generalised(
            evaluator, (q, g), (embeddings(9, 5, "sketch"), there(seen[1], g.vectors.device))
        ),
        "few": lambda q, g: few_queries(evaluator, q, g),
    }
    seen = tuple(replace(side, classes=("x", "y", "z")) for side in sides(9, 9))
    for name, kind in kinds.items():
        expected = kind(queries, gallery).results
        with gpu(monkeypatch) as device:
            found = kind(queries, there(gallery, device)).results
            gap = domain_gap(queries.vectors, gallery.vectors.to(device))
        assert gap == domain_gap(queries.vectors, gallery.vectors)
        for protocol, metrics in expected.items():
            assert found[protocol] == pytest.approx(metrics, abs=1e-5), name


def test_frozen_layers_are_stored_and_statistics_measured(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for place in (f"{domain}/{name}" for domain in ("sketch", "photo") for name in "abc"):
        (tmp_path / "data" / place).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(
                tmp_path / "data" / place / f"{number}.png"
            )
    shapes = zsbir.DATASETS.build("folder", root=tmp_path / "data", unseen=1, validation=0)
    made = zsbir.build("frozen", **SMALL["frozen"], center=True, scale=True)
    made.fit(shapes)
    expected = made.encode_photos([shapes.test.photos.file(0)])
    with gpu(monkeypatch) as device:
        again = moved(zsbir.build("frozen", **SMALL["frozen"], center=True, scale=True), device)
        again.load_state_dict(made.state_dict())
        again.stored = StoredFeatures(again.trunk, again.preprocess, shapes.variant, tmp_path)
        again.fit(shapes)
        found = again.encode_photos([shapes.test.photos.file(0)])
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)


@pytest.mark.filterwarnings("ignore:the masker 'vxl'")
@pytest.mark.parametrize("name", zsbir.MASKERS.names())
def test_maskers(name, monkeypatch):
    options = {"model": TINY_CLIP, "blocks": 1, "precision": "float32"} if name == "vxl" else {}
    images, objects = torch.rand(3, 3, 32, 32), torch.zeros(3, 32, 32, dtype=torch.bool)
    objects[:, :16] = True
    backbone = zsbir.BACKBONES.build(TINY_VIT).eval()
    request = MaskRequest(images, CLASSES, (2, 2), backbone.with_attention(images), objects)
    torch.manual_seed(0)
    masker = zsbir.MASKERS.build(name, **options)
    expected = masker(request)
    with gpu(monkeypatch) as device:
        if name == "vxl":
            moved(masker.clip, device)
            masker._texts.clear()
        moved(backbone, device)
        features = backbone.with_attention(images.to(device))
        keep = masker(MaskRequest(images.to(device), CLASSES, (2, 2), features, objects.to(device)))
        assert keep.device == device
        assert keep.shape == expected.shape
        if name != "random":
            torch.testing.assert_close(keep.cpu(), expected)


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"decode": "device"}], ids=str)
def test_embedding_of_files(options, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{number}.{'png' if number % 3 else 'jpg'}" for number in range(9)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((40, 50)).save(file)
    made = zsbir.build("frozen", **SMALL["frozen"])
    expected = embed(made, files, "photo").vectors
    with gpu(monkeypatch) as device:
        moved(made, device)
        found = embed(made, files, "photo", workers=2, **options).vectors
        assert found.device.type == "cpu"
        assert REAL or label(next(made.parameters())) == CUDA
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.999
