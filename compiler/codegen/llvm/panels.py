"""Cache blocks of a sum of products: packed panels, and sums that are in memory between blocks.

    for stretches of rows, groups of panels, blocks of the sum, panels:
        panel = the block's part of one factor, its elements in the order in which they are read
        for the stretch's rows: acc = 0; reduce in the block: acc = fma(…, panel); partial += acc

The panel and the partial sums are on the thread's stack. What is packed and how long the blocks are
is decided in `passes/cpu/cache_blocks.py`. Tests: tests/passes/test_cache_blocks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from math import prod

from ...passes.cpu.loop_ir import CacheBlocks, Following, Loop, Nest, Segment
from .accumulators import Reduction
from .function_writer import FunctionWriter
from .instructions import cast
from .open_loops import Copy
from .reduction_loops import ReductionLoops, Tile, Where
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
        self.group_end = ""  # the column after the group
        self.first, self.last = "", ""  # whether the block is the sum's first, or its last
        if blocks.next_tile is not None:
            reductions.lines = blocks.next_tile.terms, self.prefetch_rows
        self.packs_rows = False  # whether the tiles that are written pack their rows, and no more …
        self.term: dict[str, IndexValue] = {}  # … and of which term

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
    def panel(
        self, segment: Segment, first: str, last: str, tiles: Callable[[], None]
    ) -> Iterator[str]:
        """Loops over groups of panels between two columns, the blocks of the sum, and the panels of
        a group, which pass a block in turn: the first column of each panel. `tiles` writes the
        tiles of the stretch, to pack their rows."""
        width, count = segment.tile * self.columns.lanes, self.blocks.panels
        self.group = ""
        parallel = self.columns.kind == "parallel"
        with (
            self.e.loop(first, last, count * width, maybe_empty=parallel) as opened,
            self._block(),
        ):
            if self.blocks.narrow is not None:
                self.packs_rows = True
                tiles()
                self.packs_rows = False
            if count == 1:
                yield opened.index
                return
            self.group = opened.index
            self.group_end = self.scalar.intrinsic(
                "smin", "i64", self.scalar.op("add", "i64", opened.index, str(count * width)), last
            )
            with self.e.loop(opened.index, self.group_end, width) as panel:
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
        source = self.blocks.source
        if self.blocks.along:
            vectors = self.memory.square(source)
        else:
            vectors = [self.expressions.spread(self.memory.load_from(source), "f32")]
        if self.blocks.rounds:
            vectors = [*map(self.expressions.rounded, vectors)]
        return vectors

    def _cell(self, type: str, start: str, number: str) -> str:
        return self.e.op(f"getelementptr {type}, ptr {{0}}, i64 {{1}}", start, number, type="ptr")

    # --- the rows of the other factor ----------------------------------------------------------

    @contextmanager
    def around(self, loop: Loop, copies: list[Copy]) -> Iterator[None]:
        """Where rows are packed, the loops over the terms of the block around that over the rows of
        tiles: it reads neighbours then, from row to row of the other factor."""
        if not self.packs_rows or loop.index.name != self._tiled_rows.index.name:
            yield
            return
        self.term = {}
        tile = Tile(copies, Reduction("sum", self.nest.bodies[0].dtype))
        with ExitStack() as loops:
            for inner in self.nest.inner:
                each, at = Segment(0, inner.index.size, 1, 1), Where(self.term, self.nest.lanes)
                part = self.reductions.stretch(inner, each, tile, at)
                opened = self.e.loop(part.first, part.last, 1, maybe_empty=part.maybe_empty)
                index = loops.enter_context(opened).index
                self.term = {**self.term, inner.index.name: IndexValue(index, 0)}
            yield

    def pack_tile(self, copies: list[Copy]) -> None:
        """Copies a term of what the tile of rows reads of the other factor."""
        narrow, to = self.blocks.narrow, self.tile_of_rows()
        assert narrow is not None
        for name, stride in self._row_strides.items():
            skipped = self.scalar.op("mul", "i64", self.term[name].base, str(stride))
            to = self._cell("float", to, skipped)
        first, valid = copies[0]
        self.expressions.at({**first, **self.term}, valid)
        pointer = self.memory.pointer(narrow, self.memory.offset(narrow.offset))
        type = f"<{len(copies)} x float>"
        row = self.e.pinned("load {T}, ptr {0}, align 4", pointer, type=type)
        self.e.effect(f"store {type} {{0}}, ptr {{1}}, align 4", row, to)

    def tile_of_rows(self) -> str:
        """Where the tile's rows are packed, from where its first term would be without blocks; the
        accesses to them read there from now on."""
        a, block = self.scalar, self.reductions.block
        loop = self._tiled_rows
        cut, terms = self.nest.inner[self.blocks.cut].index.name, self.blocks.steps
        row = self._row_strides[cut]
        most = max(s.tile for s in loop.segments)
        # Not the text of another allocation, which would be the same one.
        text = f"alloca [{self._tiles * terms * (row // most)} x [{most} x float]], align 64"
        stack = self.e.op(text, type="ptr")
        number = a.op("mul", "i64", self._tile_number(), str(terms * row))
        number = a.op("sub", "i64", number, a.op("mul", "i64", block[cut][0], str(row)))
        start = self._cell("float", stack, number)
        opened = self.reductions.output_loops[loop.index.name]
        first = a.op("add", "i64", opened.base or "0", str(opened.offset))
        # Accesses count rows from the first one of all, not of the tile.
        self.memory.packed_rows = self._cell("float", start, a.op("sub", "i64", "0", first))
        return start

    @property
    def _tiled_rows(self) -> Loop:
        """The loop over the rows of a tile."""
        loops = (self.rows, *self.inside)
        return next(x for x in loops if any(s.tile > 1 for s in x.segments))

    @property
    def _row_strides(self) -> dict[str, int]:
        """Elements between two steps of each loop over terms, where rows are packed."""
        found, stride = dict[str, int](), max(s.tile for s in self._tiled_rows.segments)
        for loop in reversed(self.nest.inner[self.blocks.cut :]):
            found[loop.index.name] = stride
            stride *= loop.index.size
        return found

    # --- what comes next -----------------------------------------------------------------------

    def prefetch_next(self, copies: list[Copy]) -> None:
        """Prefetches, while the tile is computed, its share of what is packed next: of the panel,
        and of the rows of the other factor. After the last block that is something else."""
        a, blocks, tile = self.scalar, self.blocks, self._tile_number()
        width = self.width * self.nest.lanes
        if blocks.next_panel is not None:
            after, places = blocks.next_panel, {self.columns.index.name: self.column}
            delta = after.step * self._terms if blocks.partial else width
            to = str(delta)
            if self.group:
                next = a.op("add", "i64", self.column, str(width))
                back = a.op("sub", "i64", self.group, self.column)
                more = a.compare("slt", "i64", next, self.group_end)
                back = a.op("add", "i64", back, str(after.step * self._terms))
                to = a.select("i64", more, str(width), back)
            self._prefetch(after, places, to, tile, copies)
        if blocks.next_rows is not None:
            after = blocks.next_rows
            name = self._tiled_rows.index.name
            opened = self.reductions.output_loops[name]
            first = a.op("add", "i64", opened.base or "0", str(opened.offset))
            if after.parts > blocks.panels:
                tile = a.op("urem", "i64", tile, str(after.parts // blocks.panels))
            if self.group:
                panel = a.op("mul", "i64", self._panel_number(), str(after.parts // blocks.panels))
                tile = a.op("add", "i64", tile, panel)
            elif after.parts == blocks.panels:
                tile = "0"
            self._prefetch(after, {name: first}, str(after.step * self._terms), tile, copies)

    def prefetch_rows(self, copies: Sequence[Copy], term: Mapping[str, IndexValue]) -> None:
        """Prefetches what the next tile of rows reads of the other factor from a term on."""
        after = self.blocks.next_tile
        assert after is not None
        lines = dict[str, None]()
        for copy, valid in copies:
            self.expressions.at({**copy, **term}, valid)
            here = self.memory.pointer(after.source, self.memory.offset(after.source.offset))
            lines[self._cell("float", here, str(after.step))] = None
        for line in lines:
            self.memory.prefetch_line(line)

    def _block_begin(self) -> dict[str, IndexValue]:
        """The first term of the block."""
        places = dict[str, IndexValue]()
        for number, loop in enumerate(self.nest.inner):
            name = loop.index.name
            begin = self.reductions.block[name][0] if number <= self.blocks.cut else "0"
            places[name] = IndexValue(begin, 0)
        return places

    def _prefetch(
        self, after: Following, places: dict[str, str], to: str, part: str, copies: list[Copy]
    ) -> None:
        """Prefetches one part of the terms: the lines at these places, and `to` elements later."""
        e, a = self.e, self.scalar
        share = -(-self._terms // after.parts)
        first, _ = copies[0]
        here = {name: IndexValue(place, 0) for name, place in places.items()}
        self.expressions.at({**first, **here, **self._block_begin()}, self.nest.lanes)
        start = self.memory.pointer(after.source, self.memory.offset(after.source.offset))
        skipped = a.op("mul", "i64", part, str(share * after.step))
        start = self._cell("float", start, a.op("add", "i64", to, skipped))
        with e.loop("0", str(share), 1) as term:
            row = self._cell("float", start, a.op("mul", "i64", term.index, str(after.step)))
            for line in range(after.lines):
                cell = self._cell("float", row, str(line * self.nest.lanes))
                self.memory.prefetch_line(cell, first=False)

    @property
    def _terms(self) -> int:
        """Of a block."""
        return self.blocks.steps * prod(
            x.index.size for x in self.nest.inner[self.blocks.cut + 1 :]
        )

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
        e, a = self.e, self.scalar
        copies, tiles = self._copies, self._tiles
        stack = e.op(
            f"alloca [{self.blocks.panels * tiles * copies} x {type}], align 64", type="ptr"
        )
        number = self._tile_number()
        if self.group:
            panel = a.op("mul", "i64", self._panel_number(), str(tiles))
            number = a.op("add", "i64", number, panel)
        return self._cell(type, stack, a.op("mul", "i64", number, str(copies)))

    def _panel_number(self) -> str:
        """The number of the panel in its group."""
        a, columns = self.scalar, self.reductions.output_loops[self.columns.index.name]
        before = a.op("sub", "i64", self.column, self.group)
        return a.op("udiv", "i64", before, str(columns.segment.tile * self.columns.lanes))

    @property
    def _tiles(self) -> int:
        """Of a stretch of rows, along one panel."""
        inside = prod(loop.steps for loop in self.inside)
        return min(self.blocks.rows, self.rows.steps) * inside

    def _tile_number(self) -> str:
        """The number of the tile among those of its stretch, along one panel."""
        a, outer = self.scalar, self.reductions.output_loops
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
        return number

    @property
    def _copies(self) -> int:
        """Of the largest tile."""
        return prod(max(s.tile for s in loop.segments) for loop in self.nest.outer)
