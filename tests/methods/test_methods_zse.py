"""ZSE: cross-attention and relation network against PyTorch's own parts, and its terms."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zsbir
from zsbir.errors import ZsbirError
from zsbir.matchers.relation import RelationMatcher
from zsbir.pairs import CrossLayer, CrossRelation


def norm(module, x):
    return module.a * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6) + module.b


def test_cross_attention_is_multi_head_attention():
    torch.manual_seed(0)
    layer = CrossLayer(8, 2, 16, 0.1).eval()
    slow = nn.MultiheadAttention(8, 2, batch_first=True)
    projections = (layer.query, layer.key, layer.value)
    slow.in_proj_weight.data = torch.cat([part.weight for part in projections])
    slow.in_proj_bias.data = torch.cat([part.bias for part in projections])
    slow.out_proj.load_state_dict(layer.out.state_dict())
    own, other = torch.randn(2, 3, 5, 8)
    x = norm(layer.norms[0], own + slow(own, other, own)[0])
    fed = layer.feed[3](F.relu(layer.feed[0](x)))
    assert torch.allclose(layer(own, other), norm(layer.norms[1], x + fed), atol=1e-5)


@pytest.mark.parametrize("layout", ["grid", "released"])
def test_relation_score(layout):
    torch.manual_seed(0)
    relation = CrossRelation(8, (4, 4), 2, 16, 1, 6, 0.1, layout).eval()
    relation.requires_grad_(False)
    sketch, photo = torch.randn(2, 3, 17, 8)
    drawn, shown, score = relation.compare(sketch, photo)
    a = relation.of_sketches[0](sketch, photo)
    b = relation.of_photos[0](photo, sketch)
    assert torch.equal(drawn, a[:, 0])
    assert torch.equal(shown, b[:, 0])
    for row in range(3):
        sides = []
        for tokens in (a[row, 1:], b[row, 1:]):
            maps = tokens.T.reshape(8, 4, 4) if layout == "grid" else tokens.reshape(8, 4, 4)
            sides.append(relation.reduce(maps[None])[0].flatten(1).T)
        cosine = torch.tensor([[F.cosine_similarity(x, y, 0) for y in sides[1]] for x in sides[0]])
        expected = torch.sigmoid(relation.network(cosine.flatten()))
        assert score[row] == pytest.approx(float(expected), abs=1e-5)
    assert torch.equal(relation.same(sketch, photo), score)


def test_terms(triplets):
    torch.manual_seed(0)
    method = zsbir.build(
        "zse", backbone={"name": "conv-stem", "model": "vit_tiny_patch16_224", "image_size": 64}, heads=3, hidden=16,
        channels=8,
    ).eval()  # fmt: skip
    batch = triplets(64)
    terms = method(batch)
    rows = [
        torch.cat([seen.vector[:, None], seen.tokens], 1)
        for seen in (method.embed(x, "photo") for x in (batch.sketch, batch.photo, batch.negative))
    ]
    s, p, right = method.relation.compare(rows[0], rows[1])
    _, n, wrong = method.relation.compare(rows[0], rows[2])
    assert torch.allclose(terms["triplet"], 2 * F.triplet_margin_loss(s, p, n), atol=1e-4)
    error = torch.cat([(right - 0.99) ** 2, (wrong - 0.01) ** 2]).mean()
    assert torch.allclose(terms["relation"], 4 * error, atol=1e-5)


def test_what_it_cannot_take_is_refused():
    with pytest.raises(ZsbirError, match="must divide"):
        zsbir.build("zse", backbone={"name": "vit_tiny_patch16_224", "image_size": 64}, heads=7)
    with pytest.raises(ZsbirError, match="be even"):
        zsbir.build("zse", backbone={"name": "vit_tiny_patch16_224", "image_size": 48}, heads=3)


def test_the_matcher_scores_with_the_trained_network(tmp_path):
    torch.manual_seed(0)
    backbone = {"name": "vit_tiny_patch16_224", "image_size": 64}
    method = zsbir.build("zse", backbone=backbone, heads=3, hidden=16, channels=8, layout="released").eval()
    method.save(tmp_path / "run")
    images = [list(torch.rand(n, 3, 64, 64)) for n in (3, 5)]
    queries, gallery = (
        zsbir.embed(method, held, domain, tokens=True) for held, domain in zip(images, ("sketch", "photo"), strict=True)
    )
    exact = zsbir.MATCHERS.build("relation", weights=str(tmp_path / "run"), top=5, chunk=4).fit(gallery).scores(queries)
    sides = [torch.cat([side.vectors[:, None], side.tokens], 1) for side in (queries, gallery)]
    for row in range(3):
        with torch.inference_mode():
            expected = method.relation.same(sides[0][row : row + 1].expand(5, -1, -1), sides[1])
        assert torch.allclose(exact[row], 2 + expected, atol=1e-5)
    cosine = F.cosine_similarity(queries.vectors[:, None], gallery.vectors[None], dim=2)
    some = RelationMatcher.of(method.relation, top=2).fit(gallery).scores(queries)
    assert torch.equal((some >= 2).sum(1), torch.full((3,), 2))
    assert torch.allclose(some[some < 2], cosine[some < 2], atol=1e-5)
