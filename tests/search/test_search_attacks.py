"""What strangers did to the server, over real sockets on the loopback."""

import io
import socket
import time
from contextlib import ExitStack

import httpx
import pytest

from tests.search.conftest import serving
from tests.search.pictures import picture
from zsbir.search.web import server
from zsbir.search.web.guard import Settings

HEAD = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"


def connect(stack, port):
    made = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
    return made


def closed(connection):
    try:
        while connection.recv(4096):
            pass
        return True
    except ConnectionError:
        return True


def search(port):
    stream = io.BytesIO()
    picture(1).save(stream, "PNG")
    return httpx.post(
        f"http://127.0.0.1:{port}/search", content=stream.getvalue(), headers={"content-type": "image/png"}, timeout=20
    ).status_code


def test_silent_connections_keep_nobody_out(index, monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS", 30)
    with serving(index) as port, ExitStack() as stack:
        silent = [connect(stack, port) for _ in range(60)]
        assert search(port) == 200
        assert closed(silent[0])


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: loc"])
def test_a_head_that_does_not_come(index, monkeypatch, sent):
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.3)
    with serving(index) as port, ExitStack() as stack:
        slow = connect(stack, port)
        slow.sendall(sent)
        assert closed(slow)
        kept = connect(stack, port)  # after an answer the clock starts again with the first byte
        kept.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in kept.recv(4096)
        kept.sendall(b"G")
        began = time.monotonic()
        while kept.recv(4096):
            pass
        assert time.monotonic() - began < 10


def test_a_body_that_does_not_come(index):
    with serving(index, Settings(body_seconds=0.3)) as port, ExitStack() as stack:
        slow = connect(stack, port)
        slow.sendall(HEAD % 1000 + b"x")
        assert b"408" in slow.recv(4096)
        assert closed(slow)


def test_many_unfinished_bodies(index):
    settings = Settings(bodies=6, bodies_each=4, body_bytes=1, body_seconds=1)
    with serving(index, settings) as port, ExitStack() as stack:
        unfinished = [connect(stack, port) for _ in range(4)]
        for one in unfinished:
            one.sendall(HEAD % 1_000_000 + bytes(1000))
        time.sleep(0.3)
        assert search(port) == 429
        time.sleep(1)
        assert search(port) == 200  # they were given up


def test_all_bodies_together_are_bounded(index):
    from zsbir.search.uploads import Limits

    with serving(index, Settings(body_bytes=1), Limits(size=100_000)) as port, ExitStack() as stack:
        first = connect(stack, port)
        first.sendall(HEAD % 90_000 + bytes(80_000))
        time.sleep(0.3)
        second = connect(stack, port)
        second.sendall(HEAD % 90_000 + bytes(80_000))
        assert b"503" in second.recv(4096)


def test_clients_that_go_away_leave_no_traceback(index, caplog, capfd):
    with serving(index) as port:
        for sent in (b"", b"x" * 500, b"x" * 1000):
            for _ in range(5):
                with ExitStack() as stack:
                    connect(stack, port).sendall(HEAD % 1000 + sent)
        time.sleep(0.5)
        assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    assert "Traceback" not in caplog.text + "".join(capfd.readouterr())
