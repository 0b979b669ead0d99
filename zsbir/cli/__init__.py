"""The command line: one small file a command, its options made from the function's signature.

A command module has a function of its own name; a group (``zsbir datasets list``) has a table ``COMMANDS`` instead.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from zsbir.errors import ZsbirError
from zsbir.registry import close_matches

COMMANDS = (
    "quickstart",
    "train",
    "evaluate",
    "compare",
    "pictures",
    "map",
    "protocols",
    "datasets",
    "masks",
    "embed",
    "export",
    "index",
    "search",
    "serve",
    "runs",
    "list",
)


_RENAMED = {"list": "listing", "map": "mapping"}
"""A module called as a built-in would hide it in this one."""


def _command(name: str) -> Callable[..., Any] | dict[str, Callable[..., Any]]:
    place = _RENAMED.get(name, name)
    module = importlib.import_module(f"zsbir.cli.{place}")
    found: Callable[..., Any] | dict[str, Callable[..., Any]] = getattr(module, "COMMANDS", None) or getattr(
        module, place
    )
    return found


def _shown(name: str) -> Callable[[], None]:
    """Return what stands for a command in the overview: its first paragraph and, if it is called, its help."""
    command = _command(name)
    said = importlib.import_module(f"zsbir.cli.{name}").__doc__ if isinstance(command, dict) else command.__doc__

    def show() -> None:
        _run(name, ["--help"])

    show.__doc__ = (said or "").strip().split("\n\n")[0]
    return show


def _run(name: str, args: Sequence[str]) -> Any:
    from tyro.extras import subcommand_cli_from_dict

    command = _command(name)
    if isinstance(command, dict):
        return subcommand_cli_from_dict(command, prog=f"zsbir {name}", args=args or ["--help"])
    import tyro

    return tyro.cli(command, prog=f"zsbir {name}", args=args)


def _overview(args: Sequence[str]) -> Any:
    from tyro.extras import subcommand_cli_from_dict

    table = {name: _shown(name) for name in COMMANDS}
    text = (
        "Zero-shot sketch-based image retrieval: find photos by drawing. Start with `zsbir quickstart`; "
        "`zsbir COMMAND --help` explains a command, --debug shows the traceback of an error."
    )
    return subcommand_cli_from_dict(table, prog="zsbir", description=text, args=args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0, a command's own, or 2 for an error the user can mend)."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    if args == ["--version"]:
        import zsbir

        print(f"zsbir {zsbir.__version__}")
        return 0
    if not debug:
        warnings.showwarning = _short_warning
    try:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise ZsbirError(f"there is no command {args[0]!r}. {close_matches(args[0], list(COMMANDS))}")
        result = _run(args[0], args[1:]) if args and args[0] in COMMANDS else _overview(args or ["--help"])
        return result if isinstance(result, int) else 0
    except ZsbirError as error:
        if debug:
            raise
        print(f"zsbir: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if debug:
            raise
        return 130
    except BrokenPipeError:
        return 141


def _short_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"zsbir: warning: {message}", file=sys.stderr)
