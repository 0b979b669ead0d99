import itertools
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zsbir
from tests.search.pictures import CLIP, picture
from zsbir.data.scan import photo_files
from zsbir.errors import ZsbirError
from zsbir.search.index import Index
from zsbir.search.model import find_model, fingerprint


def names(hits):
    return [Path(hit.path).name for hit in hits]


def test_finds_what_a_plain_loop_finds(index, method, photos):
    query = picture(100)
    pixels = [index.embedder.pixels(Image.open(f).convert("RGB"), "photo") for f in photo_files(photos)]
    stack = torch.from_numpy(np.stack([*pixels, index.embedder.pixels(query, "sketch")])).permute(0, 3, 1, 2) / 255
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
    real = index.embedder.embed
    monkeypatch.setattr(
        index.embedder,
        "embed",
        lambda pixels, domain: embedded.append(len(pixels) * (domain == "photo")) or real(pixels, domain),
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
    assert (len(changes.new), len(changes.copies), len(changes.gone)) == (3, 1, 2)
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
    import zsbir.search.fill as module

    monkeypatch.setattr(module, "_EACH", 1)
    calls = []
    real = module.load_image

    def stops(path):
        calls.append(path)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(module, "load_image", stops)
    with pytest.raises(KeyboardInterrupt):
        Index.build(method, photos, tmp_path / "i", batch_size=3, workers=1)
    monkeypatch.setattr(module, "load_image", lambda path: calls.append(path) or real(path))
    calls.clear()
    index = Index.load(tmp_path / "i")
    assert len(index) == 6
    index.update(photos, batch_size=3)
    assert len(index) == 12
    assert len(calls) == 6
    index.close()


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
    with pytest.raises(ZsbirError, match="exists already"):
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


def test_default_model_without_network_says_what_to_do():
    with pytest.raises(ZsbirError, match="--model lite0"):
        find_model()


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
