"""Class names: one spelling for each class, and plain English for prompts and word vectors.

Published names have underscores, hyphens, brackets and habits of spelling (``tablelamp``), and some mean only one thing
in their dataset (``bat`` is the animal). The awkward names of all benchmark classes are listed; all others follow one
rule: separators become blanks, and ``car_(sedan)`` becomes ``sedan car``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


def canonical(name: str) -> str:
    """Return a class name in one spelling, whatever the dataset's.

    >>> canonical("hot-air_balloon") == canonical("Hot air balloon") == canonical("hot_air_balloon")
    True
    """
    return re.sub(r"[\s_\-]+", " ", name).strip().lower()


def some(names: Sequence[str], most: int = 8) -> str:
    """Return the first `most` names in a line, and how many more there are.

    >>> some(["cat", "dog", "owl"], 2)
    'cat, dog and 1 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


_PROMPTS = {
    "axe": "axe",
    "bat": "bat animal",
    "bear (animal)": "bear",
    "crane (machine)": "construction crane",
    "crocodilian": "crocodile",
    "eiffel tower": "Eiffel Tower",
    "flower with stem": "flower with a stem",
    "head phones": "headphones",
    "hotdog": "hot dog",
    "ipod": "iPod",
    "jack o lantern": "jack-o'-lantern",
    "mouse": "mouse animal",
    "mouse (animal)": "mouse animal",
    "person sitting": "sitting person",
    "person walking": "walking person",
    "pipe (for smoking)": "smoking pipe",
    "present": "gift",
    "racket": "tennis racket",
    "ray": "stingray",
    "santa claus": "Santa Claus",
    "saw": "hand saw",
    "seal": "seal animal",
    "speed boat": "speedboat",
    "sponge bob": "SpongeBob",
    "suv": "SUV",
    "t shirt": "T-shirt",
    "tablelamp": "table lamp",
    "tank": "military tank",
    "tv": "television",
    "walkie talkie": "walkie-talkie",
    "wrist watch": "wristwatch",
}
"""Canonical class name to its prompt name."""

_WORDS = {
    "bat": ("bat",),
    "flower with stem": ("flower",),
    "jack o lantern": ("pumpkin", "lantern"),
    "mouse": ("mouse",),
    "mouse (animal)": ("mouse",),
    "saw": ("saw",),
    "seal": ("seal",),
    "tank": ("tank",),
}
"""Canonical class name to the words whose vectors are averaged, if they are not those of the prompt."""


def prompt_name(name: str) -> str:
    """Return a class name as it stands in a sentence, such as "a photo of a ...".

    Args:
        name: As a dataset writes it.

    >>> prompt_name("hot-air_balloon"), prompt_name("car_(sedan)"), prompt_name("tablelamp")
    ('hot air balloon', 'sedan car', 'table lamp')
    """
    plain = canonical(name)
    if plain in _PROMPTS:
        return _PROMPTS[plain]
    bracketed = re.fullmatch(r"(.+?) ?\((.+)\)", plain)
    return f"{bracketed.group(2)} {bracketed.group(1)}" if bracketed else plain


def word_names(name: str) -> tuple[str, ...]:
    """Return the lower-case words of a class name, for the mean of their word vectors.

    >>> word_names("hot-air_balloon"), word_names("bat"), word_names("wine_bottle")
    (('hot', 'air', 'balloon'), ('bat',), ('wine', 'bottle'))
    >>> word_names("bear_(animal)"), word_names("cat 2"), word_names("car_(sedan)")
    (('bear',), ('cat',), ('sedan', 'car'))
    """
    # Letters, and the signs within a word (t-shirt, jack-o'-lantern).
    return _WORDS.get(canonical(name)) or tuple(re.findall(r"[^\W\d_]+(?:['-]+[^\W\d_]+)*", prompt_name(name).lower()))
