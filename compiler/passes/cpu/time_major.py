"""Time-major layout: tensors of a recurrence have the stepping index as their first dimension.

    h[b, t, j] = tanh(x[b, t, j] + h[b, t-1, j])   →   h[t, b, j] = tanh(x[t, b, j] + h[t-1, b, j])

A step then works on one contiguous block of memory instead of rows that are a whole sequence apart,
and the sums over time and batch that follow run over one long index. Applies to temps that a
recurrence computes or reads step by step, and that are not outputs.
Tests: tests/passes/test_operand_layout.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ...ir.affine import affine
from ...ir.build import rewrite
from ...ir.equation import Equation, System, is_recurrent
from ...ir.expr import Expr, Idx, Read
from ...ir.recurrence import SequentialLoop, plan_recurrence


def time_major(system: System) -> System:
    """Moves the stepping dimension to the front, for temps that are not outputs."""
    axes = _stepping_axes(system)
    if not axes:
        return system

    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Read) or node.tensor not in axes:
            return None
        return Read(node.tensor, _to_front(node.index, axes[node.tensor]), node.other, node.dtype)

    equations = []
    for eq in system.equations:
        # The computing equation's indices and all its readers' are permuted alike: the same values,
        # stored in another order.
        indices = _to_front(eq.indices, axes[eq.target]) if eq.target in axes else eq.indices
        at = None if eq.at is None else tuple(rewrite(e, change) for e in eq.at)
        equations.append(replace(eq, indices=indices, at=at, body=rewrite(eq.body, change)))
    tensors = {
        name: replace(t, shape=_to_front(t.shape, axes[name])) if name in axes else t
        for name, t in system.tensors.items()
    }
    return system.replace(tensors=tensors, equations=tuple(equations))


def _to_front(items: tuple, axis: int) -> tuple:
    return (items[axis], *items[:axis], *items[axis + 1 :])


def _stepping_axes(system: System) -> dict[str, int]:
    """Tensor → its dimension that steps, where that is not the first already."""
    axes: dict[str, int] = {}
    # The layout of inputs, params and outputs is visible from outside.
    fixed = set(system.roots) | {eq.target for eq in system.equations if eq.at is not None}
    for component in system.components:
        if not is_recurrent(component):
            continue
        for eq, step in _steps(plan_recurrence(component)):
            names = [i.name for i in eq.indices]
            # The first use decides: a tensor has one layout, though two recurrences may step
            # through it by different dimensions.
            axes.setdefault(eq.target, names.index(step))
            for read in eq.reads:
                axis = _stepping_dimension(read, step)
                if axis is not None:
                    axes.setdefault(read.tensor, axis)
    temps = {t.name for t in system.of_kind("temp")} - fixed
    # Dimension 0 is in front already.
    return {name: axis for name, axis in axes.items() if axis and name in temps}


def _steps(loop: SequentialLoop) -> Iterator[tuple[Equation, str]]:
    """The equations of a recurrence, each with its index of the outermost loop."""
    for item in loop.body:
        # Inner loops step by another index; the layout follows the outermost one.
        if isinstance(item, SequentialLoop):
            for eq, _ in _steps(item):
                yield eq, loop.indices[eq.target]
        else:
            yield item, loop.indices[item.target]


def _stepping_dimension(read: Read, step: str) -> int | None:
    for axis, place in enumerate(read.index):
        # x[b, t - 1, j] steps by its second dimension, as x[b, t, j] does.
        if affine(place).coefficients.get(Idx(step)) == 1:
            return axis
    return None
