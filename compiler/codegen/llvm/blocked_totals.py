"""Blocks of a long sum: each is added up in registers and added to totals in f64 on the stack.

    total = 0;  for each block: acc = 0; reduce in the block: acc = fma(…); total += acc

The registers are left to the blocks. Without f64 in the processor a total is a pair of f32: the
sum, and what its additions have rounded away (Neumaier, 1974). Which sums have blocks is decided in
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
from .single_pairs import two_sum
from .values import Value
from .vector import Vector

Flush = Callable[[Sums], None]


def blocked_totals(reductions: ReductionLoops, tile: Tile) -> list[Value]:
    """The sums of every copy and body, by blocks."""
    nest, e, a = reductions.nest, reductions.e, reductions.wide
    dtype = tile.reduction.dtype
    wide = "f64" if a.doubles else dtype
    type, width = a.type(wide), 1 if a.doubles else 2
    start = reductions.start(tile)
    most = len(nest.bodies) * prod(max(s.tile for s in x.segments) for x in nest.outer)
    stack = e.op(f"alloca [{most * width} x {type}], align 64", type="ptr")
    cells = [
        e.op(f"getelementptr {type}, ptr {{0}}, i64 {n}", stack, type="ptr")
        for n in range(len(start) * width)
    ]
    for cell in cells:
        e.effect(f"store {type} zeroinitializer, ptr {{0}}", cell)

    def value(cell: str) -> str:
        return e.pinned("load {T}, ptr {0}", cell, type=type)

    def flush(sums: Sums) -> None:
        for cell, accumulators in zip(cells[::width], sums, strict=True):
            (block,) = reductions.pairwise(tile.reduction, accumulators)
            if a.doubles:
                total = a.op("fadd", wide, value(cell), cast(a, dtype, wide, block))
            else:
                total, rest = two_sum(Vector(a, wide), value(cell), block)
                beside = cells[cells.index(cell) + 1]
                rest = a.op("fadd", wide, value(beside), rest)
                e.effect(f"store {type} {{0}}, ptr {{1}}", rest, beside)
            e.effect(f"store {type} {{0}}, ptr {{1}}", total, cell)

    _blocks(reductions, nest.inner, tile, Where(valid=nest.lanes), flush)
    totals, lanes = [], Reduction("sum", wide)
    for n in range(len(start)):
        total = value(cells[n * width])
        if not a.doubles:
            total = a.op("fadd", wide, total, value(cells[n * width + 1]))
        if reductions.reduces_lanes:
            (total,) = lanes.across(a, (total,))
        narrow = reductions.scalar if reductions.reduces_lanes else a
        result = cast(narrow, wide, dtype, total)
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
