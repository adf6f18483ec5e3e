"""Row padding: rows that a sum runs down must not fall on the same few cache sets.

    dU[k, j] = sum(t) dz[t, j] * h[t, k]   →   h with one cache line of padding after each row

Such a sum reads a few columns at a time. If a row has 4096 bytes, what is read of all rows falls on
1 in 64 of a cache's sets, and rows evict each other before the next results read them again
(conflict misses). Temps that are read so are padded; what is given and read so very often, such as
a weight by every step of a recurrence, is copied to a padded temp first, unless it is packed into
panels for cache blocks.

Cf. Lam, Rothberg and Wolf, "The cache performance and optimizations of blocked algorithms", 1991.
Tests: tests/passes/test_pad_rows.py.
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd, prod

from ...ir.affine import affine
from ...ir.build import renamed
from ...ir.dtypes import BYTES
from ...ir.edit import SystemEdit
from ...ir.equation import Equation, System, Tensor, copy_equation, is_identity, is_recurrent
from ...ir.expr import Idx, Read, index_names
from ...targets import CpuTarget
from ..equations.packed_factors import is_packed, rows_are_packed
from ..equations.views import views


def pad_rows(system: System, target: CpuTarget) -> System:
    """The system with padding after the rows of its temps, where that helps."""
    aliases = views(system)
    # The layout of these is visible from outside, or from another tensor that shares the memory.
    # Targets of accumulations keep theirs, too.
    fixed = {*system.roots, *aliases, *aliases.values()}
    fixed |= {eq.target for eq in system.equations if eq.at is not None}
    edit = SystemEdit(system)
    for component in system.components:
        recurrent = is_recurrent(component)
        for eq in component:
            copies: dict[str, str] = {}
            for read in eq.reads:
                tensor = edit.tensors[read.tensor]
                rows = _dimensions_to_pad(eq, read, tensor, target)
                if not rows:
                    continue
                # A temp is written with gaps in the first place; params and inputs come without
                # them, and only a copy can have some.
                if tensor.kind == "temp":
                    if tensor.name not in fixed and not tensor.pad_after:
                        edit.tensors[tensor.name] = replace(tensor, pad_after=rows)
                elif is_packed(eq, read, system, target) or rows_are_packed(
                    eq, read, system, target
                ):
                    continue
                elif _reuse(eq, tensor, recurrent, target) >= target.layout.padded_reuse:
                    copy = edit.add(copy_equation(tensor, tensor.name, f"{tensor.name}_padded"))
                    if not edit.tensors[copy].pad_after:
                        edit.tensors[copy] = replace(edit.tensors[copy], pad_after=rows)
                    copies[tensor.name] = copy
            edit.replace(eq.with_body(renamed(eq.body, copies)))
    _pad_predecessors(system, edit.tensors, fixed)
    return edit.result()


def _pad_predecessors(system: System, tensors: dict[str, Tensor], fixed: set[str]) -> None:
    """Pads as a temp also those that are last read where it is computed, element by element, so
    that it can take their place (in-place reuse)."""
    # Later equations overwrite earlier ones: what is left is each tensor's last reader.
    last = {name: eq for eq in system.equations for name in eq.sources}
    # Backwards, so that padding passes on along a chain of such temps.
    for eq in reversed(system.equations):
        padded = tensors[eq.target]
        for read in eq.reads if padded.pad_after and eq.target not in fixed else ():
            other = tensors[read.tensor]
            if (
                last[read.tensor] is eq
                and is_identity(read, eq)
                and read.tensor not in fixed
                and other.kind == "temp"
                and not other.pad_after
                and (other.shape, other.storage_dtype) == (padded.shape, padded.storage_dtype)
            ):
                tensors[other.name] = replace(other, pad_after=padded.pad_after)


def _reuse(eq: Equation, tensor: Tensor, recurrent: bool, target: CpuTarget) -> float:
    """How often an element is multiplied."""
    points = prod(i.size for i in eq.domain)
    # Much else is read between two steps of a recurrence, so its reads count more.
    return points / tensor.size * (target.layout.recurrent_reuse if recurrent else 1)


def _dimensions_to_pad(eq: Equation, read: Read, tensor: Tensor, target: CpuTarget) -> int:
    """Leading dimensions after which to insert one cache line of padding; 0 for none."""
    l2, costs = target.l2, target.layout
    if eq.reduce != "sum" or eq.at is not None or BYTES[tensor.storage_dtype] < BYTES["f32"]:
        return 0
    over = {i.name: i.size for i in eq.over}
    names = [index_names(e) for e in read.index]
    # The rows are what the summed indices step over, up to the last dimension that they address.
    rows = max((n + 1 for n, found in enumerate(names) if not found.isdisjoint(over)), default=0)
    if not 0 < rows < len(names) or not _is_contiguous(read, eq):
        return 0
    # Rows of no whole number of lines are spread over the sets anyway; beside short rows a line of
    # padding would be a large part.
    row_bytes = prod(tensor.shape[rows:]) * BYTES[tensor.storage_dtype]
    if row_bytes % l2.line or row_bytes < costs.min_padded_lines * l2.line:
        return 0
    count = prod(over[n] for n in frozenset().union(*names[:rows]) & over.keys())
    # Example: rows of 64 lines in a cache of 1024 sets fall on 1024 / gcd(64, 1024) = 16 sets. With
    # as many rows as these hold, they evict each other; very many rows do not stay in the cache
    # with padding either.
    sets_touched = l2.sets // gcd(row_bytes // l2.line, l2.sets)
    conflicts = l2.usable_ways * sets_touched <= count <= costs.max_padded_rows
    return rows if conflicts else 0


def _is_contiguous(read: Read, eq: Equation) -> bool:
    """Whether neighbours in memory are neighbouring results."""
    steps = affine(read.index[-1]).coefficients
    return any(steps.get(Idx(i.name)) == 1 for i in eq.indices)
