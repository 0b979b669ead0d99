"""The command line: one small file a command, its options made from the function's signature.

A command module has a function of its own name; a group (``zsbir datasets list``) has a table ``COMMANDS`` instead.
"""

from __future__ import annotations

import importlib
import re
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, get_args

import tyro
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, PositionalMetavarFromFieldName
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo
from tyro.extras import subcommand_cli_from_dict

from zsbir.errors import ZsbirError
from zsbir.registry import close_matches, import_file

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

REPEATABLE = ("--protocol", "--track")

_RENAMED = {"list": "listing", "map": "mapping"}
"""A module named like a built-in would hide it in this package."""

_STYLE: tuple[Any, ...] = OmitArgPrefixes, PositionalMetavarFromFieldName


def _command(name: str) -> Callable[..., Any] | dict[str, Callable[..., Any]]:
    place = _RENAMED.get(name, name)
    module = importlib.import_module(f"zsbir.cli.{place}")
    found: Callable[..., Any] | dict[str, Callable[..., Any]] = getattr(module, "COMMANDS", None) or getattr(
        module, place
    )
    return found


def _shown(name: str) -> Callable[[], None]:
    """Return a command's entry in the overview: it has the first paragraph of the command, and shows its help."""
    command = _command(name)
    said = importlib.import_module(f"zsbir.cli.{name}").__doc__ if isinstance(command, dict) else command.__doc__

    def show() -> None:
        _run(name, ["--help"])

    show.__doc__ = (said or "").strip().split("\n\n")[0]
    return show


def _run(name: str, args: Sequence[str]) -> Any:
    _refuse_repeated(args)
    command = _command(name)
    options: dict[str, Any] = {"prog": f"zsbir {name}", "config": _STYLE, "registry": _plain_optional()}
    if isinstance(command, dict):
        return subcommand_cli_from_dict(command, args=args or ["--help"], **options)
    return tyro.cli(command, args=args, **options)


def _refuse_repeated(args: Sequence[str]) -> None:
    """Refuse an option that is given twice: the parser would keep the last one and drop the others."""
    given = [word.partition("=")[0] for word in args if re.match("--?[a-z]", word)]
    for option in given:
        if given.count(option) > 1 and option not in REPEATABLE:
            raise ZsbirError(f"{option} is given twice: leave one out, or put all its values behind one {option}")


def _plain_optional() -> Any:
    """Return tyro's rules with one more: an optional value's help says ``PATH``, not ``{None}|PATH``."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        kinds = [kind for kind in get_args(info.type) if kind is not type(None)]
        if len(kinds) != 1 or len(get_args(info.type)) != 2:
            return None
        spec = registry.get_primitive_spec(PrimitiveTypeInfo.make(kinds[0], info.markers))
        if not isinstance(spec, PrimitiveConstructorSpec):
            return None
        return replace(
            spec,
            is_instance=lambda value: value is None or spec.is_instance(value),
            str_from_instance=lambda value: ["none"] if value is None else spec.str_from_instance(value),
        )

    return registry


def _overview(args: Sequence[str]) -> Any:
    table = {name: _shown(name) for name in COMMANDS}
    text = (
        "Zero-shot sketch-based image retrieval: find photos by drawing. Start with `zsbir quickstart`; "
        "`zsbir COMMAND --help` explains a command. With every command, --import FILE.py makes what a file of yours "
        "registers known by name, and --debug shows the traceback of an error."
    )
    return subcommand_cli_from_dict(table, prog="zsbir", description=text, args=args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0, a command's own, or 2 for an error the user can mend)."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    args, files = _imports(args)
    if args == ["--version"]:
        import zsbir

        print(f"zsbir {zsbir.__version__}")
        return 0
    if not debug:
        warnings.showwarning = _short_warning
    try:
        for file in files:
            import_file(file)
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise ZsbirError(f"there is no command {args[0]!r}. {close_matches(args[0], list(COMMANDS))}")
        if any(word.startswith(("--tyro-print-completion", "--tyro-write-completion")) for word in args):
            from zsbir.cli._completion import complete

            commands = {name: _command(name) for name in COMMANDS}
            return complete(args, commands, config=(*_STYLE, OmitSubcommandPrefixes), registry=_plain_optional())
        result = _run(args[0], args[1:]) if args and args[0] in COMMANDS else _overview(args or ["--help"])
        return result if isinstance(result, int) else 0
    except BrokenPipeError:
        return 141
    except (ZsbirError, OSError, KeyboardInterrupt) as error:
        if debug:
            raise
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the end is left, and another Ctrl-C would litter it
            return 130
        said = str(error)
        if isinstance(error, OSError):  # a name too long, a folder that may not be read, a full disk
            said = (f"{str(error.filename)[:200]}: " if error.filename else "") + (error.strerror or said)
        print(f"zsbir: {said}", file=sys.stderr)
        return 2


def _imports(args: list[str]) -> tuple[list[str], list[str]]:
    """Return the arguments without ``--import FILE`` or ``--import=FILE``, which every command takes, and the files."""
    rest, files = [], []
    words = iter(args)
    for word in words:
        name, equals, file = word.partition("=")
        if name == "--import":
            files.append(file if equals else next(words, ""))
        else:
            rest.append(word)
    return rest, files


def _short_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"zsbir: warning: {message}", file=sys.stderr)
