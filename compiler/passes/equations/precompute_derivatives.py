"""Ahead: a slope is computed where the value is, while exp or erf of it is at hand.

In: a system. Out: an equal one. A way back needs the derivative of an activation at a value that
the way forward has stored for it, and computes the same long functions a second time. If nothing
else needs the value later, what is made of it alone is stored instead:

    g[i] = y[i] * erf(y[i])                  g[i] = y[i] * erf(y[i])
    …                                        f[i] = erf(y[i]) + y[i] * exp(-y[i]^2)
    d[i] = e[i] * erf(y[i])                  …
         + e[i] * (y[i] * exp(-y[i]^2))      d[i] = e[i] * f[i]

No more is stored than before, and `y` stays in registers (`fuse.py`). Where no long function is
shared it would only be moved from the way back to the way forward, and everything stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce

from ...ir.build import call, literal, substitute
from ...ir.dtypes import is_float
from ...ir.equation import Equation, System, Tensor, free_name, is_identity
from ...ir.expr import Apply, Const, Expr, Idx, Read, reads, walk
from ...ir.functions import TABLE
from ...ir.terms import terms
from ...ir.work import cost
from ...targets import Target
from .common_subexpressions import LONG
from .views import views


def precompute_derivatives(system: System, target: Target) -> System:
    """The system with what later equations make of a value alone computed beside that value."""
    recurrent = system.recurrent
    order = {eq.target: number for number, eq in enumerate(system.equations)}
    readers: dict[str, list[Equation]] = {}
    for eq in system.equations:
        for source in eq.sources:
            readers.setdefault(source, []).append(eq)
    seen = views(system)
    kept = {*system.roots, *recurrent, *seen, *seen.values()}
    now = dict(system.definition)
    tensors = dict(system.tensors)
    for eq in system.equations:
        if eq.target in kept or eq.at is not None or not is_float(eq.body.dtype):
            continue
        beside = [r for r in readers.get(eq.target, ()) if _is_beside(r, eq, order)]
        later = [r for r in readers.get(eq.target, ()) if r not in beside]
        if not later or any(r.target in recurrent for r in (*beside, *later)):
            continue
        made = _made(eq, beside, [now[r.target] for r in later], target.fusion.max_epilogue)
        if made is None:
            continue
        name = free_name(f"{eq.target}_slope", tensors)
        old = tensors[eq.target]
        tensors[name] = Tensor(name, old.shape, old.dtype, "temp", "", old.span)
        now[name] = Equation(name, eq.indices, made, span=eq.span)
        for reader in later:
            parts = _Parts.of(now[reader.target], eq)
            assert parts is not None
            now[reader.target] = now[reader.target].with_body(parts.joined(name))
    if len(now) == len(system.equations):
        return system
    return system.replace(equations=tuple(now.values()), tensors=tensors).in_order()


def _is_beside(reader: Equation, eq: Equation, order: Mapping[str, int]) -> bool:
    """Whether the reader is computed element by element from what is there when the value is."""
    same = [i.size for i in reader.indices] == [i.size for i in eq.indices]
    own = [r for r in reader.reads if r.tensor == eq.target]
    known = all(order.get(s, -1) <= order[eq.target] for s in reader.sources)
    plain = reader.reduce is None and reader.at is None
    return plain and same and known and all(is_identity(r, reader) for r in own)


def _made(
    eq: Equation, beside: list[Equation], later: list[Equation], max_epilogue: int
) -> Expr | None:
    """What all later readers make of the value alone, if that is one thing and shares a long
    function with an equation beside it."""
    at_hand = [_renamed(r.body, r, eq) for r in beside]
    if not any(map(_long, at_hand)):
        return None
    parts = [_Parts.of(reader, eq) for reader in later]
    found = {None if p is None else p.slope for p in parts}
    if len(found) != 1:
        return None
    (slope,) = found
    if slope is None or slope.dtype != eq.body.dtype:
        return None
    if not any(_long(slope) & _long(body) for body in at_hand):
        return None
    price = cost(eq.body) + cost(slope) + sum(map(cost, at_hand))
    return slope if price <= max_epilogue else None


def _renamed(body: Expr, reader: Equation, eq: Equation) -> Expr:
    """The body with the index names of the equation."""
    names = zip(reader.indices, eq.indices, strict=True)
    return substitute(body, {own.name: Idx(theirs.name) for own, theirs in names})


def _long(expr: Expr) -> set[Expr]:
    return {n for n in walk(expr) if isinstance(n, Apply) and TABLE[n.fn].cost >= LONG}


@dataclass(frozen=True)
class _Parts:
    """A body as `others * slope + rest`, where the slope, at the value's own indices, reads
    nothing but the value, and the others and the rest do not."""

    read: Read
    slope: Expr
    others: tuple[Expr, ...]
    rest: tuple[Expr, ...]

    @staticmethod
    def of(reader: Equation, eq: Equation) -> _Parts | None:
        found = [r for r in reader.reads if r.tensor == eq.target]
        if len(found) != 1 or found[0] not in reads(reader.body):
            return None
        (read,) = found
        if not _is_whole(read, reader, eq):
            return None
        slopes: list[Expr] = []
        others: set[tuple[Expr, ...]] = set()
        rest: list[Expr] = []
        for term in terms(reader.body):
            if read not in reads(term):
                rest.append(term)
                continue
            product = _Product.of(term, read)
            if any(read in reads(f) for f in product.others):
                return None
            slopes.append(product.slope(read.dtype))
            others.add(tuple(sorted(product.others, key=str)))
        if len(others) != 1:
            return None
        names = {
            place.name: Idx(i.name)  # type: ignore[attr-defined]
            for place, i in zip(read.index, eq.indices, strict=True)
        }
        slope = substitute(reduce(_added, slopes), names)
        return _Parts(read, slope, others.pop(), tuple(rest))

    def joined(self, name: str) -> Expr:
        """The body with the slope read from the tensor of that name."""
        slope = Read(name, self.read.index, None, self.read.dtype)
        return reduce(_added, (reduce(_multiplied, (*self.others, slope)), *self.rest))


@dataclass(frozen=True)
class _Product:
    """A term as `number * alone * others`; `alone` is made of the value and keeps its shape, so
    that nothing overflows in it that did not before."""

    number: float
    alone: Expr | None
    others: tuple[Expr, ...]

    @staticmethod
    def of(expr: Expr, read: Read) -> _Product:
        if isinstance(expr, Const):
            return _Product(expr.value, None, ())
        if isinstance(expr, Apply) and expr.fn == "neg":
            inner = _Product.of(expr.args[0], read)
            return replace(inner, number=-inner.number)
        if isinstance(expr, Apply) and expr.fn == "mul":
            a, b = (_Product.of(x, read) for x in expr.args)
            alone = a.alone or b.alone
            if a.alone is not None and b.alone is not None:
                alone = call("mul", a.alone, b.alone)
            return _Product(a.number * b.number, alone, (*a.others, *b.others))
        if isinstance(expr, Apply) and expr.fn == "div" and _is_made_of(expr.args[1], read):
            a = _Product.of(expr.args[0], read)
            return replace(a, alone=call("div", a.alone or literal(1, expr.dtype), expr.args[1]))
        if _is_made_of(expr, read):
            return _Product(1, expr, ())
        return _Product(1, None, (expr,))

    def slope(self, dtype: str) -> Expr:
        """The number times what is made of the value."""
        number = literal(self.number, dtype)
        return number if self.alone is None else call("mul", number, self.alone)


def _is_whole(read: Read, reader: Equation, eq: Equation) -> bool:
    """Whether the read goes through all of the value, each dimension by an index of its own."""
    names = [e.name for e in read.index if isinstance(e, Idx)]
    sizes = reader.sizes
    return (
        read.other is None
        and len(set(names)) == len(read.index)
        and [sizes[n] for n in names] == [i.size for i in eq.indices]
    )


def _is_made_of(expr: Expr, read: Read) -> bool:
    """Whether nothing varies in the expression but the read."""
    if isinstance(expr, Apply):
        return expr.fn != "random" and all(_is_made_of(x, read) for x in expr.args)
    return expr is read or isinstance(expr, Const)


def _added(a: Expr, b: Expr) -> Expr:
    return call("add", a, b)


def _multiplied(a: Expr, b: Expr) -> Expr:
    return call("mul", a, b)
