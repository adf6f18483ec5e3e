"""Split reductions: a long sum with few results is computed in parts.

    db[o] = sum(b, i) d[b, i, o]   →   parts[s, o] = sum(b < B/8, i) d[s*(B/8) + b, i, o]
                                       db[o]       = sum(s < 8) parts[s, o]

Threads share the parts where there are too few results to share (split-K in GPU libraries). Applies
to sums of at most a tile of results and enough terms for two kernels. The number of parts depends
on the sizes alone, so results are the same for any number of threads.
Tests: tests/passes/test_split_reductions.py.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ...ir.build import substitute
from ...ir.edit import SystemEdit
from ...ir.equation import Equation, Index, System
from ...ir.expr import Idx, Read
from ...targets import EquationCosts, Target


def split_reductions(system: System, target: Target) -> System:
    """The system with its long sums of few results computed in parts."""
    edit = SystemEdit(system)
    for eq in system.equations:
        # A sum inside of a recurrence runs at each step; its parts would be a second kernel there.
        parts = 0 if eq.target in system.recurrent else _parts(eq, target.equations)
        if parts:
            # Only the outermost summed index is split, so each part reads a contiguous range of it.
            first, *rest = eq.over
            block, inner = Index(_free(eq), parts), replace(first, size=first.size // parts)
            body = substitute(eq.body, {first.name: Idx(block.name) * inner.size + Idx(first.name)})
            indices = (block, *eq.indices)
            partial = Equation(f"{eq.target}_parts", indices, body, "sum", (inner, *rest))
            read = Read(edit.add(replace(partial, span=eq.span)), partial.place, None, eq.dtype)
            edit.replace(replace(eq, body=read, over=(block,)))
    return edit.result()


def _parts(eq: Equation, costs: EquationCosts) -> int:
    """The number of parts to split the sum into; 0 for none."""
    results = prod(i.size for i in eq.indices)
    points = results * prod(i.size for i in eq.over)
    if eq.reduce != "sum" or eq.at is not None:
        return 0
    if results > costs.split_results or points < costs.split_points:
        return 0
    # The first number of parts that divides the sum evenly and leaves each part several terms.
    return next(
        (n for n in costs.split_parts if eq.over[0].size % n == 0 and eq.over[0].size > n), 0
    )


def _free(eq: Equation) -> str:
    """An index name that the equation does not use."""
    taken = {i.name for i in eq.domain}
    return next(n for n in ("s", "part", *(f"s{k}" for k in range(100))) if n not in taken)
