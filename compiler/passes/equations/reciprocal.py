"""Reciprocal: divide once, multiply for every element.

    y[b, i] = x[b, i] / s[b]   →   y[b, i] = x[b, i] * (1 / s[b])

1 / s[b] has fewer indices, so it is computed outside the inner loop, and a product takes a tenth of
the time of a quotient. Applies where the divisor is loaded and lacks an index of the dividend.
Rounds twice instead of once (LLVM's `arcp`), a difference of at most 2^-24 in f32.
Tests: tests/passes/test_passes.py.
"""

from __future__ import annotations

from ...ir.equation import System
from ...ir.expr import Expr, index_names, reads
from ...ir.terms import Rule, variable

X, Y = variable("x"), variable("y")


def is_loop_invariant(y: Expr, inside: Expr) -> bool:
    """Whether `y` is loaded and constant in a loop over an index of the other expression."""
    # A strict subset: the dividend has an index more, along which the quotient is a product.
    return bool(reads(y)) and index_names(y) < index_names(inside)


RECIPROCAL = Rule(X / Y, X * (1.0 / Y), when=lambda x, y: is_loop_invariant(y, inside=x))


def reciprocal(system: System) -> System:
    """The system with divisions by loop invariants made products."""
    return system.rewrite(RECIPROCAL)
