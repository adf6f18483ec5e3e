"""Products of tiles by the processor's own instructions (AMX).

    tilezero c;  for t: tileload a, b; tdpbf16ps c, a, b   →   tilestore c to the stack

At a time two tiles of rows by two of columns, so that every loaded tile is multiplied twice: sums
in the tile registers 0 to 3, left operands in 4 and 5, right ones in 6 and 7. No vector instruction
reads a tile register: sums pass through a buffer on the stack, from which the statements after the
sum take them row by row. A kernel configures the registers at its beginning and releases them at
its end, on each thread. Tests: tests/backends/test_amx.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...ir.dtypes import BYTES
from ...ir.expr import Apply, Read
from ...passes.cpu.amx_tiles import OPERANDS
from ...passes.cpu.loop_ir import AmxTiles, Loop, Nest
from .expressions import ExpressionWriter
from .function_writer import FunctionWriter
from .open_loops import OpenNestLoop
from .values import IndexValue

SIDE = 16  # rows of a tile at most; elements of 4 bytes in each
ROW = 64  # bytes
LEFT, RIGHT = 4, 6  # the first tile registers of operands, after those of sums
CONFIGURATION = 64  # bytes: palette 1; at 16, bytes of a row of each register; at 48, its rows
AT_BYTES, AT_ROWS = 16, 48


class Instructions:
    """How the instructions are called. Numbers of registers are part of an instruction."""

    @staticmethod
    def configure(e: FunctionWriter, pointer: str) -> None:
        e.declare("declare void @llvm.x86.ldtilecfg(ptr)")
        e.effect("call void @llvm.x86.ldtilecfg(ptr {0})", pointer)

    @staticmethod
    def release(e: FunctionWriter) -> None:
        e.declare("declare void @llvm.x86.tilerelease()")
        e.effect("call void @llvm.x86.tilerelease()")

    @staticmethod
    def zero(e: FunctionWriter, tile: int) -> None:
        e.declare("declare void @llvm.x86.tilezero(i8 immarg)")
        e.effect(f"call void @llvm.x86.tilezero(i8 {tile})")

    @staticmethod
    def load(e: FunctionWriter, tile: int, pointer: str, stride: int) -> None:
        e.declare("declare void @llvm.x86.tileloadd64(i8 immarg, ptr, i64)")
        e.effect(f"call void @llvm.x86.tileloadd64(i8 {tile}, ptr {{0}}, i64 {stride})", pointer)

    @staticmethod
    def store(e: FunctionWriter, tile: int, pointer: str, stride: int) -> None:
        e.declare("declare void @llvm.x86.tilestored64(i8 immarg, ptr, i64)")
        e.effect(f"call void @llvm.x86.tilestored64(i8 {tile}, ptr {{0}}, i64 {stride})", pointer)

    @staticmethod
    def multiply(e: FunctionWriter, into: int, left: int, right: int) -> None:
        e.declare("declare void @llvm.x86.tdpbf16ps(i8 immarg, i8 immarg, i8 immarg)")
        e.effect(f"call void @llvm.x86.tdpbf16ps(i8 {into}, i8 {left}, i8 {right})")


INSTRUCTIONS = Instructions  # replaced where the tests simulate them


@dataclass(frozen=True)
class TileWriter:
    """Writes the products of one nest."""

    e: FunctionWriter
    nest: Nest
    tiles: AmxTiles
    expressions: ExpressionWriter
    output_loops: Mapping[str, OpenNestLoop]

    def begin(self) -> None:
        """At the beginning of the kernel."""
        # A loop with steps of several lengths configures them anew for each of its tiles.
        first = self._rows.segments[0]
        self._configure(first.tile)

    def end(self) -> None:
        """At the end of the kernel."""
        INSTRUCTIONS.release(self.e)

    @property
    def _rows(self) -> Loop:
        return next(loop for loop in self.nest.outer if loop.index.name == self.tiles.rows)

    def sums(self, stack: str) -> None:
        """The sums of the open tile: to the stack, for each row those of all columns."""
        rows, columns = (self.output_loops[n] for n in (self.tiles.rows, self.tiles.columns))
        if len(self._rows.segments) > 1:
            self._configure(rows.segment.tile)
        above, beside = len(_heights(rows.segment.tile)), columns.segment.tile
        tiles = [(row, column) for row in range(above) for column in range(beside)]
        for row, column in tiles:
            INSTRUCTIONS.zero(self.e, row * OPERANDS + column)
        self._steps([loop for loop in self.nest.inner if loop.index.name != self.tiles.pairs], {})
        stride = beside * ROW
        for row, column in tiles:
            start = str(row * SIDE * stride + column * ROW)
            where = self.e.op("getelementptr i8, ptr {0}, i64 {1}", stack, start, type="ptr")
            INSTRUCTIONS.store(self.e, row * OPERANDS + column, where, stride)

    def _steps(self, loops: list[Loop], places: dict[str, IndexValue]) -> None:
        """The loops over what is summed, in steps of a tile's pairs."""
        if not loops:
            self._products({**places, self.tiles.pairs: IndexValue("", 0)})
            return
        loop, *rest = loops
        with self.e.loop("0", str(loop.index.size), 1) as opened:
            self._steps(rest, {**places, loop.index.name: IndexValue(opened.index, 0)})
            opened.close()

    def _products(self, places: dict[str, IndexValue]) -> None:
        """One step: every tile of the left operand by every tile of the right one."""
        (body,) = self.nest.bodies
        assert isinstance(body, Apply)
        left, right = body.args
        rows, columns = (self.output_loops[n] for n in (self.tiles.rows, self.tiles.columns))
        for row in range(len(_heights(rows.segment.tile))):
            stride = self.tiles.row_stride * BYTES["i32"]
            self._load(LEFT + row, left, places, stride, row * SIDE, 0)
            for column in range(columns.segment.tile):
                if row == 0:
                    self._load(RIGHT + column, right, places, ROW, 0, column * SIDE)
                INSTRUCTIONS.multiply(self.e, row * OPERANDS + column, LEFT + row, RIGHT + column)

    def _load(
        self, tile: int, read, places: dict[str, IndexValue], stride: int, row: int, column: int
    ) -> None:
        """Loads a tile whose first element is some rows and columns from the open tile's."""
        assert isinstance(read, Read)
        here = {name: IndexValue(o.base, o.offset) for name, o in self.output_loops.items()}
        for name, more in ((self.tiles.rows, row), (self.tiles.columns, column)):
            here[name] = here[name]._replace(offset=here[name].offset + more)
        fixed = {name: IndexValue(f"%at.{name}", 0) for name in self.nest.fixed}
        self.expressions.at({**fixed, **here, **places}, self.nest.lanes)
        access, memory = self.nest.accesses[read], self.expressions.memory
        INSTRUCTIONS.load(
            self.e, tile, memory.pointer(access, memory.offset(access.offset)), stride
        )

    def _configure(self, rows: int) -> None:
        """Tile registers for so many rows of sums."""
        heights = _heights(rows)
        table = bytearray(CONFIGURATION)
        table[0] = 1
        shapes = {RIGHT + n: SIDE for n in range(OPERANDS)}
        for n, height in enumerate(heights):
            shapes |= {n * OPERANDS + k: height for k in range(OPERANDS)} | {LEFT + n: height}
        for tile, height in shapes.items():
            table[AT_BYTES + 2 * tile] = ROW
            table[AT_ROWS + tile] = height
        name = "@amx." + ".".join(map(str, heights))
        text = "".join(f"\\{byte:02X}" for byte in table)
        self.e.declare(f'{name} = private constant [{CONFIGURATION} x i8] c"{text}", align 64')
        INSTRUCTIONS.configure(self.e, name)


def _heights(rows: int) -> list[int]:
    """The rows of the tiles that have so many together."""
    return [min(SIDE, rows - start) for start in range(0, rows, SIDE)]
