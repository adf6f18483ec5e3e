"""Split reductions: a long sum is computed in parts, for threads or for the caches.

    db[o] = sum(b, i) d[b, i, o]   →   parts[s, o] = sum(b < B/8, i) d[s*(B/8) + b, i, o]
                                       db[o]       = sum(s < 8) parts[s, o]

Threads share the parts where there are too few results to share (split-K in GPU libraries). Applies
to sums of at most a tile of results and enough terms for two kernels. Where a factor is a weight in
panels (`pack_constants.py`), threads share these.

A product that is summed over very many rows, such as the gradient of a convolution's kernel, is
split on a CPU so that what one tile reads in a part stays in the cache while other tiles pass
(blocking of K): each tile would read its columns of both factors from memory.

The number of parts depends on the sizes and the target's record alone, so results are the same for
any number of threads. Tests: tests/passes/test_split_reductions.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from ...ir.build import substitute
from ...ir.dtypes import BYTES
from ...ir.edit import SystemEdit
from ...ir.equation import Equation, Index, System, free_name
from ...ir.expr import Apply, Const, Expr, Idx, Read, index_names
from ...ir.terms import multiplicands
from ...targets import CpuTarget, EquationCosts, Target
from .packed_factors import is_packed

Parts = Mapping[str, int]  # of summed indices


def split_reductions(system: System, target: Target) -> System:
    """The system with its long sums computed in parts."""
    edit = SystemEdit(system)
    for eq in system.equations:
        # A sum inside of a recurrence runs at each step; its parts would be a second kernel there.
        # What is computed in blocks has its share of every thread already.
        elsewhere = eq.target in system.recurrent or eq.target in system.blocked
        if eq.reduce != "sum" or eq.at is not None or elsewhere:
            continue
        parts = _parts_for_threads(eq, target.equations)
        if not parts and isinstance(target, CpuTarget):
            parts = _parts_for_caches(eq, system, target)
        if parts:
            edit.replace(_in_parts(eq, parts, edit))
    return edit.result()


def _in_parts(eq: Equation, parts: Parts, edit: SystemEdit) -> Equation:
    """The sum of the parts, which are added to the system. Each reads a contiguous range of the
    indices that are split."""
    taken = {i.name for i in eq.domain}
    blocks, inner, moved = [], [], dict[str, Expr]()
    for index in eq.over:
        count = parts.get(index.name, 1)
        if count == 1:
            inner.append(index)
            continue
        block, size = Index(free_name("s", taken), count), index.size // count
        taken.add(block.name)
        blocks.append(block)
        moved[index.name] = Idx(block.name)
        if size > 1:
            inner.append(Index(index.name, size))
            moved[index.name] = Idx(block.name) * size + Idx(index.name)
    body = substitute(eq.body, moved)
    name, indices = f"{eq.target}_parts", (*blocks, *eq.indices)
    partial = Equation(name, indices, body, "sum", tuple(inner), span=eq.span)
    read = Read(edit.add(partial), partial.place, None, eq.dtype)
    return replace(eq, body=read, over=tuple(blocks))


def _parts_for_threads(eq: Equation, costs: EquationCosts) -> Parts:
    results = prod(i.size for i in eq.indices)
    points = results * prod(i.size for i in eq.over)
    if results > costs.split_results or points < costs.split_points or _has_panels(eq, costs):
        return {}
    # Only the outermost summed index is split, by the first number of parts that divides the sum
    # evenly and leaves each part several terms.
    first = eq.over[0]
    fitting = (n for n in costs.split_parts if first.size % n == 0 and first.size > n)
    count = next(fitting, 1)
    return {first.name: count} if count > 1 else {}


def _has_panels(eq: Equation, costs: EquationCosts) -> bool:
    """Whether a factor lies in panels (`pack_constants.py`), no fewer than there would be parts:
    threads share these, and each is read from its beginning to its end, without a second sum."""
    sizes = {i.name: i.size for i in eq.indices}
    panels = [
        sizes[e.args[0].name] // e.args[1].value
        for read in eq.reads
        for e in read.index
        if isinstance(e, Apply) and e.fn == "floordiv"
        if isinstance(e.args[0], Idx) and isinstance(e.args[1], Const) and e.args[0].name in sizes
    ]
    return max(panels, default=0) >= costs.split_parts[0]


def _parts_for_caches(eq: Equation, system: System, target: CpuTarget) -> Parts:
    """The parts of a product in which what a tile's vectors read fills a share of the cache."""
    terms, limits = prod(i.size for i in eq.over), target.equations
    panel = terms * limits.panel_vectors * target.vector_bytes
    if panel <= limits.whole_panel * target.l2.bytes or not _sums_over_rows(eq):
        return {}
    # Cache blocks do the same without parts in memory, but a narrow result has few multiply-adds
    # for what a block packs and adds up.
    wide = eq.indices[-1].size >= target.tiling.vectors * target.lanes
    if wide and any(is_packed(eq, read, system, target) for read in eq.reads):
        return {}
    wanted = -(-panel // round(limits.part_panel * target.l2.bytes))
    found: dict[str, int] = {}
    for index in eq.over:
        # Whole indices first, then as small a part of one as is enough. The window's elements stay:
        # loops over them are clipped at the border of the image.
        left = -(-wanted // prod(found.values()))
        if left > 1:
            fitting = (n for n in range(left, index.size + 1) if index.size % n == 0)
            found[index.name] = next(fitting, index.size)
    results = prod(i.size for i in eq.indices) * BYTES[eq.dtype]
    operands = sum(system.tensors[name].bytes for name in eq.sources)
    # Parts are written and read once more, which must be little beside what is read anyway.
    return found if prod(found.values()) * results <= limits.part_bytes * operands else {}


def _sums_over_rows(eq: Equation) -> bool:
    """Whether it is a product of two tables that are summed over their rows: each index of the
    result belongs to one of them, and both lie in memory along such an index."""
    factors = multiplicands(eq.body)
    reads = [f for f in factors if isinstance(f, Read) and f.index]
    if len(reads) != 2 or len(factors) != 2:
        return False
    own = {i.name for i in eq.indices if i.size > 1}
    a, b = (index_names(read) & own for read in reads)
    last = [index_names(read.index[-1]) for read in reads]
    return own == a ^ b and bool(last[0] & a) and bool(last[1] & b)
