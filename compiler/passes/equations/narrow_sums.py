"""Clipping: a sum goes over no place where a condition on its index makes every term nought.

In: a system. Out: an equal one, where `sum(s < 9) (if s - 1 < 0 then d[s, b] else 0)` is `d[0, b]`.
Gradients of what a recurrence starts with are such sums.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from ...ir.affine import affine
from ...ir.build import call, literal, substitute
from ...ir.equation import Equation, System
from ...ir.expr import Apply, Const, Expr, Idx

_WITHIN = {"lt": (None, 0), "le": (None, 1), "ge": (0, None), "gt": (1, None), "eq": (0, 1)}


def narrow_sums(system: System) -> System:
    """The system with every sum over as few places as its conditions leave."""
    return system.replace(equations=tuple(map(_clipped, system.equations)))


def _clipped(eq: Equation) -> Equation:
    body = eq.body
    if eq.reduce != "sum" or eq.at is not None or not isinstance(body, Apply):
        return eq
    if body.fn != "select" or not isinstance(body.args[2], Const) or body.args[2].value != 0:
        return eq
    first = {i.name: 0 for i in eq.over}
    last = {i.name: i.size for i in eq.over}
    open_: Expr = literal(True)
    for condition in _all_of(body.args[0]):
        found = _limits(condition, last.keys())
        if found is None:
            open_ = call("and", open_, condition)
        else:
            name, low, high = found
            first[name] = max(first[name], first[name] if low is None else low)
            last[name] = min(last[name], last[name] if high is None else high)
    if all(first[i.name] == 0 and last[i.name] == i.size for i in eq.over):
        return eq
    if any(first[name] >= last[name] for name in first):
        return replace(eq, reduce=None, over=(), body=literal(0.0, body.dtype))
    kept = tuple(
        replace(i, size=last[i.name] - first[i.name])
        for i in eq.over
        if last[i.name] - first[i.name] > 1
    )
    moved = {i.name: call("add", Idx(i.name), literal(first[i.name])) for i in kept}
    moved = {i.name: literal(first[i.name]) for i in eq.over} | moved
    body = substitute(call("select", open_, body.args[1], body.args[2]), moved)
    return replace(eq, reduce="sum" if kept else None, over=kept, body=body)


def _all_of(condition: Expr) -> Iterator[Expr]:
    if isinstance(condition, Apply) and condition.fn == "and":
        for part in condition.args:
            yield from _all_of(part)
    else:
        yield condition


def _limits(condition: Expr, names: Collection[str]) -> tuple[str, int | None, int | None] | None:
    """Where the condition holds, if that is from one value of one of the indices to another."""
    if not isinstance(condition, Apply) or condition.fn not in _WITHIN:
        return None
    left, right = condition.args
    if left.dtype not in ("i32", "i64") or right.dtype not in ("i32", "i64"):
        return None
    form = affine(left) - affine(right)
    if len(form.coefficients) != 1:
        return None
    ((atom, factor),) = form.coefficients.items()
    if not isinstance(atom, Idx) or atom.name not in names or abs(factor) != 1:
        return None
    low, high = _WITHIN[condition.fn]  # of the form, which is atom + constant or constant - atom
    if factor < 0:
        low, high = None if high is None else 1 - high, None if low is None else 1 - low
    offset = -form.constant * factor
    return (
        atom.name,
        None if low is None else low + offset,
        None if high is None else high + offset,
    )
