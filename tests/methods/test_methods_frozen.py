"""The frozen baseline: centred, and without the directions that tell the domains apart."""

import numpy as np
import pytest
import torch
from PIL import Image

import zsbir
from zsbir.backbones.norms import adapt_norms
from zsbir.cli import main
from zsbir.errors import ZsbirError
from zsbir.methods.alignment import Alignment


def features(method, images, domain):
    with torch.no_grad():
        return method.embed(images, domain).vector


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three seen classes and two unseen ones; drawings are bright, photos are dark."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for domain, power in (("sketch", 0.5), ("photo", 3.0)):
        for name in "abcde":
            (root / domain / name).mkdir(parents=True)
            for i in range(12):
                pixels = (255 * rng.random((40, 40, 3)) ** power).astype(np.uint8)
                Image.fromarray(pixels).save(root / domain / name / f"{i}.png")
    return zsbir.DATASETS.build("folder", root=root, unseen="d,e", validation=0)


def embedded(method, data):
    return tuple(side.vectors for side in zsbir.embed_split(method, data, data.train))


def test_alignment_removes_means_and_directions(data, tmp_path):
    plain = zsbir.build("frozen", backbone="tiny").eval()
    raw = embedded(plain, data)
    aligned = zsbir.build("frozen", backbone=plain.backbone, center=True, remove=3)
    aligned.fit(data, workers=2)
    s, p = embedded(aligned, data)
    assert torch.allclose(s.mean(dim=0), torch.zeros(128), atol=1e-5)
    assert torch.allclose(p.mean(dim=0), torch.zeros(128), atol=1e-5)
    assert torch.allclose(s @ aligned.alignment.directions.T, torch.zeros(len(s), 3), atol=1e-5)

    def gap(a, b):
        return torch.linalg.eigvalsh(torch.cov(a.T) - torch.cov(b.T)).abs().sort(descending=True).values

    assert torch.allclose(gap(s, p)[:2], gap(*raw)[3:5], rtol=0.3)
    assert gap(s, p)[0] < gap(*raw)[0]
    aligned.save(tmp_path / "saved")
    assert torch.equal(embedded(zsbir.load(tmp_path / "saved"), data)[1], p)


def test_what_is_removed_must_have_been_measured(data, tmp_path):
    for option in ({"center": True}, {"scale": True}, {"remove": 2}, {"sketch_norms": 0.5, "backbone": "lite0"}):
        method = zsbir.build("frozen", **{"backbone": "tiny", **option}).eval()
        with pytest.raises(ZsbirError, match=r"never measured on seen classes: run `zsbir train frozen"):
            method.encode_sketches(str(data.train.sketches.file(0)))
        method.save(tmp_path / "saved")
        with pytest.raises(ZsbirError, match=r"or call method\.fit\(dataset\)"):
            zsbir.load(tmp_path / "saved").encode_sketches(str(data.train.sketches.file(0)))
    zsbir.build("frozen", backbone="tiny").encode_photos(str(data.train.photos.file(0)))


def test_a_run_from_the_command_line(data, tmp_path, capsys):
    root, run = str(data.train.sketches.root), tmp_path / "run"
    command = ["train", "frozen", "--dataset", "folder", "--root", root, "--unseen", "d,e", "--no-pretrained",
               "--backbone", "tiny", "--out", str(run), "--set", "center=true", "scale=true"]  # fmt: skip
    assert main([*command, "--epochs", "3"]) == 2
    assert "leave out --epochs" in capsys.readouterr().err
    assert not run.exists()
    assert main(command) == 0
    assert f"next: zsbir evaluate {run}" in capsys.readouterr().out
    method = zsbir.load(run)
    s, p = embedded(method, data)
    assert method.alignment.measured
    assert s.mean(dim=0).abs().max() < 0.2  # some seen classes are held out for validation
    assert p.mean(dim=0).abs().max() < 0.2
    assert main(["evaluate", str(run)]) == 0
    with pytest.raises(ZsbirError, match=r"it is measured: call its fit\(dataset\)"):
        zsbir.Trainer(method, data)


def test_more_directions_than_dimensions_are_refused():
    with pytest.raises(ZsbirError, match="below the 128 dimensions"):
        zsbir.build("frozen", backbone="tiny", remove=128)


def test_photos_as_edge_maps(tmp_path):
    from zsbir.data.edges import edge_maps

    plain = zsbir.build("frozen", backbone="tiny").eval()
    sketches, photos = torch.rand(8, 3, 64, 64), torch.rand(8, 3, 64, 64) ** 4
    drawn = edge_maps(photos)
    edges = zsbir.build("frozen", backbone=plain.backbone, photos="edges").eval()
    assert torch.allclose(features(edges, photos, "photo"), features(plain, drawn, "photo"), atol=1e-5)
    assert torch.equal(features(edges, sketches, "sketch"), features(plain, sketches, "sketch"))


def test_two_views_of_a_photo(data, tmp_path):
    plain = zsbir.build("frozen", backbone="tiny").eval()
    edges = zsbir.build("frozen", backbone=plain.backbone, photos="edges").eval()
    raw = [embedded(method, data)[1] for method in (plain, edges)]
    both = zsbir.build("frozen", backbone=plain.backbone, photos="both", center=True)
    both.fit(data)
    unit = [torch.nn.functional.normalize(side - side.mean(dim=0), dim=1) for side in raw]
    found = embedded(both, data)[1]
    assert torch.allclose(found, unit[0] + unit[1], atol=1e-4)
    both.save(tmp_path / "saved")
    assert torch.equal(embedded(zsbir.load(tmp_path / "saved"), data)[1], found)


def test_scaled_domains_have_unit_variance(data, tmp_path):
    plain = zsbir.build("frozen", backbone="tiny").eval()
    method = zsbir.build("frozen", backbone=plain.backbone, center=True, scale=True)
    method.fit(data)
    found = embedded(method, data)
    for side, raw in zip(found, embedded(plain, data), strict=True):
        std = raw.std(dim=0)
        assert torch.allclose(side, (raw - raw.mean(dim=0)) / (std + 0.1 * std.mean()), atol=1e-4)
    method.save(tmp_path / "saved")
    assert torch.equal(embedded(zsbir.load(tmp_path / "saved"), data)[0], found[0])
    with pytest.raises(ZsbirError, match="remove or scale"):
        zsbir.build("frozen", backbone="tiny", scale=True, remove=2)


def test_views_that_do_not_fit_are_refused():
    with pytest.raises(ZsbirError, match="photos"):
        zsbir.build("frozen", backbone="tiny", photos="lines")
    with pytest.raises(ZsbirError, match="two domains in one space, not sketch, photo, edges"):
        zsbir.build("frozen", backbone="tiny", photos="both", remove=2)
    rows = torch.rand(4, 8)
    with pytest.raises(ZsbirError, match="at least two of each, not 4 of sketch$"):
        Alignment(8, center=True).measure({"sketch": rows})
    with pytest.raises(ZsbirError, match="not 4 of sketch, 1 of photo"):
        Alignment(8, center=True).measure({"sketch": rows, "photo": rows[:1]})


def test_sketches_with_statistics_of_their_own(data, tmp_path):
    spec = {"name": "test_efficientnet", "image_size": 32}
    torch.manual_seed(0)
    plain = zsbir.build("frozen", backbone=spec).eval()
    method = zsbir.build("frozen", backbone=plain.backbone, sketch_norms=0.3)
    method.fit(data, seed=5)
    method.fit(data, seed=5)  # starts anew
    sketches, photos = embedded(method, data)
    assert torch.equal(photos, embedded(plain, data)[1])
    assert not torch.allclose(sketches, embedded(plain, data)[0], atol=1e-3)

    records = data.train.sketches
    order = np.random.default_rng(5).permutation(len(records))[:32]
    look = method.preprocess
    pixels = np.stack([look.pixels(data.open(str(records.file(int(i)))), "sketch") for i in order])
    batch = look.normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    adapt_norms(plain.backbone, [batch], 0.3)
    assert torch.allclose(sketches, embedded(plain, data)[0], atol=1e-5)
    method.save(tmp_path / "saved")
    assert torch.equal(embedded(zsbir.load(tmp_path / "saved"), data)[0], sketches)
    with pytest.raises(ZsbirError, match="sketch_norms"):
        zsbir.build("frozen", backbone=spec, sketch_norms=1.5)
