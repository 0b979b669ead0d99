import asyncio
import io
import json
import threading

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette import testclient

from tests.search.pictures import picture
from zsbir.search.index import Index
from zsbir.search.uploads import Limits
from zsbir.search.web.app import create_app
from zsbir.search.web.guard import Rate, Settings


def client(index, limits=None, base="http://127.0.0.1", **more):
    settings = Settings(**{"rate": 1e6, "burst": 10**6, **more})
    return testclient.TestClient(create_app(index, settings, limits), base_url=base, raise_server_exceptions=False)


def png(number=1):
    stream = io.BytesIO()
    picture(number).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def web(index):
    return client(index)


def post(web, body, kind="image/png", **query):
    return web.post("/search", content=body, headers={"content-type": kind}, params=query)


def ask(web, **values):
    return web.post("/search", json=values)


def test_search_by_image_strokes_and_like(web, index):
    hits = post(web, png(3), k=4).json()["hits"]
    expected = index.search(picture(3), 4)
    assert [hit["id"] for hit in hits] == [hit.id for hit in expected]
    assert all(not hit["path"].startswith("/") and hit["path"].endswith(".png") for hit in hits)
    assert any(hit["path"].startswith("deep/") for hit in post(web, png(3), k=12).json()["hits"])
    strokes = [[[1, 200], [1, 200]]]
    assert [h["id"] for h in ask(web, strokes=strokes, k=3).json()["hits"]] == [h.id for h in index.search(strokes, 3)]
    like = ask(web, like=hits[0]["id"], k=5).json()["hits"]
    assert len(like) == 5
    assert hits[0]["id"] not in [hit["id"] for hit in like]
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path d="M1 1L8 8" stroke="#000"/></svg>'
    assert post(web, svg, "image/svg+xml").status_code == 200


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"nonsense", "image/png", 415),
        (b"", "image/png", 400),
        (png()[:-20], "image/png", 400),
        (png() + b"PK", "image/png", 400),
        (png(), "application/x-www-form-urlencoded", 415),
        (png(), "text/plain", 415),
        (b"{", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"[]", "application/json", 422),
        (b"{}", "application/json", 422),
        (b'{"path": "/etc/passwd"}', "application/json", 422),
        (b'{"text": "  "}', "application/json", 422),
        (b'{"text": "dog"}', "application/json", 400),
        (b'{"text": "\\ud800"}', "application/json", 422),
        (b'{"like": 1, "k": 0}', "application/json", 422),
        (b'{"like": 1, "k": 1001}', "application/json", 422),
        (b'{"like": 1, "k": true}', "application/json", 422),
        (b'{"like": 1, "mix": NaN}', "application/json", 422),
        (b'{"like": 1, "mix": ' + b"9" * 400 + b"}", "application/json", 422),
        (b'{"like": 99999}', "application/json", 400),
        (b'{"like": 1e3}', "application/json", 422),
        (b'{"like": 99999999999999999999}', "application/json", 422),
        (b'{"strokes": [[[0], []]]}', "application/json", 400),
    ],
)
def test_bad_requests_are_refused_and_the_service_goes_on(web, body, kind, status):
    answer = post(web, body, kind)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert post(web, png()).status_code == 200


def test_bad_numbers_in_the_address(web):
    for query in ({"k": "x"}, {"k": "9" * 5000}, {"mix": "nan"}, {"k": "-1"}):
        assert post(web, png(), **query).status_code == 422


def test_upload_size(index):
    web = client(index, Limits(size=1000))
    assert post(web, bytes(2000)).status_code == 413

    def endless():
        for _ in range(50):
            yield bytes(100)

    assert web.post("/search", content=endless(), headers={"content-type": "image/png"}).status_code == 413


def test_photos_are_reencoded_without_metadata(method, tmp_path):
    (tmp_path / "p").mkdir()
    exif = Image.Exif()
    exif[0x010E] = "SECRET-PLACE"
    exif.get_ifd(0x8825)[1] = "N"
    picture(1, 400).save(tmp_path / "p" / "a.jpg", exif=exif, comment=b"SECRET-COMMENT")
    index = Index.build(method, tmp_path / "p")
    web = client(index)
    number = index.search(picture(1), 1)[0].id
    for size, side in (("small", 256), ("large", 400), ("other", 256)):
        answer = web.get(f"/photo/{number}", params={"size": size})
        assert answer.headers["content-type"] == "image/jpeg"
        assert b"SECRET" not in answer.content
        image = Image.open(io.BytesIO(answer.content))
        assert not image.getexif()
        assert max(image.size) <= max(side, 256) or size == "large"
    assert web.get(f"/photo/{number}?original=1").status_code == 403
    assert b"SECRET-PLACE" in client(index, originals=True).get(f"/photo/{number}?original=1").content
    (tmp_path / "p" / "a.jpg").unlink()
    assert client(index).get(f"/photo/{number}").status_code == 404
    index.close()


@pytest.mark.parametrize(
    "address",
    ["/photo/0", "/photo/99999", "/photo/9999999999999999999999", "/photo/" + "9" * 5000, "/photo/-1",
     "/photo/../../etc/passwd",
     "/photo/%2e%2e%2fetc", "/photo/1/..", "/photo/", "/etc/passwd", "/photo/1%00.png", "/photo//etc/passwd"],
)  # fmt: skip
def test_no_other_file_is_served(web, address):
    assert web.get(address).status_code == 404


def test_search_in_a_folder(web, index):
    assert web.get("/folders").json() == {"folders": ["deep"]}
    hits = ask(web, strokes=[[[1, 200], [1, 200]]], folder="deep", k=12).json()["hits"]
    assert len(hits) == 6
    assert all(hit["path"].startswith("deep/") for hit in hits)
    assert post(web, png(3), k=3, folder="deep").json()["hits"][0]["path"].startswith("deep/")
    assert ask(web, like=hits[0]["id"], folder="deep").json()["hits"][0]["path"].startswith("deep/")
    assert ask(web, like=1, folder="../..").status_code == 422
    assert ask(web, like=1, folder=3).status_code == 422


def test_folders_are_looked_for_again_only_after_a_change(web, index, photos):
    walks = []
    index.catalog._db.set_trace_callback(
        lambda statement: statement.startswith("SELECT path FROM photos") and walks.append(statement)
    )
    for _ in range(3):
        assert web.get("/folders").json() == {"folders": ["deep"]}
        assert ask(web, like=1, folder="deep").status_code == 200
    assert len(walks) == 1
    (photos / "new").mkdir()
    picture(50).save(photos / "new" / "50.png")
    index.update()
    assert web.get("/folders").json() == {"folders": ["deep", "new"]}
    other = Index.load(index.folder)
    other.remove(photos / "new")
    other.close()
    assert web.get("/folders").json() == {"folders": ["deep"]}
    assert len(walks) == 3


def test_search_by_a_matcher(web, index):
    offering = client(index, matchers=("euclidean",))
    by_distance = [hit.score for hit in index.search(picture(3), 4, matcher="euclidean")]
    assert [h["score"] for h in post(offering, png(3), k=4, matcher="euclidean").json()["hits"]] == pytest.approx(
        by_distance, abs=1e-5
    )
    strokes = [[[1, 200], [1, 200]]]
    assert ask(offering, strokes=strokes, matcher="euclidean").json()["hits"][0]["score"] < 0
    assert ask(offering, strokes=strokes, matcher="cosine").status_code == 200
    wrong = (
        {"strokes": strokes, "matcher": "hamming"},
        {"strokes": strokes, "matcher": 3},
        {"like": 1, "matcher": "euclidean"},
        {"like": 1, "text": "a"},
        {"like": 1, "strokes": strokes},
    )
    for refused in wrong:
        assert ask(offering, **refused).status_code == 422
    assert post(web, png(3), matcher="euclidean").status_code == 422


def test_a_flat_photo_has_a_thumbnail(method, tmp_path):
    (tmp_path / "p").mkdir()
    picture(1).resize((4000, 3)).save(tmp_path / "p" / "flat.png")
    index = Index.build(method, tmp_path / "p")
    for size in ("small", "large"):
        assert client(index).get("/photo/1", params={"size": size}).status_code == 200
    index.close()


def test_health_metrics_openapi_page(web):
    assert web.get("/health").json() == {"status": "ok", "photos": 12}
    post(web, png())
    post(web, b"x")
    text = web.get("/metrics").text
    assert 'zsbir_requests_total{route="/search",status="200"} 1' in text
    assert 'zsbir_requests_total{route="/search",status="415"} 1' in text
    assert "zsbir_photos 12" in text
    assert set(web.get("/openapi.json").json()["paths"]) == {
        "/search",
        "/photo/{number}",
        "/link/{number}",
        "/folders",
        "/health",
        "/metrics",
    }
    page = web.get("/")
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    assert "https://" not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"


def test_token(index):
    web = client(index, token="s3cret", hosts=())
    assert web.get("/").status_code == 401
    assert post(web, png()).status_code == 401
    assert web.get("/photo/1").status_code == 401
    assert web.get("/photo/1?token=s3cret").status_code == 401
    assert web.get("/metrics").status_code == 401
    assert web.get("/?token=wrong").status_code == 401
    assert web.get("/health").status_code == 200
    assert web.get("/metrics", headers={"authorization": "Bearer s3cret"}).status_code == 200
    answer = web.get("/?token=s3cret", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=strict" in answer.headers["set-cookie"]
    assert post(web, png()).status_code == 200


def test_other_host_names_are_refused(index):
    assert client(index, base="http://evil.example").get("/health").status_code == 400
    assert client(index, base="http://localhost:8000").get("/health").status_code == 200
    assert client(index, base="http://[::1]:8000").get("/health").status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1:80/health?", "127.0.0.1/health?x=", "127.0.0.1#/health", "a b", ""])
@pytest.mark.parametrize("hosts", [(), ("127.0.0.1",)])
def test_a_host_header_does_not_stand_in_for_the_token(index, host, hosts):
    web = client(index, token="s3cret", hosts=hosts)
    for path in ("/", "/photo/1", "/metrics", "/openapi.json"):
        assert web.get(path, headers={"host": host}).status_code in (400, 401)
    assert web.post("/search", json={"like": 1}, headers={"host": host}).status_code in (400, 401)


def test_rate():
    now = [0.0]
    rate = Rate(2, 3, clients=2, clock=lambda: now[0])
    assert [rate.allows("a") for _ in range(4)] == [True, True, True, False]
    assert rate.allows("b")
    now[0] = 0.5
    assert [rate.allows("a"), rate.allows("a")] == [True, False]


def test_rate_over_http(index):
    web = client(index, rate=0.001, burst=2)
    assert [web.get("/health").status_code for _ in range(3)] == [200, 200, 429]


def test_time_limit_and_queue(index, monkeypatch):
    import time

    web = client(index, seconds=0.1)
    monkeypatch.setattr(index, "nearest", lambda *_, **__: time.sleep(0.4))
    assert post(web, png()).status_code == 503
    assert post(client(index, waiting=0), png()).status_code == 503


def test_an_error_inside_is_a_plain_500(index, monkeypatch):
    monkeypatch.setattr(index, "nearest", lambda *_, **__: 1 / 0)
    answer = post(client(index), png())
    assert answer.status_code == 500
    assert "ZeroDivision" not in answer.text


def test_queries_that_wait_for_the_model_are_one_batch(index, monkeypatch):
    """While the first is embedded the others come; they get what they would have got alone."""
    expected = {n: [hit.id for hit in index.search(Image.open(io.BytesIO(png(n))), 3)] for n in range(8)}
    embed, sizes, all_there = index.embedder.method.embed, [], threading.Event()

    def slow(batch, domain):
        sizes.append(len(batch))
        assert all_there.wait(20)
        return embed(batch, domain)

    monkeypatch.setattr(index.embedder.method, "embed", slow)
    site = create_app(index, Settings(burst=1000))

    async def ask():
        async def user(number, http):
            answer = await http.post(
                "/search", content=png(number), headers={"content-type": "image/png"}, params={"k": 3}
            )
            return number, [hit["id"] for hit in answer.json()["hits"]]

        async def let_go():
            while len(index.embedder._together._asked) < 7:
                await asyncio.sleep(0.01)
            all_there.set()

        async with httpx.AsyncClient(transport=httpx.ASGITransport(site), base_url="http://127.0.0.1") as http:
            *found, _ = await asyncio.gather(*(user(number, http) for number in range(8)), let_go())
        return dict(found)

    assert asyncio.run(ask()) == expected
    assert sizes == [1, 7]


def test_a_query_that_cannot_be_embedded_does_not_hold_up_the_next(index, monkeypatch):
    vectors = index.vector(picture(3))
    with monkeypatch.context() as broken:
        broken.setattr(index.embedder.method, "embed", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            index.vector(picture(3))
    assert (index.vector(picture(3)) == vectors).all()


def test_twenty_users_at_once(index):
    transport = httpx.ASGITransport(create_app(index, Settings(burst=1000)))

    async def user(number, http):
        answers = []
        for turn in range(5):
            answer = await http.post(
                "/search", content=png((number + turn) % 12), headers={"content-type": "image/png"}, params={"k": 3}
            )
            answers.append((answer.status_code, [hit["id"] for hit in answer.json()["hits"]]))
        return answers

    async def everybody():
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            return await asyncio.gather(*(user(number, http) for number in range(20)))

    expected = {number: [hit.id for hit in index.search(picture(number), 3)] for number in range(12)}
    for number, answers in enumerate(asyncio.run(everybody())):
        assert answers == [(200, expected[(number + turn) % 12]) for turn in range(5)]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=4),
    max_leaves=8,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["strokes", "text", "mix", "k", "like", "matcher", "other"]), JSON, max_size=4))
def test_fuzz_json(web, values):
    answer = post(web, json.dumps(values).encode(), "application/json")
    assert answer.status_code in (200, 400, 413, 415, 422)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["image/png", "image/jpeg", "image/svg+xml", "application/json", "", "a/b"]),
    st.binary(max_size=200),
    st.dictionaries(st.sampled_from(["k", "mix", "text"]), st.text(max_size=5), max_size=3),
)
def test_fuzz_bodies(web, kind, body, query):
    answer = web.post("/search", content=body, headers={"content-type": kind}, params=query)
    assert answer.status_code in (200, 400, 413, 415, 422)


def test_api_keeps_its_description(index):
    import schemathesis

    app = create_app(index, Settings(rate=1e6, burst=10**6, hosts=()))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)

    for operation in schema.get_all_operations():
        test = operation.ok().as_strategy()

        @given(test)
        @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
        def run(case):
            answer = case.call()
            assert answer.status_code < 500, answer.text
            assert str(answer.status_code) in case.operation.definition.raw["responses"], answer.status_code

        run()


def test_float_scores_are_json(web):
    assert np.isfinite([hit["score"] for hit in post(web, png()).json()["hits"]]).all()
