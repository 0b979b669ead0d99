"""What is fuzzed: each reader and endpoint with files to begin from, and a call that may raise ZsbirError only."""

import io
import json
import shutil
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch
from starlette.testclient import TestClient

import zsbir
from tests.fuzz.data_targets import data_targets
from tests.fuzz.run_targets import run_targets
from tests.search.pictures import picture
from zsbir.data.images import load_image
from zsbir.data.scan import photo_files
from zsbir.data.strokes import load_drawing
from zsbir.evaluation.embeddings import load_embeddings, save_embeddings
from zsbir.search.index import Index
from zsbir.search.uploads import decode_upload
from zsbir.search.web.app import create_app
from zsbir.search.web.guard import Settings
from zsbir.types import Embeddings

SVG = """<?xml version="1.0"?><!-- drawn --><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 99 99" width="99">
<defs><filter id="f"><feTurbulence baseFrequency=".5" numOctaves="3"/></filter></defs>
<g transform="rotate(9)" style="stroke:#000;fill:none"><path d="M10 10C20 20 30 5 90 90z" stroke-width="6"/>
<circle cx="5" cy="6" r="7" filter="url(#f)"/><use href="#f"/><image href="data:image/png;base64,AAAA"/></g></svg>"""
QUESTION = {"strokes": [[[1, 200], [1, 200]], [[5], [6], [7]]], "text": "a", "mix": 0.5, "k": 3, "folder": "deep"}


def encoded(kind, mode="RGB", **options):
    stream = io.BytesIO()
    picture(3, 24).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


IMAGES = {
    "png": encoded("PNG"), "jpg": encoded("JPEG"), "webp": encoded("WEBP"), "gif": encoded("GIF", "P"),
    "bmp": encoded("BMP"), "tif": encoded("TIFF"), "ppm": encoded("PPM"),
}  # fmt: skip


class Target:
    """A reader.

    Args:
        seeds: Files to begin from.
        call: Takes the bytes of one.
    """

    def __init__(self, seeds, call):
        self.seeds, self.call = seeds, call


def targets(folder: Path) -> dict[str, Target]:
    """Make all targets; files go into `folder`."""

    def file(name, read):
        def call(data):
            (folder / name).write_bytes(data)
            read(str(folder / name))

        return call

    def any_image(data):
        for ending in ("png", "tif"):
            file(f"x.{ending}", load_image)(data)

    method = zsbir.build("frozen", backbone="tiny").eval()
    method.save(folder / "method")
    vectors = Embeddings(torch.randn(4, 8), np.array([0, 1, 0, 1]), ("a", "b"))
    save_embeddings(vectors, folder / "seed")
    photos = folder / "photos" / "deep"
    photos.mkdir(parents=True)
    for number in range(4):
        picture(number).save(photos / f"{number}.png")
    index = Index.build(method, folder / "photos", folder / "index")
    index.save(folder / "kept")
    app = TestClient(create_app(index, Settings(rate=1e9, burst=10**9)), base_url="http://localhost")

    def part(home, name, read):
        """One file of a folder is replaced, the others are as they were."""
        whole = folder / home

        def call(data):
            damaged = folder / f"{home}-damaged"
            shutil.rmtree(damaged, ignore_errors=True)
            shutil.copytree(whole, damaged)
            (damaged / name).write_bytes(data)
            read(damaged)

        return Target([(whole / name).read_bytes()], call)

    def searched(path):
        opened = Index.load(path)
        try:
            opened.search(picture(1), 2)
        finally:
            opened.close()

    def posted(kind):
        def call(data):
            answer = app.post("/search", content=data, headers={"content-type": kind})
            assert answer.status_code < 500, answer.text

        return call

    def got(data):
        answer = app.get("/" + quote(data[:2000], safe="/?&=%"))
        assert answer.status_code < 500, answer.text

    json_seed = [json.dumps(QUESTION).encode(), b'{"like": 1, "k": 2}']
    return {
        "image": Target(list(IMAGES.values()), any_image),
        "svg": Target([SVG.encode()], file("x.svg", load_drawing)),
        "quickdraw": Target(
            [json.dumps({"drawing": QUESTION["strokes"]}).encode() + b"\n"],
            file("x.ndjson", lambda name: load_drawing(f"{name}#0")),
        ),
        "upload": Target([*IMAGES.values(), SVG.encode()], decode_upload),
        "list": Target(
            [b"photos/deep/0.png\nphotos/deep/1.png\n"], file("x.txt", lambda name: list(photo_files(name)))
        ),
        "embeddings.json": Target(
            [(folder / "seed.json").read_bytes()],
            file("seed.json", lambda _: load_embeddings(folder / "seed.safetensors")),
        ),
        "embeddings.safetensors": Target(
            [(folder / "seed.safetensors").read_bytes()], file("y.safetensors", load_embeddings)
        ),
        "method.json": part("method", "method.json", zsbir.load),
        "model.safetensors": part("method", "model.safetensors", zsbir.load),
        "index.json": part("kept", "index.json", searched),
        "photos.sqlite": part("kept", "photos.sqlite", searched),
        "vectors": part("kept", "store/vectors.f32", searched),
        "ids": part("kept", "store/ids.i64", searched),
        "POST image": Target([IMAGES["png"], IMAGES["jpg"], IMAGES["webp"]], posted("image/png")),
        "POST svg": Target([SVG.encode()], posted("image/svg+xml")),
        "POST json": Target(json_seed, posted("application/json")),
        "GET": Target([b"photo/1?size=large", b"folders", b"photo/1?original=1", b"search?k=1&mix=0.5"], got),
        **{name: Target(*target) for name, target in data_targets(folder / "data").items()},
        **{name: Target(*target) for name, target in run_targets(folder / "runs").items()},
    }
