"""The simplest plan: one kernel per equation, every tensor in memory of its own.

It fuses nothing, shares no memory and refuses recurrences. Code generators are tested with it, so
that what they get is known.
"""

from __future__ import annotations

from collections.abc import Iterable

from nnc.compiler.ir.equation import System, is_recurrent
from nnc.compiler.passes.kernels.barriers import place_barriers
from nnc.compiler.passes.kernels.kernel import Kernel, Plan
from nnc.compiler.passes.kernels.memory import aligned, update_kernel


def schedule(system: System) -> Plan:
    """One kernel per equation in order of computation, then one copy per update."""
    kernels = []
    for component in system.components:
        if is_recurrent(component):
            raise ValueError(f"`{component[0].target}` is a recurrence")
        kernels.append(Kernel(component[0].target, component[0], reason="one kernel per equation"))
    kernels += [update_kernel(system, old, new) for old, new in system.updates.items()]
    offsets, total = place(system, system.tensors)
    return place_barriers(Plan(system, tuple(kernels), offsets, total))


def place(system: System, names: Iterable[str]) -> tuple[dict[str, int], int]:
    """An offset for each tensor, one after the other."""
    offsets, total = {}, 0
    for name in names:
        offsets[name] = total
        total += aligned(system.tensors[name].bytes)
    return offsets, total
