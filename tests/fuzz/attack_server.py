"""Attack a server of one's own on the loopback, and print what happened as JSON: python -m tests.fuzz.attack_server."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import psutil

import zsbir
from tests.search.pictures import picture
from zsbir.search.index import Index

TOKEN = "x" * 20
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">{}</svg>'
COSTLY = SVG.format('<g opacity=".9">' * 45 + '<circle r="90" opacity=".5"/>' * 4000 + "</g>" * 45).encode()
HEAD = (
    "POST /search HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n"
    "Content-Type: image/png\r\nContent-Length: {}\r\n\r\n"
)


def serve(folder):
    command = [sys.executable, "-m", "zsbir", "serve", folder, "--port", "0", "--token", TOKEN]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline().split("127.0.0.1:")[1].split("/")[0])


def memory(process):
    me = psutil.Process(process.pid)
    return sum(one.memory_info().rss for one in (me, *me.children(recursive=True))) / 1e6


def main():
    said = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "photos").mkdir()
        for number in range(50):
            picture(number).save(Path(folder) / "photos" / f"{number}.png")
        Index.build(zsbir.build("frozen", backbone="tiny"), Path(folder) / "photos", Path(folder) / "i").close()
        process, port = serve(str(Path(folder) / "i"))
        client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {TOKEN}"}, timeout=120
        )

        def post(body, kind="image/svg+xml"):
            began = time.perf_counter()
            status = client.post("/search", content=body, headers={"content-type": kind}).status_code
            return {"status": status, "seconds": round(time.perf_counter() - began, 2)}

        def search():
            stream = io.BytesIO()
            picture(1).save(stream, "PNG")
            return post(stream.getvalue(), "image/png")

        said["a search"] = search()
        forged = httpx.get(f"http://127.0.0.1:{port}/photo/1", headers={"host": "127.0.0.1:80/health?"})
        said["Host: 127.0.0.1:80/health? without the token"] = {"status": forged.status_code}
        said["26 comments before an SVG"] = post(b"<!---->" * 26 + b"<!")
        answers = []
        thread = threading.Thread(target=lambda: answers.append(post(COSTLY)))
        thread.start()
        time.sleep(1)
        said["a search beside it"] = search()
        thread.join()
        said[f"a costly SVG of {len(COSTLY) // 1000} kB"] = answers[0]
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(505)]
        said["a search beside 505 silent connections"] = search()
        for one in silent:
            one.close()
        before, unfinished = memory(process), []
        for _ in range(190):
            one = socket.create_connection(("127.0.0.1", port))
            one.settimeout(0.05)
            unfinished.append(one)
            try:
                one.sendall(HEAD.format(TOKEN, 8_000_000).encode() + bytes(7_000_000))
            except OSError:
                continue
        said["190 unfinished uploads of 7 MB"] = {"more_memory_mb": round(memory(process) - before)}
        for one in unfinished:
            one.close()
        time.sleep(1)
        said["a search after it"] = search()
        thread = threading.Thread(target=lambda: client.post("/search", content=COSTLY), daemon=True)
        thread.start()
        time.sleep(1)
        began = time.perf_counter()
        os.kill(process.pid, signal.SIGTERM)
        process.wait(120)
        said["SIGTERM during a costly SVG"] = {"seconds": round(time.perf_counter() - began, 2)}
    print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
