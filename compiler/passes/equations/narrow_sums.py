"""Narrow sums: a sum runs only where a condition on its index leaves terms.

    y[b] = sum(s < 9) (if s - 1 < 0 then d[s, b] else 0)   →   y[b] = d[0, b]
    u[j] = sum(t < 9) d[t, j] * (h[t - 1] else 0)    →   u[j] = sum(t < 8) d[t + 1, j] * h[t]

The gradients of a recurrence's initial value and of its weights are such sums. Applies to a sum of
products with a factor that is 0 unless an index that is summed over is within bounds: by a
condition around the whole, or because an element is read outside of its tensor.
Tests: tests/passes/test_narrow_sums.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from ...ir.affine import affine, inside, is_static
from ...ir.build import call, literal, rewrite, substitute
from ...ir.equation import Equation, System
from ...ir.expr import Apply, Expr, Idx, Read
from ...ir.terms import factors, is_zero

# First value and first beyond it, of `form` in `form < 0`, `form <= 0` and so on.
_WITHIN = {"lt": (None, 0), "le": (None, 1), "ge": (0, None), "gt": (1, None), "eq": (0, 1)}


def narrow_sums(system: System) -> System:
    """The system with the range of every sum reduced to what its conditions leave."""
    return system.replace(equations=tuple(_narrowed(eq, system) for eq in system.equations))


def _narrowed(eq: Equation, system: System) -> Equation:
    if eq.reduce != "sum" or eq.at is not None:
        return eq
    # Half-open ranges first <= index < last, narrowed by every bound; other conditions remain.
    first = {i.name: 0 for i in eq.over}
    last = {i.name: i.size for i in eq.over}
    body = eq.body
    around: list[Expr] = []
    # [condition] * value: outside of the condition each term is 0.
    if isinstance(body, Apply) and body.fn == "select" and is_zero(body.args[2]):
        around, body = list(_conjuncts(body.args[0])), body.args[1]
    remaining: Expr = literal(True)
    for condition in (*around, *_inside(body, system)):
        found = _limits(condition, last.keys())
        if found is not None:
            name, low, high = found
            first[name] = max(first[name], first[name] if low is None else low)
            last[name] = min(last[name], last[name] if high is None else high)
        elif condition in around:
            remaining = call("and", remaining, condition)
    if all(first[i.name] == 0 and last[i.name] == i.size for i in eq.over):
        return eq
    # No index satisfies all bounds: an empty sum is 0.
    if any(first[name] >= last[name] for name in first):
        return replace(eq, reduce=None, over=(), body=literal(0.0, body.dtype))
    # An index with one value left is that value, and no index any more.
    kept = tuple(
        replace(i, size=last[i.name] - first[i.name])
        for i in eq.over
        if last[i.name] - first[i.name] > 1
    )
    # The remaining indices start from 0 again: s = first + s.
    moved = {i.name: call("add", Idx(i.name), literal(first[i.name])) for i in kept}
    moved = {i.name: literal(first[i.name]) for i in eq.over} | moved
    body = substitute(call("select", remaining, body, literal(0, body.dtype)), moved)
    narrow = replace(eq, reduce="sum" if kept else None, over=kept, body=body)
    return narrow.with_body(_without_guards(narrow, system))


def _inside(body: Expr, system: System) -> Iterator[Expr]:
    """The conditions under which the factors that are 0 outside of their tensors are inside."""
    for factor in factors(body):
        if isinstance(factor, Read) and factor.other is not None and is_zero(factor.other):
            for place, size in zip(factor.index, system.tensors[factor.tensor].shape, strict=True):
                yield call("ge", place, 0)
                yield call("lt", place, size)


def _without_guards(eq: Equation, system: System) -> Expr:
    """The body; what it reads inside of a tensor for all indices needs no other value."""

    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Read) or node.other is None:
            return None
        places = zip(node.index, system.tensors[node.tensor].shape, strict=True)
        if not all(is_static(place) and inside(place, n, eq.sizes) for place, n in places):
            return None
        return Read(node.tensor, node.index, None, node.dtype)

    return rewrite(eq.body, change)


def _conjuncts(condition: Expr) -> Iterator[Expr]:
    if isinstance(condition, Apply) and condition.fn == "and":
        for part in condition.args:
            yield from _conjuncts(part)
    else:
        yield condition


def _limits(condition: Expr, names: Collection[str]) -> tuple[str, int | None, int | None] | None:
    """The index that a condition bounds, the first value where it holds and the first beyond; None
    if it bounds none of these indices."""
    if not isinstance(condition, Apply) or condition.fn not in _WITHIN:
        return None
    left, right = condition.args
    if left.dtype not in ("i32", "i64") or right.dtype not in ("i32", "i64"):
        return None
    form = affine(left) - affine(right)
    # One index alone: `s - t < 0` bounds s by another index, which no fixed range says.
    if len(form.coefficients) != 1:
        return None
    ((atom, factor),) = form.coefficients.items()
    if not isinstance(atom, Idx) or atom.name not in names or abs(factor) != 1:
        return None
    low, high = _WITHIN[condition.fn]  # of the form, which is atom + constant or constant - atom
    # Mirrored, as low <= -x < high is 1 - high <= x < 1 - low for integers.
    if factor < 0:
        low, high = None if high is None else 1 - high, None if low is None else 1 - low
    offset = -form.constant * factor
    return (
        atom.name,
        None if low is None else low + offset,
        None if high is None else high + offset,
    )
