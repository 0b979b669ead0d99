"""Writes docs/cli.md, the reference of the command line, from the functions behind the commands.

Run ``python docs/make_cli.py`` after a change of an option; a test says when it is due.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from docstring_parser import parse

from zsbir import cli

PAGE = Path(__file__).with_name("cli.md")
HEAD = """# Command line

Every command, every option, made from the code. `--help` behind a command says the same. With every command,
`--import FILE.py` makes known by name what a file of yours registers, and `--debug` shows the traceback of an error. No
option is dropped: each does something or is refused, and an option given twice is refused.

Completion of commands, options and their choices for bash, zsh, fish or tcsh; in bash also of the names of methods,
datasets, backbones, matchers, maskers, stores and protocols, of the runs in `runs` and of the indexes in this folder:

```text
zsbir --tyro-print-completion bash > ~/.local/share/bash-completion/completions/zsbir
```
"""


def value(hint: Any) -> str:
    """Return what to type for an option, such as ``PATH``."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return value(args[0])
    if origin is Literal:
        return " / ".join(map(str, args))
    if origin in (types.UnionType, typing.Union):
        return " / ".join(dict.fromkeys(value(arg) for arg in args if arg is not type(None)))
    if origin is tuple:
        return f"{value(args[0])} ..."
    return {str: "TEXT", int: "INT", float: "FLOAT", Path: "PATH", bool: ""}.get(hint, getattr(hint, "__name__", ""))


def hints_of(hint: Any) -> list[Any]:
    """Return all that is annotated, at any depth of Annotated."""
    return [*hints_of(typing.get_args(hint)[0]), *hint.__metadata__] if typing.get_origin(hint) is Annotated else []


def row(name: str, hint: Any, default: Any, said: str) -> str:
    """Return an option as a row of a table."""
    notes = hints_of(hint)
    given = next((n.name for n in notes if getattr(n, "name", None)), None)
    shown = next((n.help_behavior_hint for n in notes if getattr(n, "help_behavior_hint", None)), None)
    option = f"--{(given or name).rstrip('_').replace('_', '-')}"
    if any("Positional" in str(note) for note in notes):
        option = name.upper()
    elif default is True:
        option = f"--no-{option[2:]}"
    aliases = [alias for note in notes for alias in getattr(note, "aliases", None) or ()]
    if default is inspect.Parameter.empty:
        start = "required"
    elif shown is not None:
        start = str(shown).strip("()").removeprefix("default: ")
    else:
        start = "" if default is None or isinstance(default, bool) or default == () else f"`{default}`"
    typed = " ".join(filter(None, [", ".join([*aliases, option]), "" if option.isupper() else value(hint)]))
    return f"| `{typed}` | {' '.join(said.split())} | {start} |"


def tables(function: Callable[..., Any]) -> Iterator[str]:
    """Yield a command's tables: its own options, then each group's."""
    said = {p.arg_name: p.description or "" for p in parse(function.__doc__ or "").params}
    hints = typing.get_type_hints(function, include_extras=True)
    head = "| option | what it does | default |\n|---|---|---|"
    rows, groups = [], []
    for name, parameter in inspect.signature(function).parameters.items():
        group = parameter.default
        if is_dataclass(group) and not isinstance(group, type):
            docs = {p.arg_name: p.description or "" for kind in reversed(type(group).__mro__)
                    for p in parse(kind.__doc__ or "").params}  # fmt: skip
            kinds = typing.get_type_hints(type(group), include_extras=True)
            inner = [row(f.name, kinds[f.name], f.default, docs[f.name]) for f in fields(group)]
            groups.append("\n".join([f"{said[name]}\n", head, *inner]))
        else:
            rows.append(row(name, hints[name], parameter.default, said[name]))
    yield from (["\n".join([head, *rows])] if rows else []) + groups


def section(name: str, function: Callable[..., Any]) -> str:
    """Return a command's part of the page."""
    text = (inspect.getdoc(function) or "").split("\nArgs:")[0].strip()
    lines = ["```bash\n" + p.removeprefix("Example: ") + "\n```" if p.startswith("Example: ") else p
             for p in text.split("\n\n")]  # fmt: skip
    return "\n\n".join([f"## zsbir {name}", *lines, *tables(function)])


def page() -> str:
    """Return the whole page."""
    parts = [HEAD.strip()]
    for name in cli.COMMANDS:
        found = cli._command(name)
        table = {f"{name} {k}": f for k, f in found.items()} if isinstance(found, dict) else {name: found}
        parts += [section(full, function) for full, function in table.items()]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
