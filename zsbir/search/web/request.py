"""What a search request asks for, checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from zsbir.search.uploads import Limits, RefusedError, decode_strokes, decode_upload

IMAGES = ("image/png", "image/jpeg", "image/webp", "image/svg+xml")
_FIELDS = {"strokes", "text", "mix", "k", "like", "folder", "matcher"}
_LONGEST = 500

MOST = 1000
"""Photos in one answer."""


@dataclass(frozen=True)
class Wanted:
    """A search.

    Attributes:
        k: How many photos.
        image: A drawing, mode RGB.
        text: Words.
        mix: Weight of the text, in [0, 1].
        like: Number of a photo to find others like it.
        folder: Name of the folder to look in.
        matcher: Name of the matcher; None: cosine.
    """

    k: int = 20
    image: Image.Image | None = None
    text: str | None = None
    mix: float = 0.5
    like: int | None = None
    folder: str | None = None
    matcher: str | None = None


def wanted(headers: Mapping[str, str], query: Mapping[str, str], body: bytes, limits: Limits) -> Wanted:
    """Read a request: an image as the body, or JSON with strokes, a text or a photo's number.

    Raises:
        RefusedError: If it is anything else, with the status that says so.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in IMAGES:
        given: dict[str, Any] = {key: query[key] for key in ("text", "k", "mix", "folder", "matcher") if key in query}
        for key, number in (("k", int), ("mix", float)):
            if key in given:
                try:
                    given[key] = number(given[key])
                except ValueError:
                    raise RefusedError(f"{key} must be a number", 422) from None
        return _checked({**given, "image": decode_upload(body, limits)})
    # A plain form cannot send these types, so a page elsewhere cannot make a browser search here unasked.
    if kind != "application/json":
        raise RefusedError(f"send {', '.join(IMAGES)} or application/json", 415)
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError("the request is no JSON") from None
    if not isinstance(values, dict) or not set(values) <= _FIELDS:
        raise RefusedError(f"the request must be an object with some of {', '.join(sorted(_FIELDS))}", 422)
    values = {key: value for key, value in values.items() if value is not None}
    if "strokes" in values:
        values["image"] = decode_strokes(values.pop("strokes"), limits)
    return _checked(values)


def _checked(given: dict[str, Any]) -> Wanted:
    asked = Wanted(**given)
    k, mix, text, like = asked.k, asked.mix, asked.text or "", asked.like
    for right, wrong in (
        (type(k) is int and 1 <= k <= MOST, f"k must be a whole number from 1 to {MOST}"),
        (type(mix) in (int, float) and 0 <= mix <= 1, "mix must be a number from 0 to 1"),
        (isinstance(text, str) and len(text) <= _LONGEST and not any(0xD800 <= ord(c) < 0xE000 for c in text),
         f"text must be a string of at most {_LONGEST} characters"),
        (like is None or (type(like) is int and 0 <= like < 2**63), "like must be the id of a photo"),
        (all(name is None or isinstance(name, str) for name in (asked.folder, asked.matcher)),
         "folder and matcher are names"),
        (like is None or (asked.matcher is None and asked.image is None and not text),
         "photos like another one are found by its vector and cosine: leave drawing, text and matcher out"),
        (like is not None or asked.image is not None or (isinstance(text, str) and text.strip()),
         "there is nothing to search for: send a drawing, strokes, a text or the id of a photo"),
    ):  # fmt: skip
        if not right:
            raise RefusedError(wrong, 422)
    return replace(asked, mix=float(mix), text=text.strip() or None)
