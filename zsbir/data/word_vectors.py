"""Weigh negative classes by how close their names are in meaning.

A source of meaning is given by a spec, a mapping with the key ``name``:

``{"name": "file", "path": "train_embeddings.npy"}``
    An array (C, D) whose rows follow the label file beside it (``labels``; by default ``train_labels.txt`` for
    ``train_embeddings.npy``), or GloVe's text format: a word and its numbers on each line.
``{"name": "clip", "model": "ViT-B-32-quickgelu", "tag": "openai"}``
    The text encoder of an open_clip model; `tag` names its weights, or a local file with them.
``{"name": "sentence-transformers", "model": "all-MiniLM-L6-v2"}``
    A sentence-transformers model by name or folder.
``{"name": "wordnet", "folder": "/usr/share/wordnet"}``
    Path lengths in WordNet's database, or without a folder the shipped tables of the benchmarks' classes.

A plain string is a file's path. Class names are spelt as `zsbir.names` says them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zsbir.arguments import checked, close_matches
from zsbir.errors import ZsbirError, needing
from zsbir.files import reading
from zsbir.names import prompt_name, some, word_names

Vectors = npt.NDArray[np.float32]


def class_weights(source: str | Mapping[str, Any], classes: Sequence[str]) -> Tensor:
    """Return how often each class should be the negative of each other class: 1 / distance of their names.

    Args:
        source: A spec, see the module's docstring, or the path of a file.
        classes: ``C`` class names.

    Returns:
        (C, C) float64, at least 0, the diagonal 0. Names at distance 0 get the weight of the nearest names that are
        not at distance 0. A class that the source lacks counts as at the mean distance of all; a warning names it.

    Raises:
        ZsbirError: If the source is unknown or cannot be read, or knows fewer than two of the classes.
    """
    spec = {"name": "file", "path": source} if isinstance(source, str) else dict(source)
    name = str(spec.pop("name", ""))
    if name not in _SOURCES:
        raise ZsbirError(f"there is no source of class meanings {name!r}. {close_matches(name, [*_SOURCES])}")
    read = checked(f"the source of class meanings {name!r}")(_SOURCES[name])
    found = read(classes, **spec)
    distance = torch.from_numpy(found).double() if name == "wordnet" else _distances(found)
    return inverse_distance(_complete(distance, classes, name))


def _complete(distance: Tensor, classes: Sequence[str], source: str) -> Tensor:
    """Return the distances with the mean where a class is not known (NaN), and name these classes in a warning."""
    unknown = distance.diagonal().isnan()
    if not unknown.any():
        return distance
    lost = [name for name, missing in zip(classes, unknown.tolist(), strict=True) if missing]
    said = f"the source of class meanings {source!r} lacks {len(lost)} of {len(classes)} classes"
    if len(classes) - len(lost) < 2:
        raise ZsbirError(f"{said}: {some(lost)}")
    warnings.warn(f"{said}; they count as at the mean distance: {some(lost)}", stacklevel=3)
    known = ~unknown[:, None] & ~unknown & ~torch.eye(len(distance), dtype=torch.bool)
    return distance.where(~distance.isnan(), distance[known].mean())


def _distances(vectors: Vectors) -> Tensor:
    table = torch.from_numpy(vectors).double()
    return torch.cdist(table, table, compute_mode="donot_use_mm_for_euclid_dist")


def inverse_distance(distance: Tensor) -> Tensor:
    """Return 1 / distance (C, C) with a diagonal of 0; a distance of 0 counts as the smallest one above 0."""
    off = ~torch.eye(len(distance), dtype=torch.bool)
    above = distance[off & (distance > 0)]
    least = above.min() if above.numel() else torch.ones(())
    weights: Tensor = off / distance.clamp(min=float(least))
    return weights


def vectors_from_file(classes: Sequence[str], path: str, labels: str | None = None) -> Vectors:
    """Read one vector for each class from ``.npy`` or GloVe text.

    Args:
        classes: The class names.
        path: An ``.npy`` array (n, D) of numbers, or a text file with a word and its D numbers on each line.
        labels: For ``.npy``: a text file with the n class names, one a line; None: ``X_labels.txt`` beside
            ``X_embeddings.npy``.

    Returns:
        (C, D) float32. In a text file a name of several words is looked up whole (joined by ``_``, ``-`` or nothing)
        and else as the mean of its words; NaN for a class without any.

    Raises:
        ZsbirError: If a file is missing or broken, or a label file lacks a class.
    """
    file = Path(path)
    if not file.is_file():
        raise ZsbirError(f"there is no file of word vectors {file}")
    if file.suffix != ".npy":
        return _from_text(classes, file)
    names_file = Path(labels or file.with_name(file.stem.replace("_embeddings", "_labels") + ".txt"))
    if not names_file.is_file():
        raise ZsbirError(f"{file} needs the names of its rows, one a line, in {names_file} (or give labels=FILE)")
    names = [line.strip() for line in names_file.read_text(encoding="utf-8").splitlines() if line.strip()]
    with reading("word vectors", file):
        table = np.load(file, allow_pickle=False)
    if table.ndim != 2 or len(table) != len(names) or table.dtype.kind not in "fiu":
        shape = f"{tuple(table.shape)} {table.dtype}"
        raise ZsbirError(f"{file} is {shape}; it must hold one row of numbers for each of {names_file}'s {len(names)}")
    row = {name: i for i, name in enumerate(names)}
    missing = [name for name in classes if name not in row]
    if missing:
        raise ZsbirError(f"{names_file} lacks {len(missing)} classes: {some(missing)}")
    return np.asarray(table[[row[name] for name in classes]], dtype=np.float32)


def _from_text(classes: Sequence[str], file: Path) -> Vectors:
    parts = [word_names(name) for name in classes]
    spellings = [["_".join(words), "-".join(words), "".join(words)] for words in parts]
    wanted = {word for words in (*parts, *spellings) for word in words}
    found: dict[str, Vectors] = {}
    with reading("word vectors", file), file.open(encoding="utf-8") as lines:
        for line in lines:
            word, _, numbers = line.partition(" ")
            if word in wanted:
                found[word] = np.array(numbers.split(), dtype=np.float32)
    if len({row.shape for row in found.values()}) > 1:
        raise ZsbirError(f"the word vectors in {file} have different lengths")
    unknown = np.full(len(next(iter(found.values()), [])), np.nan, dtype=np.float32)
    rows = []
    for words, whole in zip(parts, spellings, strict=True):
        known = [found[name] for name in whole if name in found][:1] or [found[word] for word in words if word in found]
        rows.append(np.mean(known or [unknown], axis=0))
    return np.stack(rows)


def vectors_from_clip(
    classes: Sequence[str],
    model: str | Mapping[str, Any] = "ViT-B-32-quickgelu",
    tag: str | None = "openai",
    template: str = "a photo of a {}",
) -> Vectors:
    """Encode the class names, put into `template`, with an open_clip text encoder; (C, D) float32, L2-normalised."""
    from zsbir.clip import clip_tokenizer, create_clip

    tokens = clip_tokenizer(model)([template.format(prompt_name(name)) for name in classes])
    with torch.no_grad():
        encoded = create_clip(model, tag).encode_text(tokens, normalize=True)
    return np.asarray(encoded.float().numpy(), dtype=np.float32)


def vectors_from_sentences(classes: Sequence[str], model: str = "all-MiniLM-L6-v2") -> Vectors:
    """Encode the class names with a sentence-transformers model; (C, D) float32, L2-normalised."""
    with needing("a sentence model", "sentence-transformers"):
        from sentence_transformers import SentenceTransformer
    try:
        encoder = SentenceTransformer(model, device="cpu")
    except Exception as error:  # the hub client raises many kinds, and each means the same to the user
        reason = str(error).strip().split("\n")[0][:200]
        raise ZsbirError(
            f"the sentence-transformers model {model} cannot be loaded ({type(error).__name__}: {reason}): connect to "
            "the network, or give a local folder"
        ) from error
    rows = encoder.encode([prompt_name(name) for name in classes], normalize_embeddings=True)
    return np.asarray(rows, dtype=np.float32)


def wordnet_distances(classes: Sequence[str], folder: str | None = None) -> Vectors:
    """Return the (C, C) distances of the class names in WordNet, at least 0.

    Args:
        classes: The class names.
        folder: WordNet's database files: the length of the path between the first senses, NaN for classes that
            WordNet lacks. None: the Euclidean distance of the rows of the shipped table of similarities to the 1,000
            ImageNet classes.

    Raises:
        ZsbirError: If a class is not in the shipped table.
    """
    from zsbir.data.semantic import WordNet, noun_senses, semantic_prior

    if folder is None:
        prior = semantic_prior(classes)
        if prior.missing:
            raise ZsbirError(
                f"{len(prior.missing)} classes are not in the shipped WordNet tables ({some(prior.missing)}): "
                'give the database, {"name": "wordnet", "folder": ...}'
            )
        return np.asarray(_distances(prior.similarity).numpy(), dtype=np.float32)
    net = WordNet(folder)
    senses = [noun_senses(net, name) for name in classes]
    first = [found[0] if found else None for found in senses]
    rows = [[1 / net.path_similarity(a, b) - 1 if a and b else np.nan for b in first] for a in first]
    return np.array(rows, dtype=np.float32)


_SOURCES: dict[str, Callable[..., Vectors]] = {
    "file": vectors_from_file,
    "clip": vectors_from_clip,
    "sentence-transformers": vectors_from_sentences,
    "wordnet": wordnet_distances,
}
