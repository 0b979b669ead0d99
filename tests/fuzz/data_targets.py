"""The readers of datasets: split files, tables, lists, word vectors, WordNet, the disk store."""

import json
import warnings

import numpy as np

import zsbir
from tests.data.data_trees import picture
from zsbir.data.datasets._lists import read_list
from zsbir.data.manifest import digest, write_manifest
from zsbir.data.semantic import WordNet
from zsbir.data.word_vectors import class_weights
from zsbir.store import Store

CLASSES = "abcdef"
NOUN = (
    b"  licence\n00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 ~ 00002137 n 0000 ~ 04424418 n 0000 | all\n"
    b"00001930 03 n 01 physical_entity 0 001 @ 00001740 n 0000 | a thing\n"
)
INDEX = b"  licence\nentity n 1 1 ~ 1 1 00001740  \nphysical_entity n 1 1 @ 1 0 00001930  \n"


def data_targets(folder):
    """Return each reader's seeds and call; files go into `folder`."""
    home = folder / "zoo"
    for domain in ("sketch", "photo"):
        for name in CLASSES:
            picture(home / domain / name / "0.png")
    write_manifest(zsbir.DATASETS.build("folder", root=home, unseen="a", validation=2).manifest(), home / "split.json")
    rows = [f"{domain}/{name}/0.png,{domain},{name},{'test' if name == 'a' else 'train'}"
            for domain in ("sketch", "photo") for name in CLASSES]  # fmt: skip
    np.save(folder / "v_embeddings.npy", np.random.default_rng(0).random((6, 4), dtype=np.float32))
    (folder / "v_labels.txt").write_text("\n".join(CLASSES))
    (folder / "index.noun").write_bytes(INDEX)
    values = {bytes([i]) * 16: bytes([i]) * 3000 for i in range(9)}
    store = Store(folder / "seed.sqlite")
    store.put(values.items())
    store.close()

    def split(data):
        try:
            body = json.loads(data)  # with a hash that fits, so that what comes after is reached
            data = json.dumps({**body, "sha256": digest(body)}).encode()
        except (ValueError, TypeError, AttributeError, RecursionError):
            pass  # read as it is
        (folder / "split.json").write_bytes(data)
        zsbir.DATASETS.build("folder", root=home, split=folder / "split.json").manifest()

    def file(name, read):
        def call(data):
            (folder / name).write_bytes(data)
            with warnings.catch_warnings(action="ignore"):
                read(folder / name)

        return call

    def vectors(path):
        class_weights(str(path), list(CLASSES))

    def net(_):
        words = WordNet(folder)
        for synset in (*words.senses("entity"), *words.senses("physical_entity")):
            words.ancestors(synset)

    def stored(path):
        for ending in ("-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        opened = Store(path)
        for key, value in values.items():
            assert opened.get(key) in (None, value)
        opened.put(values.items())
        opened.close()

    return {
        "split file": ([(home / "split.json").read_bytes()], split),
        "table": (
            ["\n".join(["path,domain,label,split", *rows]).encode()],
            file("zoo/t.csv", lambda path: zsbir.DATASETS.build("table", file=path)),
        ),
        "published list": ([b"png_ready/cat/1.png 12\r\nphoto\\ant\\ext_107.jpg 0\n"], file("l.txt", read_list)),
        "npy vectors": ([(folder / "v_embeddings.npy").read_bytes()], file("v_embeddings.npy", vectors)),
        "text vectors": (
            ["\n".join(f"{name} {i} 0.5 -1e-3" for i, name in enumerate(CLASSES)).encode()],
            file("glove.txt", vectors),
        ),
        "data.noun": ([NOUN], file("data.noun", net)),
        "disk store": ([(folder / "seed.sqlite").read_bytes()], file("s.sqlite", stored)),
    }
