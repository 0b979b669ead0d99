import json
import shutil

import pytest

from tests.data.data_trees import benchmark_tree, picture, write_drawings
from zsbir.cli import main
from zsbir.data import DATASETS
from zsbir.data.check import check_dataset, check_reading
from zsbir.data.datasets.published import published, read_published


def check(root, **options):
    return check_dataset("folder", DATASETS.build("folder", root=root, unseen="dog"), workers=1, **options)


def listing(root):
    return sorted((str(path), path.stat().st_mtime_ns) for path in root.rglob("*"))


def test_sound_data(pets):
    before = listing(pets)
    report = check(pets, decode=True)
    assert report.ok
    assert (report.checked, report.decoded, report.errors) == (20, True, [])
    assert "ok: 20 files" in report.table()
    assert listing(pets) == before
    json.dumps(report.as_json())


@pytest.mark.parametrize("workers", [1, 2])
def test_every_kind_of_problem(pets, workers, monkeypatch):
    monkeypatch.setattr("zsbir.data.content.CHUNK", 4)
    photo = pets / "photo"
    shutil.copy(photo / "cat/p0.jpg", photo / "dog/same.jpg")
    shutil.copy(pets / "sketch/cow/s0.png", photo / "cow/drawn.png")
    (photo / "cat/empty.jpg").write_bytes(b"")
    (photo / "cat/broken.jpg").write_bytes(b"broken")
    (photo / "cat/link.jpg").symlink_to("nowhere.jpg")
    (photo / "cat/notes.txt").write_text("x")
    # Of the same size as another file, but different: no duplicate.
    (photo / "cow/b1.jpg").write_bytes(b"12345")
    (photo / "dog/b2.jpg").write_bytes(b"54321")
    data = DATASETS.build("folder", root=pets, unseen="dog")
    report = check_dataset("folder", data, workers=workers, decode=True)
    assert not report.ok
    assert report.examples["empty files"] == ["photo/cat/empty.jpg"]
    assert report.examples["duplicates between training and test"] == ["photo/cat/p0.jpg = photo/dog/same.jpg"]
    assert report.examples["duplicates between sketch and photo"] == ["sketch/cow/s0.png = photo/cow/drawn.png"]
    assert "4 undecodable images" in report.errors
    link = "its link does not lead to a regular file"
    assert f"2 files are left out (1: {link}, 1: it is not an image)" in report.warnings
    assert report.examples["left out"][0] == f"{photo}/cat/link.jpg: {link}"


def test_drawings_are_compared_by_line(pets):
    for name in ("cat", "dog"):
        shutil.rmtree(pets / "sketch" / name)
        write_drawings(pets / f"sketch/{name}.ndjson", 2)
    report = check(pets)
    assert report.errors == ["2 duplicates between training and test"]


def test_counts_against_the_published(tmp_path):
    benchmark_tree(tmp_path, "tuberlin-30", lists="zeroshot")
    report = check_reading("tuberlin-30", tmp_path, read_published("tuberlin-30", tmp_path), workers=1)
    rows = {(row["part"], row["domain"]): row for row in report.counts}
    assert rows["train", "sketch"]["published"] == 15400
    assert rows["train", "sketch"]["images"] == 220
    assert rows["train", "photo"]["published"] is None
    assert "train has 220 sketch images, published are 15,400" in report.errors
    folders = read_published("tuberlin-30", tmp_path, "folders")
    assert check_reading("tuberlin-30", tmp_path, folders, workers=1).ok


def test_missing_and_extra_classes(tmp_path):
    benchmark_tree(tmp_path, "quickdraw-30")
    shutil.rmtree(tmp_path / "images/bat")
    picture(tmp_path / "images/yeti/a.png")
    report = check_reading("quickdraw-30", tmp_path, read_published("quickdraw-30", tmp_path), workers=1)
    assert "1 classes without images: photo_test: bat" in report.errors
    assert "1 folders of no class of quickdraw-30: yeti" in report.warnings


def test_files_of_a_list_that_are_not_there(tmp_path):
    benchmark_tree(tmp_path, "tuberlin-30", lists="zeroshot")
    (tmp_path / "png_ready/person sitting/a.png").unlink()
    report = check_reading("tuberlin-30", tmp_path, read_published("tuberlin-30", tmp_path), workers=1)
    assert report.examples["missing files"] == ["png_ready/person sitting/a.png"]


def test_ambiguity_says_what_overlaps(tmp_path):
    benchmark_tree(tmp_path, "sketchy-ambiguity", lists="zeroshot2")
    report = check_reading("sketchy-ambiguity", tmp_path, read_published("sketchy-ambiguity", tmp_path), workers=1)
    assert any("9 training classes are test classes" in text for text in report.warnings)


def test_commands(pets, tmp_path, capsys):
    assert main(["datasets", "list"]) == 0
    assert "sketchy-ambiguity" in capsys.readouterr().out
    assert main(["datasets", "list", "--json"]) == 0
    assert "folder" in json.loads(capsys.readouterr().out)
    assert main(["datasets", "info", "sketchy-21"]) == 0
    assert "ImageNet-1k has 2 of 21 unseen classes" in capsys.readouterr().out
    assert main(["datasets", "info", "sketchy-25", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unseen"] == published("sketchy-25")["unseen"]
    assert main(["datasets", "info", "folder"]) == 0
    assert "unseen" in capsys.readouterr().out
    assert main(["datasets", "check", "folder", "--root", str(pets), "--workers", "1"]) == 0
    split = tmp_path / "split.json"
    assert main(["datasets", "split", "--root", str(pets), "--unseen", "2", "--seed", "3", "-o", str(split)]) == 0
    assert json.loads(split.read_text())["sha256"] in capsys.readouterr().out
    (pets / "photo/dog/p0.jpg").write_bytes(b"")
    assert main(["datasets", "check", "folder", "--root", str(pets), "--workers", "1", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False
    cache = ["datasets", "cache", "folder", "--root", str(pets), "--folder", str(tmp_path / "c"), "--size", "8"]
    assert main([*cache, "--workers", "1"]) == 1
    assert "19 decoded now, 1 not decodable" in capsys.readouterr().out
    for name in ("sketchy-25", "folder"):
        assert main(["datasets", "check", name]) == 2
        assert f"say where the dataset {name} is: --root DIR" in capsys.readouterr().err
    assert main(["datasets", "check", "table"]) == 2
    assert "say where the dataset table is: --set-data file=FILE" in capsys.readouterr().err
    assert main(["datasets", "check", "sketchy-25", "--root", str(pets), "--unseen", "cow"]) == 2
    assert "leave out --unseen" in capsys.readouterr().err
    assert main(["datasets", "check", "folder", "--root", str(pets), "--source", "lists"]) == 2
    assert "--source is for" in capsys.readouterr().err
    assert main(["datasets", "split", "--root", str(pets), "--unseen", "1", "-o", str(split)]) == 2
    assert "is not overwritten" in capsys.readouterr().err
    assert main(["datasets", "info", "sketchy"]) == 2
    assert "sketchy-25" in capsys.readouterr().err


def test_a_table_is_checked(pets, capsys, monkeypatch):
    rows = [",".join((str(f.relative_to(pets)), *f.parts[-3:-1], "x")) for f in sorted(pets.glob("*/*/*"))]
    (pets / "my.csv").write_text("\n".join(["path,domain,label,note", *rows]))
    monkeypatch.chdir(pets)
    assert main(["datasets", "check", "table", "--set-data", "file=my.csv", "unseen=2", "--workers", "1"]) == 0
    assert "read from a table" in capsys.readouterr().out
