"""Contractions of numbers of 8 bits: `precision = bf16`.

In: a system, after differentiation. Out: the same with both operands of every contraction rounded
by `bf16(…)`, forwards and backwards: the meaning of the program, on which the evaluator and every
backend agree. A contraction is a sum, over an index that both factors have, of products of two
f32 parts each of which has an output index that the other lacks: matrix products, convolutions,
attention, and the gradients of all of them. Everything else stays f32: the products themselves and
their sums, parameters, the optimizer, norms, softmax, losses, sums of squares.

Because gradients were taken before, the rounding has none of its own: the gradient of a product is
a product, of rounded operands again (Micikevicius et al. 2018, mixed precision training). What is
the same with and without a square of queries by keys (`row_sums.py`) is computed without before
anything is rounded: afterwards it would no longer be the same.
"""

from __future__ import annotations

from ...ir.build import call
from ...ir.equation import Equation, System
from ...ir.expr import index_names, reads
from ..gpu.attention.row_sums import by_rows, through_results
from ..lowering.contraction import matrix_factors


def mixed_precision(system: System, precision: str) -> System:
    """The system with contractions of that precision, "f32" or "bf16"."""
    if precision == "f32":
        return system
    system = through_results(by_rows(system))
    return system.replace(equations=tuple(map(_rounded, system.equations)))


def _rounded(eq: Equation) -> Equation:
    if eq.reduce != "sum" or eq.at is not None or eq.body.dtype != "f32":
        return eq
    found = matrix_factors(eq.body, eq.indices)
    if found is None or not (reads(found.left) and reads(found.right)):
        return eq
    over = {i.name for i in eq.over}
    if not over & index_names(found.left) & index_names(found.right):
        return eq
    return eq.with_body(call("mul", call("bf16", found.left), call("bf16", found.right)))
