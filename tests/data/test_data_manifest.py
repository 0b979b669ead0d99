import hashlib
import json

import pytest

from zsbir.data import DATASETS
from zsbir.data.manifest import difference, digest, write_manifest
from zsbir.errors import ZsbirError


@pytest.fixture
def written(zoo, tmp_path):
    data = DATASETS.build("folder", root=zoo, unseen=1, seed=4, validation=2, hold_out=0.5)
    write_manifest(data.manifest(), tmp_path / "split.json")
    return data, tmp_path / "split.json", data.manifest()


def test_split_file_gives_the_same_dataset(pets, written):
    data, path, _ = written
    again = DATASETS.build("folder", root=pets, split=path)
    assert again.manifest_hash == data.manifest_hash
    for part in ("train", "validation", "test", "seen_test"):
        assert again.parts[part].classes == data.parts[part].classes
        for domain in ("sketch", "photo"):
            mine, other = data.parts[part].of(domain), again.parts[part].of(domain)
            assert dict(zip(mine.paths, mine.labels.tolist(), strict=True)) == dict(
                zip(other.paths, other.labels.tolist(), strict=True)
            )


def test_dataset_of_a_split_file_is_rebuilt_from_its_spec(pets, written):
    data = DATASETS.build("folder", root=str(pets), split=str(written[1]))
    again = DATASETS.build(json.loads(json.dumps(data.spec)))
    assert again.manifest_hash == data.manifest_hash


def test_hash_is_the_sha256_of_the_canonical_json(written):
    _, path, manifest = written
    body = json.loads(path.read_text())
    claimed = body.pop("sha256")
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == claimed == manifest["sha256"]


def test_hash_depends_on_files_and_classes_only(pets, written, tmp_path):
    data, _, _ = written
    same = DATASETS.build("folder", root=pets, unseen=data.test.classes, seed=4, validation=2, hold_out=0.5)
    assert same.manifest_hash == data.manifest_hash
    other = DATASETS.build("folder", root=pets, unseen=2, seed=4)
    assert other.manifest_hash != data.manifest_hash
    moved = pets.rename(tmp_path / "elsewhere")
    there = DATASETS.build("folder", root=moved, unseen=1, seed=4, validation=2, hold_out=0.5)
    assert there.manifest_hash == data.manifest_hash


def test_new_images_do_not_change_a_split_file(pets, written):
    data, path, _ = written
    (pets / "photo/cat/new.jpg").write_bytes(b"x")
    assert DATASETS.build("folder", root=pets, split=path).manifest_hash == data.manifest_hash


def test_mistakes(pets, written, tmp_path):
    _, path, manifest = written

    def build(**arguments):
        return DATASETS.build("folder", root=pets, **{"split": path, **arguments})

    with pytest.raises(ZsbirError, match="leave out unseen, hold_out$"):
        build(unseen="cat", hold_out=0.5)
    with pytest.raises(ZsbirError, match="none.json cannot be read"):
        build(split=tmp_path / "none.json")
    edited = tmp_path / "edited.json"
    for text, message in (
        ("x", "edited.json cannot be read: Expecting value"),
        ("{}", "not a split file"),
        (json.dumps({**manifest, "classes": {**manifest["classes"], "test": ["cat"]}}), "changed after"),
    ):
        edited.write_text(text)
        with pytest.raises(ZsbirError, match=message):
            build(split=edited)
    body = {"format": manifest["format"], "classes": {"train": []}, "files": {}}
    edited.write_text(json.dumps({**body, "sha256": digest(body)}))
    with pytest.raises(ZsbirError, match="incomplete"):
        build(split=edited)
    first = next(iter(manifest["files"]["photo"]["test"].values()))[0]
    (pets / first).unlink()
    with pytest.raises(ZsbirError, match=f"1 files .*{first}"):
        build()


def test_a_split_file_cannot_lead_out_of_the_root(pets, written, tmp_path):
    _, _, manifest = written
    body = json.loads(json.dumps(manifest))
    name = body["classes"]["test"][0]
    body["files"]["photo"]["test"][name] = ["photo/../../secret.jpg"]
    body["sha256"] = digest(body)
    (tmp_path / "evil.json").write_text(json.dumps(body))
    with pytest.raises(ZsbirError, match="lead out"):
        DATASETS.build("folder", root=pets, split=tmp_path / "evil.json")


def test_a_split_file_is_not_overwritten(written):
    data, path, _ = written
    before = path.read_bytes()
    with pytest.raises(ZsbirError, match=r"split.json exists and is not overwritten"):
        write_manifest(data.manifest(), path)
    assert path.read_bytes() == before


def test_damaged_split_files_give_one_sentence(pets, written, tmp_path):
    _, _, manifest = written
    spoilt = []
    for change in ({"classes": 3}, {"files": []}, {"classes": {"train": "cat"}}, {"files": {"sketch": 1, "photo": 2}}):
        body = {**manifest, **change}
        spoilt.append(json.dumps({**body, "sha256": digest(body)}))
    for text in (*spoilt, "[" * 200_000, '{"a":' * 100_000, "\ufffd", '{"format": NaN}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ZsbirError, match=r"bad\.json"):
            DATASETS.build("folder", root=pets, split=tmp_path / "bad.json")


def test_difference_says_what_changed(zoo, written):
    data, _, old = written
    arguments = {"root": zoo, "unseen": 1, "seed": 4, "validation": 2, "hold_out": 0.5}
    assert difference(old, DATASETS.build("folder", **arguments).manifest()) is None
    swapped = difference(old, DATASETS.build("folder", **{**arguments, "seed": 5}).manifest())
    assert "test lacks" in swapped
    assert "moved to another class" in swapped
    photo = zoo / data.test.photos.paths[0]
    content = photo.read_bytes()
    photo.write_bytes(content + b"x")
    assert difference(old, DATASETS.build("folder", **arguments).manifest()) == "files have other contents"
    photo.unlink()
    gone = difference(old, DATASETS.build("folder", **arguments).manifest())
    assert gone == f"1 files are gone ({data.test.photos.paths[0]})"
