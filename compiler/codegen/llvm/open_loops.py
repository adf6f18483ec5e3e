"""A loop of a nest that is being written: what its index is at every copy of the tile.

Output loops and reduction loops share this. Tests: tests/backends/test_cpu.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...passes.cpu.loop_ir import Loop, Segment
from .arithmetic import Arithmetic, InstructionWriter
from .thread_pool import ARENA_EXAMPLES
from .values import IndexValue

Copy = tuple[dict[str, IndexValue], int]  # the values of the indices, and the valid lanes


@dataclass(frozen=True)
class OpenNestLoop:
    """An open loop: the first element of its tile, and the segment it is in."""

    loop: Loop
    segment: Segment
    base: str  # i64 SSA name, or empty if the loop has one step only
    offset: int

    def copies(self) -> Iterator[tuple[str, IndexValue, int]]:
        """The value of the index at every copy of the tile, with the valid lanes."""
        loop, lanes = self.loop, self.loop.lanes
        for copy in range(self.segment.tile):
            last = copy == self.segment.tile - 1
            place = IndexValue(self.base, self.offset + copy * lanes, lanes > 1)
            yield loop.index.name, place, self.segment.valid if last else lanes


def element(a: Arithmetic, step: str, width: int, start: int) -> str:
    """The first element of a step of a segment that begins at `start`."""
    return a.op("add", "i64", a.op("mul", "i64", step, str(width)), str(start))


def examples_of_run(e: InstructionWriter) -> str:
    """How many examples the run is of."""
    cell = e.op(f"getelementptr i8, ptr %arena, i64 {ARENA_EXAMPLES}", type="ptr")
    # The same throughout a run, so that it is loaded once.
    return e.op("zext i32 {0} to i64", e.op("load i32, ptr {0}", cell, type="i32"), type="i64")


def whole_steps(a: Arithmetic, loop: Loop, segment: Segment, start: str) -> str:
    """How many steps of a segment, which begins at `start`, the examples of a run fill. Of vectors
    the last one may be filled in part; there are no more than in a run of all examples."""
    width = segment.tile * loop.lanes
    end = a.op("mul", "i64", examples_of_run(a.e), str(loop.per_example))
    left = a.op("sub", "i64", end, start)
    if loop.lanes == 1:
        return a.op("udiv", "i64", left, str(width))
    limits = (("smax", 0), ("smin", segment.count * width))
    left = a.op("add", "i64", left, str(width - 1))
    for limit, bound in limits:
        a.e.declare(f"declare i64 @llvm.{limit}.i64(i64, i64)")
        left = a.e.op(f"call i64 @llvm.{limit}.i64(i64 {{0}}, i64 {bound})", left, type="i64")
    return a.op("udiv", "i64", left, str(width))
