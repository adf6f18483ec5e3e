"""Blocked sums: a long sum is added up block by block, the blocks in f64.

    acc = 0                                   total = 0 in f64
    reduce for k < 1000000:            →      reduce for k < 1000000, in blocks of 32 steps:
        acc = sum(acc, x[k])                      acc = sum(acc, x[k]), from 0 in each block
    y = acc                                       total = total + acc at the end of the block
                                              y = total

An addition is rounded in proportion to what the sum has grown to, so the error of the plain loop
grows with its length. Here it grows with the length of a block alone: what rounding takes from a
total in f64 is too little for f32 to show. The end of a block must cost next to nothing: blocks are
short where a tile has few sums, which wait for memory, and longer where it is full of products.
Applies to sums of floats that are several blocks long for each accumulator. Blocked summation:
Higham, "The accuracy of floating point summation", 1993.
Tests: tests/passes/test_blocked_sums.py.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.dtypes import is_float
from ...targets import CpuTarget
from .loop_ir import Loop, Nest


def blocked_sums(nest: Nest, target: CpuTarget) -> Nest:
    """The nest, if its sum is long with the steps of a block noted at one of its loops."""
    if nest.reduce != "sum" or not is_float(nest.bodies[0].dtype):
        return nest
    limits = target.tiling
    block = limits.short_block if nest.accumulators > 1 else limits.long_block
    inner = nest.inner
    if _additions(inner, nest.accumulators) <= limits.whole_blocks * block:
        return nest
    # The innermost loop whose steps, with all that is inside, fill a block.
    depth = next(
        d for d in reversed(range(len(inner))) if _additions(inner[d:], nest.accumulators) > block
    )
    loop = inner[depth]
    # One step adds this often to each accumulator.
    each = max(1, loop.segments[0].tile // nest.accumulators)
    each *= _additions(inner[depth + 1 :], 1 if depth + 1 == len(inner) else nest.accumulators)
    blocked = replace(loop, block=max(1, block // each))
    return replace(nest, loops=tuple(blocked if x is loop else x for x in nest.loops))


def _additions(loops: tuple[Loop, ...], accumulators: int) -> int:
    """How often the loops add to one accumulator."""
    total = 1
    for loop in loops:
        total *= sum(s.count * s.tile for s in loop.segments)
    return -(-total // accumulators)
