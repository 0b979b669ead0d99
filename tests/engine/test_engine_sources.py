import io
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image

from zsbir.engine.sources import FileSource, ParquetSource, TarSource, open_source
from zsbir.errors import ZsbirError


def encoded(seed, kind="PNG"):
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, kind)
    return held.getvalue()


def pack(file, members):
    with tarfile.open(file, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for number in range(5):
        name = f"deep/{number}.PNG" if number % 2 else f"{number}.png"
        (folder / name).write_bytes(encoded(number))
    (folder / "notes.md").write_text("no image")
    return folder


def everything(source):
    return [item for shard in range(len(source.shards)) for item in source.read(shard)]


def test_a_folder_is_cut_into_shards(photos):
    source = open_source(photos, block=2)
    assert isinstance(source, FileSource)
    assert len(source.shards) == 3
    files = sorted(str(file) for file in photos.rglob("*") if file.suffix.lower() == ".png")
    assert [data for _, data in everything(source)] == files


def test_a_list_keeps_its_order(photos, tmp_path):
    files = [str(photos / "deep/3.PNG"), str(photos / "0.png")]
    (tmp_path / "list.txt").write_text("\n".join(files) + "\n\n")
    assert [name for name, _ in everything(open_source(tmp_path / "list.txt"))] == files


def test_tar_files_are_shards_and_their_images_items(tmp_path):
    tars = tmp_path / "tars"
    tars.mkdir()
    for part in range(2):
        members = [
            (f"{part}{n}.{kind}", encoded(n) if kind == "jpg" else b"{}") for n in range(3) for kind in ("jpg", "json")
        ]
        pack(tars / f"{part:04d}.tar", members)
    source = open_source(tars)
    assert isinstance(source, TarSource)
    assert len(source.shards) == 2
    found = list(source.read(1))
    assert [name.rsplit("/", 1)[1] for name, _ in found] == ["10.jpg", "11.jpg", "12.jpg"]
    assert found[0][1] == encoded(0)
    assert open_source(tars / "0000.tar").shards == source.shards[:1]
    assert open_source(f"{tars}/*.tar").shards == source.shards


def test_a_damaged_tar_is_named(tmp_path):
    (tmp_path / "broken.tar").write_bytes(b"x" * 700)
    with pytest.raises(ZsbirError, match=r"broken\.tar cannot be read"):
        everything(open_source(tmp_path / "broken.tar"))


@pytest.mark.parametrize("form", ["bytes", "struct", "path"])
def test_parquet_rows_are_images(tmp_path, photos, form):
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra 'ray' is not installed")
    import pyarrow

    files = sorted(str(file) for file in photos.rglob("*.png"))
    data = [pathlib.Path(file).read_bytes() for file in files]
    columns = {
        "bytes": {"image": data},
        "struct": {"image": [{"bytes": item, "path": None} for item in data]},
        "path": {"path": files},
    }[form]
    parquet.write_table(pyarrow.table({"id": [f"n{i}" for i in range(len(files))], **columns}), tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")
    assert isinstance(source, ParquetSource)
    assert everything(source) == [(f"n{i}", files[i] if form == "path" else data[i]) for i in range(len(files))]


def test_a_table_without_images_is_refused(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra 'ray' is not installed")
    import pyarrow

    parquet.write_table(pyarrow.table({"price": [1, 2]}), tmp_path / "t.parquet")
    with pytest.raises(ZsbirError, match="no column of images"):
        everything(open_source(tmp_path / "t.parquet"))


def test_mixed_kinds_nothing_and_unknown_protocols_are_refused(tmp_path, photos):
    pack(photos / "more.tar", [("a.png", encoded(0))])
    with pytest.raises(ZsbirError, match="give one kind"):
        open_source(photos)
    with pytest.raises(ZsbirError, match="nothing at"):
        open_source(tmp_path / "absent")
    with pytest.raises(ZsbirError, match="cannot be opened"):
        open_source("nosuch://bucket/photos")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.md").write_text("")
    with pytest.raises(ZsbirError, match="no images in"):
        open_source(tmp_path / "empty")


def test_s3(tmp_path, monkeypatch):
    server = pytest.importorskip("moto.server", reason="a test server for S3, of the extra 'ray-test'")
    pytest.importorskip("s3fs")
    import fsspec

    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    try:
        host, port = running.get_host_and_port()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", f"http://{host}:{port}")
        fsspec.config.set_conf_env(fsspec.config.conf)
        fs = fsspec.filesystem("s3", skip_instance_cache=True)
        fs.mkdir("bucket")
        for number in range(3):
            fs.pipe_file(f"bucket/photos/{number}.png", encoded(number))
        found = everything(open_source("s3://bucket/photos", block=2))
        assert found == [(f"s3://bucket/photos/{number}.png", encoded(number)) for number in range(3)]
        pack(tmp_path / "a.tar", [("x.png", encoded(7))])
        fs.put(str(tmp_path / "a.tar"), "bucket/tars/a.tar")
        assert [data for _, data in everything(open_source("s3://bucket/tars/*.tar"))] == [encoded(7)]
    finally:
        running.stop()
        fsspec.config.conf.pop("s3", None)
