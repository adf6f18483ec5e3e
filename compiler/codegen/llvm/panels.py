"""Cache blocks of a sum of products: packed panels, and sums that are in memory between blocks.

    for stretches of rows, groups of panels, blocks of the sum, panels:
        panel = the block's part of one factor, its elements in the order in which they are read
        for the stretch's rows: acc = 0; reduce in the block: acc = fma(…, panel); partial += acc

The panel and the partial sums are on the thread's stack. What is packed and how long the blocks are
is decided in `passes/cpu/cache_blocks.py`. Tests: tests/passes/test_cache_blocks.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from math import prod

from ...passes.cpu.loop_ir import CacheBlocks, Nest, Segment
from .function_writer import FunctionWriter
from .instructions import cast
from .open_loops import Copy
from .reduction_loops import ReductionLoops
from .values import IndexValue, Value


class PanelWriter:
    """Writes the blocks of one nest around the tiles of its rows."""

    def __init__(
        self, e: FunctionWriter, nest: Nest, blocks: CacheBlocks, reductions: ReductionLoops
    ):
        self.e, self.nest, self.blocks, self.reductions = e, nest, blocks, reductions
        self.expressions, self.memory = reductions.expressions, reductions.memory
        self.scalar, self.wide = reductions.scalar, reductions.wide
        self.columns, self.rows, *self.inside = nest.outer[blocks.outside :]
        self.width = max(s.tile for s in self.columns.segments)  # of a panel, in vectors
        self.begin = ""  # the first row of the stretch
        self.group, self.column = "", ""  # the first columns of the group, and of the panel
        self.first, self.last = "", ""  # whether the block is the sum's first, or its last

    # --- loops ---------------------------------------------------------------------------------

    @property
    def parts(self) -> list[tuple[Segment, ...]]:
        """The segments of the rows that share panels: all of them if one stretch has all rows."""
        if self.rows.steps <= self.blocks.rows:
            return [self.rows.segments]
        return [(segment,) for segment in self.rows.segments]

    @contextmanager
    def stretch(self, part: tuple[Segment, ...], begin: str, end: str) -> Iterator[tuple[str, str]]:
        """A loop over stretches of the rows from `begin` to before `end`: the first row of each,
        and that past its last. No loop if one stretch has all rows."""
        a, segment = self.scalar, part[0]
        self.begin = ""
        if self.rows.steps <= self.blocks.rows:
            yield begin, end
            return
        length, parallel = self.blocks.rows * segment.tile, self.rows.kind == "parallel"
        with self.e.loop(begin, end, length, maybe_empty=parallel) as opened:
            self.begin = opened.index
            stop = a.op("add", "i64", opened.index, str(length))
            yield opened.index, a.intrinsic("smin", "i64", stop, end)

    @contextmanager
    def panel(self, segment: Segment, first: str, last: str) -> Iterator[str]:
        """Loops over groups of panels between two columns, the blocks of the sum, and the panels of
        a group, which pass a block in turn: the first column of each panel."""
        a, width, count = self.scalar, segment.tile * self.columns.lanes, self.blocks.panels
        self.group = ""
        parallel = self.columns.kind == "parallel"
        with (
            self.e.loop(first, last, count * width, maybe_empty=parallel) as opened,
            self._block(),
        ):
            if count == 1:
                yield opened.index
                return
            self.group = opened.index
            stop = a.op("add", "i64", opened.index, str(count * width))
            stop = a.intrinsic("smin", "i64", stop, last)
            with self.e.loop(opened.index, stop, width) as panel:
                yield panel.index

    @contextmanager
    def _block(self) -> Iterator[None]:
        """Loops over the blocks of the sum."""
        e, a, blocks = self.e, self.scalar, self.blocks
        self.first = self.last = "true"
        with ExitStack() as loops:
            for number, loop in enumerate(self.nest.inner[: blocks.cut + 1]):
                size, steps = loop.index.size, blocks.steps if number == blocks.cut else 1
                begin, end = "0", str(size)
                if steps < size:
                    begin = loops.enter_context(e.loop("0", end, steps)).index
                    after = a.op("add", "i64", begin, str(steps))
                    end = a.intrinsic("smin", "i64", after, end)
                    self.first = self._both(self.first, "0", begin)
                    self.last = self._both(self.last, str(size), end)
                self.reductions.block[loop.index.name] = begin, end
            yield

    def _both(self, condition: str, x: str, y: str) -> str:
        """Whether the condition holds and two numbers are equal."""
        same = self.scalar.compare("eq", "i64", x, y)
        return same if condition == "true" else self.scalar.op("and", "bool", condition, same)

    # --- the panel -----------------------------------------------------------------------------

    def pack(self, column: str, segment: Segment, copies: list[Copy]) -> None:
        """Copies the block's part of the packed factor into the panel that begins at a column."""
        e, a, lanes, blocks = self.e, self.scalar, self.nest.lanes, self.blocks
        self.column, copies = column, copies[: segment.tile]
        cut, *inner = self.nest.inner[blocks.cut :]
        strides, stride = dict[str, int](), self.width * lanes
        for loop in (*reversed(inner), cut):
            strides[loop.index.name], stride = stride, stride * loop.index.size
        row = strides[cut.index.name]
        begin, _ = self.reductions.block[cut.index.name]
        # A block that is transposed may begin before the panel, if that is short.
        slack = lanes * row if blocks.along == cut.index.name else 0
        panel = e.op(f"alloca [{blocks.steps * row + slack} x float], align 64", type="ptr")
        # Element 0 would be before the panel: accesses count from the tensor's own first ones.
        before = a.op("add", "i64", a.op("mul", "i64", begin, str(row)), column)
        before = a.op("sub", "i64", str(slack), before)
        self.memory.panel = to = self._cell("float", panel, before)
        block = self.reductions.block
        outer = [loop.index.name for loop in self.nest.inner[: blocks.cut]]
        places = {name: IndexValue(block[name][0], 0) for name in outer}
        with ExitStack() as loops:
            for loop in (cut, *inner):
                name = loop.index.name
                first, last = block.get(name, ("0", str(loop.index.size)))
                step = lanes if name == blocks.along else 1
                at = loops.enter_context(e.loop(first, last, step)).index
                if step > 1:
                    # as many elements as a vector has, whatever the length of the loop
                    at = a.intrinsic("smin", "i64", at, a.op("sub", "i64", last, str(step)))
                places[name] = IndexValue(at, 0)
                to = self._cell("float", to, a.op("mul", "i64", at, str(strides[name])))
            to = self._cell("float", to, column)
            for number, (tile, valid) in enumerate(copies):
                self.expressions.at({**tile, **places}, valid)
                here = self._cell("float", to, str(number * lanes))
                if blocks.ahead is not None:
                    self.memory.prefetch(blocks.ahead)
                for n, vector in enumerate(self._vectors()):
                    cell = self._cell("float", here, str(n * strides.get(blocks.along, 0)))
                    type = self.wide.type("f32")
                    e.effect(f"store {type} {{0}}, ptr {{1}}, align 64", vector, cell)

    def _vectors(self) -> list[str]:
        """What is packed at the current place: a vector, or those of a block that is transposed."""
        if self.blocks.along:
            return self.memory.square(self.blocks.source)
        return [self.expressions.spread(self.memory.load_from(self.blocks.source), "f32")]

    def _cell(self, type: str, start: str, number: str) -> str:
        return self.e.op(f"getelementptr {type}, ptr {{0}}, i64 {{1}}", start, number, type="ptr")

    # --- partial sums --------------------------------------------------------------------------

    @contextmanager
    def complete(self, totals: Sequence[Value]) -> Iterator[Sequence[Value]]:
        """Adds the totals of the block to those of the blocks before. What is inside happens after
        the last block, and has the whole sums."""
        kind = self.blocks.partial
        if not kind:
            yield totals
            return
        e, a, type = self.e, self.wide, self.wide.type(kind)
        start = self._partial(len(totals), type)
        cells = [self._cell(type, start, str(n)) for n in range(len(totals))]
        # Of the first block there is nothing in memory yet: zeros are read instead.
        zeros = self.memory.zeros()
        read = e.op("select i1 {0}, ptr {1}, ptr {2}", self.first, zeros, start, type="ptr")
        for number, (cell, total) in enumerate(zip(cells, totals, strict=True)):
            old = self._cell(type, read, str(number))
            before = e.pinned("load {T}, ptr {0}", old, type=type)
            after = a.op("fadd", kind, before, cast(a, "f32", kind, total.name))
            e.effect(f"store {type} {{0}}, ptr {{1}}", after, cell)
        with self.after_last():
            whole = [e.pinned("load {T}, ptr {0}", cell, type=type) for cell in cells]
            yield [Value(cast(a, kind, "f32", total), True) for total in whole]

    @contextmanager
    def after_last(self) -> Iterator[None]:
        """What happens in the last block alone."""
        if not self.blocks.partial:
            yield
            return
        outer, name = self.reductions.output_loops, self.rows.index.name
        row = outer[name]
        with self.e.when(self.last):
            # Another name for the same row: what is loaded with it is loaded here, and not before
            # the condition.
            base = self.e.pinned("add i64 {0}, 0", row.base, type="i64")
            outer[name] = replace(row, base=base)
            yield
            outer[name] = row

    def _partial(self, count: int, type: str) -> str:
        """Where the sums of the tile are: the tiles of the stretch one after the other, panel by
        panel."""
        e, a, outer = self.e, self.scalar, self.reductions.output_loops
        steps = [min(self.blocks.rows, self.rows.steps), *(loop.steps for loop in self.inside)]
        copies, panels = self._copies, self.blocks.panels
        stack = e.op(f"alloca [{panels * prod(steps) * copies} x {type}], align 64", type="ptr")
        row = outer[self.rows.index.name]
        if self.begin:
            number = a.op("sub", "i64", row.base, self.begin)
            number = a.op("udiv", "i64", number, str(row.segment.tile))
        else:
            number = self.reductions.steps_before(row)
        for loop in self.inside:
            number = a.op("mul", "i64", number, str(loop.steps))
            step = self.reductions.steps_before(outer[loop.index.name])
            number = a.op("add", "i64", number, step)
        if self.group:
            width = outer[self.columns.index.name].segment.tile * self.columns.lanes
            panel = a.op("sub", "i64", self.column, self.group)
            panel = a.op("udiv", "i64", panel, str(width))
            number = a.op("add", "i64", number, a.op("mul", "i64", panel, str(prod(steps))))
        return self._cell(type, stack, a.op("mul", "i64", number, str(copies)))

    @property
    def _copies(self) -> int:
        """Of the largest tile."""
        return prod(max(s.tile for s in loop.segments) for loop in self.nest.outer)
