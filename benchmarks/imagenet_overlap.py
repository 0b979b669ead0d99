"""Rebuilds zsbir/data/imagenet1k.json: which benchmark classes are ImageNet-1k classes.

Needs WordNet 3.0's noun files (Debian: wordnet-base) and the 1000 synset ids (an .npz with `imagenet_synsets`).
The sense of each class was chosen by hand where WordNet's first one is another thing.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from zsbir.data.datasets.published import published, published_names
from zsbir.data.semantic import WordNet
from zsbir.names import canonical

# Class to (noun, number of the sense from 1), to a synset, or to None where WordNet has no such thing.
SENSES: dict[str, tuple[str, int] | str | None] = {
    "banana": ("banana", 2), "bear (animal)": ("bear", 1), "blimp": ("blimp", 2), "book": ("book", 2),
    "bowl": ("bowl", 3), "calculator": ("calculator", 2), "cannon": ("cannon", 2), "car (sedan)": ("sedan", 1),
    "carrot": ("carrot", 3), "castle": ("castle", 2), "cell phone": ("cellular telephone", 1),
    "chicken": ("chicken", 2), "church": ("church", 2), "crane (machine)": "n03126707", "crown": ("crown", 4),
    "diamond": ("diamond", 4), "dolphin": ("dolphin", 2), "door handle": ("doorknob", 1),
    "flower with stem": ("flower", 1), "flying bird": ("bird", 1), "grapes": "n07758680", "hammer": ("hammer", 2),
    "head phones": ("headphone", 1), "hedgehog": ("hedgehog", 2), "hot air balloon": ("hot-air balloon", 1),
    "hot dog": ("hotdog", 2), "hotdog": ("hotdog", 2), "human skeleton": ("skeleton", 3),
    "ice cream cone": ("ice-cream cone", 1), "jack o lantern": "n03590841", "jellyfish": ("jellyfish", 2),
    "keyboard": ("computer keyboard", 1), "lighter": ("lighter", 2), "lobster": ("lobster", 2),
    "motorbike": ("motorcycle", 1), "mouse (animal)": ("mouse", 1), "mug": ("mug", 4), "mushroom": "n07734744",
    "octopus": ("octopus", 2), "person sitting": ("person", 1), "person walking": ("person", 1),
    "pineapple": ("pineapple", 2), "pipe (for smoking)": ("tobacco pipe", 1), "potted plant": None,
    "power outlet": ("wall socket", 1), "present": ("present", 2), "pumpkin": ("pumpkin", 2), "purse": ("purse", 3),
    "raccoon": ("raccoon", 2), "racket": ("racket", 4), "radio": ("radio", 3), "ray": "n01495701",
    "rollerblades": ("Rollerblade", 1), "satellite dish": ("dish aerial", 1), "saw": ("saw", 2),
    "scorpion": ("scorpion", 3), "seal": "n02076196", "socks": ("sock", 1), "speed boat": ("speedboat", 1),
    "sponge bob": None, "standing bird": ("bird", 1), "t shirt": ("T-shirt", 1), "table": ("table", 2),
    "tablelamp": ("table lamp", 1), "tiger": ("tiger", 2), "trousers": ("trouser", 1), "turtle": ("turtle", 2),
    "tv": ("tv", 2), "van": ("van", 4), "volcano": ("volcano", 2), "walkie talkie": ("walkie-talkie", 1),
    "wheel": ("wheel", 1),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wordnet", default="/usr/share/wordnet", help="folder with data.noun and index.noun")
    parser.add_argument("--synsets", required=True, help=".npz with imagenet_synsets (1000,)")
    parser.add_argument("--output", default="zsbir/data/imagenet1k.json")
    options = parser.parse_args()
    wordnet = WordNet(options.wordnet)
    synsets = [str(name) for name in np.load(options.synsets)["imagenet_synsets"]]
    above = {synset: set(wordnet.ancestors(synset)) for synset in synsets}
    classes = {canonical(c) for n in published_names() for side in ("seen", "unseen") for c in published(n)[side]}
    table: dict[str, list[object]] = {}
    for name in sorted(classes):
        chosen = SENSES.get(name, (name, 1))
        if isinstance(chosen, tuple):
            senses = wordnet.senses(chosen[0])
            if not senses:
                raise SystemExit(f"WordNet has no noun {chosen[0]!r} for the class {name!r}")
            chosen = senses[chosen[1] - 1]
        if chosen is None:
            table[name] = [None, "unknown", []]
            continue
        kinds = [s for s in synsets if chosen in above[s] and s != chosen]
        wider = [s for s in synsets if s in wordnet.ancestors(chosen) and s != chosen]
        if chosen in synsets:
            table[name] = [chosen, "same", [chosen]]
        elif kinds or wider:
            table[name] = [chosen, "narrower" if kinds else "broader", kinds or wider]
        else:
            table[name] = [chosen, "none", []]
    lines = ",\n".join(f" {json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in table.items())
    Path(options.output).write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
