"""WordNet's nouns and the semantic prior: the reference matrices, and a small hand-made WordNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zsbir.data.semantic import (
    WordNet,
    first_similarity,
    imagenet_labels,
    noun_senses,
    semantic_prior,
    synset_similarity,
)
from zsbir.errors import ZsbirError

REFERENCE = Path(__file__).parents[1] / "reference"
INSTALLED = Path("/usr/share/wordnet")

# entity > animal > {cat > {tabby, wild_cat}, dog > {puppy, hot_dog}}; entity > tower > eiffel_tower (an instance)
NOUNS = {
    "00000001": ("entity", ()),
    "00000002": ("animal", (("@", "00000001"),)),
    "00000003": ("cat", (("@", "00000002"),)),
    "00000004": ("dog", (("@", "00000002"),)),
    "00000005": ("tabby", (("@", "00000003"),)),
    "00000006": ("wild_cat", (("@", "00000003"),)),
    "00000007": ("puppy", (("@", "00000004"),)),
    "00000008": ("teddy-bear", (("@", "00000004"), ("~", "00000003"))),
    "00000009": ("tower", (("@", "00000001"),)),
    "00000010": ("eiffel_tower", (("@i", "00000009"),)),
}


@pytest.fixture
def net(tmp_path) -> WordNet:
    data, index = ["  1 a licence line"], ["  1 a licence line"]
    for offset, (word, pointers) in NOUNS.items():
        links = " ".join(f"{symbol} {target} n 0000" for symbol, target in pointers)
        data.append(f"{offset} 05 n 01 {word} 0 {len(pointers):03d} {links} | a gloss; with | bars")
        symbols = " ".join(sorted({symbol for symbol, _ in pointers}))
        senses = [offset, "00000009"] if word == "cat" else [offset]
        index.append(f"{word} n {len(senses)} {len(set(symbols.split()))} {symbols} {len(senses)} 0 {' '.join(senses)}")
    (tmp_path / "data.noun").write_text("\n".join(data) + "\n")
    (tmp_path / "index.noun").write_text("\n".join(index) + "\n")
    return WordNet(tmp_path)


@pytest.mark.parametrize(("file", "dataset"), [("semantic_sketchy25", "sketchy"), ("semantic_tuberlin30", "tuberlin")])
def test_shipped_tables_equal_the_published_matrices(file, dataset):
    with np.load(REFERENCE / f"{file}.npz") as expected:
        assert tuple(expected["imagenet_synsets"].tolist()) == imagenet_labels()
        classes = expected["classes"].tolist()
        for name in (dataset, None):
            found = semantic_prior(classes, dataset=name)
            np.testing.assert_array_equal(found.similarity, expected["similarity"])
            assert found.missing == ()


@pytest.mark.skipif(not (INSTALLED / "data.noun").exists(), reason="needs WordNet's database files")
@pytest.mark.parametrize("file", ["semantic_sketchy25", "semantic_tuberlin30"])
def test_computed_from_wordnet_equals_the_published_matrices(file):
    with np.load(REFERENCE / f"{file}.npz") as expected:
        found = semantic_prior(expected["classes"].tolist(), wordnet=INSTALLED)
        np.testing.assert_array_equal(found.similarity, expected["similarity"])


@pytest.mark.skipif(not (INSTALLED / "data.noun").exists(), reason="needs WordNet's database files")
def test_wordnet_of_the_system_is_read_whole():
    net = WordNet(INSTALLED)
    assert net.senses("cat")[0] == "n02121620"
    assert net.path_similarity("n02121620", "n02084071") == pytest.approx(0.2)  # cat and dog, as NLTK says
    assert all(net.ancestors(label) for label in imagenet_labels())


def test_path_similarity_by_hand(net):
    cat, dog, tabby, puppy = "n00000003", "n00000004", "n00000005", "n00000007"
    assert net.path_similarity(cat, cat) == 1
    assert net.path_similarity(cat, dog) == pytest.approx(1 / 3)
    assert net.path_similarity(tabby, puppy) == net.path_similarity(puppy, tabby) == pytest.approx(1 / 5)
    assert synset_similarity(net, tabby, puppy) == 0  # 0.2 does not count
    assert synset_similarity(net, tabby, dog) == pytest.approx(1 / 4)
    assert synset_similarity(net, tabby, "n00000002") == 1  # a kind of it, at any depth
    assert net.path_similarity("n00000010", "n00000009") == pytest.approx(1 / 2)  # instances count as kinds


def test_the_first_synset_with_a_value_decides(net):
    cat, dog, tabby, tower = "n00000003", "n00000004", "n00000005", "n00000009"
    row = first_similarity(net, [tabby, tower], [cat, dog, tower, "n00000010"])
    np.testing.assert_allclose(row, [1, 1 / 4, 1, 1])
    assert not first_similarity(net, [], [cat]).any()


@pytest.mark.parametrize(
    "name",
    [
        "Cat",
        "cat (animal)",
        "cats",
        "wild cat",
        "wild-cat",
        "teddy_bear",
        "Eiffel Tower",
        "big cats",
        "cat with a hat",
        "Siamese_cat (animal)",
    ],
)
def test_names_as_datasets_write_them_are_found(net, name):
    assert noun_senses(net, name)


def test_any_labels_and_classes_the_tables_lack(net):
    with pytest.warns(UserWarning, match=r"no semantic prior for 1 classes: flurb"):
        found = semantic_prior(["puppy", "flurb"], labels=["n00000004", "n00000009"], wordnet=net)
    np.testing.assert_allclose(found.similarity, [[1, 0], [0, 0]])
    assert found.missing == ("flurb",)


def test_without_wordnet_the_missing_are_named():
    with pytest.warns(UserWarning, match=r"give wordnet=FOLDER.*flurb"):
        found = semantic_prior(["pig", "flurb"])
    assert found.missing == ("flurb",)
    with pytest.raises(ZsbirError, match="need WordNet"):
        semantic_prior(["pig"], labels=["n02084071"])
    with pytest.raises(ZsbirError, match="sketchy, tuberlin, quickdraw"):
        semantic_prior(["pig"], dataset="coco")


def test_benchmark_classes_are_all_known():
    from zsbir.data.semantic import _table

    sizes = {name: len(classes) for name, classes in _table()["classes"].items()}
    assert sizes == {"sketchy": 125, "tuberlin": 250, "quickdraw": 110}


def test_files_that_are_not_wordnet_are_refused(tmp_path, net):
    with pytest.raises(ZsbirError, match="wordnet-base"):
        WordNet(tmp_path / "nowhere")
    (tmp_path / "data.noun").write_text("not a database\n")
    with pytest.raises(ZsbirError, match="not a WordNet"):
        WordNet(tmp_path)
    with pytest.raises(ZsbirError, match="no noun synset"):
        net.ancestors("n99999999")


@pytest.mark.parametrize(
    "line",
    [
        "00001740 03 n 01 entity 0 99999999999 @ 00001740 n 0000 | far fewer pointers than it says",
        "00001740 03 n ffffffffff entity 0 000 | far fewer words",
        "00001740",
    ],
)
def test_damaged_wordnet_files_give_one_sentence(tmp_path, line):
    (tmp_path / "index.noun").write_text("")
    (tmp_path / "data.noun").write_text(line + "\n")
    with pytest.raises(ZsbirError, match=r"data\.noun is not a WordNet 3\.0 database file"):
        WordNet(tmp_path)
