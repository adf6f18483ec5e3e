"""Blocks of a long sum: each is added up in registers and added to totals in f64 on the stack.

    total = 0;  for each block: acc = 0; reduce in the block: acc = fma(…); total += acc

The registers are left to the blocks. Which sums have blocks is decided in
`passes/cpu/blocked_sums.py`. Tests: tests/passes/test_blocked_sums.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

from ...passes.cpu.loop_ir import Loop
from .accumulators import Reduction
from .instructions import cast
from .open_loops import OpenNestLoop
from .reduction_loops import ReductionLoops, Sums, Tile, Where
from .values import Value

Flush = Callable[[Sums], None]


def blocked_totals(reductions: ReductionLoops, tile: Tile) -> list[Value]:
    """The sums of every copy and body, by blocks."""
    nest, e, a = reductions.nest, reductions.e, reductions.wide
    dtype, type = tile.reduction.dtype, a.type("f64")
    start = reductions.start(tile)
    most = len(nest.bodies) * prod(max(s.tile for s in x.segments) for x in nest.outer)
    stack = e.op(f"alloca [{most} x {type}], align 64", type="ptr")
    cells = [
        e.op(f"getelementptr {type}, ptr {{0}}, i64 {n}", stack, type="ptr")
        for n in range(len(start))
    ]
    for cell in cells:
        e.effect(f"store {type} zeroinitializer, ptr {{0}}", cell)

    def flush(sums: Sums) -> None:
        for cell, accumulators in zip(cells, sums, strict=True):
            (block,) = reductions.pairwise(tile.reduction, accumulators)
            total = e.pinned("load {T}, ptr {0}", cell, type=type)
            total = a.op("fadd", "f64", total, cast(a, dtype, "f64", block))
            e.effect(f"store {type} {{0}}, ptr {{1}}", total, cell)

    _blocks(reductions, nest.inner, tile, Where(valid=nest.lanes), flush)
    totals, lanes = [], Reduction("sum", "f64")
    for cell in cells:
        total = e.pinned("load {T}, ptr {0}", cell, type=type)
        if reductions.reduces_lanes:
            (total,) = lanes.across(a, (total,))
        narrow = reductions.scalar if reductions.reduces_lanes else a
        result = cast(narrow, "f64", dtype, total)
        totals.append(Value(result, nest.lanes > 1 and not reductions.reduces_lanes))
    return totals


def _blocks(
    reductions: ReductionLoops, loops: Sequence[Loop], tile: Tile, at: Where, flush: Flush
) -> None:
    """The reduction loops from here inwards: `flush` takes the sums of every block. The loops
    around that with the blocks carry nothing."""
    loop, *rest = loops
    e, a, start = reductions.e, reductions.scalar, reductions.start(tile)

    def inside(opened: OpenNestLoop) -> None:
        if loop.block:
            flush(reductions.unrolled(opened, rest, tile, start, at))
            return
        for there in reductions.inside(opened, at):
            _blocks(reductions, rest, tile, there, flush)

    for segment in loop.segments:
        if segment.count == 1 and loop.is_whole:
            inside(OpenNestLoop(loop, segment, "", segment.start))
            continue
        whole = reductions.stretch(loop, segment, tile, at)
        width = whole.step * max(loop.block, 1)
        with e.loop(whole.first, whole.last, width, (), whole.maybe_empty) as outside:
            if loop.block:
                end = a.op("add", "i64", outside.index, str(width))
                last = a.intrinsic("smin", "i64", end, whole.last)
                block = replace(whole, first=outside.index, last=last, maybe_empty=False)
                flush(reductions.steps(block, rest, tile, start, at))
            else:
                inside(OpenNestLoop(loop, segment, outside.index, 0))
            outside.close()
