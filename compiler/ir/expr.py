"""Scalar expressions, interned: equal expressions are the same object.

Equality is identity, so comparing and hashing cost nothing and common subexpressions are shared
(hash-consing; Ershov 1958, Filliatre and Conchon 2006). This file has the nodes, how to walk them
and their text; `build.py` types, folds and rewrites them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import chain
from threading import RLock
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from .functions import TABLE


class _Interned(type):
    """Equal constructions give the identical object."""

    _table: ClassVar[WeakValueDictionary[tuple, Any]] = WeakValueDictionary()
    _adding: ClassVar = RLock()

    def __call__(cls, *parts):
        # 0.0 == -0.0 and nan != nan, so constants are distinguished by their text
        key = (cls, repr(parts[0]), *parts[1:]) if cls is Const else (cls, *parts)
        found = cls._table.get(key)
        if found is None:
            # Two threads that construct the same must not get two objects.
            with cls._adding:
                found = cls._table.get(key)
                if found is None:
                    found = cls._table[key] = super().__call__(*parts)
        return found


def _after_fork() -> None:
    _Interned._adding = RLock()  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Expr(metaclass=_Interned):
    """A scalar expression at one point of an equation's domain. Immutable; equality is identity.

    Operators build expressions: `x + 1` is `call("add", x, 1)`."""

    __slots__ = ("__weakref__", "_below", "_form", "_memo", "dtype")
    dtype: str
    call: ClassVar[Callable[..., Expr]]  # build.call, set there: it needs the nodes below

    @property
    def children(self) -> tuple[Expr, ...]:
        return ()

    def __add__(self, other: Expr | float) -> Expr:
        return Expr.call("add", self, other)

    def __radd__(self, other: float) -> Expr:
        return Expr.call("add", other, self)

    def __sub__(self, other: Expr | float) -> Expr:
        return Expr.call("sub", self, other)

    def __rsub__(self, other: float) -> Expr:
        return Expr.call("sub", other, self)

    def __mul__(self, other: Expr | float) -> Expr:
        return Expr.call("mul", self, other)

    def __rmul__(self, other: float) -> Expr:
        return Expr.call("mul", other, self)

    def __truediv__(self, other: Expr | float) -> Expr:
        return Expr.call("div", self, other)

    def __rtruediv__(self, other: float) -> Expr:
        return Expr.call("div", other, self)

    def __floordiv__(self, other: Expr | int) -> Expr:
        return Expr.call("floordiv", self, other)

    def __mod__(self, other: Expr | int) -> Expr:
        return Expr.call("mod", self, other)

    def __neg__(self) -> Expr:
        return Expr.call("neg", self)

    def __repr__(self) -> str:
        return expr_text(self)


class Const(Expr):
    """A number; `value` is a Python bool, int or float."""

    __slots__ = ("value",)

    def __init__(self, value: float, dtype: str):
        self.value, self.dtype = value, dtype


class Idx(Expr):
    """The current value of an index, an i32."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name, self.dtype = name, "i32"


class Read(Expr):
    """`tensor[index…]`, or `(tensor[index…] else other)` where an index may fall outside.

    Without `other`, affine indices are proven inside when the system is verified; an index that
    itself reads a tensor (a gather) and falls outside reads NaN (0 for integers, false for bool),
    and the run is refused (`passes/equations/integer_checks.py`).
    """

    __slots__ = ("index", "other", "tensor")

    def __init__(self, tensor: str, index: tuple[Expr, ...], other: Expr | None, dtype: str):
        self.tensor, self.index, self.other, self.dtype = tensor, index, other, dtype

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.index if self.other is None else (*self.index, self.other)


class Apply(Expr):
    """A scalar function of `functions.TABLE`. Made by `build.call`, which types and folds."""

    __slots__ = ("args", "fn")

    def __init__(self, fn: str, args: tuple[Expr, ...], dtype: str):
        self.fn, self.args, self.dtype = fn, args, dtype

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.args


def is_size_input(name: str) -> bool:
    """Whether it is the name of an input that holds a size of a run (`dynamic_sizes`)."""
    return name.endswith("!")  # which no name of a program has


def is_size(expr: Expr) -> bool:
    """Whether it is such a size."""
    return isinstance(expr, Read) and is_size_input(expr.tensor)


def walk(expr: Expr) -> Iterator[Expr]:
    """Every distinct node of an expression, each after its children."""
    return chain(_below(expr), (expr,))


def _below(expr: Expr) -> tuple[Expr, ...]:
    """The nodes below the expression, in the order of `walk`; cached on the node."""
    # The slot is unset until the first walk; expressions are immutable, so it never goes stale.
    try:
        return expr._below  # type: ignore[attr-defined]
    except AttributeError:
        pass
    seen: set[Expr] = set()
    ordered: list[Expr] = []
    stack: list[Expr] = [expr]
    while stack:
        node = stack[-1]
        # A node waits on the stack until its children are done; a shared one may be pushed twice.
        waiting = [c for c in node.children if c not in seen]
        if waiting:
            stack += waiting[::-1]
            continue
        stack.pop()
        if node not in seen:
            seen.add(node)
            ordered.append(node)
    # Without the node itself: a tuple that held it would be a reference cycle.
    expr._below = tuple(ordered[:-1])  # type: ignore[attr-defined]
    return expr._below  # type: ignore[attr-defined]


def reads(expr: Expr) -> list[Read]:
    """The distinct reads in an expression, those inside indices included, in order."""
    return list(_facts(expr)[0])


def index_names(expr: Expr) -> frozenset[str]:
    """The names of the indices that an expression depends on."""
    return _facts(expr)[1]


def _facts(expr: Expr) -> tuple[tuple[Read, ...], frozenset[str]]:
    """Reads and index names, cached on the node because every pass needs them."""
    try:
        return expr._memo  # type: ignore[attr-defined]
    except AttributeError:
        pass
    found: dict[Read, None] = {}
    names: set[str] = set()
    for child in expr.children:
        theirs = _facts(child)
        found |= dict.fromkeys(theirs[0])
        names |= theirs[1]
    if isinstance(expr, Read):
        found[expr] = None
    elif isinstance(expr, Idx):
        names.add(expr.name)
    expr._memo = (tuple(found), frozenset(names))  # type: ignore[attr-defined]
    return expr._memo  # type: ignore[attr-defined]


# --- text --------------------------------------------------------------------------------------

# precedence in the language; a reduction's body is a product (6), a function call is an atom (9)
_PRECEDENCE = {
    "or": 1, "and": 2, "not": 3,
    "eq": 4, "ne": 4, "lt": 4, "le": 4, "gt": 4, "ge": 4,
    "add": 5, "sub": 5, "mul": 6, "div": 6, "floordiv": 6, "mod": 6, "neg": 7, "pow": 8,
}  # fmt: skip
IF, PRODUCT, ATOM = 0, 6, 9


def number_text(value: float, dtype: str) -> str:
    """A constant in the language; floats always with a point or an exponent."""
    if dtype == "bool":
        return "true" if value else "false"
    return repr(value)


def expr_text(expr: Expr, least: int = 0) -> str:
    """The expression, in parentheses if it binds less tightly than `least`."""
    text, binding = _expr(expr)
    return f"({text})" if binding < least else text


def _expr(expr: Expr) -> tuple[str, int]:
    if isinstance(expr, Const):
        text = number_text(expr.value, expr.dtype)
        return text, 7 if text.startswith("-") else ATOM
    if isinstance(expr, Idx):
        return expr.name, ATOM
    if isinstance(expr, Read):
        place = ", ".join(map(expr_text, expr.index))
        text = f"{expr.tensor}[{place}]" if expr.index else expr.tensor
        if expr.other is None:
            return text, ATOM
        return f"({text} else {expr_text(expr.other, 1)})", ATOM
    assert isinstance(expr, Apply)
    return _apply(expr.fn, expr.args)


def _apply(fn: str, args: tuple[Expr, ...]) -> tuple[str, int]:
    # `x^2` is a product of x with itself (`build._simplify_power`).
    if fn == "mul" and args[0] is args[1]:
        return f"{expr_text(args[0], _PRECEDENCE['pow'] + 1)}^2", _PRECEDENCE["pow"]
    binding = _PRECEDENCE.get(fn, ATOM)
    symbol = TABLE[fn].symbol
    if fn == "select":
        condition, yes, no = (expr_text(a, 1) for a in args)
        return f"if {condition} then {yes} else {no}", IF
    if fn == "neg":
        return f"-{expr_text(args[0], binding)}", binding
    if fn == "not":
        return f"not {expr_text(args[0], binding)}", binding
    if fn == "pow":
        # A power associates to the right: 2^(3^2) needs no parentheses, (2^3)^2 does.
        return f"{expr_text(args[0], binding + 1)}^{expr_text(args[1], binding)}", binding
    if symbol:
        # comparisons do not chain; the others associate to the left
        left, right = binding + (binding == _PRECEDENCE["eq"]), binding + 1
        return f"{expr_text(args[0], left)} {symbol} {expr_text(args[1], right)}", binding
    return f"{fn}({', '.join(map(expr_text, args))})", ATOM
