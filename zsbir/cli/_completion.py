"""Shell completion: commands, options and choices by tyro; in bash also names that can be built, runs and indexes."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_type_hints

import tyro
from tyro.conf import Positional

Commands = dict[str, Any]
"""Functions by name, or groups of them."""

_RUNS = "$(compgen -G 'runs/*/run.json' | sed 's|/run.json$||')"
_INDEXES = "$(compgen -G '*/index.json' | sed 's|/index.json$||')"

_OPTIONS = {"--dataset": "datasets", "--backbone": "backbones", "--matcher": "matchers", "--store": "stores",
            "--protocol": "protocols", "--model": "methods"}  # fmt: skip

_POSITIONALS = {"method": "methods", "name": "datasets", "what": "maskers"}
"""What a command's first positional is, by its parameter; runs and indexes are looked for when completing."""

_BASH = """
# Names, runs and indexes; what tyro completes stays as it is.
_zsbir_before=$(complete -p zsbir | sed 's/.*-F \\([^ ]*\\).*/\\1/')
_zsbir_names() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} IFS=$' \\t\\n' names=
  case ${{COMP_WORDS[COMP_CWORD-1]}} in
{options}
  esac
  case "${{COMP_WORDS[*]:1:COMP_CWORD-1}}" in
{commands}
  esac
  if [[ $names && $word != -* ]]; then
    COMPREPLY=($(compgen -W "$names" -- "$word"))
  else
    "$_zsbir_before" "$@"
  fi
}}
complete -o default -F _zsbir_names zsbir
"""


def complete(args: Sequence[str], commands: Commands, **options: Any) -> int:
    """Print or write what ``--tyro-print-completion SHELL`` or ``--tyro-write-completion SHELL FILE`` ask for."""
    said = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(said):
        tyro.cli(_group(commands), prog="zsbir", args=args, **options)
    more = _names(commands) if "bash" in " ".join(args) else ""
    if args[0].startswith("--tyro-write"):
        with Path(args[-1]).open("a", encoding="utf-8") as file:
            file.write(more)
    else:
        sys.stdout.write(said.getvalue() + more)
    return 0


def _group(table: Commands) -> Callable[..., None]:
    """Return a function with a subcommand for each entry, groups in groups."""
    commands = tuple(
        Annotated[Any, tyro.conf.subcommand(name, constructor=_group(found) if isinstance(found, dict) else found)]
        for name, found in table.items()
    )

    def chosen(command: Any) -> None: ...

    chosen.__annotations__ = {"command": Union[commands], "return": None}  # noqa: UP007 (of a length known now)
    return chosen


def _names(commands: Commands) -> str:
    """Return bash's function for the names that are known now."""
    import zsbir

    known = {kind: " ".join(names) for kind, names in zsbir.list().items()}
    words = {"run": _RUNS, "run_a": _RUNS, "model": f"{_RUNS} {known['methods']}", "index": _INDEXES}
    words |= {parameter: known[kind] for parameter, kind in _POSITIONALS.items()}
    flat = {name: found for name, found in commands.items() if not isinstance(found, dict)}
    flat |= {f"{outer} {name}": inner for outer, group in commands.items() if isinstance(group, dict)
             for name, inner in group.items()}  # fmt: skip
    first = {name: _first_positional(command) for name, command in flat.items()}
    return _BASH.format(
        options="\n".join(f'    {option}) names="{known[kind]}" ;;' for option, kind in _OPTIONS.items()),
        commands="\n".join(f'    "{name}") names="{words[p]}" ;;' for name, p in first.items() if p in words),
    )


def _first_positional(command: Callable[..., Any]) -> str:
    hints = get_type_hints(command, include_extras=True)
    return next((name for name, hint in hints.items() if Positional in getattr(hint, "__metadata__", ())), "")
