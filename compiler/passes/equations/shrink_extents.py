"""Shrink extents: what nothing reads at the end of a dimension is not computed.

    y[i < 9] = x[i]^2;  p[j < 4] = max(u < 2) y[2*j + u]   →   y[i < 8] = x[i]^2;  p[j < 4] = …

Windows that do not reach the last rows of an image leave them out of the convolution before. Bounds
inference as in Halide (Ragan-Kelley et al. 2013), from the last equation to the first. Applies to
temps that are no output, no part of a recurrence and no `after`.
Tests: tests/passes/test_sparse_pooling_gradient.py, tests/passes/test_passes.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...ir.affine import bounds, is_static
from ...ir.equation import Equation, System
from .views import of_later


def shrink_extents(system: System) -> System:
    """The system with the indices of every equation cut to what is read of its target."""
    # A delayed copy has the shape of its source, of which it is a view.
    delayed = {eq.target for eq in system.equations if of_later(eq.body) is not eq.body}
    fixed = set(system.roots) | system.recurrent | delayed
    shapes: dict[str, tuple[int, ...]] = {}
    farthest: dict[str, list[int]] = {}
    equations: list[Equation] = []
    # All readers of a tensor come after it, so their needs are known, already cut, when it is
    # reached.
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
    """Extend `farthest` to what the equation reads along each dimension, all where unknown."""
    sizes: Mapping[str, int] = eq.sizes
    for read in eq.reads:
        shape = system.tensors[read.tensor].shape
        so_far = farthest.setdefault(read.tensor, [1] * len(shape))
        # Exact for affine places; data may address any element.
        for axis, (place, size) in enumerate(zip(read.index, shape, strict=True)):
            reach = bounds(place, sizes)[1] + 1 if is_static(place) else size
            so_far[axis] = max(so_far[axis], min(reach, size))
