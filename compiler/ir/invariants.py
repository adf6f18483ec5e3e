"""Invariants: the temps that are the same in every run until somebody sets a param or a state.

    k2[u, o] = k[u, o] * g[o] / sqrt(v[o] + 1e-5)     where no run updates k, g and v

In: a system. Out: names. A run that is given nothing but data, such as a prediction, need not
compute them again (`passes/kernels/prologue.py`). This is an analysis, not a pass.
Tests: tests/passes/test_prologue.py.
"""

from __future__ import annotations

from .equation import System


def lasting_values(system: System) -> frozenset[str]:
    """The params and states that no run changes; none of a step of training, which changes the
    params that matter."""
    if any(system.tensors[name].kind == "param" for name in system.updates):
        return frozenset()
    return frozenset(
        t.name
        for t in system.tensors.values()
        if t.kind in ("param", "state") and t.name not in system.updates
    )


def invariants(system: System) -> frozenset[str]:
    """The temps that follow from these and from constants alone. In a training step there are
    none."""
    known = set(lasting_values(system))
    if not known:
        return frozenset()
    found = set[str]()
    for component in system.components:
        targets = {eq.target for eq in component}
        # All of a recurrence, or nothing of it.
        if all(s in known or s in targets for eq in component for s in eq.sources):
            found |= targets
            known |= targets
    return frozenset(found)
