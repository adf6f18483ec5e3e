"""Masked: which terms of a CPU's sums a mask makes 0.

In: kernels. Out: the same, in which every sum says on what conditions its terms are nought, so that
its loops need not go there (`ends.py`). Below a causal mask half of each product is left:

    z[t, a] = sum(s) y[t, s] * v[s, a]    # no term where s > t
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
    """The kernels with the conditions of their sums."""
    system, known = plan.system, sparsity(plan.system)
    return replace(plan, items=tuple(_item(item, system, known) for item in plan.items))


def _item(item: Kernel | Scan, system: System, known: Mapping[str, Sparsity]) -> Kernel | Scan:
    if isinstance(item, Scan):
        return replace(item, kernels=tuple(_item(k, system, known) for k in item.kernels))
    ends = tuple(_ends(item, system, known))
    return replace(item, ends=ends) if ends else item


def _ends(kernel: Kernel, system: System, known: Mapping[str, Sparsity]) -> Iterator[Expr]:
    """The conditions that can end a loop."""
    eq = kernel.anchor
    if eq.reduce != "sum" or eq.at is not None:
        return
    for form in sorted(sparsity_of_body(eq, system, known).zero, key=str):
        if _ends_loop(form, eq) and not kernel.unrolled & index_names(form):
            yield form


def _ends_loop(form: Expr, eq: Equation) -> bool:
    """Whether it is a matter of indices alone, is so somewhere, and a step of one of those that are
    summed over is one step of it."""
    factors = affine(form).coefficients
    plain = all(isinstance(atom, Idx) for atom in factors)
    steps = any(abs(factors.get(Idx(i.name), 0)) == 1 for i in eq.over)
    return plain and steps and bounds(form, eq.sizes)[1] >= 0
