"""The order in which equations can be computed when some are in kernels already.

In: a system, and kernels that were made of some of its equations. Out: the other equations, in
their strongly connected components, and the kernels, each after what it reads. It makes no kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...ir.equation import Equation, System, components
from .kernel import Kernel


def ordered(system: System, ready: Sequence[Kernel] = ()) -> Iterator[list[Equation] | Kernel]:
    """Components and kernels, each after those that it depends on."""
    first = {kernel.stored[0]: kernel for kernel in ready}
    for component in _components(system, ready):
        yield first.get(component[0].target, component)


def have_order(system: System, ready: Sequence[Kernel]) -> bool:
    """Whether no kernel would have to wait for itself."""
    first = {kernel.stored[0] for kernel in ready}
    return not any(
        len(component) > 1 and any(eq.target in first for eq in component)
        for component in _components(system, ready)
    )


def _components(system: System, ready: Sequence[Kernel]) -> list[list[Equation]]:
    """The components of a graph in which the first equation that a kernel stores stands for it."""
    owner = {target: kernel for kernel in ready for target in kernel.stored}
    within = {eq.target for kernel in ready for eq in kernel.equations}

    def stands(target: str) -> bool:
        return target in owner and owner[target].stored[0] == target

    def sources(eq: Equation) -> list[str]:
        if eq.target not in owner:
            names = eq.sources
        else:
            kernel = owner[eq.target]
            own = {e.target for e in kernel.equations}
            names = [s for e in kernel.equations for s in e.sources if s not in own]
        return list(dict.fromkeys(owner[s].stored[0] if s in owner else s for s in names))

    kept = tuple(eq for eq in system.equations if eq.target not in within or stands(eq.target))
    return components(kept, sources)
