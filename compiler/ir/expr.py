"""Scalar expressions, interned: equal expressions are the same object.

Equality is identity, so comparing and hashing cost nothing and common subexpressions are shared
(hash-consing; Ershov 1958, Filliatre and Conchon 2006).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any, ClassVar
from weakref import WeakValueDictionary


class _Interned(type):
    """Equal constructions give the identical object."""

    _table: ClassVar[WeakValueDictionary[tuple, Any]] = WeakValueDictionary()

    def __call__(cls, *parts):
        # 0.0 and -0.0 are equal, nan is not: what is written decides
        key = (cls, repr(parts[0]), *parts[1:]) if cls is Const else (cls, *parts)
        found = cls._table.get(key)
        if found is None:
            found = cls._table[key] = super().__call__(*parts)
        return found


class Expr(metaclass=_Interned):
    """A scalar expression at one point of an equation's domain. Immutable; equality is identity."""

    __slots__ = ("__weakref__", "_below", "_memo", "dtype")
    dtype: str

    @property
    def children(self) -> tuple[Expr, ...]:
        return ()

    def __repr__(self) -> str:
        from .printer import expr_text

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
    itself reads a tensor (a gather) and falls outside reads NaN (0 for integers, false for bool).
    """

    __slots__ = ("index", "other", "tensor")

    def __init__(self, tensor: str, index: tuple[Expr, ...], other: Expr | None, dtype: str):
        self.tensor, self.index, self.other, self.dtype = tensor, index, other, dtype

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.index if self.other is None else (*self.index, self.other)


class Apply(Expr):
    """A scalar function of `scalar.TABLE`. Build with `scalar.call`, which types and folds."""

    __slots__ = ("args", "fn")

    def __init__(self, fn: str, args: tuple[Expr, ...], dtype: str):
        self.fn, self.args, self.dtype = fn, args, dtype

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.args


def walk(expr: Expr) -> Iterator[Expr]:
    """Every distinct node of an expression, each after its children."""
    return chain(_below(expr), (expr,))


def _below(expr: Expr) -> tuple[Expr, ...]:
    """What `walk` gives before the expression itself, remembered on the node."""
    try:
        return expr._below  # type: ignore[attr-defined]
    except AttributeError:
        pass
    seen: set[Expr] = set()
    ordered: list[Expr] = []
    stack: list[Expr] = [expr]
    while stack:
        node = stack[-1]
        waiting = [c for c in node.children if c not in seen]
        if waiting:
            stack += waiting[::-1]
            continue
        stack.pop()
        if node not in seen:
            seen.add(node)
            ordered.append(node)
    expr._below = tuple(ordered[:-1])  # type: ignore[attr-defined]
    return expr._below  # type: ignore[attr-defined]


def reads(expr: Expr) -> list[Read]:
    """The distinct reads in an expression, those inside indices included, in order."""
    return list(_facts(expr)[0])


def index_names(expr: Expr) -> frozenset[str]:
    """The names of the indices that an expression depends on."""
    return _facts(expr)[1]


def _facts(expr: Expr) -> tuple[tuple[Read, ...], frozenset[str]]:
    """Reads and index names, remembered on the node: every pass asks for them again and again."""
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


def rewrite(expr: Expr, change: Callable[[Expr], Expr | None]) -> Expr:
    """The expression with every node for which `change` (given the node with its children already
    rewritten) returns something replaced by that. A node that folds into something of another kind
    when its children change is not offered again: what it became has been rewritten already."""
    from .functions import rebuild  # folding must see every rebuilt node; scalar imports this file

    done: dict[Expr, Expr] = {}  # what has become something else
    for node in walk(expr):
        fresh = node
        if done and not done.keys().isdisjoint(node.children):
            fresh = rebuild(node, tuple(done.get(c, c) for c in node.children))
        changed = change(fresh) if fresh is node or _kind(fresh) == _kind(node) else None
        result = fresh if changed is None else changed
        if result is not node:
            done[node] = result
    return done.get(expr, expr)


def _kind(expr: Expr) -> tuple:
    if isinstance(expr, Apply):
        return Apply, expr.fn
    return type(expr), expr.tensor if isinstance(expr, Read) else ""


def substitute(expr: Expr, values: Mapping[str, Expr]) -> Expr:
    """The expression with indices replaced by expressions."""
    moved = {n: e for n, e in values.items() if not (isinstance(e, Idx) and e.name == n)}
    own = index_names(expr)
    if not moved or own.isdisjoint(moved):
        return expr
    names = {n: e.name for n, e in moved.items() if isinstance(e, Idx) and n in own}
    if len(names) == len(own & moved.keys()) == len(set(names.values()) - (own - moved.keys())):
        return renamed(expr, {}, names)
    return rewrite(expr, lambda n: moved.get(n.name) if isinstance(n, Idx) else None)


def renamed(
    expr: Expr, tensors: Mapping[str, str], indices: Mapping[str, str] = MappingProxyType({})
) -> Expr:
    """The expression with other names of tensors and of indices, no two of them the same. Nothing
    can fold that has not folded already."""
    reads, names = _facts(expr)
    if names.isdisjoint(indices) and not any(read.tensor in tensors for read in reads):
        return expr
    done: dict[Expr, Expr] = {}
    for node in walk(expr):
        moved = not done.keys().isdisjoint(node.children)
        if isinstance(node, Read) and (moved or node.tensor in tensors):
            index = tuple(done.get(c, c) for c in node.index)
            other = None if node.other is None else done.get(node.other, node.other)
            done[node] = Read(tensors.get(node.tensor, node.tensor), index, other, node.dtype)
        elif isinstance(node, Apply) and moved:
            done[node] = Apply(node.fn, tuple(done.get(c, c) for c in node.args), node.dtype)
        elif isinstance(node, Idx) and node.name in indices:
            done[node] = Idx(indices[node.name])
    return done.get(expr, expr)
