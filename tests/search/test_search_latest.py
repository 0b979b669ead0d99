"""A server follows its link from one index to another, and no request is lost on the way."""

import json
import shutil
import threading
import time
import urllib.request

import pytest

from tests.search.pictures import picture
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
    old = Index.load(two.resolve())
    begun, go_on = threading.Event(), threading.Event()

    def make(index):
        app = create_app(index)
        if index is not old:
            return app

        async def slow(scope, receive, send):
            if scope.get("path") == "/folders":
                begun.set()
                import anyio

                await anyio.to_thread.run_sync(go_on.wait)
            await app(scope, receive, send)

        return slow

    latest = Latest(old, two, make, said.append)
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


def test_what_cannot_be_served_leaves_the_old_one(two):
    said = []
    latest = Latest(Index.load(two.resolve()), two, create_app, said.append)
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
        assert "which cannot be served, so the old stays" in said[0]
        (two / "away").rename(two / "photos.sqlite")
        latest.look()
        assert count(client) == 3


def test_serve_follows_by_itself(two):
    ready, changed, address = threading.Event(), threading.Event(), []

    def run():
        serve(
            Index.load(two.resolve()), port=0, settings=settings_for("127.0.0.1"), follow=two,
            ready=lambda at: (address.append(at), ready.set()), say=lambda line: changed.set(),
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
