"""Masked terms: sums skip the terms that a mask makes 0.

    z[t, a] = sum(s) (y[t, s] if s <= t else 0) * v[s, a]   →   the same, no term where s > t

Each sum gets the conditions under which its terms are 0 (`Kernel.zero_where`), so that its loops
need not run there (`cpu/loop_bounds.py`). Below a causal mask half of each product is left.
Applies where a condition depends on indices alone and changes with a single step of an index that
is summed over. Tests: tests/passes/test_skip_masked_terms.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ...ir.affine import affine, bounds
from ...ir.equation import Equation, System
from ...ir.expr import Expr, Idx, index_names
from ...ir.sparsity_analysis import Sparsity, sparsity, sparsity_of_body
from .kernel import Kernel, Plan, Scan


def skip_masked_terms(plan: Plan) -> Plan:
    """The kernels with the conditions under which their sums' terms are 0."""
    system, known = plan.system, sparsity(plan.system)
    return replace(plan, items=tuple(_item(item, system, known) for item in plan.items))


def _item(item: Kernel | Scan, system: System, known: Mapping[str, Sparsity]) -> Kernel | Scan:
    if isinstance(item, Scan):
        return replace(item, kernels=tuple(_item(k, system, known) for k in item.kernels))
    conditions = tuple(_conditions(item, system, known))
    return replace(item, zero_where=conditions) if conditions else item


def _conditions(kernel: Kernel, system: System, known: Mapping[str, Sparsity]) -> Iterator[Expr]:
    """The conditions that can bound a loop."""
    eq = kernel.anchor
    # Only in a sum is a term of 0 one that can be left out; for a maximum it is a candidate.
    if eq.reduce != "sum" or eq.at is not None:
        return
    # Sorted by text: the order of a set would differ from run to run. An unrolled index is no loop,
    # and has no single value that a loop's bound could be computed from.
    for form in sorted(sparsity_of_body(eq, system, known).zero, key=str):
        if _bounds_loop(form, eq) and not kernel.unrolled & index_names(form):
            yield form


def _bounds_loop(form: Expr, eq: Equation) -> bool:
    """Whether the form depends on indices alone, is 0 or more somewhere, and changes by 1 with a
    step of one of the indices that are summed over."""
    # With a step of 1, `form >= 0` can be solved for the index without a division: s - t >= 0 → s
    # >= t. A form that is never 0 or more masks nothing.
    factors = affine(form).coefficients
    of_indices = all(isinstance(atom, Idx) for atom in factors)
    steps = any(abs(factors.get(Idx(i.name), 0)) == 1 for i in eq.over)
    return of_indices and steps and bounds(form, eq.sizes)[1] >= 0
