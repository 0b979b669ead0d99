"""What quickstart says to do next works: its photos are indexed by its model."""

from pathlib import Path

from PIL import Image

import zsbir
from zsbir import cli
from zsbir.cli.quickstart import find_real, write_photos


def test_photos_of_the_unseen_classes_are_indexed_by_the_model(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert write_photos(shapes, tmp_path / "quick" / "photos") == 6
    files = sorted((tmp_path / "quick" / "photos").rglob("*.png"))
    assert [file.parent.name for file in files] == ["bar"] * 6
    assert Image.open(files[0]).size == (32, 32)
    zsbir.build("dann", backbone={"name": "tiny", "image_size": 32, "width": 8}).save("quick/best")
    assert cli.main(["index", "quick/photos", "--model", "quick", "-o", "quick/photos.index", "--workers", "1"]) == 0
    assert "6 photos in quick/photos.index" in capsys.readouterr().out


def test_real_drawings_find_real_photos(tmp_path):
    share, classes = find_real(tmp_path)
    assert classes == 12
    assert share > 0.6  # chance is a twelfth
    assert Image.open(tmp_path / "real.png").width > 500
    assert len(zsbir.Index.load(tmp_path / "real.index")) == 96


def test_samples_are_small_and_name_their_licences():
    samples = Path(zsbir.__file__).parent / "samples"
    files = [file for file in samples.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 1_000_000
    photos, sketches = sorted((samples / "photos").iterdir()), sorted((samples / "sketches").iterdir())
    assert [folder.name for folder in photos] == [file.stem for file in sketches]
    assert {len(list(folder.iterdir())) for folder in photos} == {8}
    said = (samples / "README.md").read_text(encoding="utf-8")
    assert said.count("CC BY 4.0") == 2
    assert "Caltech" in said
    assert "Quick, Draw!" in said
