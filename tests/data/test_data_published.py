import json
import shutil

import pytest

from tests.data.data_trees import benchmark_tree, write_drawings
from zsbir.data import DATASETS
from zsbir.data.datasets._lists import read_list
from zsbir.data.datasets.published import published, published_names
from zsbir.errors import ZsbirError

SIZES = {
    "quickdraw-30": (80, 30),
    "sketchy-21": (104, 21),
    "sketchy-25": (100, 25),
    "sketchy-ambiguity": (50, 25),
    "tuberlin-30": (220, 30),
}
LISTS = dict.fromkeys(SIZES, "zeroshot") | {
    "sketchy-21": "zeroshot0",
    "sketchy-25": "zeroshot1",
    "sketchy-ambiguity": "zeroshot2",
}


def test_class_lists():
    assert sorted(SIZES) == published_names()
    for name, sizes in SIZES.items():
        facts = published(name)
        assert (len(facts["seen"]), len(facts["unseen"])) == sizes
        assert len(set(facts["seen"])) == sizes[0]
        assert name in DATASETS.names()
    assert published("sketchy-25")["unseen"][:3] == ["cup", "swan", "harp"]
    assert published("tuberlin-30")["seen"][0] == "wrist-watch"
    with pytest.raises(ZsbirError, match="sketchy-25"):
        published("sketchy-26")


@pytest.mark.parametrize("name", sorted(SIZES))
@pytest.mark.parametrize("source", ["lists", "folders"])
def test_both_sources_give_the_same_files(tmp_path, name, source):
    benchmark_tree(tmp_path, name, lists=LISTS[name])
    data = DATASETS.build(name, root=tmp_path, source=source, validation=0)
    seen, unseen = published(name)["seen"], published(name)["unseen"]
    assert data.test.classes == tuple(unseen)
    assert data.train.classes == tuple(own for own in seen if own not in unseen)
    assert len(data.test.photos) == 2 * len(unseen)
    assert len(data.test.sketches) == len(unseen)
    for split in (data.train, data.test):
        for records in (split.sketches, split.photos):
            for path, label in zip(records.paths, records.labels.tolist(), strict=True):
                assert path.split("/")[-2] == split.classes[label]
                assert (records.root / path).is_file()
    json.dumps(data.spec)


@pytest.mark.parametrize("folder", ["zeroshot0", "zeroshot2"])
def test_sketchy_21_under_both_numbers(tmp_path, folder):
    benchmark_tree(tmp_path, "sketchy-21", lists=folder)
    benchmark_tree(tmp_path, "sketchy-25", lists="zeroshot1")
    assert DATASETS.build("sketchy-21", root=tmp_path).reading.source == f"lists {folder}"
    assert DATASETS.build("sketchy-25", root=tmp_path).reading.source == "lists zeroshot1"


def test_three_lists_side_by_side(tmp_path):
    benchmark_tree(tmp_path, "sketchy-21", lists="zeroshot0")
    benchmark_tree(tmp_path, "sketchy-25", lists="zeroshot1")
    benchmark_tree(tmp_path, "sketchy-ambiguity", lists="zeroshot2")
    for name in ("sketchy-21", "sketchy-25", "sketchy-ambiguity"):
        assert DATASETS.build(name, root=tmp_path).reading.source == f"lists {LISTS[name]}"


def test_folders_rule_over_numbers(tmp_path):
    benchmark_tree(tmp_path, "tuberlin-30", lists="zeroshot", numbers=lambda number, own: (number + 7) % 30)
    data = DATASETS.build("tuberlin-30", root=tmp_path)
    path = data.test.photos.paths[0]
    assert data.test.classes[data.test.photos.labels[0]] in path
    assert sum("class numbers disagree" in note for note in data.notes) == 4


def test_right_numbers_are_not_reported(tmp_path):
    benchmark_tree(tmp_path, "tuberlin-30", lists="zeroshot")
    assert DATASETS.build("tuberlin-30", root=tmp_path).notes == ()


def test_ambiguity_strict_and_as_published(tmp_path):
    benchmark_tree(tmp_path, "sketchy-ambiguity", lists="zeroshot2")
    strict = DATASETS.build("sketchy-ambiguity", root=tmp_path, validation=0)
    assert not set(strict.train.classes) & set(strict.test.classes)
    assert len(strict.train.classes) == 41
    assert len(strict.train.photos) == 82
    assert not any("not zero-shot" in note for note in strict.notes)
    kept = DATASETS.build("sketchy-ambiguity", root=tmp_path, validation=0, as_published=True)
    assert kept.notes[0] == "not zero-shot: 9 test classes seen"
    assert len(kept.train.classes) == 50
    assert len(kept.train.photos) == 100
    # The sketch list is that of sketchy-25: its other classes are left out, and that is said.
    assert any("59 classes" in note for note in kept.notes)
    folders = DATASETS.build("sketchy-ambiguity", root=tmp_path, validation=0, as_published=True, source="folders")
    assert len(folders.train.sketches) == 50
    with pytest.raises(ZsbirError, match="no class of sketchy-25 is both seen and unseen"):
        DATASETS.build("sketchy-25", root=tmp_path, as_published=True)


def test_plain_download_without_ready_and_with_renames(tmp_path):
    def respell(name):
        return name.replace("hot-air_balloon", "hot_air_balloon").replace("jack-o-lantern", "jack_o_lantern")

    benchmark_tree(tmp_path, "sketchy-25", lists="zeroshot1", rename=respell)
    for domain in ("sketch", "photo"):
        (tmp_path / f"256x256/{domain}/tx_000000000000_ready").rename(tmp_path / f"256x256/{domain}/tx_000000000000")
    extended = tmp_path / "EXTEND_image_sketchy/cow"
    extended.mkdir(parents=True)
    (extended / "ext_1.jpg").write_bytes(b"x")
    lists = DATASETS.build("sketchy-25", root=tmp_path, validation=0)
    folders = DATASETS.build("sketchy-25", root=tmp_path, validation=0, source="folders")
    assert len(lists.train.photos) == 200
    assert len(folders.train.photos) == 201
    assert "hot-air_balloon" in lists.train.classes
    assert all((tmp_path / path).is_file() for path in lists.train.sketches.paths)


def test_dann_layout(tmp_path):
    benchmark_tree(tmp_path, "sketchy-21")
    (tmp_path / "256x256/sketch/tx_000000000000_ready").rename(tmp_path / "sketches")
    (tmp_path / "256x256/photo/tx_000000000000_ready").rename(tmp_path / "photos")
    facts = published("sketchy-21")
    (tmp_path / "train_labels.txt").write_text("\n".join(facts["seen"]))
    (tmp_path / "test_labels.txt").write_text("\n".join(facts["unseen"]))
    assert DATASETS.build("sketchy-21", root=tmp_path).notes == ()
    (tmp_path / "test_labels.txt").write_text("cow\n")
    assert "test_labels.txt" in DATASETS.build("sketchy-21", root=tmp_path).notes[0]


def test_quickdraw_from_strokes(tmp_path):
    benchmark_tree(tmp_path, "quickdraw-30")
    for own, file in (
        ("eiffel tower", "The Eiffel Tower"),
        ("motorcycle", "motorbike"),
        ("bat", "full_simplified_bat"),
    ):
        shutil.rmtree(tmp_path / "sketches" / own)
        write_drawings(tmp_path / f"sketches/{file}.ndjson", 2)
    data = DATASETS.build("quickdraw-30", root=tmp_path)
    bats = [f"sketches/full_simplified_bat.ndjson#{i}" for i in range(2)]
    assert list(data.test.sketches.paths)[:2] == bats
    assert data.open(str(data.test.sketches.file(1))).mode == "RGB"


def test_incomplete_roots(tmp_path):
    with pytest.raises(ZsbirError, match="missing"):
        DATASETS.build("sketchy-25", root=tmp_path / "none")
    with pytest.raises(ZsbirError, match="256x256/sketch"):
        DATASETS.build("sketchy-25", root=tmp_path)
    benchmark_tree(tmp_path, "sketchy-25")
    with pytest.raises(ZsbirError, match="source='folders'"):
        DATASETS.build("sketchy-25", root=tmp_path, source="lists")
    with pytest.raises(ZsbirError, match="'auto', 'lists' or 'folders'"):
        DATASETS.build("sketchy-25", root=tmp_path, source="web")
    shutil.rmtree(tmp_path / "256x256/photo/tx_000000000000_ready/cup")
    with pytest.raises(ZsbirError, match="photo_test: cup"):
        DATASETS.build("sketchy-25", root=tmp_path)


def test_lists_without_their_images(tmp_path):
    benchmark_tree(tmp_path, "tuberlin-30", lists="zeroshot", images=False)
    with pytest.raises(ZsbirError, match="incomplete"):
        DATASETS.build("tuberlin-30", root=tmp_path)


def test_read_list_lines(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(
        b"\xef\xbb\xbfpng_ready/person sitting/1.png 12\r\nambiguity\\ant\\ext_107.jpg 0\n\n"
        b"./a/b c/d 2.png\t7\n a/no number.png\n"
    )
    paths, numbers = read_list(path)
    assert paths == ["png_ready/person sitting/1.png", "ambiguity/ant/ext_107.jpg", "a/b c/d 2.png", "a/no number.png"]
    assert numbers.tolist() == [12, 0, 7, -1]


@pytest.mark.parametrize(("name", "held"), [("sketchy-25", 10), ("sketchy-ambiguity", 4), ("tuberlin-30", 22)])
def test_a_tenth_of_the_seen_classes_is_held_out_unless_told_otherwise(tmp_path, name, held):
    benchmark_tree(tmp_path, name)
    data = DATASETS.build(name, root=tmp_path)
    everything = DATASETS.build(name, root=tmp_path, validation=0)
    assert len(data.validation.classes) == held
    assert set(data.validation.classes) | set(data.train.classes) == set(everything.train.classes)
    assert everything.validation.classes == ()
    assert f"validation: {held} classes with" in repr(data)
