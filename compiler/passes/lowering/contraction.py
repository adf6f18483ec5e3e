"""A product as a contraction sees it: two parts, each with output indices of its own.

In: the body of a sum and its output indices. Out: the two parts, as balanced as can be, or nothing.
Matrix products, batched ones, convolutions and both their gradients are all of this form.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import prod
from typing import NamedTuple

from ...ir.build import call
from ...ir.equation import Index
from ...ir.expr import Apply, Const, Expr, index_names


class Parts(NamedTuple):
    """`left * right`; the output indices `down` are in the left part alone, `across` in the right
    one alone."""

    left: Expr
    right: Expr
    down: tuple[Index, ...]
    across: tuple[Index, ...]


def parts(body: Expr, outputs: Sequence[Index]) -> Parts | None:
    """The two parts of the product; None if its factors cannot be told apart like that."""
    factors = _factors(body)
    names = {i.name: i for i in outputs}
    own = [frozenset(names) & index_names(f) for f in factors]
    best: Parts | None = None
    best_size = 0
    for a, b in combinations(range(len(factors)), 2):
        sets = [set(own[a]), set(own[b])]
        members = [[factors[a]], [factors[b]]]
        for n, factor in enumerate(factors):
            if n not in (a, b):
                side = 0 if own[n] <= sets[0] or not own[n] <= sets[1] else 1
                sets[side] |= own[n]
                members[side].append(factor)
        down, across = (
            tuple(i for i in outputs if i.name in group)
            for group in (sets[0] - sets[1], sets[1] - sets[0])
        )
        smaller = min(prod(i.size for i in down), prod(i.size for i in across))
        covered = all(i.size == 1 or i.name in sets[0] | sets[1] for i in outputs)
        if down and across and covered and smaller > best_size:
            best = Parts(_product(members[0]), _product(members[1]), down, across)
            best_size = smaller
    return best


def _factors(expr: Expr) -> list[Expr]:
    """The factors of a product. A condition or a sign is given to the first factor; a condition to
    the first whose indices it shares."""
    if isinstance(expr, Apply):
        match expr.fn:
            case "mul":
                return _factors(expr.args[0]) + _factors(expr.args[1])
            case "neg":
                first, *rest = _factors(expr.args[0])
                return [call("neg", first), *rest]
            case "select" if isinstance(expr.args[2], Const) and expr.args[2].value == 0:
                return _conditional(expr)
    return [expr]


def _conditional(expr: Apply) -> list[Expr]:
    condition, value, zero = expr.args
    factors = _factors(value)
    needed = index_names(condition)
    for n, factor in enumerate(factors):
        if needed <= index_names(factor):
            return [*factors[:n], call("select", condition, factor, zero), *factors[n + 1 :]]
    return [expr]


def _product(factors: list[Expr]) -> Expr:
    total = factors[0]
    for factor in factors[1:]:
        total = call("mul", total, factor)
    return total
