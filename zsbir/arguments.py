"""Arguments checked against their annotations where a component, or a record of settings, is made."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import numbers
import re
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import PurePath
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from zsbir.errors import UnknownNameError, ZsbirError

C = TypeVar("C", bound=Callable[..., Any])


class Range(NamedTuple):
    """The values that an annotated number may have: ``Annotated[float, Range(0, 1)]``.

    Attributes:
        low: The smallest value.
        high: The largest value.
        without: The ends that are excluded, of ``low`` and ``high``.
    """

    low: float = -math.inf
    high: float = math.inf
    without: tuple[str, ...] = ()

    def holds(self, value: float) -> bool:
        """Return whether a number is in the range."""
        return self.low <= value <= self.high and value not in [getattr(self, end) for end in self.without]

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:g}" if "low" in self.without else f"of at least {self.low:g}"
        ends = "(" if "low" in self.without else "[", ")" if "high" in self.without else "]"
        return f"in {ends[0]}{self.low:g}, {self.high:g}{ends[1]}"


Count = Annotated[int, Range(1)]
"""1, 2, 3, ..."""
Natural = Annotated[int, Range(0)]
"""0, 1, 2, ..."""
Positive = Annotated[float, Range(0, without=("low",))]
"""Above 0."""
NonNegative = Annotated[float, Range(0)]
"""At least 0."""
Proportion = Annotated[float, Range(0, 1)]
"""In [0, 1]."""
PositiveProportion = Annotated[float, Range(0, 1, without=("low",))]
"""In (0, 1]."""
Ratio = Annotated[float, Range(0, 1, without=("high",))]
"""In [0, 1)."""
OpenProportion = Annotated[float, Range(0, 1, without=("low", "high"))]
"""In (0, 1)."""
_PLAIN = {name: hint.__origin__.__name__ for name, hint in globals().items() if typing.get_origin(hint) is Annotated}


def close_matches(name: str, known: list[str], most: int = 5) -> str:
    """Return a sentence with the close matches to `name`, and all known names when they are few."""
    close = difflib.get_close_matches(name, known, n=most, cutoff=0.5)
    listed = ", ".join(known) if len(known) <= 40 else f"{len(known)} names"
    return (f"Did you mean {' or '.join(map(repr, close))}? " if close else "") + f"Known: {listed or 'none'}."


def checked(what: str) -> Callable[[C], C]:
    """Return a decorator that checks the arguments of a function, or of a class's constructor, at every call.

    Args:
        what: What is called, for messages: ``"recipe"``.

    The call raises ZsbirError for an argument that is unknown, missing or does not fit its annotation (NaN is no
    number).
    """

    def decorate(call: C) -> C:
        return wrap(call, what, lambda result, given: None)

    return decorate


def wrap(call: C, what: str, done: Callable[[Any, dict[str, Any]], None]) -> C:
    """Check the arguments of `call`, then call `done` with its result and all arguments, defaults included.

    A class is changed in place (`done` gets the object, also of subclasses); for a function a wrapper is returned.
    """
    made = isinstance(call, type)
    inner: Any = call.__init__ if made else call
    if inner is object.__init__:
        inner = _no_constructor
    signature = _signature(inner, skip=int(made))

    @functools.wraps(inner)
    def checked_call(*args: Any, **kwargs: Any) -> Any:
        given = _bound(what, signature, _hints(inner), args[made:], kwargs)
        result = inner(*args, **kwargs)
        done(args[0] if made else result, given)
        return result

    if not made:
        checked_call.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return typing.cast(C, checked_call)
    call.__init__ = checked_call  # type: ignore[method-assign]
    call.__signature__ = signature  # type: ignore[attr-defined]  # some bases have a __new__ that hides it
    return call


def _no_constructor(self: Any) -> None:
    """Stand for the constructor of a class that has none."""


class _Annotation(str):
    __slots__ = ()
    __repr__ = str.__str__  # shown without quotes


def _shown(parameter: inspect.Parameter) -> inspect.Parameter:
    if not isinstance(parameter.annotation, str):
        return parameter
    plain = re.sub(r"\w+", lambda word: _PLAIN.get(word[0], word[0]), parameter.annotation)
    return parameter.replace(annotation=_Annotation(plain))


def _signature(function: Callable[..., Any], skip: int) -> inspect.Signature:
    """Return what `help` and the reference show: without the first `skip` parameters, and ``int`` for `Count`."""
    return inspect.Signature(list(map(_shown, inspect.signature(function).parameters.values()))[skip:])


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError:  # of names that are imported for type checkers alone
        return {}


def _bound(
    what: str, signature: inspect.Signature, hints: Mapping[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return all arguments by name, defaults included; raises ZsbirError if one is unknown, missing or wrong."""
    known = signature.parameters
    if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        for key in kwargs:
            if key not in known:
                raise UnknownNameError(f"{what} has no argument {key!r}. {close_matches(key, list(known))}")
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ZsbirError(f"{what}: {error}") from None
    for key, value in bound.arguments.items():
        if key in hints and not fits(value, hints[key]):
            raise ZsbirError(f"{what}: {key}={reprlib.repr(value)} must be {in_words(hints[key])}")
    bound.apply_defaults()
    return dict(bound.arguments)


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value fits an annotation; every value fits an annotation of another kind than these.

    >>> fits(3, int | None), fits("3", int), fits(True, int), fits([1, 2], tuple[int, ...]), fits(float("nan"), float)
    (True, False, False, True, False)
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is None or hint is types.NoneType:
        return value is None
    if origin is Annotated:
        return fits(value, args[0]) and all(x.holds(value) for x in args[1:] if isinstance(x, Range))
    if origin is Literal:
        return any(value == arg and type(value) is type(arg) for arg in args)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if hint in (int, float):
        kind = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool) and value == value
    if hint is str:
        return isinstance(value, (str, PurePath))  # files may be given as either
    if isinstance(origin, type) and issubclass(origin, (Sequence, Set)):
        # JSON has no tuples, so lists stand for them.
        if isinstance(value, (str, bytes)) or not isinstance(value, (list, tuple) if origin is tuple else origin):
            return False
        if origin is tuple and args[-1] is not Ellipsis:
            return len(value) == len(args) and all(map(fits, value, args))
        return all(fits(item, args[0]) for item in value)
    kind = origin or hint
    return not isinstance(kind, type) or getattr(kind, "_is_protocol", False) or isinstance(value, kind)


_WORDS = {
    None: ("None", ""),
    types.NoneType: ("None", ""),
    bool: ("True or False", ""),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
}


def in_words(hint: Any) -> str:
    """Return an annotation in plain words.

    >>> in_words(Literal["max", "model"]), in_words(Proportion | None), in_words(Sequence[int])
    ("'max' or 'model'", 'a number in [0, 1] or None', 'a list of whole numbers')
    """
    *others, last = _alternatives(hint)
    return f"{', '.join(others)} or {last}" if others else last


def _alternatives(hint: Any) -> list[str]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in _WORDS:
        return [_WORDS[hint][0]]
    if origin is Annotated:
        return [" ".join([in_words(args[0]), *(str(extra) for extra in args[1:] if isinstance(extra, Range))])]
    if origin is Literal:
        return [repr(arg) for arg in args]
    if origin in (typing.Union, types.UnionType):
        return [word for arg in args for word in _alternatives(arg)]
    kind = origin or hint
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return ["a mapping"]
    if isinstance(kind, type) and issubclass(kind, (Sequence, Set)) and args:
        kind, *extras = (typing.get_args(args[0]) if typing.get_origin(args[0]) is Annotated else args)[:2]
        many = _WORDS.get(kind, ("", in_words(kind)))[1]
        return [" ".join([f"a list of {many}", *(str(extra) for extra in extras if isinstance(extra, Range))])]
    name = getattr(kind, "__name__", str(kind))
    return [f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"]
