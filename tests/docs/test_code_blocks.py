"""Every code block of README and docs: Python is run, command lines are read by the real one and run where cheap."""

import contextlib
import io
import re

import pytest

import zsbir
from tests.docs.blocks import PAGES, ROOT, blocks, commands, inline
from tests.docs.command_lines import check_names, check_other, options, read, run_small
from tests.docs.reader import files, variables
from zsbir import cli

LANGUAGES = {"python", "bash", "console", "text", "toml", "ini", "nginx", "json"}
NOT_RUN_LIMIT = 8
"""Blocks with a comment ``<!-- not run: reason -->``; before raising it, look for a way to run the new one."""
RUN = {"README.md", "docs/get-started.md", "docs/find-photos.md"}
RUN |= {"docs/howto/own-data.md", "docs/howto/compare-runs.md"}
"""Pages whose zsbir commands are run, one after the other, in a small version."""
NEVER = {"quickstart", "serve"}
"""Commands that are read only: a run of minutes that CI has on its own, and one that does not end."""
REGISTRIES = (zsbir.METHODS, zsbir.DATASETS, zsbir.BACKBONES, zsbir.MASKERS, zsbir.MATCHERS, zsbir.PROTOCOLS)


def name(page):
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The reader's folders, made once."""
    root = tmp_path_factory.mktemp("reader")
    files(root)
    return root


@pytest.fixture
def desk(made, tmp_path, monkeypatch):
    """A copy of them as the current folder; what a page registers is forgotten afterwards."""
    import shutil

    shutil.copytree(made, tmp_path / "desk")
    monkeypatch.chdir(tmp_path / "desk")
    before = [set(registry.names()) for registry in REGISTRIES]
    yield tmp_path / "desk"
    for registry, held in zip(REGISTRIES, before, strict=True):
        for new in registry._entries.keys() - held:
            del registry._entries[new]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_each_block_names_a_language(page):
    for block in blocks(page):
        assert block.language in LANGUAGES or block.language.startswith("{"), f"{block}: {block.language!r}"


def test_few_blocks_are_not_run():
    found = [f"{block}: {block.not_run}" for page in PAGES for block in blocks(page) if block.not_run]
    assert len(found) <= NOT_RUN_LIMIT, "\n".join(found)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name)
def test_blocks_run(page, desk, monkeypatch):
    """Blocks run in the order of the page, as a reader would run them."""
    namespace = {"__name__": "__main__", **variables(desk)}
    for block in blocks(page):
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, name(page), "exec")
            if block.not_run is None:
                exec(code, namespace)
        elif block.language in ("bash", "console"):
            for words in commands(block):
                command(words, block, name(page) in RUN, monkeypatch)


def command(words, block, run, monkeypatch):
    if words[0] == "torchrun" and "zsbir" in words:
        words = words[words.index("zsbir") :]
    if words[0] != "zsbir":
        check_other(words, block)
        return
    call = read(words[1:], monkeypatch)
    check_names(call)
    if run and words[1] not in NEVER and block.not_run is None:
        run_small(call)


def test_shown_output_is_what_is_printed(monkeypatch):
    """Lines below a prompt in a console block are printed by the command; ``...`` stands for more."""
    checked = 0
    for page in PAGES:
        for block in blocks(page):
            lines = block.text.splitlines()
            shown = [line for line in lines if not line.startswith("$ ")]
            if block.language == "console" and any(shown):
                with contextlib.redirect_stdout(io.StringIO()) as printed:
                    for words in commands(block):
                        assert cli.main(words[1:]) == 0
                for line in shown:
                    assert line == "..." or any(real.startswith(line) for real in printed.getvalue().splitlines()), (
                        f"{block}: {line}"
                    )
                checked += 1
    assert checked


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_in_the_text_exist(page):
    for piece in inline(page):
        words = piece.split()
        if words[:1] != ["zsbir"] or len(words) < 2 or words[1].startswith(("-", "<")):
            continue
        assert words[1] in cli.COMMANDS, f"{name(page)}: {piece}"
        found = cli._command(words[1])
        functions = list(found.values()) if isinstance(found, dict) else [found]
        known = {key.rstrip("_") for function in functions for key in options(function)}
        for option in re.findall(r"--([a-z-]+)", piece):
            assert {option.replace("-", "_"), option.removeprefix("no-").replace("-", "_")} & {
                *known,
                "help",
                "import",
                "debug",
            }, f"{name(page)}: {piece}"
