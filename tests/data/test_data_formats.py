"""What a file is, decided once: the same answer from the scan, the decoder, the check, the index and training."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.data.data_trees import picture, write_drawings
from zsbir.cli import main
from zsbir.data import DATASETS
from zsbir.data.formats import kind_of, split_record
from zsbir.data.images import load_image
from zsbir.data.scan import photo_files
from zsbir.errors import ZsbirError
from zsbir.search.scan import compare

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path d="M0 0L9 9" stroke="black"/></svg>'


@pytest.fixture
def mixed(pets):
    """Files of every kind whose endings are written in capitals or both."""
    pytest.importorskip("resvg_py")
    (pets / "sketch/cat/a.SVG").write_text(SVG)
    (pets / "sketch/cow/b.Svg").write_text(SVG)
    (pets / "photo/cat/p0.jpg").rename(pets / "photo/cat/p0.JPG")
    (pets / "photo/cow/p1.jpg").rename(pets / "photo/cow/p1.JpEg")
    shutil.rmtree(pets / "sketch/dog")
    write_drawings(pets / "sketch/dog.NDJSON", 2)
    return pets


def test_the_case_of_an_ending_does_not_matter(mixed, capsys):
    data = DATASETS.build("folder", root=mixed, unseen="dog")
    assert {"sketch/cat/a.SVG", "sketch/cow/b.Svg"} <= set(data.train.sketches.paths)
    assert list(data.test.sketches.paths) == ["sketch/dog.NDJSON#0", "sketch/dog.NDJSON#1"]
    for record in (*data.train.sketches.paths, *data.test.sketches.paths, *data.train.photos.paths):
        assert load_image(mixed / record).size == data.open(str(mixed / record)).size
    assert main(["datasets", "check", "folder", "--root", str(mixed), "--decode", "--workers", "1"]) == 0
    assert "22 files checked (decoded)" in capsys.readouterr().out
    assert len(list(photo_files(mixed / "photo"))) == 12


def test_training_reads_what_the_check_accepts(mixed, tmp_path, capsys):
    words = ["train", "dann", "--dataset", "folder", "--root", str(mixed), "--unseen", "dog"]
    words += ["--backbone", "test_vit", "--no-pretrained", "--epochs", "1", "--samples-per-epoch", "24"]
    assert (
        main(
            [
                *words,
                "--workers",
                "0",
                "--batch-size",
                "12",
                "--max-bad-images",
                "0",
                "--device",
                "cpu",
                "--out",
                str(tmp_path / "run"),
            ]
        )
        == 0
    )
    assert "cannot" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "kind", "split"),
    [
        ("a.ndjson#1/b.PNG", "image", ("a.ndjson#1/b.PNG", None)),
        ("x.svg.txt", None, ("x.svg.txt", None)),
        (".png/readme", None, (".png/readme", None)),
        ("cat.ndjson#x", None, ("cat.ndjson#x", None)),
        ("cat.ndjson#" + "9" * 5000, None, ("cat.ndjson#" + "9" * 5000, None)),
    ],
)
def test_odd_names(name, kind, split):
    assert (kind_of(name), split_record(name)) == (kind, split)


def odd_files(folder):
    """Make one of each thing that is named like an image and is none; return how many a scan must list."""
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "nothing.jpg").symlink_to("nowhere.jpg")
    with open(os.fsencode(folder) + b"/caf\xe9.jpg", "wb") as file:
        file.write(b"x")
    return 4


def test_odd_files_are_listed_and_never_opened(pets):
    count = odd_files(pets / "photo/cat")
    data = DATASETS.build("folder", root=pets, unseen="dog")
    assert len(data.train.photos) == 9
    assert len(data.skipped) == count
    skipped = []
    files = list(photo_files(pets / "photo", skipped))
    assert len(files) == 12
    assert len(skipped) == count
    str(skipped).encode()
    for name in ("pipe.jpg", "zero.jpg", "nothing.jpg", "a\0b.jpg"):
        with pytest.raises(ZsbirError, match="image"):
            load_image(pets / "photo/cat" / name)


def test_a_list_may_name_anything(pets, tmp_path):
    odd_files(pets / "photo/cat")
    old = pets / "photo/cat/p0.jpg"
    os.utime(old, (2**34, 2**34))  # the year 2514: more nanoseconds than a database holds
    names = ["p0.jpg", "pipe.jpg", "zero.jpg", "a\0b.jpg", "nothing.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(str(pets / "photo/cat" / name) for name in names))
    changes = compare([*photo_files(tmp_path / "list.txt"), "caf\udce9.jpg"], [])
    assert [entry.path for entry in changes.new] == [str(old)]
    assert changes.new[0].changed < 2**63
    assert len(changes.unreadable) == 5
    str(changes.unreadable).encode()


def test_links_out_of_the_folder_only_when_asked(pets, tmp_path):
    picture(tmp_path / "elsewhere/secret.png")
    home = pets / "photo"
    (home / "out.png").symlink_to(tmp_path / "elsewhere/secret.png")
    (home / "folder").symlink_to(tmp_path / "elsewhere")
    (home / "cat/again").symlink_to(home)  # a circle
    (home / "inside.jpg").symlink_to(home / "cat/p0.jpg")
    skipped = []
    assert {Path(file).name for file in photo_files(home, skipped)} == {
        "p0.jpg",
        "p1.jpg",
        "p2.jpg",
        "inside.jpg",
    }
    assert sorted(Path(path).name for path, _ in skipped) == ["again", "folder", "out.png"]
    found = [Path(file).name for file in photo_files(home, links=True)]
    assert (len(found), found.count("secret.png"), found.count("out.png")) == (15, 1, 1)


def test_a_file_is_decoded_by_its_content_from_the_allowed_formats(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ZsbirError, match="cannot"):
        load_image(tmp_path / "a.png")
