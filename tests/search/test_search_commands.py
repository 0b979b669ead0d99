import json

import pytest
from PIL import Image

from tests.search.pictures import picture
from zsbir.cli import main
from zsbir.errors import ZsbirError
from zsbir.methods.saving import save
from zsbir.search.web.serve import settings_for


@pytest.fixture
def model(method, tmp_path):
    save(method, tmp_path / "model")
    return str(tmp_path / "model")


def test_index_again_and_search(model, photos, tmp_path, capsys):
    out = str(tmp_path / "my.index")
    assert main(["index", str(photos), "-o", out, "--model", model]) == 0
    assert "12 photos" in capsys.readouterr().out
    (photos / "00.png").unlink()
    (photos / "bad.png").write_bytes(b"?")
    assert main(["index", str(photos), "-o", out]) == 0
    printed = capsys.readouterr().out
    assert "11 photos as before" in printed
    assert "1 removed" in printed
    assert "bad.png" in printed

    picture(5).save(tmp_path / "a.png")
    picture(7).save(tmp_path / "b.jpg")
    command = ["search", out, str(tmp_path / "a.png"), str(tmp_path / "b.jpg"), "-k", "3"]
    assert main([*command, "--json", "--picture", str(tmp_path / "found.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [len(row["hits"]) for row in found] == [3, 3]
    assert found[0]["hits"][0]["path"].endswith("05.png")
    assert Image.open(tmp_path / "found.png").width > 4 * 128
    assert main([*command, "--matcher", "euclidean"]) == 0
    assert "05.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "nothing to search for"),
        (["nowhere.png"], "nowhere.png"),
        (["--text", "dog"], "does not read text"),
        (["a.png", "--matcher", "cosin"], "cosine"),
        (["a.png", "--set", "x=1"], "--matcher"),
        (["a.png", "--candidates", "5"], "--matcher"),
        (["a.png", "--mix", "0.1"], "--text"),
        (["white.png"], "nothing is drawn"),
    ],
)
def test_mistakes_are_one_line(more, message, model, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(1).save("a.png")
    Image.new("L", (9, 9), 255).save("white.png")
    assert main(["index", str(photos), "-o", "i", "--model", model]) == 0
    capsys.readouterr()
    assert main(["search", "i", *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--store", "faiss"], "keeps its vectors in"),
        (["--store", "nowhere"], "exact"),
        (["--set", "chunk=7"], "keeps its vectors in"),
        (["--model", "frozen"], ""),
        (["--batch-size", "0"], "at least 1"),
        (["--workers", "-1"], "at least 0"),
        (["--matcher", "cosin"], "cosine"),
    ],
)
def test_what_an_existing_index_refuses(more, message, model, photos, tmp_path, capsys):
    out = str(tmp_path / "i")
    assert main(["index", str(photos), "-o", out, "--model", model]) == 0
    picture(80).save(photos / "new.png")
    assert main(["index", str(photos), "-o", out, *more]) == 2
    assert message in capsys.readouterr().err


def test_options_of_index(model, photos, tmp_path, capsys):
    out, other = tmp_path / "i", tmp_path / "other"
    other.mkdir()
    picture(90).save(other / "90.png")
    (photos / "out.png").symlink_to(other / "90.png")
    assert main(["index", "-o", str(out)]) == 2
    assert main(["index", str(photos), "-o", str(out), "--prune"]) == 2
    capsys.readouterr()
    new = ["--backbone", model, "--store", "faiss", "--set", "kind=flat", "--links", "--device", "cpu"]
    assert main(["index", str(photos), "-o", str(out), *new, "--batch-size", "2", "--workers", "1"]) == 0
    assert "13 photos" in capsys.readouterr().out
    assert json.loads((out / "index.json").read_text())["store"]["kind"] == "flat"
    assert main(["index", str(other), "-o", str(out), "--matcher", "one-to-many"]) == 0
    assert (out / "matchers" / "one-to-many").is_dir()
    assert "1 new" in capsys.readouterr().out
    for number in range(3):
        (photos / f"{number:02d}.png").unlink()
    assert main(["index", "-o", str(out), "--links"]) == 0
    assert "3 photos are gone from the disk" in capsys.readouterr().out
    assert main(["index", "-o", str(out), "--links", "--prune"]) == 0
    assert "3 removed" in capsys.readouterr().out


def test_an_index_is_not_written_into_a_run(model, photos, capsys):
    assert main(["index", str(photos), "-o", model, "--model", model]) == 2
    assert "exists and is no index" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more", [["--rate", "-1"], ["--rate", "nan"], ["--max-upload", "0"], ["--token", "short"], ["--port", "99999"]]
)
def test_what_serve_refuses(more, model, photos, tmp_path, capsys):
    assert main(["index", str(photos), "-o", str(tmp_path / "i"), "--model", model]) == 0
    assert main(["serve", str(tmp_path / "i"), *more]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_serve_needs_an_index(tmp_path, capsys):
    assert main(["serve", str(tmp_path)]) == 2
    assert "is no index" in capsys.readouterr().err


def test_off_the_loopback_there_is_a_token():
    assert settings_for("127.0.0.1").token is None
    assert len(settings_for("0.0.0.0").token) >= 16
    assert settings_for("0.0.0.0").token != settings_for("0.0.0.0").token
    assert settings_for("::", token="x" * 16).token == "x" * 16
    assert "photos.example" in settings_for("127.0.0.1", hosts=("photos.example",)).hosts
    with pytest.raises(ZsbirError, match="too short"):
        settings_for("0.0.0.0", token="short")
