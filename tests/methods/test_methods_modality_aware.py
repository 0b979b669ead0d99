"""modality-aware: its terms one pair at a time, the exchange, and mixed queries."""

import pytest
import torch
from torch.nn import functional as F

import zsbir
from tests.engine.conftest import same_weights
from zsbir.clip import create_clip
from zsbir.errors import ZsbirError

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture
def method():
    torch.manual_seed(0)
    return zsbir.build("modality-aware", model=CLIP).eval()


def apart(a, b):
    return 1 - F.cosine_similarity(a, b, dim=0)


def test_terms_pair_by_pair(method):
    n, m = 5, 4
    x, t = F.normalize(torch.randn(2, n, 16), dim=2)
    kind = torch.tensor([1, 1, 1, 0, 0])
    e = method.vectors.detach()
    terms = method.terms(x, t, kind)
    centre = reconstruction = orthogonality = 0.0
    told, told_texts = [], []
    for row in range(n):
        i, j, c = int(kind[row]), m - 1, F.normalize(x[row] + t[row], dim=0)
        meaning, said = x[row] - e[i], t[row] - e[j]
        centre += (apart(meaning, c) + apart(said, c)) / n
        reconstruction += (apart(said + e[i], x[row]) + apart(meaning + e[j], t[row])) / n
        orthogonality += sum((c * e[k]).abs().sum() for k in range(m)) / (n * m)
        for source, own, into in ((meaning, i, told), (said, j, told_texts)):
            for k in range(m):
                if k != own:
                    logits = method.discriminator(F.normalize(source + e[k], dim=0))
                    into.append(F.cross_entropy(logits, torch.tensor(k)))
    discriminator = (torch.stack(told).mean() + torch.stack(told_texts).mean()) / 2
    logits = method.clip.logit_scale.exp() * x @ t.T
    contrastive = sum(F.cross_entropy(side[row], torch.tensor(row)) for side in (logits, logits.T) for row in range(n))
    expected = {
        "clip": contrastive / (2 * n), "centre": centre, "discriminator": discriminator,
        "reconstruction": reconstruction, "orthogonality": orthogonality,
    }  # fmt: skip
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(float(value), abs=1e-5), name


def test_weights_are_shares_of_their_sum(method, triplets):
    batch = triplets(32)
    method.weights = {**method.weights, "clip": 0.0, "centre": 0.3, "discriminator": 0.1, "reconstruction": 0.0}
    terms = method(batch)
    assert terms.keys() == {"centre", "discriminator"}
    method.weights = {**method.weights, "discriminator": 0.0}
    assert torch.allclose(method(batch)["centre"] * 0.75, terms["centre"], atol=1e-6)


def test_a_sketch_is_exchanged_for_a_photo(method):
    images = torch.rand(2, 3, 32, 32)
    seen = F.normalize(method.clip.encode_image(method.preprocess.normalise(images)), dim=1)
    assert torch.allclose(method.embed(images, "photo").vector, seen, atol=1e-6)
    exchanged = seen - method.vectors[1] + method.vectors[0]
    assert torch.allclose(method.embed(images, "sketch").vector, exchanged, atol=1e-6)
    method.exchange = False
    assert torch.allclose(method.embed(images, "sketch").vector, seen, atol=1e-6)


def test_texts_stand_where_photos_do(method):
    text = method.embed_texts(["a photo of a bat", "a cow"])
    assert text.shape == (2, 16)
    plain = F.normalize(method.clip.encode_text(method.tokens(["a photo of a bat", "a cow"])), dim=1)
    assert torch.allclose(text, plain - method.vectors[3] + method.vectors[0], atol=1e-5)


def test_vectors_learn_faster_than_clip(method):
    groups = method.param_groups(method.recipe)
    assert groups[1]["lr"] == pytest.approx(5e-8)
    assert sum(len(group["params"]) for group in groups) == len(list(method.parameters()))


def test_wrong_settings_are_refused():
    with pytest.raises(ZsbirError, match="at least 3"):
        zsbir.build("modality-aware", model=CLIP, modalities=2)


def test_a_saved_model_loads_without_the_weights_it_started_from(tmp_path):
    start = tmp_path / "clip.pt"
    torch.save(create_clip(CLIP).state_dict(), start)
    method = zsbir.build("modality-aware", model=CLIP, weights=str(start))
    method.save(tmp_path / "model")
    start.unlink()
    assert same_weights(zsbir.load(tmp_path / "model"), method)
