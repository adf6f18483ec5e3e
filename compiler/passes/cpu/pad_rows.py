"""Rows apart: what sums run down, row by row, does not fight for the same few lines of cache.

In: a system. Out: an equal one. A sum over the rows of a matrix reads a few columns at a time:

    dU[k, j] = sum(t) dz[t, j] * h[t, k]

If a row is 4096 bytes long, what is read of all rows falls on 1 in 64 of a cache's sets, and is
gone when the next results read it again. Temps that are read so get a gap of one line after each
row; what is given and read so very often, such as a weight by every step of a recurrence, is copied
to such a temp first.
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd, prod

from ...ir.affine import affine
from ...ir.build import renamed
from ...ir.dtypes import BYTES, LINE
from ...ir.equation import (
    Equation,
    System,
    Tensor,
    copy_equation,
    free_name,
    is_identity,
    is_recurrent,
)
from ...ir.expr import Idx, Read, index_names
from ..equations.views import views

SETS, WAYS = 1024, 8  # of a core's own cache; half of the ways are left to others
MOST = 4096  # rows of which a column or two stay in that cache
LEAST = 8 * LINE  # bytes of a row, beside which a line more is little
USES = 512  # of an element, for which a copy pays


def pad_rows(system: System) -> System:
    """The system with gaps after the rows of its temps, where that helps."""
    seen = views(system)
    fixed = {*system.roots, *seen, *seen.values()}
    fixed |= {eq.target for eq in system.equations if eq.at is not None}
    tensors = dict(system.tensors)
    equations: list[Equation] = []
    copies: dict[str, str] = {}
    for component in system.components:
        looped = is_recurrent(component)
        for eq in component:
            moved: dict[str, str] = {}
            for read in eq.reads:
                tensor = tensors[read.tensor]
                rows = _rows(eq, read, tensor)
                if not rows:
                    continue
                if tensor.kind == "temp":
                    if tensor.name not in fixed and not tensor.pad_after:
                        tensors[tensor.name] = replace(tensor, pad_after=rows)
                elif _uses(eq, tensor, looped) >= USES:
                    if tensor.name not in copies:
                        copy = copies[tensor.name] = free_name(f"{tensor.name}_padded", tensors)
                        tensors[copy] = replace(
                            tensor, name=copy, kind="temp", init="", pad_after=rows
                        )
                    moved[tensor.name] = copies[tensor.name]
            equations.append(eq.with_body(renamed(eq.body, moved)))
    _follow(equations, tensors, fixed)
    equations += [copy_equation(tensors[source], source, copy) for source, copy in copies.items()]
    return system.replace(tensors=tensors, equations=tuple(equations)).in_order()


def _follow(equations: list[Equation], tensors: dict[str, Tensor], fixed: set[str]) -> None:
    """The gaps of a temp also to those that are last read where it is computed, element by element:
    so it can take their place."""
    last = {name: eq for eq in equations for name in eq.sources}
    for eq in reversed(equations):
        own = tensors[eq.target]
        for read in eq.reads if own.pad_after and eq.target not in fixed else ():
            other = tensors[read.tensor]
            if (
                last[read.tensor] is eq
                and is_identity(read, eq)
                and read.tensor not in fixed
                and other.kind == "temp"
                and not other.pad_after
                and (other.shape, other.dtype) == (own.shape, own.dtype)
            ):
                tensors[other.name] = replace(other, pad_after=own.pad_after)


def _uses(eq: Equation, tensor: Tensor, looped: bool) -> float:
    """How often an element is multiplied; a step of a recurrence is far from the one before, and
    counts for 16."""
    points = prod(i.size for i in eq.domain)
    return points / tensor.size * (16 if looped else 1)


def _rows(eq: Equation, read: Read, tensor: Tensor) -> int:
    """How many leading dimensions count the rows that the sum runs down and that would meet in the
    cache; 0 if it is not so."""
    if eq.reduce != "sum" or eq.at is not None or BYTES[tensor.dtype] < 4:
        return 0
    over = {i.name: i.size for i in eq.over}
    names = [index_names(e) for e in read.index]
    rows = max((n + 1 for n, found in enumerate(names) if not found.isdisjoint(over)), default=0)
    if not 0 < rows < len(names) or not _runs_along(read, eq):
        return 0
    row = prod(tensor.shape[rows:]) * BYTES[tensor.dtype]
    if row % LINE or row < LEAST:
        return 0
    count = prod(over[n] for n in frozenset().union(*names[:rows]) & over.keys())
    return rows if WAYS * SETS // gcd(row // LINE, SETS) <= count <= MOST else 0


def _runs_along(read: Read, eq: Equation) -> bool:
    """Whether neighbours in memory are neighbouring results."""
    steps = affine(read.index[-1]).coefficients
    return any(steps.get(Idx(i.name)) == 1 for i in eq.indices)
