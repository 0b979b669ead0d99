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
    ],
)
def test_mistakes_are_one_line(more, message, model, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(1).save("a.png")
    assert main(["index", str(photos), "-o", "i", "--model", model]) == 0
    capsys.readouterr()
    assert main(["search", "i", *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


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
