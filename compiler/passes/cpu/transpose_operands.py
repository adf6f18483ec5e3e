"""Time first: what a recurrence reads and writes at one step lies together in memory.

In: a system. Out: an equal one in which the tensors of a recurrence, and those that it reads step
by step, have the stepping index as their first dimension. A step then works on one block of memory
instead of on rows that are a whole sequence apart, and the sums over time and batch that follow it
run over one long index. And what a product reads across its rows, such as a weight on the way
back, is turned once, before the product, so that its vectors lie in memory.
"""

from __future__ import annotations

from math import prod

from ...ir.build import rewrite
from ...ir.equation import Equation, Index, System, Tensor, free_name, is_recurrent
from ...ir.expr import Idx, Read, index_names
from .tiling import ACROSS
from .time_major import _back

TURNING = 4  # cycles to turn one element, most of them spent waiting for memory


def transpose_operands(system: System) -> System:
    """Copies of what products read across memory, with the last index of the product as their last
    dimension; equal copies are made once."""
    turned: dict[tuple[str, int], Tensor] = {}
    equations: list[Equation] = []
    for component in system.components:
        inside = {eq.target for eq in component} if is_recurrent(component) else set()
        for eq in component:
            found = _turnable(eq, inside, system)
            equations.append(eq if found is None else _reading_turned(eq, *found, turned, system))
    copies = [_copy(system.tensors[name], axis, copy) for (name, axis), copy in turned.items()]
    if not copies:
        return system
    tensors = {**system.tensors, **{copy.name: copy for copy in turned.values()}}
    return system.replace(tensors=tensors, equations=(*equations, *copies)).in_order()


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
        name = free_name(f"{source.name}_transposed", taken)
        copy = Tensor(name, _back(source.shape, axis), source.dtype, "temp", "", source.span)
        turned[source.name, axis] = copy
    own = Read(copy.name, _back(read.index, axis), None, source.dtype)
    return eq.with_body(rewrite(eq.body, lambda node: own if node is read else None))


def _copy(source: Tensor, axis: int, copy: Tensor) -> Equation:
    indices = tuple(Index(f"i{d}", size) for d, size in enumerate(source.shape))
    body = Read(source.name, tuple(Idx(i.name) for i in indices), None, source.dtype)
    return Equation(copy.name, _back(indices, axis), body, span=source.span)
