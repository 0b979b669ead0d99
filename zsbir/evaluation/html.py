"""The report as one self-contained HTML page, by the template ``report.html`` beside this module."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from zsbir.evaluation.pictures import fitted

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.figure import Figure

SIDE = 128
"""Side of the pictures in the page, in pixels."""


def page(name: str, **values: Any) -> str:
    """Return the template of this name, filled in; text is escaped."""
    return _template(name).render(figure=_figure, **values)


def thumbnail(open_image: Callable[[str], Image.Image] | None, path: str) -> str:
    """Return an image as a ``data:`` address; empty where nothing opens it."""
    if open_image is None:
        return ""
    buffer = io.BytesIO()
    fitted(open_image(path), SIDE).save(buffer, format="JPEG", quality=85)
    return _address(buffer.getvalue(), "jpeg")


def _figure(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return _address(buffer.getvalue(), "png")


def _address(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


@cache
def _template(name: str) -> Template:
    from jinja2 import Environment, FileSystemLoader

    folder = FileSystemLoader(Path(__file__).parent / "templates")
    return Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(name)
