"""Code blocks of the Markdown pages, and the command lines in them."""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts]
_FENCE = re.compile(r"^( *)(`{3,}|:{3,})([^\n]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: ([^\n]+) -->\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: Its page, relative to the project.
        line: Where it starts.
        language: What stands after the backticks.
        text: Its lines, without a common indent.
        not_run: Why it cannot run, if it says so.
    """

    page: str
    line: int
    language: str
    text: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        reason = _NOT_RUN.search(text[: match.start()])
        found.append(
            Block(
                page.relative_to(ROOT).as_posix(),
                text[: match.start()].count("\n") + 2,
                match[3].strip(),
                textwrap.dedent(match[4]),
                reason[1] if reason else None,
            )
        )
    return found


def commands(block: Block) -> list[list[str]]:
    """Return the words of each command of a bash block, or of a console block's lines with a prompt."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    found: list[list[str]] = []
    for line in lines:
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word in ("&&", "|", "&"):
                found.append(words)
                words = []
            else:
                words.append(word)
    plain = [words[next((i for i, w in enumerate(words) if not re.match(r"[A-Z_]+=", w)), 0) :] for words in found]
    return [words for words in plain if words]


def inline(page: Path) -> list[str]:
    """Return the pieces of inline code of a page."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", _FENCE.sub("", page.read_text(encoding="utf-8")))
