"""The frozen baseline: centred, and without the directions that tell the domains apart."""

import pytest
import torch

import zsbir
from zsbir.errors import ZsbirError


def features(method, images, domain):
    with torch.no_grad():
        return method.embed(images, domain).vector


def test_alignment_removes_means_and_directions(tmp_path):
    plain = zsbir.build("frozen", backbone="tiny").eval()
    aligned = zsbir.build("frozen", backbone=plain.backbone, center=True, remove=3).eval()
    sketches, photos = torch.rand(64, 3, 64, 64), torch.rand(64, 3, 64, 64) ** 4
    raw = features(plain, sketches, "sketch"), features(plain, photos, "photo")
    aligned.align(*raw)
    s, p = features(aligned, sketches, "sketch"), features(aligned, photos, "photo")
    assert torch.allclose(s.mean(dim=0), torch.zeros(128), atol=1e-5)
    assert torch.allclose(p.mean(dim=0), torch.zeros(128), atol=1e-5)
    assert torch.allclose(s @ aligned.directions.T, torch.zeros(64, 3), atol=1e-5)

    def gap(a, b):
        return torch.linalg.eigvalsh(torch.cov(a.T) - torch.cov(b.T)).abs().sort(descending=True).values

    assert torch.allclose(gap(s, p)[:2], gap(*raw)[3:5], rtol=0.3)
    assert gap(s, p)[0] < gap(*raw)[0]
    aligned.save(tmp_path / "saved")
    assert torch.equal(features(zsbir.load(tmp_path / "saved"), photos, "photo"), p)


def test_more_directions_than_dimensions_are_refused():
    with pytest.raises(ZsbirError, match="below the backbone's 128 dimensions"):
        zsbir.build("frozen", backbone="tiny", remove=128)


def test_photos_as_edge_maps(tmp_path):
    from zsbir.data.edges import edge_maps

    plain = zsbir.build("frozen", backbone="tiny").eval()
    sketches, photos = torch.rand(8, 3, 64, 64), torch.rand(8, 3, 64, 64) ** 4
    drawn = edge_maps(photos)
    edges = zsbir.build("frozen", backbone=plain.backbone, photos="edges").eval()
    assert torch.allclose(features(edges, photos, "photo"), features(plain, drawn, "photo"), atol=1e-5)
    assert torch.equal(features(edges, sketches, "sketch"), features(plain, sketches, "sketch"))

    raw = [features(plain, side, "photo") for side in (sketches, photos, drawn)]
    both = zsbir.build("frozen", backbone=plain.backbone, photos="both", center=True).eval()
    both.align(*raw)
    unit = [torch.nn.functional.normalize(side - side.mean(dim=0), dim=1) for side in raw]
    assert torch.allclose(features(both, photos, "photo"), unit[1] + unit[2], atol=1e-4)
    both.save(tmp_path / "saved")
    loaded = zsbir.load(tmp_path / "saved")
    assert torch.equal(features(loaded, photos, "photo"), features(both, photos, "photo"))


def test_scaled_domains_have_unit_variance(tmp_path):
    plain = zsbir.build("frozen", backbone="tiny").eval()
    sketches, photos = torch.rand(64, 3, 64, 64), torch.rand(64, 3, 64, 64) ** 4
    raw = features(plain, sketches, "sketch"), features(plain, photos, "photo")
    method = zsbir.build("frozen", backbone=plain.backbone, center=True, scale=True).eval()
    method.align(*raw)
    for images, domain, side in ((sketches, "sketch", raw[0]), (photos, "photo", raw[1])):
        std = side.std(dim=0)
        expected = (side - side.mean(dim=0)) / (std + 0.1 * std.mean())
        assert torch.allclose(features(method, images, domain), expected, atol=1e-4)
    method.save(tmp_path / "saved")
    loaded = zsbir.load(tmp_path / "saved")
    assert torch.equal(features(loaded, photos, "photo"), features(method, photos, "photo"))
    with pytest.raises(ZsbirError, match="remove or scale"):
        zsbir.build("frozen", backbone="tiny", scale=True, remove=2)


def test_views_that_do_not_fit_are_refused():
    with pytest.raises(ZsbirError, match="must be 'plain'"):
        zsbir.build("frozen", backbone="tiny", photos="lines")
    with pytest.raises(ZsbirError, match="no meaning with photos='both'"):
        zsbir.build("frozen", backbone="tiny", photos="both", remove=2)
    rows = torch.rand(4, 128)
    with pytest.raises(ZsbirError, match="and only then"):
        zsbir.build("frozen", backbone="tiny", photos="both").align(rows, rows)
    with pytest.raises(ZsbirError, match="and only then"):
        zsbir.build("frozen", backbone="tiny").align(rows, rows, rows)


def test_sketches_with_statistics_of_their_own(tmp_path):
    from zsbir.backbones.norms import adapt_norms

    spec = {"name": "test_efficientnet", "image_size": 32}
    torch.manual_seed(0)
    method = zsbir.build("frozen", backbone=spec, sketch_norms=0.3).eval()
    sketches, photos = torch.rand(16, 3, 32, 32).sqrt(), torch.rand(4, 3, 32, 32)
    before = features(method, photos, "photo")
    assert torch.equal(features(method, photos, "sketch"), before)
    method.adapt(sketches.split(8))
    method.adapt(sketches.split(8))  # starts anew
    expected = zsbir.build("frozen", backbone=method.backbone).eval()
    assert torch.equal(features(method, photos, "photo"), before)
    adapt_norms(expected.backbone, map(method.preprocess.normalise, sketches.split(8)), 0.3)
    assert torch.allclose(features(method, sketches, "sketch"), features(expected, sketches, "sketch"), atol=1e-6)
    method.save(tmp_path / "saved")
    loaded = zsbir.load(tmp_path / "saved")
    assert torch.equal(features(loaded, sketches, "sketch"), features(method, sketches, "sketch"))
    with pytest.raises(ZsbirError, match="between 0 and 1"):
        zsbir.build("frozen", backbone=spec, sketch_norms=1.5)
    with pytest.raises(ZsbirError, match="sketch_norms is 0"):
        zsbir.build("frozen", backbone=spec).adapt([sketches])
