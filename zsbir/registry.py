"""One generic registry: components by name, found without importing them, built from a spec.

A component is one file with one decorated class::

    @MASKERS.register("random")
    class RandomMasker(Masker):
        def __init__(self, ratio: float = 0.5) -> None: ...

The constructor is the configuration. Its arguments are checked against their annotations, and recorded as
``component.spec``, from which the same component can be built again: ``RandomMasker(0.3)`` and
``MASKERS.build("random", ratio=0.3)`` are equal.
"""

from __future__ import annotations

import ast
import functools
import html
import importlib
import importlib.util
import inspect
import numbers
import pkgutil
import reprlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from zsbir.arguments import close_matches as close_matches
from zsbir.arguments import wrap
from zsbir.errors import UnknownNameError, ZsbirError

T = TypeVar("T")
C = TypeVar("C", bound=Callable[..., Any])
Spec = str | Mapping[str, Any]


def spec_of(component: object) -> Any:
    """Return the spec that was recorded when a component was made.

    Raises:
        ZsbirError: If it has none, because its class, or that of a component given to it, is not registered.
    """
    spec = getattr(component, "spec", None)
    if spec is None:
        raise ZsbirError(
            f"{type(component).__name__} has no spec, so it cannot be saved: register its class, and those of the "
            'components given to it, with a decorator such as @METHODS.register("name")'
        )
    return spec


def _plain(value: Any) -> Any:
    """Turn an argument into what JSON can hold; a component becomes its spec."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, numbers.Real):  # of NumPy
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    return spec_of(value)


def import_file(path: str | Path) -> ModuleType:
    """Import a Python file, so that the components it registers can be built by name.

    Args:
        path: Such as ``my_method.py``; its folder is added to the end of `sys.path`, for worker processes.

    Raises:
        ZsbirError: If there is no such file, it fails, or another module has its name.
    """
    path = Path(path).resolve()
    if path.suffix != ".py" or not path.is_file():
        raise ZsbirError(f"{path} is no Python file: give one that registers components")
    held = sys.modules.get(path.stem)
    if held is not None:
        if getattr(held, "__file__", None) == str(path):
            return held
        raise ZsbirError(f"{path} cannot be imported: there is a module {path.stem!r} already; rename the file")
    sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[path.stem]
        raise ZsbirError(f"importing {path} failed: {type(error).__name__}: {error}") from error
    return module


def _documented(file: Path) -> Iterator[tuple[ast.ClassDef | ast.FunctionDef, str]]:
    """Yield the classes and functions of a source file with the first lines of their docstrings."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node, (ast.get_docstring(node) or "").split("\n")[0]


@functools.cache
def _own_plugins() -> dict[str, str]:
    """Map the entry points of zsbir's own plugins to the first lines of their docstrings."""
    files = (Path(__file__).parent / "plugins").glob("*.py")
    return {f"zsbir.plugins.{file.stem}:{node.name}": line for file in files for node, line in _documented(file)}


class Table(dict[str, dict[str, str]]):
    """Names with a line on each, by kind; it shows itself as a table."""

    def __repr__(self) -> str:
        width = max((len(name) for names in self.values() for name in names), default=0)
        blocks = []
        for kind, names in self.items():
            blocks.append("\n".join([kind, *(f"  {name:<{width}}  {line}".rstrip() for name, line in names.items())]))
        return "\n\n".join(blocks)

    def _repr_html_(self) -> str:
        rows = (
            f"<tr><td>{html.escape(kind)}</td><td>{html.escape(name)}</td><td>{html.escape(line)}</td></tr>"
            for kind, names in self.items()
            for name, line in names.items()
        )
        return f"<table><tr><th>kind</th><th>name</th><th></th></tr>{''.join(rows)}</table>"


class Registry(Generic[T]):
    """Components of one kind by name.

    Args:
        kind: What the entries are, in the singular, for messages: ``"masker"``.
        package: The package whose modules hold zsbir's own entries. Its sources are scanned for ``.register("name")``
            decorators, so names are known, and a module is imported only when one of its names is used.
        base: ``"module:Class"``: `build` takes instances of it as ready components. None: any object.
        fallback: Called with an unknown name; returns a spec of an entry, or None. For instance any timm model name
            becomes the entry ``timm`` with ``model=name``.
        more_names: Returns the names that `fallback` knows, for the close matches of a typo.

    Plugins come through the entry point group ``zsbir.<kind>s``: ``random = "my_package.maskers:MyMasker"``.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        base: str | None = None,
        fallback: Callable[[str], Mapping[str, Any] | None] | None = None,
        more_names: Callable[[], list[str]] | None = None,
    ) -> None:
        self.kind, self.package, self.group = kind, package, f"zsbir.{kind}s"
        self._base, self._fallback, self._more_names = base, fallback, more_names
        self._entries: dict[str, Callable[..., T]] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Return a decorator that registers a class, or a function that returns a record, under `name`.

        Raises:
            ZsbirError: If another class holds the name.
        """

        def decorate(cls: C) -> C:
            held, module = self._entries.get(name), cls.__module__
            by = f"{held.__module__}.{held.__qualname__}" if held else self._own.get(name, (module,))[0]
            if by not in (module, f"{module}.{cls.__qualname__}"):
                raise ZsbirError(f"{self.kind} {name!r} is already registered by {by}")
            made: C = wrap(cls, f"{self.kind} {name!r}", lambda made, given: self._record(name, cls, made, given))
            self._entries[name] = made
            return made

        return decorate

    def _record(self, name: str, cls: Callable[..., Any], made: object, given: dict[str, Any]) -> None:
        if isinstance(cls, type) and type(made) is not cls:
            return  # a subclass: its own registration records its own arguments
        try:
            spec = {"name": name, **{key: _plain(value) for key, value in given.items()}}
        except ZsbirError:
            return  # a part of it has no spec: it works, and `spec_of` says why it cannot be saved
        # object.__setattr__: some components are frozen records, some Modules, and both may carry it.
        object.__setattr__(made, "spec", spec)

    def names(self) -> list[str]:
        """Return all names, sorted, without importing any component."""
        return sorted({*self._own, *self._plugins, *self._entries})

    def __repr__(self) -> str:
        return f"<{self.kind}s: {', '.join(self.names())}>"

    def _repr_html_(self) -> str:
        return Table({f"{self.kind}s": self.describe()})._repr_html_()

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.names()

    def describe(self) -> dict[str, str]:
        """Return each name with the first line of its docstring (for plugins: their entry point), without imports."""
        own = {name: summary for name, (_, summary) in self._own.items()}
        for name, point in self._plugins.items():
            own.setdefault(name, _own_plugins().get(point.value, f"plugin {point.value}"))
        for name, cls in self._entries.items():
            own.setdefault(name, (inspect.getdoc(cls) or "").split("\n")[0])
        return dict(sorted(own.items()))

    def get(self, name: str) -> Callable[..., T]:
        """Return the class registered under `name`; its module is imported if necessary.

        Raises:
            UnknownNameError: If there is no such name; the message has the close matches.
        """
        if name not in self._entries:
            if name in self._own:
                importlib.import_module(self._own[name][0])
            elif name in self._plugins:
                self._load_plugin(name)
        if name not in self._entries:
            known = self.names() + (self._more_names() if self._more_names else [])
            raise UnknownNameError(f"There is no {self.kind} {name!r}. {close_matches(name, known)}")
        return self._entries[name]

    def build(self, spec: Spec | T, **overrides: Any) -> T:
        """Build a component from its name or a mapping ``{"name": ..., argument: value}``, or return a ready one.

        Args:
            spec: The name, the mapping or a ready component.
            **overrides: Constructor arguments; they win over those of the mapping.

        Returns:
            The component, with ``component.spec`` holding its name and all arguments, defaults included.

        Raises:
            UnknownNameError: For an unknown name or argument, with the close matches.
            ZsbirError: For an argument that is missing or wrong, or overrides on a ready component.
        """
        if not isinstance(spec, (str, Mapping)):
            self._check_ready(spec, overrides)
            return spec
        given: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
        if "name" not in given:
            raise ZsbirError(f"a {self.kind} spec needs the key 'name'; it has {', '.join(map(repr, given)) or 'none'}")
        name = str(given.pop("name"))
        if name not in self and self._fallback is not None and (other := self._fallback(name)) is not None:
            return self.build({**other, **given}, **overrides)
        return self.get(name)(**{**given, **overrides})

    def _check_ready(self, component: object, overrides: dict[str, Any]) -> None:
        base = pkgutil.resolve_name(self._base or "builtins:object")
        if not isinstance(component, base):
            raise ZsbirError(
                f"a {self.kind} is given by its name, a mapping with the key 'name', or a {base.__name__}, not "
                f"{reprlib.repr(component)}"
            )
        if overrides:
            listed = ", ".join(overrides)
            raise ZsbirError(f"a ready {type(component).__name__} takes no arguments ({listed}): name it instead")

    def parameters(self, name: str) -> dict[str, inspect.Parameter]:
        """Return the constructor's parameters of the component called `name`."""
        return dict(inspect.signature(self.get(name)).parameters)

    @functools.cached_property
    def _own(self) -> dict[str, tuple[str, str]]:
        """Each of zsbir's own names with its module and the first line of its docstring, read from the sources."""
        spec = importlib.util.find_spec(self.package)
        folders = (spec.submodule_search_locations if spec else None) or []
        return {
            ast.literal_eval(call.args[0]): (f"{self.package}.{path.stem}", summary)
            for path in sorted(path for folder in folders for path in Path(folder).glob("*.py"))
            for node, summary in _documented(path)
            for call in node.decorator_list
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "register"
        }

    @functools.cached_property
    def _plugins(self) -> dict[str, EntryPoint]:
        found = {point.name: point for point in entry_points(group=self.group)}
        for name in found.keys() & self._own:
            value = found.pop(name).value
            warnings.warn(f"plugin {value} is ignored: zsbir has its own {self.kind} {name!r}", stacklevel=3)
        return found

    def _load_plugin(self, name: str) -> None:
        point = self._plugins[name]
        try:
            cls = point.load()
        except Exception as error:  # a plugin may fail in any way; it must not take zsbir down with it
            warnings.warn(f"the {self.kind} plugin {name!r} ({point.value}) is broken: {error!r}", stacklevel=4)
            del self._plugins[name]
            return
        if name not in self._entries:
            self.register(name)(cls)
