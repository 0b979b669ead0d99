"""Sources of class meanings, and the weights that are made of them."""

import numpy as np
import pytest
import torch

from zsbir.data.word_vectors import class_weights, inverse_distance, vectors_from_clip, vectors_from_file
from zsbir.errors import ZsbirError


def test_npy_rows_are_found_by_the_label_file_beside_it(tmp_path):
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save(tmp_path / "train_embeddings.npy", table)
    (tmp_path / "train_labels.txt").write_text("cat\ndog\nteapot\n")
    found = vectors_from_file(["teapot", "cat"], str(tmp_path / "train_embeddings.npy"))
    assert np.array_equal(found, table[[2, 0]])


def test_npy_without_labels_or_with_others_is_refused(tmp_path):
    np.save(tmp_path / "train_embeddings.npy", np.zeros((3, 2)))
    with pytest.raises(ZsbirError, match=r"train_labels\.txt"):
        vectors_from_file(["cat"], str(tmp_path / "train_embeddings.npy"))
    (tmp_path / "train_labels.txt").write_text("cat\ndog\n")
    with pytest.raises(ZsbirError, match="one row"):
        vectors_from_file(["cat"], str(tmp_path / "train_embeddings.npy"))
    (tmp_path / "train_labels.txt").write_text("cat\ndog\nant\n")
    with pytest.raises(ZsbirError, match="lacks 1 classes: bee"):
        vectors_from_file(["bee"], str(tmp_path / "train_embeddings.npy"))


def test_an_npy_file_with_objects_is_not_unpickled(tmp_path):
    np.save(tmp_path / "train_embeddings.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "train_labels.txt").write_text("cat\n")
    with pytest.raises(ZsbirError, match="cannot be read"):
        vectors_from_file(["cat"], str(tmp_path / "train_embeddings.npy"))


def test_text_vectors_of_several_words(tmp_path):
    file = tmp_path / "glove.txt"
    file.write_text("hot 1 0\ndog 0 1\nhotdog 5 5\nalarm 2 2\nclock 4 0\n")
    found = vectors_from_file(["hot_dog", "alarm clock", "Dog"], str(file))
    assert np.array_equal(found, np.array([[5, 5], [3, 1], [0, 1]], dtype=np.float32))
    assert np.isnan(vectors_from_file(["zebra", "dog"], str(file))).tolist() == [[True] * 2, [False] * 2]
    with pytest.raises(ZsbirError, match="lacks 1 of 2 classes: zebra"):
        class_weights(str(file), ["zebra", "dog"])
    with pytest.warns(UserWarning, match="lacks 1 of 3 classes; they count as at the mean distance: zebra"):
        weights = class_weights(str(file), ["zebra", "dog", "hot_dog"])
    assert torch.allclose(weights[0, 1:], weights[1, 2].expand(2))


def test_missing_file_unknown_source_and_unknown_option(tmp_path):
    with pytest.raises(ZsbirError, match="no file of word vectors"):
        class_weights(str(tmp_path / "none.txt"), ["a", "b"])
    with pytest.raises(ZsbirError, match="wordnet"):
        class_weights({"name": "wordnett"}, ["a", "b"])
    with pytest.raises(ZsbirError, match="'clip' has no argument 'modle'"):
        class_weights({"name": "clip", "modle": "x"}, ["a", "b"])
    with pytest.raises(ZsbirError, match="path"):
        class_weights({"name": "file"}, ["a", "b"])
    (tmp_path / "a_embeddings.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'shape': (99999999999,)}\n")
    (tmp_path / "a_labels.txt").write_text("a\nb\n")
    with pytest.raises(ZsbirError, match="a_embeddings.npy cannot be read"):
        class_weights(str(tmp_path / "a_embeddings.npy"), ["a", "b"])
    (tmp_path / "glove.txt").write_text("a 1 x\nb 1 2\n")
    with pytest.raises(ZsbirError, match="glove.txt cannot be read"):
        class_weights(str(tmp_path / "glove.txt"), ["a", "b"])


def test_equal_names_get_the_largest_weight_not_infinity():
    weights = inverse_distance(torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 4.0], [2.0, 4.0, 0.0]]))
    assert torch.equal(weights, torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.0, 0.25], [0.5, 0.25, 0.0]]))


def test_shipped_wordnet_tables_put_animals_together():
    weights = class_weights({"name": "wordnet"}, ["cat", "dog", "airplane"])
    assert weights[0, 1] > 0
    assert torch.equal(weights, weights.T)
    with (
        pytest.raises(ZsbirError, match="not in the shipped WordNet tables"),
        pytest.warns(UserWarning, match="no semantic prior"),
    ):
        class_weights({"name": "wordnet"}, ["cat", "no such thing"])


def test_a_class_that_wordnet_lacks_counts_as_at_the_mean_distance(monkeypatch):
    from zsbir.data import semantic

    class Net:
        def __init__(self, folder):
            self.place = {"cat": 0, "dog": 1, "ship": 5}

        def senses(self, name):
            return (f"{self.place[name]} ",) if name in self.place else ()

        def path_similarity(self, one, other):
            return 1 / (1 + abs(int(one) - int(other)))

    monkeypatch.setattr(semantic, "WordNet", Net)
    source = {"name": "wordnet", "folder": "any"}
    with pytest.warns(UserWarning, match="lacks 1 of 4 classes.*mean distance: moyai"):
        weights = class_weights(source, ["cat", "dog", "moyai", "ship"])
    assert 1 / weights[0] == pytest.approx([np.inf, 1, 10 / 3, 5], rel=1e-5)
    assert weights[2, 2] == 0
    with pytest.raises(ZsbirError, match="lacks 1 of 2 classes"):
        class_weights(source, ["cat", "moyai"])


def test_clip_text_encoder_gives_unit_vectors_of_the_names():
    tiny = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    found = vectors_from_clip(["alarm_clock", "cat"], model=tiny, tag=None)
    assert found.shape == (2, 8)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert not np.allclose(found[0], found[1])
