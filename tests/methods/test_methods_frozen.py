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
