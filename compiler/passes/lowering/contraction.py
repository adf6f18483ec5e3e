"""A summed product as a matrix product: two factors, each with output indices of its own.

    a[i, k] * s[i] * b[k, j]   →   left = a[i, k] * s[i], right = b[k, j], rows i, columns j

Matrix products, batched ones, convolutions and both their gradients are all of this form.
Tests: tests/passes/test_mixed_precision.py, tests/backends/test_cuda_tiles.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import prod
from typing import NamedTuple

from ...ir.build import call
from ...ir.equation import Index
from ...ir.expr import Apply, Const, Expr, index_names


class MatrixFactors(NamedTuple):
    """`left * right`; only `left` depends on the output indices `rows`, only `right` on
    `columns`."""

    left: Expr
    right: Expr
    rows: tuple[Index, ...]
    columns: tuple[Index, ...]


def matrix_factors(body: Expr, outputs: Sequence[Index]) -> MatrixFactors | None:
    """The grouping of the product's factors into two whose tile is as square as possible; None if
    there is none that covers all output indices."""
    factors = _factors(body)
    names = {i.name for i in outputs}
    depends = [names & index_names(f) for f in factors]
    best: MatrixFactors | None = None
    best_size = 0
    # Every pair of factors may be the two sides.
    for a, b in combinations(range(len(factors)), 2):
        sets = [set(depends[a]), set(depends[b])]
        members = [[factors[a]], [factors[b]]]
        for n, factor in enumerate(factors):
            # A further factor joins a side that has all its indices, so that no side becomes
            # larger; if neither has, the left one grows.
            if n not in (a, b):
                side = 0 if depends[n] <= sets[0] or not depends[n] <= sets[1] else 1
                sets[side] |= depends[n]
                members[side].append(factor)
        # Indices of both sides are batch indices; those of one side alone span the tile.
        rows, columns = (
            tuple(i for i in outputs if i.name in group)
            for group in (sets[0] - sets[1], sets[1] - sets[0])
        )
        # The larger the smaller side, the more often each loaded element is used.
        smaller = min(prod(i.size for i in rows), prod(i.size for i in columns))
        covered = all(i.size == 1 or i.name in sets[0] | sets[1] for i in outputs)
        if rows and columns and covered and smaller > best_size:
            best = MatrixFactors(_product(members[0]), _product(members[1]), rows, columns)
            best_size = smaller
    return best


def _factors(expr: Expr) -> list[Expr]:
    """The factors of a product. A sign goes to the first factor, a condition to the first one that
    depends on all its indices."""
    if isinstance(expr, Apply):
        match expr.fn:
            case "mul":
                return _factors(expr.args[0]) + _factors(expr.args[1])
            # -(a * b) = (-a) * b
            case "neg":
                first, *rest = _factors(expr.args[0])
                return [call("neg", first), *rest]
            # (a * b if c else 0) = (a if c else 0) * b
            case "select" if isinstance(expr.args[2], Const) and expr.args[2].value == 0:
                return _conditional(expr)
    return [expr]


def _conditional(expr: Apply) -> list[Expr]:
    condition, value, zero = expr.args
    factors = _factors(value)
    needed = index_names(condition)
    for n, factor in enumerate(factors):
        # There the condition makes the factor depend on no index that it did not depend on before.
        if needed <= index_names(factor):
            return [*factors[:n], call("select", condition, factor, zero), *factors[n + 1 :]]
    return [expr]


def _product(factors: list[Expr]) -> Expr:
    total = factors[0]
    for factor in factors[1:]:
        total = call("mul", total, factor)
    return total
