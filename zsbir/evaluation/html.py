"""The report as one self-contained HTML page, by the template ``report.html`` beside this module."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsbir.evaluation.pictures import Opener, fitted

if TYPE_CHECKING:
    from jinja2 import Template

SIDE = 128
"""Side of the pictures in the page, in pixels."""


def page(name: str, **values: Any) -> str:
    """Return the template of this name, filled in; text is escaped."""
    return _template(name).render(figure=lambda figure: _address(figure.savefig, "png"), **values)


def thumbnail(open_image: Opener | None, path: str) -> str:
    """Return an image as a ``data:`` address; empty where nothing opens it."""
    if open_image is None:
        return ""
    return _address(partial(fitted(open_image(path), SIDE).save, quality=85), "jpeg")


def _address(save: Callable[..., object], kind: str) -> str:
    """Return what `save` writes into a file as a ``data:`` address."""
    buffer = io.BytesIO()
    save(buffer, format=kind)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


@cache
def _template(name: str) -> Template:
    from jinja2 import Environment, FileSystemLoader

    folder = FileSystemLoader(Path(__file__).parent / "templates")
    return Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(name)
