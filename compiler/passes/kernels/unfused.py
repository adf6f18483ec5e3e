"""The simplest plan: one kernel per equation, every tensor in a place of its own.

In: a `System`. Out: a `Plan`. It fuses nothing, shares no memory and refuses recurrences; it is
what backends are tested with, alone, and what a pass that does better is compared to.
"""

from __future__ import annotations

from ...ir.equation import System, copy_equation, is_recurrent
from .kernel import Kernel, Plan

ALIGNMENT = 64


def schedule(system: System) -> Plan:
    """One kernel per equation in order of computation, then one copy per update."""
    kernels = []
    for component in system.components:
        if is_recurrent(component):
            raise ValueError(f"`{component[0].target}` is a recurrence")
        kernels.append(Kernel(component[0].target, component[0], reason="one kernel per equation"))
    kernels += [copy(system, old, new) for old, new in system.updates.items()]
    offsets, total = place(system, system.tensors)
    return Plan(system, tuple(kernels), offsets, total)


def place(system: System, names) -> tuple[dict[str, int], int]:
    """An offset for each tensor, one after the other."""
    offsets, total = {}, 0
    for name in names:
        offsets[name] = total
        total += -(-max(system.tensors[name].bytes, 1) // ALIGNMENT) * ALIGNMENT
    return offsets, total


def copy(system: System, old: str, new: str) -> Kernel:
    """The kernel that makes the next value of a param or state its value."""
    equation = copy_equation(system.tensors[old], new, old)
    return Kernel(f"{old}'", equation, reason="the next value becomes the value")
