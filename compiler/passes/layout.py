"""Time first: what a recurrence reads and writes at one step lies together in memory.

In: a system. Out: an equal one in which the tensors of a recurrence, and those that it reads step
by step, have the stepping index as their first dimension. A step then works on one block of memory
instead of on rows that are a whole sequence apart, and the sums over time and batch that follow it
run over one long index. And what a product reads across its rows, such as a weight on the way
back, is turned once, before the product, so that its vectors lie in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from ..affine import affine
from ..ir import (
    Equation,
    Expr,
    Idx,
    Index,
    Read,
    System,
    Tensor,
    components,
    free_name,
    index_names,
    is_recurrent,
    rewrite,
)
from ..recurrence import Loop, plan_recurrence
from .differentiate import in_order
from .tile import ACROSS

TURNING = 4  # cycles to turn one element, most of them spent waiting for memory


def time_first(system: System) -> System:
    """Moves the stepping dimension to the front, for temps that are not outputs."""
    axes = _stepping_axes(system)
    if not axes:
        return system

    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Read) or node.tensor not in axes:
            return None
        return Read(node.tensor, _front(node.index, axes[node.tensor]), node.other, node.dtype)

    equations = []
    for eq in system.equations:
        indices = _front(eq.indices, axes[eq.target]) if eq.target in axes else eq.indices
        at = None if eq.at is None else tuple(rewrite(e, change) for e in eq.at)
        body = rewrite(eq.body, change)
        equations.append(Equation(eq.target, indices, body, eq.reduce, eq.over, at, eq.span))
    tensors = dict(system.tensors)
    for name, axis in axes.items():
        tensor = tensors[name]
        tensors[name] = Tensor(
            name, _front(tensor.shape, axis), tensor.dtype, tensor.kind, tensor.init, tensor.span
        )
    return system.replace(tensors=tensors, equations=tuple(equations))


def turn_weights(system: System) -> System:
    """Copies of what products read across memory, with the last index of the product as their last
    dimension; equal copies are made once."""
    turned: dict[tuple[str, int], Tensor] = {}
    equations: list[Equation] = []
    for component in components(system.equations):
        inside = {eq.target for eq in component} if is_recurrent(component) else set()
        for eq in component:
            found = _turnable(eq, inside, system)
            equations.append(eq if found is None else _reading_turned(eq, *found, turned, system))
    copies = [_copy(system.tensors[name], axis, copy) for (name, axis), copy in turned.items()]
    if not copies:
        return system
    tensors = {**system.tensors, **{copy.name: copy for copy in turned.values()}}
    return in_order(system.replace(tensors=tensors, equations=(*equations, *copies)))


def _turnable(eq: Equation, inside: set[str], system: System) -> tuple[Read, int] | None:
    """The one read that runs along the last index of a sum's result, if it does so across memory,
    and the dimension to move last. It is worth its copy where the result has so many elements that
    adding up the lanes of each would cost more."""
    if eq.reduce != "sum" or not eq.indices:
        return None
    last = Idx(eq.indices[-1].name)
    along = [r for r in eq.reads if last.name in index_names(r)]
    if len(along) != 1 or along[0].tensor in inside:
        return None
    (read,) = along
    plain = all(isinstance(e, Idx) for e in read.index) and len(set(read.index)) == len(read.index)
    if not plain or read.other is not None or read.index[-1] is last:
        return None
    tensor = system.tensors[read.tensor]
    results = prod(i.size for i in eq.indices)
    if results * ACROSS <= tensor.size * TURNING:
        return None
    return read, read.index.index(last)


def _reading_turned(
    eq: Equation, read: Read, axis: int, turned: dict[tuple[str, int], Tensor], system: System
) -> Equation:
    """The equation with that read from a turned copy."""
    source = system.tensors[read.tensor]
    copy = turned.get((source.name, axis))
    if copy is None:
        taken = {*system.tensors, *(t.name for t in turned.values())}
        name = free_name(f"{source.name}_turned", taken)
        copy = Tensor(name, _back(source.shape, axis), source.dtype, "temp", "", source.span)
        turned[source.name, axis] = copy
    own = Read(copy.name, _back(read.index, axis), None, source.dtype)
    return eq.with_body(rewrite(eq.body, lambda node: own if node is read else None))


def _copy(source: Tensor, axis: int, copy: Tensor) -> Equation:
    indices = tuple(Index(f"i{d}", size) for d, size in enumerate(source.shape))
    body = Read(source.name, tuple(Idx(i.name) for i in indices), None, source.dtype)
    return Equation(copy.name, _back(indices, axis), body, span=source.span)


def _back(items: tuple, axis: int) -> tuple:
    return (*items[:axis], *items[axis + 1 :], items[axis])


def _front(items: tuple, axis: int) -> tuple:
    return (items[axis], *items[:axis], *items[axis + 1 :])


def _stepping_axes(system: System) -> dict[str, int]:
    """Tensor → its dimension that steps, where that is not the first already."""
    axes: dict[str, int] = {}
    fixed = set(system.roots) | {eq.target for eq in system.equations if eq.at is not None}
    for component in components(system.equations):
        if not is_recurrent(component):
            continue
        for eq, step in _steps(plan_recurrence(component)):
            names = [i.name for i in eq.indices]
            axes.setdefault(eq.target, names.index(step))
            for read in eq.reads:
                axis = _stepping_dimension(read, step)
                if axis is not None:
                    axes.setdefault(read.tensor, axis)
    temps = {t.name for t in system.of_kind("temp")} - fixed
    return {name: axis for name, axis in axes.items() if axis and name in temps}


def _steps(loop: Loop) -> Iterator[tuple[Equation, str]]:
    """The equations of a recurrence, each with its index of the outermost loop."""
    for item in loop.body:
        if isinstance(item, Loop):
            for eq, _ in _steps(item):
                yield eq, loop.indices[eq.target]
        else:
            yield item, loop.indices[item.target]


def _stepping_dimension(read: Read, step: str) -> int | None:
    for axis, place in enumerate(read.index):
        if affine(place).coefficients.get(Idx(step)) == 1:
            return axis
    return None
