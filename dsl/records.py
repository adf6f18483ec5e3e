"""Records: values with named fields that do not change, as `dataclass(frozen=True)` makes them.

That decorator writes and compiles six methods of each class whenever it is imported, which was a
quarter of a start whose code is cached. Here a method is compiled for the classes that need it,
when they first do. Type checkers hold records to be frozen, as those of the whole package are; at
run time nothing checks it. What a start does not import may as well be a dataclass. Tests:
tests/language/test_records.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from reprlib import recursive_repr
from typing import Any, TypeVar, dataclass_transform, overload

T = TypeVar("T")


@overload
def record(kind: type[T], *, eq: bool = True, kw_only: bool = False) -> type[T]: ...
@overload
def record(*, eq: bool = True, kw_only: bool = False) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(kind: type[T] | None = None, *, eq: bool = True, kw_only: bool = False) -> Any:
    """A class of records; they are compared by identity without `eq`. What the class defines of
    comparison, hash and text itself stays."""
    if kind is None:
        return lambda kind: record(kind, eq=eq, kw_only=kw_only)
    made = dataclass(init=False, eq=False, repr=False, kw_only=kw_only)(kind)
    if "__init__" not in kind.__dict__:
        made.__init__ = _first_init  # type: ignore[misc, assignment]
    # As `dataclass` has it; a class that defines `__eq__` alone has None for its hash.
    if eq and "__eq__" not in kind.__dict__:
        made.__eq__ = _first_eq  # type: ignore[method-assign, assignment]
    if eq and kind.__dict__.get("__hash__") is None:
        made.__hash__ = _first_hash  # type: ignore[method-assign, assignment]
    if "__repr__" not in kind.__dict__:
        made.__repr__ = _repr  # type: ignore[method-assign, assignment]
    return made


def _first_init(self: Any, *given: Any, **named: Any) -> None:
    kind = _record_of(type(self))
    kind.__init__ = _init_of(kind)
    kind.__init__(self, *given, **named)


def _init_of(kind: Any) -> Any:
    """The method that `dataclass` would write."""
    parameters: dict[bool, list[str]] = {False: [], True: []}  # by whether they need their names
    lines: list[str] = []
    names: dict[str, Any] = {"MISSING": MISSING}
    for f in fields(kind):
        first, factory = f"{f.name}_default", f"{f.name}_factory"
        made = f"{factory}()"
        if f.init:
            default = f"={first}" if f.default is not MISSING else ""
            if f.default_factory is not MISSING:
                default, made = "=MISSING", f"{made} if {f.name} is MISSING else {f.name}"
            parameters[f.kw_only is True].append(f.name + default)
        if f.default_factory is not MISSING:
            names[factory] = f.default_factory
            lines.append(f"self.{f.name} = {made}")
        elif f.init:
            names[first] = f.default
            lines.append(f"self.{f.name} = {f.name}")
    if hasattr(kind, "__post_init__"):
        lines.append("self.__post_init__()")
    named = ["*", *parameters[True]] if parameters[True] else []
    head = f"def __init__({', '.join(['self', *parameters[False], *named])}):"
    exec("\n    ".join([head, *(lines or ["pass"])]), names)  # as `dataclass` does it
    return names["__init__"]


def _first_eq(self: Any, other: object) -> Any:
    kind = _record_of(type(self))
    own, its = _values(kind, "self"), _values(kind, "other")
    kind.__eq__ = eval(  # the names of fields, as `dataclass` does it
        f"lambda self, other: {own} == {its} if other.__class__ is self.__class__"
        " else NotImplemented"
    )
    return kind.__eq__(self, other)


def _first_hash(self: Any) -> int:
    kind = _record_of(type(self))
    kind.__hash__ = eval(f"lambda self: hash({_values(kind, 'self')})")
    return kind.__hash__(self)


def _values(kind: type, name: str) -> str:
    """A tuple of the fields that count in comparisons."""
    return f"({''.join(f'{name}.{f.name}, ' for f in fields(kind) if f.compare)})"


def _record_of(kind: type) -> Any:
    """The class itself, or the one of records that it is derived from."""
    return next(each for each in kind.__mro__ if "__dataclass_fields__" in each.__dict__)


@recursive_repr()
def _repr(self: Any) -> str:
    shown = (f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"
