import re

import pytest

from zsbir.data.datasets.published import published, published_names
from zsbir.data.imagenet import imagenet_overlap
from zsbir.names import canonical, prompt_name, word_names

ALL = sorted({own for name in published_names() for side in ("seen", "unseen") for own in published(name)[side]})


@pytest.mark.parametrize("name", ALL)
def test_every_benchmark_class_reads_as_a_phrase(name):
    assert re.fullmatch(r"[A-Za-z][A-Za-z' -]*[a-zA-Z]", prompt_name(name))
    words = word_names(name)
    assert words
    assert all(word == word.lower() and " " not in word for word in words)


def test_awkward_names():
    wanted = {
        "hot-air_balloon": "hot air balloon",
        "hot air balloon": "hot air balloon",
        "car_(sedan)": "sedan car",
        "car (sedan)": "sedan car",
        "jack-o-lantern": "jack-o'-lantern",
        "crane (machine)": "construction crane",
        "pipe (for smoking)": "smoking pipe",
        "tv": "television",
        "wine_bottle": "wine bottle",
        "pickup_truck": "pickup truck",
        "teddy-bear": "teddy bear",
        "a new_class": "a new class",
    }
    assert {name: prompt_name(name) for name in wanted} == wanted


def test_canonical_names_keep_the_classes_of_a_benchmark_apart():
    for name in published_names():
        for side in ("seen", "unseen"):
            classes = published(name)[side]
            assert len({canonical(own) for own in classes}) == len(classes)


def test_every_benchmark_class_has_been_looked_up():
    overlap = imagenet_overlap(ALL)
    assert set(map(canonical, overlap.unknown)) == {"potted plant", "sponge bob"}


def test_overlap_numbers():
    taught = {name: imagenet_overlap(published(name)["unseen"]).taught for name in published_names()}
    assert taught["sketchy-21"] < taught["quickdraw-30"] < taught["sketchy-25"] < taught["tuberlin-30"]
    mine = imagenet_overlap(["zebra", "dog", "giraffe", "my own class"])
    assert (mine.same, mine.narrower, mine.unknown, mine.total) == (("zebra",), ("dog",), ("my own class",), 4)
    assert "none of the 1 unseen" in imagenet_overlap(["giraffe"]).sentence()


def test_words_are_letters_only():
    assert word_names("bear_(animal)") == ("bear",)
    assert word_names("T-shirt") == ("t-shirt",)
    assert word_names("4 leaf clover 2") == ("leaf", "clover")
