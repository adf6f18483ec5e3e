"""Demand: what nobody reads at the end of a dimension is not computed.

In: a system. Out: an equal one in which a temp is as long as the farthest element that is read of
it. The last row and column of an image that windows of two by two do not reach are not convolved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...ir.affine import bounds, is_static
from ...ir.equation import Equation, System
from .views import of_later


def shrink_extents(system: System) -> System:
    """The system with the domains of equations cut to what is read, last to first."""
    recurrent = system.recurrent
    held = {eq.target for eq in system.equations if of_later(eq.body) is not eq.body}
    fixed = set(system.roots) | recurrent | held  # what is only held back is no work to save
    shapes: dict[str, tuple[int, ...]] = {}
    farthest: dict[str, list[int]] = {}
    equations: list[Equation] = []
    for eq in reversed(system.equations):
        name, shape = eq.target, system.tensors[eq.target].shape
        if eq.at is None and name not in fixed and name in farthest:
            needed = tuple(min(size, far) for size, far in zip(shape, farthest[name], strict=True))
            if needed != shape:
                shapes[name] = needed
                cut = zip(eq.indices, needed, strict=True)
                eq = replace(eq, indices=tuple(replace(i, size=size) for i, size in cut))
        equations.append(eq)
        _note(eq, system, farthest)
    if not shapes:
        return system
    tensors = {n: replace(t, shape=shapes.get(n, t.shape)) for n, t in system.tensors.items()}
    return system.replace(equations=tuple(reversed(equations)), tensors=tensors)


def _note(eq: Equation, system: System, farthest: dict[str, list[int]]) -> None:
    """How far along each dimension the equation reads; all of it where that is not known."""
    sizes: Mapping[str, int] = eq.sizes
    for read in eq.reads:
        shape = system.tensors[read.tensor].shape
        so_far = farthest.setdefault(read.tensor, [1] * len(shape))
        for axis, (place, size) in enumerate(zip(read.index, shape, strict=True)):
            reach = bounds(place, sizes)[1] + 1 if is_static(place) else size
            so_far[axis] = max(so_far[axis], min(reach, size))
