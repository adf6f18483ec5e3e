"""Mixed precision: both operands of every contraction rounded to bf16 (`precision = bf16`).

    y[b, o] = sum(i) x[b, i] * w[i, o]   →   y[b, o] = sum(i) bf16(x[b, i]) * bf16(w[i, o])

Halves the bytes that are loaded for an operand, and lets tensor cores and dot instructions multiply
them. A contraction is a sum, over an index that both factors have, of products of two f32 factors
each of which has an output index that the other lacks: matrix products, convolutions, attention,
and the gradients of all of them. Everything else stays f32: the products themselves and their sums,
parameters, the optimizer, norms, softmax, losses, sums of squares.

It runs after differentiation, so that the rounding needs no derivative: the gradient of a product
is a product, of rounded operands again. What attention computes both from its scores and by rows
(`row_sums.py`) is computed by rows before anything is rounded: the two differ afterwards.

Source: Micikevicius et al. 2018, "Mixed precision training". Tests:
tests/passes/test_mixed_precision.py.
"""

from __future__ import annotations

from ...ir.build import call
from ...ir.equation import Equation, System
from ...ir.expr import index_names, reads
from ..lowering.contraction import matrix_factors


def mixed_precision(system: System) -> System:
    """The system with contractions of its `precision`, "f32" or "bf16"."""
    if system.precision == "f32":
        return system
    # From here on bf16 is a function in the bodies, so no later pass need look at `precision`.
    return system.replace(equations=tuple(map(_rounded, system.equations)), precision="f32")


def _rounded(eq: Equation) -> Equation:
    # An accumulation scatters, and is computed without tensor cores: it stays f32.
    if eq.reduce != "sum" or eq.at is not None or eq.body.dtype != "f32":
        return eq
    found = matrix_factors(eq.body, eq.indices)
    # A factor without a read is a constant or made of indices; it is not an operand in memory.
    if found is None or not (reads(found.left) and reads(found.right)):
        return eq
    over = {i.name for i in eq.over}
    # No common summed index: a sum of an outer product, or of one factor alone.
    if not over & index_names(found.left) & index_names(found.right):
        return eq
    return eq.with_body(call("mul", call("bf16", found.left), call("bf16", found.right)))
