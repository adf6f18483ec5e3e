"""A loop of a nest that is being written: what its index is at every copy of the tile.

Output loops and reduction loops share this. Tests: tests/backends/test_cpu.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...passes.cpu.loop_ir import Loop, Segment
from .arithmetic import Arithmetic
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
