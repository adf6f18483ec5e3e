"""Transposed copies of operands: what a product reads across memory is transposed before it.

    y[b, i] = sum(o) d[b, o] * w[i, o]   →   w_transposed[o, i] = w[i, o]
                                             y[b, i] = sum(o) d[b, o] * w_transposed[o, i]

The vectors of a sum run over the last index of its result if one factor is contiguous along it;
otherwise they would run over what is summed: the results of a tile would share fewer of the loaded
vectors, and the lanes of each result would have to be added up. Applies where a single factor
depends on that index, at another dimension than its last, and where that costs more than the copy,
unless the factor is packed into panels for cache blocks, which transposes it. Equal copies are made
once.

A result of few columns is the other way round: vectors over its last index have lanes that nobody
wants, and each is multiplied by an element that is loaded for it alone.

    y[b, o] = sum(i) x[b, i] * w[i, o]   →   w_transposed[o, i] = w[i, o]               o < 10
                                             y[b, o] = sum(i) x[b, i] * w_transposed[o, i]

Tests: tests/passes/test_operand_layout.py.
"""

from __future__ import annotations

from math import prod

from ...ir.affine import affine
from ...ir.build import rewrite
from ...ir.edit import SystemEdit
from ...ir.equation import Equation, Index, System, is_recurrent
from ...ir.expr import Const, Expr, Idx, Read, index_names
from ...ir.invariants import invariants
from ...ir.terms import multiplicands
from ...targets import CpuTarget
from ..equations.packed_factors import is_packed


def transpose_operands(system: System, target: CpuTarget) -> System:
    """The system in which sums read transposed copies."""
    edit = SystemEdit(system)
    for component in system.components:
        # A tensor that the recurrence itself computes would have to be copied at every step.
        # So would one that exists for a block of rows at a time.
        inside = {eq.target for eq in component} if is_recurrent(component) else set()
        for eq in component:
            read = _operand_across(eq, inside, system, target)
            # What is packed is transposed on the way, and what is narrow is meant to lie so.
            if read is not None and not (
                _is_packed(eq, read, system, target) or _lies_in_rows(eq, read, system, target)
            ):
                axis = read.index.index(Idx(eq.indices[-1].name))
                edit.replace(_reading_transposed(eq, read, axis, edit))
                continue
            found = _factor_of_few_columns(eq, inside, system, target)
            if found is not None:
                edit.replace(_reading_transposed(eq, *found, edit))
    return edit.result()


def _is_packed(eq: Equation, read: Read, system: System, target: CpuTarget) -> bool:
    """Whether it is something given that is transposed into panels. What is computed may be masked
    or held by a thread, and then is not packed."""
    return system.tensors[read.tensor].kind != "temp" and is_packed(eq, read, system, target)


def _lies_in_rows(eq: Equation, read: Read, system: System, target: CpuTarget) -> bool:
    """Whether `pack_constants.py` has laid it along the terms, as it has few columns."""
    return eq.indices[-1].size < target.lanes and read.tensor in invariants(system)


def _operand_across(
    eq: Equation, inside: set[str], system: System, target: CpuTarget
) -> Read | None:
    """The one read that depends on the last index of a sum's result, if it does so across memory
    and a copy of it pays. `inside` are the tensors of the recurrence around the sum."""
    if eq.reduce != "sum" or not eq.indices:
        return None
    last = Idx(eq.indices[-1].name)
    # A second read that is contiguous along the last index makes a copy needless; with a second one
    # that is not, a copy of one would leave gathers of the other.
    along = [r for r in eq.reads if last.name in index_names(r)]
    if len(along) != 1 or along[0].tensor in inside or system.tensors[along[0].tensor].held:
        return None
    (read,) = along
    # It is one of the dimensions that the copy has last, and in no other: no x[i, i].
    across = [e for e in read.index if last.name in index_names(e)]
    constant = read.other is None or isinstance(read.other, Const)
    if across != [last] or not constant or read.index[-1] is last:
        return None
    # In cycles: a horizontal sum for each result, and more loads for each vector of terms, against
    # moving each element once.
    results = prod(i.size for i in eq.indices)
    vectors = results * prod(i.size for i in eq.over) / target.lanes
    adding = results * target.costs.horizontal_sum + vectors * target.layout.dot_vector
    # Lanes beyond the end of a short last index would be computed for nothing.
    size = eq.indices[-1].size
    unused = -(-size // target.lanes) * target.lanes / size - 1
    adding -= vectors * unused * target.layout.unused_vector
    if size <= target.lanes:
        adding -= vectors * (1 + unused) * (_single_vector(target) - target.fma_cycles)
    copying = system.tensors[read.tensor].size * target.layout.transpose_element
    return read if adding > copying else None


def _single_vector(target: CpuTarget) -> float:
    """Cycles of a multiply-add of a vector that no other shares its second factor with."""
    return max(1.0, target.costs.broadcast) * target.fma_cycles


def _factor_of_few_columns(
    eq: Equation, inside: set[str], system: System, target: CpuTarget
) -> tuple[Read, int] | None:
    """The factor that has the columns of a result of at most one vector, and its dimension that the
    other one is contiguous along, if vectors along that, of a copy, take less time."""
    parts = multiplicands(eq.body)
    factors = [f for f in parts if isinstance(f, Read) and f.dtype == "f32"]
    product = eq.reduce == "sum" and eq.at is None and len(factors) == len(parts) == 2
    if not product or not eq.indices or eq.indices[-1].size > target.lanes:
        return None
    last = Idx(eq.indices[-1].name)
    for read, other in (factors, factors[::-1]):
        given = read.tensor not in inside and not system.tensors[read.tensor].held
        if not given or read.other is not None or read.index[-1:] != (last,):
            continue
        if any(last.name in index_names(e) for e in other.index) or not other.index:
            continue
        # A sum's index that vectors can run along in both factors, if this one is copied.
        steps = affine(other.index[-1]).coefficients
        along = next((i for i in eq.over if steps.get(Idx(i.name)) == 1), None)
        axes = [d for d, e in enumerate(read.index) if along and along.name in index_names(e)]
        if along is None or len(axes) != 1 or _step(read.index[axes[0]], along) != 1:
            continue
        if _saved_by_rows(eq, read, along, system, target) > 0:
            return read, axes[0]
    return None


def _step(place: Expr, index: Index) -> int:
    return affine(place).coefficients.get(Idx(index.name), 0)


def _saved_by_rows(
    eq: Equation, read: Read, along: Index, system: System, target: CpuTarget
) -> float:
    """Cycles saved by vectors along an index of the sum, instead of one vector of columns."""
    costs = target.layout
    results, terms = prod(i.size for i in eq.indices), prod(i.size for i in eq.over)
    # A multiply-add for each row and term, against one for each result and some terms.
    columns = results / eq.indices[-1].size * terms * _single_vector(target)
    vectors = results * terms / along.size * -(-along.size // target.lanes)
    rows = vectors * (target.fma_cycles + costs.dot_vector) + results * target.costs.horizontal_sum
    copying = system.tensors[read.tensor].size * costs.transpose_near + costs.start_kernel
    return columns - rows - copying


def _reading_transposed(eq: Equation, read: Read, axis: int, edit: SystemEdit) -> Equation:
    """The equation with that read from a copy with one of its dimensions last."""
    source = edit.tensors[read.tensor]
    indices = tuple(Index(f"i{d}", size) for d, size in enumerate(source.shape))
    body = Read(source.name, tuple(Idx(i.name) for i in indices), None, source.dtype)
    name = f"{source.name}_transposed"
    copy = edit.add(Equation(name, _to_last(indices, axis), body, span=source.span))
    moved = Read(copy, _to_last(read.index, axis), read.other, source.dtype)
    return eq.with_body(rewrite(eq.body, lambda node: moved if node is read else None))


def _to_last(items: tuple, axis: int) -> tuple:
    return (*items[:axis], *items[axis + 1 :], items[axis])
