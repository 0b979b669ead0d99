"""Datasets from a table, and from torch datasets of the user's own."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import zsbir
from tests.data.data_trees import write_drawings
from zsbir.data.datasets.wrapped import WrappedDataset
from zsbir.errors import ZsbirError


def rows_of(root):
    return [
        {"path": str(file.relative_to(root)), "domain": file.parts[-3], "label": file.parts[-2]}
        for file in sorted(root.glob("*/*/*"))
    ]


def write(file, rows, delimiter=","):
    with file.open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.DictWriter(stream, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return file


def build(file, **arguments):
    return zsbir.DATASETS.build("table", file=file, **arguments)


def same(one, other):
    for part, split in one.parts.items():
        assert split.classes == other.parts[part].classes
        for domain in ("sketch", "photo"):
            mine, yours = split.of(domain), other.parts[part].of(domain)
            assert sorted(zip(mine.paths, mine.labels.tolist(), strict=True)) == sorted(
                zip(yours.paths, yours.labels.tolist(), strict=True)
            )


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "CSV"])
def test_a_table_gives_what_the_folders_give(zoo, kind):
    file = zoo / f"mine.{kind}"
    if kind == "parquet":
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows_of(zoo)), file)
    else:
        write(file, rows_of(zoo), "\t" if kind == "tsv" else ",")
    options = {"unseen": "dog", "validation": 2, "seed": 3}
    same(build(file, **options), zsbir.DATASETS.build("folder", root=zoo, **options))
    with pytest.raises(ZsbirError, match="none is left to train on"):
        build(file, unseen=["cat", "cow", "dog", "emu", "fox", "hot-air_balloon"])
    moved = file.rename(zoo.parent / file.name)
    data = build(moved, root=zoo, **options)
    same(data, zsbir.DATASETS.build("folder", root=zoo, **options))
    same(zsbir.DATASETS.build(json.loads(json.dumps(data.spec))), data)
    assert data.open(str(data.test.photos.file(0))).mode == "RGB"


def test_the_column_split_says_what_is_what(zoo):
    part = {"dog": "test", "emu": "validation", "fox": "validation"}
    rows = [{**row, "split": part.get(row["label"], "train"), "note": "x"} for row in rows_of(zoo)]
    rows[0]["split"] = "seen_test"
    rows[1]["path"] = str(zoo / rows[1]["path"])
    data = build(write(zoo / "t.csv", rows))
    assert data.train.classes == ("cat", "cow", "hot-air_balloon")
    assert data.validation.classes == ("emu", "fox")
    assert data.test.classes == ("dog",)
    assert len(data.seen_test.photos) + len(data.seen_test.sketches) == 1
    assert len(data.train.photos) + len(data.train.sketches) == 14
    with pytest.raises(ZsbirError, match="column split.*leave out unseen"):
        build(zoo / "t.csv", unseen="dog")


def test_a_quickdraw_file_is_a_row(zoo):
    write_drawings(zoo / "more.ndjson", 3)
    rows = [*rows_of(zoo), {"path": "more.ndjson", "domain": "Sketches", "label": "dog"}]
    data = build(write(zoo / "t.csv", rows), unseen="dog")
    assert list(data.test.sketches.paths)[-3:] == [f"more.ndjson#{i}" for i in range(3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"domain": "painting"}, "row 2 .*domain 'painting' is neither sketch nor photo"),
        ({"label": " "}, "row 2 .*label is empty"),
        ({"path": "none.png"}, "row 2 .*there is no file"),
        ({"path": "../secret.png"}, "row 2 .*outside of"),
        ({"path": "/etc/passwd"}, "row 2 .*outside of"),
        ({"path": "notes.txt"}, "row 2 .*is not an image"),
        ({"split": "seen"}, "row 2 .*split 'seen' is none of train"),
        ({"split": "test"}, "the class 'cat' is in test and in train"),
        ({"label": "yak"}, "no (sketch|photo) of yak"),
    ],
)
def test_wrong_rows_are_named(zoo, change, message):
    rows = [{**row, "split": "test" if row["label"] == "dog" else "train"} for row in rows_of(zoo)]
    rows[0] = {**rows[0], **change}
    with pytest.raises(ZsbirError, match=message):
        build(write(zoo / "t.csv", rows))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "lacks path, domain, label"),
        (b"path,domain\na,b\n", "lacks label; it has the columns path, domain"),
        (b"path,domain,label\n", "has no rows"),
        (b"path,domain,label\na,sketch\n", "cannot be read"),
        (b'path,domain,label\n"a,sketch,cat\n', "cannot be read"),
        (b"path,domain,label\n\xff,sketch,cat\n", "cannot be read"),
    ],
)
def test_damaged_tables_give_one_sentence(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ZsbirError, match=message):
        build(tmp_path / "t.csv", unseen=1)
    with pytest.raises(ZsbirError, match=r"none\.csv cannot be read"):
        build(tmp_path / "none.csv", unseen=1)
    (tmp_path / "t.parquet").write_bytes(b"PAR1" + content)
    with pytest.raises(ZsbirError, match=r"t\.parquet cannot be read"):
        build(tmp_path / "t.parquet", unseen=1)


class Squares(torch.utils.data.Dataset):
    """Six squares of each class, as PIL images, arrays or tensors."""

    def __init__(self, kind, names=("ant", "bee", "cow", "dog", "elk", "fox"), targets=True):
        self.kind, self.names = kind, names
        self.labels = [label for label in range(len(names)) for _ in range(6)]
        if targets:
            self.targets = self.labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        pixels = np.full((32, 32, 3), 250 - self.labels[index] * 20, dtype=np.uint8)
        pixels[: index % 6 + 2] = 0
        image = {
            "pil": lambda: Image.fromarray(pixels),
            "array": lambda: pixels,
            "tensor": lambda: torch.from_numpy(pixels).permute(2, 0, 1) / 255,
        }[self.kind]()
        return image, self.labels[index]


NAMES = Squares("pil").names


@pytest.mark.parametrize("kind", ["pil", "array", "tensor"])
def test_torch_datasets_are_wrapped(kind):
    data = WrappedDataset(Squares(kind), Squares("pil", targets=False), "dog,fox", classes=NAMES, validation=2, seed=1)
    assert data.test.classes == ("dog", "fox")
    assert len(data.validation.classes) == 2
    for domain in ("sketch", "photo"):
        records = data.test.of(domain)
        for i, label in enumerate(records.labels.tolist()):
            pixels = np.asarray(data.open(str(records.file(i))))
            assert pixels[-1, 0].tolist() == [250 - NAMES.index(data.test.classes[label]) * 20] * 3


@zsbir.DATASETS.register("squares-of-mine")
class Mine(WrappedDataset):
    def __init__(self, kind: str = "tensor") -> None:
        super().__init__(Squares(kind), Squares("pil"), unseen=2, classes=NAMES, validation=2)


def test_a_wrapped_dataset_trains_is_evaluated_and_resumes(tmp_path):
    data = zsbir.DATASETS.build("squares-of-mine")
    method = zsbir.build("dann", backbone={"name": "tiny", "image_size": 32, "width": 8})
    recipe = zsbir.Recipe(epochs=1, batch_size=4, samples_per_epoch=8)
    trainer = zsbir.Trainer(method, data, recipe=recipe, out=tmp_path / "run", workers=0, progress=False)
    trainer.fit()
    resumed = zsbir.Trainer.resume(tmp_path / "run", workers=0)
    assert resumed.dataset.manifest_hash == data.manifest_hash
    queries, gallery = zsbir.embed_split(trainer.method, data, data.test)
    assert len(queries) == len(gallery) == 12
    assert zsbir.Evaluator("standard").evaluate(queries, gallery).classes == data.test.classes


def test_wrong_torch_datasets_are_named():
    with pytest.raises(ZsbirError, match="the label 0 has no class name"):
        WrappedDataset(Squares("pil"), Squares("pil"), 1)
    with pytest.raises(ZsbirError, match="the sketch items must have all classes: they lack fox and add none"):
        WrappedDataset(Squares("pil", NAMES[:-1]), Squares("pil"), 1, classes=NAMES)
    odd = Squares("pil")
    odd.kind = "array"
    data = WrappedDataset(odd, odd, "dog", classes=NAMES)
    data._items["sketch"] = [(np.zeros((4, 4)), 0)]
    with pytest.raises(ZsbirError, match=r"\(4, 4\) float64"):
        data.open("items/sketch/0")
