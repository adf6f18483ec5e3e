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

from ...ir.equation import Equation, Index, System, Tensor, components, free_name, is_recurrent
from ...ir.expr import Idx, Read, substitute
from ...ir.functions import call, literal
from ..autodiff.differentiate import in_order

RESULTS = 512  # results that fill the registers: with more, threads share those
POINTS = 1 << 18  # points below which waking threads for two kernels costs more than it brings
PARTS = (8, 7, 6, 5, 9, 10, 4, 11, 12, 13, 3, 2)


def split_reductions(system: System) -> System:
    """The system with its long sums of few results in parts."""
    recurrent = {
        eq.target for part in components(system.equations) if is_recurrent(part) for eq in part
    }
    equations: list[Equation] = []
    tensors = dict(system.tensors)
    for eq in system.equations:
        parts = 0 if eq.target in recurrent else _parts(eq)
        if not parts:
            equations.append(eq)
            continue
        first, *rest = eq.over
        name = free_name(f"{eq.target}_parts", tensors)
        block = Index(_free(eq), parts)
        inner = replace(first, size=first.size // parts)
        place = call("add", call("mul", Idx(block.name), literal(inner.size)), Idx(first.name))
        indices = (block, *eq.indices)
        body = substitute(eq.body, {first.name: place})
        equations.append(Equation(name, indices, body, "sum", (inner, *rest), None, eq.span))
        read = Read(name, tuple(Idx(i.name) for i in indices), None, eq.body.dtype)
        equations.append(replace(eq, body=read, over=(block,)))
        shape = tuple(i.size for i in indices)
        tensors[name] = Tensor(name, shape, eq.body.dtype, "temp", "", eq.span)
    if len(equations) == len(system.equations):
        return system
    return in_order(system.replace(equations=tuple(equations), tensors=tensors))


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
