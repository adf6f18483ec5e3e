"""Long sums with few results: parts of them first, so that threads have something to share.

In: a system. Out: an equal one in which a sum over a long index that yields no more than a tile or
two of results is done in parts, by blocks of its outermost index, and the parts are then added:

    db[o]         = sum(b, i) d[b, i, o]
    parts[s, o]   = sum(b < B/8, i) d[s*B/8 + b, i, o]        db[o] = sum(s < 8) parts[s, o]

The number of parts depends on the sizes alone, so results are the same for any number of threads.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ...ir.build import substitute
from ...ir.edit import SystemEdit
from ...ir.equation import Equation, Index, System
from ...ir.expr import Idx, Read

RESULTS = 512  # results that fill the registers: with more, threads share those
POINTS = 1 << 18  # points below which waking threads for two kernels costs more than it brings
PARTS = (8, 7, 6, 5, 9, 10, 4, 11, 12, 13, 3, 2)


def split_reductions(system: System) -> System:
    """The system with its long sums of few results computed in parts."""
    edit = SystemEdit(system)
    for eq in system.equations:
        parts = 0 if eq.target in system.recurrent else _parts(eq)
        if parts:
            first, *rest = eq.over
            block, inner = Index(_free(eq), parts), replace(first, size=first.size // parts)
            body = substitute(eq.body, {first.name: Idx(block.name) * inner.size + Idx(first.name)})
            indices = (block, *eq.indices)
            partial = Equation(f"{eq.target}_parts", indices, body, "sum", (inner, *rest))
            read = Read(edit.add(replace(partial, span=eq.span)), partial.place, None, eq.dtype)
            edit.replace(replace(eq, body=read, over=(block,)))
    return edit.result()


def _parts(eq: Equation) -> int:
    """Into how many parts the sum is split; 0 for not at all."""
    results = prod(i.size for i in eq.indices)
    points = results * prod(i.size for i in eq.over)
    if eq.reduce != "sum" or eq.at is not None or results > RESULTS or points < POINTS:
        return 0
    return next((n for n in PARTS if eq.over[0].size % n == 0 and eq.over[0].size > n), 0)


def _free(eq: Equation) -> str:
    """An index name that the equation does not use."""
    taken = {i.name for i in eq.domain}
    return next(n for n in ("s", "part", *(f"s{k}" for k in range(100))) if n not in taken)
