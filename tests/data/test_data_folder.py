import json
import shutil

import pytest

from tests.data.data_trees import picture, write_drawings
from zsbir.data import DATASETS
from zsbir.errors import ZsbirError


def build(root, **arguments):
    return DATASETS.build("folder", root=root, **{"unseen": ("dog",), **arguments})


def test_seen_unseen_and_labels(pets):
    data = build(pets, unseen="dog, hot_air_balloon")
    assert data.train.classes == ("cat", "cow")
    assert data.test.classes == ("dog", "hot-air_balloon")
    assert data.train.photos.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert list(data.test.sketches.paths)[:2] == ["sketch/dog/s0.png", "sketch/dog/s1.png"]
    assert data.open(str(data.test.photos.file(0))).size == (12, 10)
    json.dumps(data.spec)


def test_spec_rebuilds(zoo):
    data = build(zoo, validation=2, seed=3)
    again = DATASETS.build(data.spec)
    assert again.manifest_hash == data.manifest_hash
    assert again.spec == data.spec


def test_number_of_unseen_is_seeded(pets):
    chosen = {build(pets, unseen=2, seed=seed).test.classes for seed in range(8)}
    assert build(pets, unseen=2, seed=5).test.classes == build(pets, unseen="2", seed=5).test.classes
    assert len(chosen) > 1


def test_validation_is_held_out_of_seen(zoo):
    data = build(zoo, validation=2, seed=1)
    assert len(data.validation.classes) == 2
    assert set(data.train.classes) | set(data.validation.classes) | set(data.test.classes) == {
        "cat",
        "cow",
        "dog",
        "hot-air_balloon",
        "emu",
        "fox",
    }
    assert not set(data.train.classes) & set(data.validation.classes)
    for number in (1, 4, 0.2, -1, -0.5):  # one class, one left, one class, and less than none
        with pytest.raises(ZsbirError, match=f"validation={number} .* at least 2 .* or give 0"):
            build(zoo, validation=number)
    assert build(zoo, validation=0.4, seed=1).validation.classes == data.validation.classes
    assert len(build(zoo).validation.classes) == 0  # of 5 seen classes none can be spared


def test_held_out_images(pets):
    data = build(pets, hold_out=0.5)
    assert (len(data.seen_test.sketches), len(data.seen_test.photos)) == (3, 3)
    assert not set(data.seen_test.photos.paths) & set(data.train.photos.paths)
    assert len(data.seen_test.photos) + len(data.train.photos) == 9
    assert data.seen_test.classes == data.train.classes
    assert len(build(pets).seen_test.photos) == 0


@pytest.mark.parametrize("names", [("sketches", "photos"), ("Sketch", "images"), ("drawings", "real")])
def test_domain_folder_names(pets, names):
    (pets / "sketch").rename(pets / names[0])
    (pets / "photo").rename(pets / names[1])
    assert len(build(pets).train.photos) == 9


def test_spellings_of_one_class_are_joined(pets):
    (pets / "sketch/hot-air_balloon").rename(pets / "sketch/hot air balloon")
    data = build(pets)
    assert "hot-air_balloon" in data.train.classes
    assert any("hot air balloon/" in path for path in data.train.sketches.paths)


def test_label_file_names_the_unseen(pets):
    (pets / "test_labels.txt").write_text("cow\n")
    assert build(pets, unseen=()).test.classes == ("cow",)
    (pets / "test_labels.txt").unlink()
    (pets.parent / "test_labels.txt").write_text("cat\n")
    assert build(pets, unseen=()).test.classes == ("cat",)


def test_other_files_are_counted(pets):
    (pets / "photo/cat/notes.txt").write_text("x")
    (pets / "photo/README").write_text("x")
    picture(pets / "photo/loose.jpg")
    (pets / "photo/cat/.hidden.png").write_text("x")
    data = build(pets)
    no_image, loose = "it is not an image", "it is in no class folder"
    found = {"README": no_image, "cat/notes.txt": no_image, "loose.jpg": loose}
    assert data.skipped == [(f"{pets}/photo/{name}", reason) for name, reason in found.items()]
    assert len(data.train.photos) == 9


def test_quickdraw_files_as_classes(pets):
    shutil.rmtree(pets / "sketch/dog")
    write_drawings(pets / "sketch/dog.ndjson", 5)
    data = build(pets)
    assert list(data.test.sketches.paths)[-1] == "sketch/dog.ndjson#4"
    assert data.open(str(data.test.sketches.file(4))).size == (256, 256)
    assert build(pets, stroke_size=64, line_width=3).open(str(data.test.sketches.file(0))).size == (64, 64)
    assert build(pets, line_width=3).variant != data.variant == ""


def broken_wrong_root(root):
    return {"root": root / "none"}, "missing"


def broken_no_domain(root):
    shutil.rmtree(root / "photo")
    return {}, "no photo folder.*it holds sketch"


def broken_empty_domain(root):
    shutil.rmtree(root / "photo")
    (root / "photo").mkdir()
    return {}, "holds no class folder"


def broken_empty_class(root):
    shutil.rmtree(root / "photo/cow")
    (root / "photo/cow").mkdir()
    return {}, "no image in the photo folder of cow"


def broken_only_text(root):
    shutil.rmtree(root / "photo/cow")
    (root / "photo/cow").mkdir()
    (root / "photo/cow/a.txt").write_text("x")
    return {}, "cow.*1 files are left out .1: it is not an image"


def broken_one_domain(root):
    picture(root / "sketch/emu/a.png")
    return {}, "only sketch images: emu"


def broken_unseen_name(root):
    return {"unseen": "dgo"}, "no class 'dgo'.*'dog'"


def broken_no_unseen(root):
    return {"unseen": ()}, "which classes"


def broken_all_unseen(root):
    return {"unseen": "cat,cow,dog,hot-air_balloon"}, "none is left"


def broken_too_many(root):
    return {"unseen": 4}, "give 1 to 3"


def broken_two_names(root):
    (root / "photos").mkdir()
    return {}, "photo and photos"


def broken_hold_out(root):
    return {"hold_out": 1.5}, "hold_out=1.5 must be a number in .0, 1"


@pytest.mark.parametrize("spoil", [value for name, value in sorted(globals().items()) if name.startswith("broken_")])
def test_mistakes_are_named(pets, spoil):
    arguments, message = spoil(pets)
    with pytest.raises(ZsbirError, match=message):
        build(arguments.pop("root", pets), **arguments)
