"""Packed weights: what a product reads of parameters lies in the order in which it is read.

    y[b, o] = sum(i) x[b, i] * w[i, o]   →   w_packed[p, i, q] = w[i, 64*p + q]
                                             y[b, o] = sum(i) x[b, i] * w_packed[o // 64, i, o % 64]

A tile of y reads some columns of w. In w these are as far apart as its rows are long, often a power
of two: they share a few sets of the caches and each is in another page. A panel of 64 columns is
contiguous. Applies where the copy is made once, in the prologue, and so costs no run anything: to
params, and to what follows from them alone (`ir/invariants.py`), in sums of products whose other
factors lack an index of the weight. Weights read across memory are transposed by the same copy. A
weight of fewer columns than a vector has lanes, as that of a classifier's last layer, is copied
with its terms side by side:

    y[b, o < 10] = sum(i) x[b, i] * w[i, o]   →   w_rows[o, i] = w[i, o];  …  x[b, i] * w_rows[o, i]

Known as weight pre-packing in inference engines (oneDNN, XNNPACK); the panels are those of Goto and
van de Geijn, "Anatomy of high-performance matrix multiplication", 2008.
Tests: tests/passes/test_fold_constants.py.
"""

from __future__ import annotations

from ...ir.build import call, rewrite
from ...ir.dtypes import is_float
from ...ir.edit import SystemEdit
from ...ir.equation import Equation, Index, System, free_name
from ...ir.expr import Idx, Read, index_names
from ...ir.invariants import invariants, lasting_values
from ...ir.terms import multiplicands
from ...targets import CpuTarget


def pack_constants(system: System, target: CpuTarget) -> System:
    """The system in which sums read panels of weights that no run changes."""
    computed = invariants(system)
    known = lasting_values(system) | computed
    if not known:
        return system
    edit = SystemEdit(system)
    for eq in system.equations:
        # Steps of a recurrence fuse by indices that are unrolled; blocks of rows are decided on.
        if eq.target in computed | system.recurrent | system.blocked:
            continue
        read = _weight(eq, known, system)
        if read is not None and _is_packable(eq, read, system, target):
            edit.replace(_reading_packed(eq, read, edit, target))
        elif read is not None and _is_narrow(eq, read, target):
            edit.replace(_reading_rows(eq, read, edit))
    return edit.result()


def _weight(eq: Equation, known: frozenset[str], system: System) -> Read | None:
    """The one factor of a sum that is a weight, which the sum reads all of."""
    if eq.reduce != "sum" or eq.at is not None or not eq.indices:
        return None
    parts = multiplicands(eq.body)
    last = eq.indices[-1]
    weights = [p for p in parts if isinstance(p, Read) and p.tensor in known]
    if len(weights) != 1 or len(parts) < 2:
        return None
    (read,) = weights
    tensor = system.tensors[read.tensor]
    names = [e.name for e in read.index if isinstance(e, Idx)]
    whole = len({*names}) == len(read.index) and all(
        eq.sizes[e.name] == size
        for e, size in zip(read.index, tensor.shape, strict=True)
        if isinstance(e, Idx)
    )
    if not whole or last.name not in names or read.other is not None or not is_float(tensor.dtype):
        return None
    # Read again for other rows: else it is no panel of a product.
    others = [p for p in parts if p is not read]
    return read if any(last.name not in index_names(p) for p in others) else None


def _is_packable(eq: Equation, read: Read, system: System, target: CpuTarget) -> bool:
    """Whether it is worth panels, and has columns for them."""
    small = system.tensors[read.tensor].bytes <= target.l1.bytes // 2
    return not small and bool(_width(eq.indices[-1], target)) and not _is_packed(eq, read, target)


def _is_narrow(eq: Equation, read: Read, target: CpuTarget) -> bool:
    """Whether it has fewer columns than a vector has lanes, and the terms that the vectors of a
    long sum run along lie across memory."""
    terms = eq.over[0]
    long = len(eq.over) == 1 and terms.size >= target.layout.narrow_terms * target.lanes
    across = Idx(terms.name) in read.index[:-1]
    return long and across and eq.indices[-1].size < target.lanes


def _width(last: Index, target: CpuTarget) -> int:
    """The columns of a panel, a divisor of all of them; 0 if there is none."""
    widths = (vectors * target.lanes for vectors in target.layout.packed_vectors)
    return next((width for width in widths if last.size % width == 0), 0)


def _is_packed(eq: Equation, read: Read, target: CpuTarget) -> bool:
    """Whether the weight is one panel as it lies."""
    order = [Idx(i.name) for i in _order(eq, read)]
    return list(read.index) == order and eq.indices[-1].size == _width(eq.indices[-1], target)


def _order(eq: Equation, read: Read) -> list[Index]:
    """The indices of the weight as a tile reads it: of the result, of the sum, the last one."""
    *outer, last = eq.indices
    names = index_names(read)
    return [i for i in (*outer, *eq.over, last) if i.name in names]


def _reading_rows(eq: Equation, read: Read, edit: SystemEdit) -> Equation:
    """The equation with the weight read from a copy that is contiguous along the terms."""
    names = [*(i for i in eq.indices if i.name in index_names(read)), *eq.over]
    body = Read(read.tensor, read.index, None, read.dtype)
    span = edit.tensors[read.tensor].span
    name = edit.add(Equation(f"{read.tensor}_rows", tuple(names), body, span=span))
    moved = Read(name, tuple(Idx(i.name) for i in names), None, read.dtype)
    return eq.with_body(rewrite(eq.body, lambda node: moved if node is read else None))


def _reading_packed(eq: Equation, read: Read, edit: SystemEdit, target: CpuTarget) -> Equation:
    """The equation with the weight read from panels, which are added to the system."""
    last = eq.indices[-1]
    width = _width(last, target)
    *others, _ = _order(eq, read)
    outer = [i for i in others if i in eq.indices]
    over = [i for i in others if i in eq.over]
    panel = Index(free_name("p", eq.sizes), last.size // width)
    lane = Index(free_name("q", {*eq.sizes, panel.name}), width)
    column = call("add", call("mul", Idx(panel.name), width), Idx(lane.name))
    source = tuple(column if e is Idx(last.name) else e for e in read.index)
    indices = (*outer, panel, *over, lane)
    body = Read(read.tensor, source, None, read.dtype)
    span = edit.tensors[read.tensor].span
    name = edit.add(Equation(f"{read.tensor}_packed", indices, body, span=span))
    swap = {
        panel.name: call("floordiv", Idx(last.name), width),
        lane.name: call("mod", Idx(last.name), width),
    }
    place = tuple(swap.get(i.name, Idx(i.name)) for i in indices)
    moved = Read(name, place, None, read.dtype)
    return eq.with_body(rewrite(eq.body, lambda node: moved if node is read else None))
