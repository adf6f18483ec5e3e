"""Prologue: what follows from parameters and constants alone is computed once, not at every run.

    k1: w2 = f(w); k2: y = g(x, w2); k3: w3 = h(w2)   →   prologue k1, k3; then, at every run, k2

A prediction is run again and again with the same weights: transposed and packed weights, scales of
normalisations and tables of positions need not be computed each time. The kernels of the prologue
come first, and what later kernels read of it keeps its place in memory. Whoever runs the program
says whether the values are those of the run before; if not, the prologue runs, too. A training step
has none, as it changes its parameters.

Known as loop-invariant code motion, the loop being that over the runs; cf. the constant folding and
pre-packing of inference engines. Tests: tests/passes/test_prologue.py.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.invariants import invariants
from .kernel import Plan


def prologue(plan: Plan) -> Plan:
    """The plan with the items first that need not run as long as params and states stay."""
    same = invariants(plan.system)
    if not same:
        return plan
    once = [item for item in plan.items if all(eq.target in same for eq in item.equations)]
    if not once:
        return plan
    rest = [item for item in plan.items if item not in once]
    return replace(plan, items=(*once, *rest), prologue=len(once))
