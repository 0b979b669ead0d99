"""One generic registry: components by name, found without importing them, built from a spec.

A component is one file with one decorated class::

    @MASKERS.register("random")
    class RandomMasker(Masker):
        def __init__(self, ratio: float = 0.5) -> None: ...

The constructor is the configuration. `Registry.build` binds the arguments, refuses what the constructor does not
know, and records the result as ``component.spec``, from which the same component can be built again.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from zsbir.errors import UnknownNameError, ZsbirError

T = TypeVar("T")
C = TypeVar("C", bound=Callable[..., Any])
Spec = str | Mapping[str, Any]


def close_matches(name: str, known: list[str], most: int = 5) -> str:
    """Return a sentence with the close matches to `name`, and all known names when they are few."""
    close = difflib.get_close_matches(name, known, n=most, cutoff=0.5)
    listed = ", ".join(known) if len(known) <= 40 else f"{len(known)} names"
    return (f"Did you mean {' or '.join(map(repr, close))}? " if close else "") + f"Known: {listed or 'none'}."


def spec_of(component: object) -> Any:
    """Return the spec that `Registry.build` recorded on a component.

    Raises:
        ZsbirError: If the component was made by its constructor directly, so that nothing recorded its arguments.
    """
    spec = getattr(component, "spec", None)
    if spec is None:
        raise ZsbirError(
            f"{type(component).__name__} has no spec, so it cannot be saved: make it with a registry's build() "
            "instead of its constructor."
        )
    return spec


def _plain(value: Any) -> Any:
    """Turn a bound argument into what JSON can hold; a component becomes its spec."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return spec_of(value)


class Registry(Generic[T]):
    """Components of one kind by name.

    Args:
        kind: What the entries are, in the singular, for messages: ``"masker"``.
        package: The package whose modules hold zsbir's own entries. Its sources are scanned for ``.register("name")``
            decorators, so names are known, and a module is imported only when one of its names is used.
        fallback: Called with a name that no entry carries; returns a spec of an entry, or None. For instance any
            timm model name becomes the entry ``timm`` with ``model=name``.
        more_names: Gives the names that `fallback` takes, for the close matches of a typo.

    Plugins come through the entry point group ``zsbir.<kind>s``: ``random = "my_package.maskers:MyMasker"``.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        fallback: Callable[[str], Mapping[str, Any] | None] | None = None,
        more_names: Callable[[], list[str]] | None = None,
    ) -> None:
        self.kind = kind
        self.package = package
        self.group = f"zsbir.{kind}s"
        self._fallback = fallback
        self._more_names = more_names
        self._entries: dict[str, Callable[..., T]] = {}
        self._own: dict[str, tuple[str, str]] | None = None
        self._plugins: dict[str, EntryPoint] | None = None

    def register(self, name: str) -> Callable[[C], C]:
        """Return a decorator that files a class, or a function that returns a record, under `name`.

        Raises:
            ZsbirError: If another class holds the name.
        """

        def decorate(cls: C) -> C:
            held = self._entries.get(name)
            if held is not None and (held.__module__, held.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ZsbirError(f"{self.kind} {name!r} is already registered by {held.__module__}.{held.__qualname__}")
            owner = self._scan().get(name)
            if owner is not None and owner[0] != cls.__module__:
                raise ZsbirError(f"{self.kind} {name!r} is already registered by {owner[0]}")
            self._entries[name] = cls
            return cls

        return decorate

    def names(self) -> list[str]:
        """Return all names, sorted, without importing any component."""
        return sorted({*self._scan(), *self._entry_points(), *self._entries})

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.names()

    def describe(self) -> dict[str, str]:
        """Return each name with the first line of its docstring (plugins: where they come from), without imports."""
        own = {name: summary for name, (_, summary) in self._scan().items()}
        for name, point in self._entry_points().items():
            own.setdefault(name, f"plugin {point.value}")
        for name, cls in self._entries.items():
            own.setdefault(name, (inspect.getdoc(cls) or "").split("\n")[0])
        return dict(sorted(own.items()))

    def get(self, name: str) -> Callable[..., T]:
        """Return the class filed under `name`, importing its module if need be.

        Raises:
            UnknownNameError: If there is no such name; the message has the close matches.
        """
        if name not in self._entries:
            if name in self._scan():
                importlib.import_module(self._scan()[name][0])
            elif name in self._entry_points():
                self._load_plugin(name)
        if name not in self._entries:
            known = self.names() + (self._more_names() if self._more_names else [])
            raise UnknownNameError(f"There is no {self.kind} {name!r}. {close_matches(name, known)}")
        return self._entries[name]

    def build(self, spec: Spec | T, **overrides: Any) -> T:
        """Build a component from its name, a mapping ``{"name": ..., argument: value}``, or pass an instance through.

        Args:
            spec: The name, the mapping or a ready instance.
            **overrides: Constructor arguments; they win over those of the mapping.

        Returns:
            The component, with ``component.spec`` holding its name and all arguments, defaults included.

        Raises:
            UnknownNameError: For an unknown name or argument, with the close matches.
            ZsbirError: For an argument that is missing, or overrides on a ready instance.
        """
        if not isinstance(spec, (str, Mapping)):
            if overrides:
                listed = ", ".join(overrides)
                raise ZsbirError(f"a ready {type(spec).__name__} takes no arguments ({listed}): name it instead")
            return spec
        given: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
        if "name" not in given:
            raise ZsbirError(f"a {self.kind} spec needs the key 'name'; it has {', '.join(map(repr, given)) or 'none'}")
        name = str(given.pop("name"))
        if name not in self and self._fallback is not None:
            other = self._fallback(name)
            if other is not None:
                return self.build({**other, **given}, **overrides)
        cls = self.get(name)
        arguments = self._bind(name, cls, {**given, **overrides})
        component = cls(**arguments)
        # object.__setattr__: some components are frozen records, some Modules, and both may carry it.
        bound = {"name": name, **{key: _plain(value) for key, value in arguments.items()}}
        object.__setattr__(component, "spec", bound)
        return component

    def parameters(self, name: str) -> dict[str, inspect.Parameter]:
        """Return the constructor's parameters of the component called `name`."""
        return dict(inspect.signature(self.get(name)).parameters)

    def _bind(self, name: str, cls: Callable[..., T], arguments: dict[str, Any]) -> dict[str, Any]:
        signature = inspect.signature(cls)
        for key in arguments:
            if key not in signature.parameters:
                hint = close_matches(key, list(signature.parameters))
                raise UnknownNameError(f"{self.kind} {name!r} has no argument {key!r}. {hint}")
        try:
            bound = signature.bind(**arguments)
        except TypeError as error:
            raise ZsbirError(f"{self.kind} {name!r}: {error}") from None
        bound.apply_defaults()
        return dict(bound.arguments)

    def _scan(self) -> dict[str, tuple[str, str]]:
        """Map each of zsbir's own names to its module and the first line of its docstring, read from the sources."""
        if self._own is None:
            self._own = {}
            spec = importlib.util.find_spec(self.package)
            folders = list(spec.submodule_search_locations or []) if spec else []
            for path in sorted(path for folder in folders for path in Path(folder).glob("*.py")):
                for node in ast.parse(path.read_text(encoding="utf-8")).body:
                    if not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                        continue
                    summary = (ast.get_docstring(node) or "").split("\n")[0]
                    for call in node.decorator_list:
                        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "register":
                            self._own[ast.literal_eval(call.args[0])] = (f"{self.package}.{path.stem}", summary)
        return self._own

    def _entry_points(self) -> dict[str, EntryPoint]:
        if self._plugins is None:
            self._plugins = {}
            for point in entry_points(group=self.group):
                if point.name in self._scan():
                    warnings.warn(
                        f"plugin {point.value} is ignored: zsbir has its own {self.kind} {point.name!r}", stacklevel=3
                    )
                else:
                    self._plugins[point.name] = point
        return self._plugins

    def _load_plugin(self, name: str) -> None:
        point = self._entry_points()[name]
        try:
            cls = point.load()
        except Exception as error:  # a plugin may fail in any way; it must not take zsbir down with it
            warnings.warn(f"the {self.kind} plugin {name!r} ({point.value}) is broken: {error!r}", stacklevel=4)
            del self._entry_points()[name]
            return
        self._entries.setdefault(name, cls)
