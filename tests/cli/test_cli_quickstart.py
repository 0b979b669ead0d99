"""What quickstart says to do next works: its photos are indexed by its model."""

from PIL import Image

import zsbir
from zsbir import cli
from zsbir.cli.quickstart import write_photos


def test_photos_of_the_unseen_classes_are_indexed_by_the_model(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert write_photos(shapes, tmp_path / "quick" / "photos") == 6
    files = sorted((tmp_path / "quick" / "photos").rglob("*.png"))
    assert [file.parent.name for file in files] == ["bar"] * 6
    assert Image.open(files[0]).size == (32, 32)
    zsbir.build("dann", backbone={"name": "tiny", "image_size": 32, "width": 8}).save("quick/best")
    assert cli.main(["index", "quick/photos", "--model", "quick", "-o", "quick/photos.index", "--workers", "1"]) == 0
    assert "6 photos in quick/photos.index" in capsys.readouterr().out
