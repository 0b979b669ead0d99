"""A server follows its link from one index to another, and no request is lost on the way."""

import json
import shutil
import threading
import time
import urllib.request
import weakref

import pytest

from tests.search.pictures import picture
from zsbir.errors import ZsbirError
from zsbir.search.index import Index
from zsbir.search.web.app import create_app
from zsbir.search.web.latest import Latest
from zsbir.search.web.serve import serve, settings_for

pytest.importorskip("httpx")
from starlette.testclient import TestClient


@pytest.fixture
def two(method, photos, tmp_path):
    """Two indexes, of 12 photos and of 3, and a link to the first."""
    Index.build(method, photos, tmp_path / "old.index").close()
    Index.build(method, photos / "deep" / "er", tmp_path / "new.index").close()
    link = tmp_path / "current"
    link.symlink_to("old.index")
    return link


def move(link, to):
    link.with_name("next").symlink_to(to)
    link.with_name("next").replace(link)


def count(client):
    return client.get("/health").json()["photos"]


def test_the_new_index_is_served_and_open_requests_end_with_the_old(two):
    said = []
    first = []
    begun, go_on = threading.Event(), threading.Event()

    def make(index):
        app = create_app(index)
        first.append(index)
        if index is not first[0]:
            return app

        async def slow(scope, receive, send):
            if scope.get("path") == "/folders":
                begun.set()
                import anyio

                await anyio.to_thread.run_sync(go_on.wait)
            await app(scope, receive, send)

        return slow

    latest = Latest(two, make, "cpu", said.append)
    with TestClient(latest, base_url="http://localhost") as client:
        assert count(client) == 12
        latest.look()
        assert not said
        answers = []
        open_one = threading.Thread(target=lambda: answers.append(client.get("/folders").json()))
        open_one.start()
        assert begun.wait(20)
        move(two, "new.index")
        latest.look()
        assert count(client) == 3
        go_on.set()
        open_one.join(20)
        latest.look()
        with pytest.raises(ZsbirError, match="closed database"):
            len(first[0])
        assert answers == [{"folders": ["deep"]}]
        assert client.get("/folders").json() == {"folders": []}
        drawing = client.post("/search?k=12", content=png(picture(9)), headers={"content-type": "image/png"})
        assert len(drawing.json()["hits"]) == 3
    assert said == [f"{two} leads to another index now: 3 photos of {two.with_name('new.index')} are served"]


def png(image):
    import io

    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_what_cannot_be_served_leaves_the_old_one(two, monkeypatch):
    said, clock = [], [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    loads, real = [], Index.load
    monkeypatch.setattr(Index, "load", lambda *args, **options: loads.append(1) or real(*args, **options))
    latest = Latest(two, create_app, "cpu", said.append)
    with TestClient(latest, base_url="http://localhost") as client:
        two.unlink()
        latest.look()
        assert (count(client), said) == (12, [])
        shutil.copytree(two.with_name("new.index"), two)
        (two / "photos.sqlite").rename(two / "away")
        latest.look()
        latest.look()
        assert count(client) == 12
        assert len(said) == 1
        assert len(loads) == 2, "it is not loaded every two seconds"
        assert "which cannot be served, so the old stays" in said[0]
        (two / "away").rename(two / "photos.sqlite")
        clock[0] = 61.0
        latest.look()
        assert count(client) == 3


def test_serve_follows_by_itself(two):
    ready, changed, address = threading.Event(), threading.Event(), []

    def run():
        serve(
            two, port=0, settings=settings_for("127.0.0.1"),
            ready=lambda at, photos: (address.append(at), ready.set()), say=lambda line: changed.set(),
        )  # fmt: skip

    threading.Thread(target=run, daemon=True).start()
    assert ready.wait(30)
    lost, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            try:
                with urllib.request.urlopen(f"{address[0]}health", timeout=20) as answer:
                    lost.append(json.load(answer)["photos"])
            except OSError as error:
                lost.append(error)
            time.sleep(0.05)

    asking = threading.Thread(target=ask)
    asking.start()
    move(two, "new.index")
    assert changed.wait(30)
    time.sleep(0.5)
    stop.set()
    asking.join(20)
    assert set(lost) == {12, 3}
    assert lost == sorted(lost, reverse=True)


def test_memory_and_files_of_the_old_index_are_free_at_the_next_look(two):
    made = []

    def make(index):
        made.append(weakref.ref(index.embedder.method))
        return create_app(index)

    latest = Latest(two, make, "cpu", lambda line: None)
    move(two, "new.index")
    latest.look()
    assert made[0]() is not None, "a request may just have begun"
    latest.look()
    assert made[0]() is None
    assert made[1]() is not None
    assert latest.photos == 3
    latest.end()


@pytest.mark.parametrize("error", [MemoryError("no memory"), FileNotFoundError("gone")])
def test_no_error_ends_the_watch(error, two, monkeypatch):
    said = []
    latest = Latest(two, create_app, "cpu", said.append)
    move(two, "new.index")
    real = Index.load
    monkeypatch.setattr(Index, "load", lambda *args, **options: (_ for _ in ()).throw(error))
    latest.look()
    assert latest.photos == 12
    assert str(error) in said[0]
    monkeypatch.setattr(Index, "load", real)
    monkeypatch.setattr("zsbir.search.web.latest.AGAIN", 0.0)
    latest._again = 0.0
    latest.look()
    assert latest.photos == 3
    latest.end()
