"""Dependence order of equations when some of them already belong to kernels.

    y = f(x); (a, b) in kernel k; z = g(a)   →   y, k, z

Each equation, as a strongly connected component, and each kernel comes after those that it depends
on. Tests: tests/passes/test_attention.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...ir.equation import Equation, System, components
from .kernel import Blocks, Kernel


def dependence_order(
    system: System, kernels: Sequence[Kernel | Blocks] = ()
) -> Iterator[list[Equation] | Kernel | Blocks]:
    """Components of the other equations, and kernels, each after those that it depends on."""
    first = {kernel.stored[0]: kernel for kernel in kernels}
    # A kernel is represented by the first equation that it stores.
    for component in _components(system, kernels):
        yield first.get(component[0].target, component)


def is_acyclic(system: System, kernels: Sequence[Kernel]) -> bool:
    """Whether no kernel depends on itself through other equations."""
    # A component of several nodes with a kernel in it is a cycle through that kernel; a component
    # without one is an ordinary recurrence.
    first = {kernel.stored[0] for kernel in kernels}
    return not any(
        len(component) > 1 and any(eq.target in first for eq in component)
        for component in _components(system, kernels)
    )


def _components(system: System, kernels: Sequence[Kernel | Blocks]) -> list[list[Equation]]:
    """The components of a graph in which the first equation that a kernel stores represents it."""
    # Contraction of a graph: all equations of a kernel become one node, with the edges of all of
    # them. Targets that a kernel does not store have no readers outside and need no node.
    owner = {target: kernel for kernel in kernels for target in kernel.stored}
    inside = {eq.target for kernel in kernels for eq in kernel.equations}

    def represents(target: str) -> bool:
        return target in owner and owner[target].stored[0] == target

    def sources(eq: Equation) -> list[str]:
        if eq.target not in owner:
            names = eq.sources
        else:
            kernel = owner[eq.target]
            own = {e.target for e in kernel.equations}
            # Edges inside the node would make every kernel a cycle of its own.
            names = [s for e in kernel.equations for s in e.sources if s not in own]
        # Several edges to one kernel are one edge; a dictionary keeps their order, and the result
        # the same on every run.
        return list(dict.fromkeys(owner[s].stored[0] if s in owner else s for s in names))

    nodes = tuple(eq for eq in system.equations if eq.target not in inside or represents(eq.target))
    return components(nodes, sources)
