"""Links to photo managers, against small servers that speak their routes."""

import asyncio
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from starlette import testclient

from tests.search.pictures import picture
from zsbir.cli import main
from zsbir.errors import ZsbirError
from zsbir.methods.saving import save
from zsbir.search import managers
from zsbir.search.index import Index
from zsbir.search.managers import Links
from zsbir.search.web.app import create_app
from zsbir.search.web.guard import Settings

KEY = "a-key-of-the-test"
ROOT = "/usr/src/app/external"


class Manager(BaseHTTPRequestHandler):
    """Immich's search by metadata, a substring of the path, two assets a page; PhotoPrism's photos by hash."""

    forms = ()  # what is answered instead: body, status

    def log_message(self, *_):
        pass

    def answer(self, value, status=200, **headers):
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(value if isinstance(value, bytes) else json.dumps(value).encode())

    def handle_one(self, header, key):
        type(self).asked.append((self.command, urlsplit(self.path).path))
        if self.headers.get(header) != key:
            return self.answer({"message": "Invalid API key"}, 401)
        if self.forms:
            return self.answer(*self.forms)
        return None

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if urlsplit(self.path).path != "/api/search/metadata":
            return self.answer({}, 404)
        if not self.forms and self.headers.get("x-api-key") == KEY:
            found = [a for a in self.assets if body["originalPath"].lower() in a["originalPath"].lower()]
            start = 2 * (body["page"] - 1)
            more = str(body["page"] + 1) if len(found) > start + 2 else None
            type(self).asked.append((self.command, self.path))
            return self.answer({"assets": {"items": found[start : start + 2], "nextPage": more}})
        return self.handle_one("x-api-key", KEY)

    def do_GET(self):
        if urlsplit(self.path).path != "/folder/api/v1/photos":
            return self.answer({}, 404)
        refused = self.handle_one("authorization", f"Bearer {KEY}")
        if self.headers.get("authorization") == f"Bearer {KEY}" and not self.forms:
            query = parse_qs(urlsplit(self.path).query)
            assert query["count"]
            return self.answer([{"UID": a["id"]} for a in self.assets if a["hash"] == query["hash"][0]])
        return refused


@pytest.fixture
def manager(photos):
    handler = type("Here", (Manager,), {"asked": [], "forms": (), "assets": [
        {
            "id": f"id-{file.stem}",
            "originalPath": f"{ROOT}/{file.relative_to(photos).as_posix()}",
            "exifInfo": {"fileSizeInByte": file.stat().st_size},
            "hash": hashlib.sha1(file.read_bytes()).hexdigest(),
        }
        for file in sorted(photos.rglob("*.png"))
    ]})  # fmt: skip
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.address = f"http://127.0.0.1:{server.server_port}"
    yield handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def immich(manager):
    return Links(f"{manager.address}/photos/{{id}}", {"IMMICH_API_KEY": KEY})


def entry(index, name):
    return next(found for _, found in index.catalog.entries() if Path(found.path).name == name)


@pytest.mark.parametrize("name", ["03.png", "10.png"])
def test_immich_by_path(index, manager, immich, name):
    manager.assets[:0] = [  # others that the route finds as well
        {"id": "elsewhere", "originalPath": f"/photos/else/{name}", "exifInfo": {"fileSizeInByte": 7}},
        {"id": "longer", "originalPath": f"{ROOT}/more/9{name}"},
        {"id": "jpeg", "originalPath": f"{ROOT}/deep/{name}.jpg"},
    ]
    assert immich.page(entry(index, name)) == f"{manager.address}/photos/id-{name[:2]}"
    assert set(manager.asked) == {("POST", "/api/search/metadata")}


def test_a_photo_that_is_not_surely_there_has_no_page(index, manager, immich):
    photo = entry(index, "10.png")  # deep/er/10.png
    there = next(asset for asset in manager.assets if asset["id"] == "id-10")
    there["originalPath"] = f"{ROOT}/other/10.png"
    assert immich.page(photo) is None
    there["originalPath"] = f"{ROOT}/deep/er/10.png"
    there["exifInfo"]["fileSizeInByte"] += 1
    assert immich.page(photo) is None
    there["exifInfo"] = None  # not read by the manager so far
    assert immich.page(photo) == f"{manager.address}/photos/id-10"
    manager.assets.append({"id": "twin", "originalPath": "/mnt/deep/er/10.png"})
    assert immich.page(photo) is None


def test_photoprism_by_content(index, manager):
    links = Links(f"{manager.address}/folder/library/browse?q=uid:{{id}}", {"PHOTOPRISM_TOKEN": KEY})
    assert links.page(entry(index, "10.png")) == f"{manager.address}/folder/library/browse?q=uid:id-10"
    manager.assets.clear()
    assert links.page(entry(index, "10.png")) is None
    gone = entry(index, "03.png")
    Path(gone.path).unlink()
    with pytest.raises(ZsbirError, match=r"03\.png cannot be read"):
        links.page(gone)


def test_by_path_alone(index):
    photo = entry(index, "03.png")
    assert Links("file://{path}").page(photo) == Path(photo.path).as_uri()


@pytest.mark.parametrize(
    ("template", "keys", "message"),
    [
        ("https://photos.example/", {}, "either"),
        ("https://photos.example/{id}/{path}", {}, "either"),
        ("https://photos.example/photos/{id}", {}, "IMMICH_API_KEY"),
        ("https://photos.example/{id}", {"IMMICH_API_KEY": "a", "PHOTOPRISM_TOKEN": "b"}, "set one of"),
        ("file:///photos/{id}", {"IMMICH_API_KEY": "a"}, "http address"),
    ],
)
def test_links_that_cannot_be(template, keys, message):
    with pytest.raises(ZsbirError, match=message):
        Links(template, keys)


@pytest.mark.parametrize(
    ("forms", "message"),
    [
        (({}, 403), "does not let the key in IMMICH_API_KEY search"),
        (({}, 500), "answers with the error 500"),
        ((b"<html>", 200), "does not answer like the manager"),
        (([1, 2], 200), "does not answer like the manager"),
        (({"assets": {"items": [{}]}}, 200), "does not answer like the manager"),
    ],
)
def test_a_manager_that_does_otherwise(index, manager, immich, forms, message):
    manager.forms = forms
    with pytest.raises(ZsbirError, match=message) as raised:
        immich.page(entry(index, "03.png"))
    assert KEY not in str(raised.value)


def test_a_wrong_key_a_silent_manager_and_a_redirection(index, manager, monkeypatch):
    photo = entry(index, "03.png")
    with pytest.raises(ZsbirError, match="refuses the key in IMMICH_API_KEY"):
        Links(f"{manager.address}/photos/{{id}}", {"IMMICH_API_KEY": "other"}).page(photo)
    with pytest.raises(ZsbirError, match="does not answer"):
        Links("http://127.0.0.1:9/photos/{id}", {"IMMICH_API_KEY": KEY}).page(photo)
    monkeypatch.setattr(manager, "do_POST", lambda self: self.answer(b"", 302, location=manager.address + "/stolen"))
    with pytest.raises(ZsbirError, match="error 302"):
        Links(f"{manager.address}/photos/{{id}}", {"IMMICH_API_KEY": KEY}).page(photo)


def client(index, links):
    settings = Settings(rate=1e6, burst=10**6, links=links)
    return testclient.TestClient(create_app(index, settings), base_url="http://127.0.0.1", follow_redirects=False)


def test_hits_of_the_page_lead_to_the_manager(index, manager, immich, photos):
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in photos.rglob("*") if file.is_file()}
    web = client(index, immich)
    (hit,) = web.post("/search", json={"strokes": [[[1, 200], [1, 200]]], "k": 1}).json()["hits"]
    assert hit["link"] == f"link/{hit['id']}"
    assert not manager.asked  # only once a link is followed
    answer = web.get("/" + hit["link"])
    assert answer.status_code == 303
    assert answer.headers["location"] == f"{manager.address}/photos/id-{Path(hit['path']).stem}"
    assert web.get("/link/99999").status_code == 404
    manager.assets.clear()
    assert web.get("/" + hit["link"]).status_code == 404
    manager.forms = ({}, 500)
    answer = web.get("/" + hit["link"])
    assert answer.status_code == 502
    assert "the error 500" in answer.json()["error"]
    assert before == {
        file: (file.read_bytes(), file.stat().st_mtime_ns) for file in photos.rglob("*") if file.is_file()
    }


def test_without_a_manager_there_is_no_link(index):
    search = {"strokes": [[[1, 200], [1, 200]]], "k": 1}
    assert "link" not in client(index, None).post("/search", json=search).json()["hits"][0]
    assert client(index, None).get("/link/1").status_code == 404
    (hit,) = client(index, Links("file://{path}")).post("/search", json=search).json()["hits"]
    assert hit["link"] == Path(index.catalog.entry(hit["id"]).path).as_uri()


def test_search_prints_links(method, photos, manager, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(method, tmp_path / "model")
    Index.build("model", photos, "i").close()
    picture(5).save("a.png")
    command = ["search", "i", "a.png", "-k", "1", "--link", f"{manager.address}/photos/{{id}}"]
    monkeypatch.delenv("PHOTOPRISM_TOKEN", raising=False)
    monkeypatch.delenv("IMMICH_API_KEY", raising=False)
    assert main(command) == 2
    assert "IMMICH_API_KEY" in capsys.readouterr().err
    monkeypatch.setenv("IMMICH_API_KEY", KEY)
    assert main(command) == 0
    assert f"{manager.address}/photos/id-05\n" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["hits"][0]["link"] == f"{manager.address}/photos/id-05"
    manager.forms = ({}, 500)
    assert main(command) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_slow_manager_keeps_no_search_waiting(index, immich, monkeypatch):
    follow = threading.Event()
    monkeypatch.setattr(immich, "page", lambda entry: follow.wait(60) and "https://photos.example/")
    transport = httpx.ASGITransport(create_app(index, Settings(links=immich)))

    async def everybody():
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            links = [asyncio.create_task(http.get(f"/link/{number}")) for number in (1, 2, 3)]
            await asyncio.sleep(0)
            found = await http.post("/search", json={"strokes": [[[1, 200], [1, 200]]], "k": 1})
            waiting = not any(link.done() for link in links)
            follow.set()
            return found.status_code, waiting, {answer.status_code for answer in await asyncio.gather(*links)}

    assert asyncio.run(everybody()) == (200, True, {303})


def test_a_slow_manager_is_not_waited_for(index, manager, immich, monkeypatch):
    monkeypatch.setattr(managers, "SECONDS", 0.05)
    monkeypatch.setattr(manager, "do_POST", lambda self: threading.Event().wait(0.5))
    with pytest.raises(ZsbirError, match="does not answer"):
        immich.page(entry(index, "03.png"))
