import threading
from contextlib import contextmanager

import pytest

import zsbir
from tests.search.pictures import picture
from zsbir.search.index import Index
from zsbir.search.web.app import create_app
from zsbir.search.web.server import Server


@pytest.fixture(scope="session")
def method():
    return zsbir.build("frozen", backbone="tiny").eval()


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep" / "er").mkdir(parents=True)
    for number in range(12):
        place = folder if number < 6 else folder / "deep" if number < 9 else folder / "deep" / "er"
        picture(number).save(place / f"{number:02d}.png")
    return folder


@pytest.fixture
def index(method, photos, tmp_path):
    made = Index.build(method, photos, tmp_path / "my.index")
    yield made
    made.close()


@contextmanager
def serving(index, *options):
    """Serve an index in a thread; gives the port."""
    ready = threading.Event()
    server = Server(create_app(index, *options), ready.set)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def address(index):
    with serving(index) as port:
        yield f"http://127.0.0.1:{port}/"
