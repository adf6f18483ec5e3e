"""One nest of loops as one LLVM function.

    define void @name(arena, thread, threads, fixed indices…, tensor offsets…, prefetch streams…)

Every decision stands in the `Nest`; this file opens the loops, carries accumulators through them,
and walks over the copies of the register tile. Tests: tests/backends/test_cpu.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import product
from math import prod
from types import MappingProxyType

from ...passes.cpu.loop_ir import Loop, Nest, Segment
from ...passes.lowering.access import Access, Statement
from .accumulators import Reduction, add
from .amx import TileWriter
from .blocked_totals import blocked_totals
from .expressions import ExpressionWriter
from .function_writer import FunctionWriter
from .instructions import cast
from .open_loops import Copy, OpenNestLoop, element, whole_steps
from .panels import PanelWriter
from .reduction_loops import ReductionLoops, Tile, Where, is_product
from .subnormals import subnormals_flushed
from .values import Bases, IndexValue, Value

ARGUMENTS = "ptr %arena, i64 %thread, i64 %threads"


def function(
    nest: Nest,
    bases: Bases,
    declarations: dict[str, None],
    name: str,
    linkage: str,
    streams: int = 0,
    places: Mapping[str, str] = MappingProxyType({}),
) -> tuple[str, str]:
    """The head `void @name(…)` and the text of the function that runs one thread's share of the
    nest. Meanwhile it prefetches `streams` stretches of memory, which are arguments: the offset of
    each, and by how many bytes it advances with every trip of the innermost loop. `places` are the
    debug locations of the function, by the name "", and of its statements, by their targets."""
    e = FunctionWriter(declarations)
    _NestWriter(e, nest, bases, streams, places).whole()
    arguments = [ARGUMENTS, *(f"i64 {argument(index)}" for index in nest.fixed)]
    arguments += [f"i64 {base}" for base in bases.values() if isinstance(base, str)]
    arguments += [f"i64 %prefetch{n}, i64 %advance{n}" for n in range(streams)]
    head = f"void @{name}({', '.join(arguments)})"
    return head, e.function(f"define {linkage} {head} #0{places.get('', '')}")


def argument(index: str) -> str:
    """The name of an index that an enclosing scan passes."""
    return f"%at.{index}"


class _NestWriter:
    def __init__(
        self,
        e: FunctionWriter,
        nest: Nest,
        bases: Bases,
        streams: int,
        places: Mapping[str, str],
    ):
        self.e, self.nest = e, nest
        # the reduction and the loops are those of the anchor, which the first statement stores
        self.places = [places.get(statement.target, "") for statement in nest.statements]
        e.at = self.places[0]
        self.expressions = ExpressionWriter(e, nest, bases)
        self.memory = self.expressions.memory
        self.output_loops: dict[str, OpenNestLoop] = {}
        self.fixed = {name: IndexValue(argument(name), 0) for name in nest.fixed}
        self.reductions = ReductionLoops(e, nest, self.expressions, self.output_loops, streams)
        self.scalar, self.wide = self.expressions.scalar, self.expressions.wide
        self.tiles: TileWriter | None = None
        if nest.tiles is not None:
            self.tiles = TileWriter(e, nest, nest.tiles, self.expressions, self.output_loops)
        self.panels: PanelWriter | None = None
        if nest.blocks is not None:
            self.panels = PanelWriter(e, nest, nest.blocks, self.reductions)

    # --- output loops --------------------------------------------------------------------------

    def whole(self) -> None:
        """The whole nest; by the first thread alone if nothing in it is parallel."""
        with subnormals_flushed(self.e) if self.nest.flushes else nullcontext():
            if self.tiles is not None:
                self.tiles.begin()
            self._whole()
            if self.tiles is not None:
                self.tiles.end()

    def _whole(self) -> None:
        parallel = next((loop for loop in self.nest.loops if loop.kind == "parallel"), None)
        accumulate = self.nest.accumulate
        if parallel is not None:
            if accumulate is not None:
                # Each thread clears just the part of the target that it then adds to: no barrier is
                # needed between.
                (segment,) = parallel.segments
                self.memory.clear(accumulate, segment.count, *self._share(str(segment.count)))
            self.outer(self.nest.outer)
            return
        # The caller may have rotated the numbers, so that this is another thread for each such
        # nest.
        first = self.e.op("icmp eq i64 %thread, 0", type="i1")
        with self.e.when(first):
            if accumulate is not None:
                self.memory.clear(accumulate)
            self.outer(self.nest.outer)

    def outer(self, loops: Sequence[Loop]) -> None:
        """The output loops from here inwards, and the tile inside them."""
        accumulate = self.nest.accumulate
        # The loops that are left run inside, with the target's elements in registers.
        if accumulate is not None and len(loops) == accumulate.promoted:
            self._accumulate(loops)
            return
        if not loops:
            self._tile()
            return
        loop, *rest = loops
        if loop.per_example:
            self._over_examples(loop, rest)
            return
        blocks = self.nest.blocks
        if blocks is not None and len(loops) == len(self.nest.outer) - blocks.outside:
            self._panels(loop, *rest)
            return
        with self._around(loop):
            self._segments(loop, rest)

    def _around(self, loop: Loop) -> AbstractContextManager[None]:
        """What is written around a loop over rows where these are packed."""
        panels = self.panels
        return nullcontext() if panels is None else panels.around(loop, self._copies())

    def _segments(self, loop: Loop, rest: Sequence[Loop]) -> None:
        for segment in loop.segments:
            # Segments differ in the size of their tile, so each has code of its own.
            if loop.kind == "parallel":
                self._parallel(loop, segment, rest)
            elif not loop.is_whole:
                self._bounded(loop, segment, rest)
            # One step is no loop: the index is a constant, and addresses with it fold.
            elif segment.count == 1:
                self._inside(OpenNestLoop(loop, segment, "", segment.start), rest)
            else:
                width = segment.tile * loop.lanes
                stop = segment.start + segment.count * width
                with self.e.loop(str(segment.start), str(stop), width) as opened:
                    self._inside(OpenNestLoop(loop, segment, opened.index, 0), rest)

    def _inside(self, opened: OpenNestLoop, rest: Sequence[Loop]) -> None:
        with self._entered(opened):
            self.outer(rest)

    @contextmanager
    def _entered(self, opened: OpenNestLoop) -> Iterator[None]:
        name = opened.loop.index.name
        self.output_loops[name] = opened
        # A block that is transposed in registers spans all rows of the tile: it needs the first one
        # and their number.
        self.expressions.blocks[name] = opened.offset, opened.segment.tile
        yield
        del self.output_loops[name]

    def _panels(self, vectors: Loop, rows: Loop, *rest: Loop) -> None:
        """The loops from that over vectors inwards, in cache blocks: a panel is packed for each
        step over vectors, stretch of rows and block of the sum."""
        panels = self.panels
        assert panels is not None
        for part in panels.parts:
            begin, end = self._elements(rows, part[0]) if len(part) == 1 else ("", "")
            with panels.stretch(part, begin, end) as stretch:
                for columns in vectors.segments:
                    first, last = self._elements(vectors, columns)
                    tiles = partial(self._rows, rows, part, stretch, rest)
                    with (
                        panels.panel(columns, first, last, tiles) as column,
                        self._entered(OpenNestLoop(vectors, columns, column, 0)),
                    ):
                        panels.pack(column, columns, self._copies())
                        tiles()

    def _rows(
        self, rows: Loop, part: Sequence[Segment], stretch: tuple[str, str], rest: Sequence[Loop]
    ) -> None:
        """The tiles of a stretch of rows."""
        with self._around(rows):
            for segment in part:
                span = stretch if len(part) == 1 else self._elements(rows, segment)
                with self.e.loop(*span, segment.tile, maybe_empty=True) as row:
                    self._inside(OpenNestLoop(rows, segment, row.index, 0), rest)

    def _elements(self, loop: Loop, segment: Segment) -> tuple[str, str]:
        """The first element of a segment, and that past its last; or those of a thread's share."""
        steps = ("0", str(segment.count))
        if loop.kind == "parallel":
            steps = self._share(str(segment.count))
        width = segment.tile * loop.lanes
        first, last = (element(self.scalar, step, width, segment.start) for step in steps)
        return first, last

    def _parallel(self, loop: Loop, segment: Segment, rest: Sequence[Loop]) -> None:
        """This thread's steps: a contiguous share, which may be empty."""
        width = segment.tile * loop.lanes
        start, stop = self._elements(loop, segment)
        if not loop.is_whole:
            start, stop = self._bounded_share(loop, segment)
        # The writer's loops run at least once.
        some = self.e.op("icmp slt i64 {0}, {1}", start, stop, type="i1")
        with self.e.when(some), self.e.loop(start, stop, width) as opened:
            self._inside(OpenNestLoop(loop, segment, opened.index, 0), rest)

    def _over_examples(self, loop: Loop, rest: Sequence[Loop]) -> None:
        """The steps that are of examples of the run, perhaps none: each segment takes as many whole
        tiles as are left; vectors, which are masked at the end of a full run only, one more."""
        a, start = self.scalar, "0"
        for segment in loop.segments:
            width = segment.tile * loop.lanes
            count = whole_steps(a, loop, segment, start)
            first, last = self._share(count) if loop.kind == "parallel" else ("0", count)
            begin, end = (
                a.op("add", "i64", start, a.op("mul", "i64", step, str(width)))
                for step in (first, last)
            )
            with self.e.loop(begin, end, width, maybe_empty=True) as opened:
                self._inside(OpenNestLoop(loop, segment, opened.index, 0), rest)
            start = a.op("add", "i64", start, a.op("mul", "i64", count, str(width)))

    def _bounded_share(self, loop: Loop, segment: Segment) -> tuple[str, str]:
        """The first element of this thread's share of the steps that the loop's bounds leave, and
        that past its last."""
        a, width = self.scalar, segment.tile * loop.lanes
        around = Tile(self._copies(), Reduction("sum", self.nest.bodies[0].dtype))
        left = self.reductions.stretch(loop, segment, around, Where())
        elements = a.op("add", "i64", a.op("sub", "i64", left.last, left.first), str(width - 1))
        elements = a.intrinsic("smax", "i64", elements, "0")
        first, last = self._share(a.op("udiv", "i64", elements, str(width)))
        begin, end = (
            a.op("add", "i64", left.first, a.op("mul", "i64", step, str(width)))
            for step in (first, last)
        )
        return begin, end

    def _bounded(self, loop: Loop, segment: Segment, rest: Sequence[Loop]) -> None:
        """The steps that the loop's bounds leave, perhaps none."""
        around = Tile(self._copies(), Reduction("sum", self.nest.bodies[0].dtype))
        left = self.reductions.stretch(loop, segment, around, Where())
        with self.e.loop(left.first, left.last, left.step, maybe_empty=True) as opened:
            self._inside(OpenNestLoop(loop, segment, opened.index, 0), rest)

    def _share(self, count: str) -> tuple[str, str]:
        """This thread's first step of `count`, and that of the next thread."""
        a = self.scalar
        threads = ("%thread", a.op("add", "i64", "%thread", "1"))
        first, last = (
            # thread * count / threads, rounded down: shares differ by 1 at most, and leave nothing
            # out.
            a.op("udiv", "i64", a.op("mul", "i64", thread, count), "%threads")
            for thread in threads
        )
        return first, last

    # --- the tile ------------------------------------------------------------------------------

    def _copies(self) -> list[Copy]:
        """The values of all indices at every copy of the tile. Vectors change fastest, so that a
        row's scalars are dead before the next row's are loaded."""
        found = []
        # The last factor of a product changes fastest, so vectors go last.
        loops = sorted(self.output_loops.values(), key=lambda opened: opened.loop.lanes > 1)
        for combination in product(*(opened.copies() for opened in loops)):
            places = dict(self.fixed)
            valid = self.nest.lanes
            for name, place, lanes in combination:
                places[name] = place
                if place.lanes:
                    valid = lanes
            found.append((places, valid))
        return found

    def _tile(self) -> None:
        nest, copies = self.nest, self._copies()
        if nest.reduce is None:
            for copy in copies:
                self._finish([], "", copy)
            return
        if self.tiles is not None:
            self._sums_of_tiles(self.tiles)
            return
        if self.panels is not None and self.panels.packs_rows:
            self.panels.pack_tile(copies)
            return
        if self.panels is not None:
            self.panels.prefetch_next(copies)
            if self.panels.blocks.narrow is not None:
                self.panels.tile_of_rows()
        if nest.epilogue_prefetch:
            # Before the sum, which takes long enough for memory to answer.
            with self.panels.after_last() if self.panels is not None else nullcontext():
                self._prefetch(self._copies(), nest.epilogue_prefetch)
        reduction = Reduction(nest.reduce, nest.bodies[0].dtype)
        tile = Tile(copies, reduction)
        blocked = any(loop.block for loop in nest.inner)
        totals = blocked_totals(self.reductions, tile) if blocked else self.reductions.totals(tile)
        if self.panels is not None:
            with self.panels.complete(totals) as whole:
                self._statements(self._copies(), whole, reduction.dtype)
            return
        # Of argmax the result is the position, the last part of its accumulator.
        self._statements(copies, totals, reduction.kinds[-1])

    def _prefetch(self, copies: list[Copy], accesses: Sequence[Access]) -> None:
        for copy in copies:
            self.expressions.at(*copy)
            for access in accesses:
                self.memory.prefetch(access)

    def _statements(self, copies: list[Copy], totals: Sequence[Value], kind: str) -> None:
        """The statements at every copy, given the totals of each."""
        row, count = self.output_loops.get(self.nest.row_loop), len(self.nest.bodies)
        if row is not None and row.segment.tile > 1:
            self._row_loop(row, copies, totals, kind)
            return
        for number, copy in enumerate(copies):
            self._finish(totals[number * count : (number + 1) * count], kind, copy)

    def _row_loop(
        self, row: OpenNestLoop, copies: list[Copy], totals: Sequence[Value], kind: str
    ) -> None:
        """The statements at every copy, in a loop over the tile's rows of an index. Its totals are
        spilled to the stack."""
        e, name = self.e, row.loop.index.name
        type, count, rows = self.wide.type(kind), len(self.nest.bodies), row.segment.tile
        # Enough for the largest segments. So the text is the same for all segments, and as it has
        # no operands, value numbering makes it one allocation in the entry block.
        most = count * prod(max(s.tile for s in loop.segments) for loop in self.nest.outer)
        stack = e.op(f"alloca [{most} x {type}], align 64", type="ptr")

        def cell(start: str, number: str) -> str:
            return e.op(f"getelementptr {type}, ptr {{0}}, i64 {{1}}", start, number, type="ptr")

        # Totals of one row side by side, so that the loop steps by whole rows.
        by_row = sorted(range(len(copies)), key=lambda n: copies[n][0][name].offset)
        flat = [total.name for n in by_row for total in totals[n * count : (n + 1) * count]]
        for number, total in enumerate(flat):
            e.effect(f"store {type} {{0}}, ptr {{1}}", total, cell(stack, str(number)))
        self._by_row(row, stack, len(flat) // rows, kind)

    def _sums_of_tiles(self, tiles: TileWriter) -> None:
        """The statements at every copy, in a loop over the rows of the tiles."""
        row, columns = (self.output_loops[n] for n in (tiles.tiles.rows, tiles.tiles.columns))
        most = prod(max(s.tile for s in loop.segments) for loop in self.nest.outer)
        type = self.wide.type("f32")
        stack = self.e.op(f"alloca [{most} x {type}], align 64", type="ptr")
        tiles.sums(stack)
        self._by_row(row, stack, columns.segment.tile, "f32")

    def _by_row(self, row: OpenNestLoop, stack: str, vectors: int, kind: str) -> None:
        """The statements at every copy, in a loop over the rows of an index: the totals are on the
        stack, so many vectors for each row."""
        e, a, name = self.e, self.scalar, row.loop.index.name
        type, count, rows = self.wide.type(kind), len(self.nest.bodies), row.segment.tile

        def cell(start: str, number: str) -> str:
            return e.op(f"getelementptr {type}, ptr {{0}}, i64 {{1}}", start, number, type="ptr")

        with e.loop("0", str(rows), 1) as opened:
            here = cell(stack, a.op("mul", "i64", opened.index, str(vectors)))
            base = a.op("add", "i64", row.base or "0", opened.index)
            # The same copies as before, but with one row, whose number is known at run time only.
            one_row = replace(row, segment=replace(row.segment, tile=1), base=base)
            self.output_loops[name] = one_row
            for number, copy in enumerate(self._copies()):
                loaded = [
                    # Pinned: these loads must follow the stores, which value numbering knows
                    # nothing of.
                    e.pinned("load {T}, ptr {0}", cell(here, str(n)), type=type)
                    for n in range(number * count, (number + 1) * count)
                ]
                self._finish([Value(total, True) for total in loaded], kind, copy)
        self.output_loops[name] = row

    def _finish(self, reduced: Sequence[Value], kind: str, copy: Copy) -> None:
        """The statements at one copy and their stores; the first have the reduced values."""
        expressions = self.expressions
        expressions.at(*copy)
        # Later statements find the values of earlier ones in `results`, in registers.
        for number, statement in enumerate(self.nest.statements):
            self.e.at = self.places[number]
            if number < len(reduced):
                value = self._cast(reduced[number], kind, statement.dtype)
            else:
                value = expressions.value(statement.value)
                value = self._cast(value, statement.value.dtype, statement.dtype)
            expressions.results[statement.element] = value
            self._store(statement, value)
        self.e.at = self.places[0]

    def _cast(self, value: Value, kind: str, dtype: str) -> Value:
        a = self.wide if value.vector else self.scalar
        return Value(cast(a, kind, dtype, value.name), value.vector)

    def _store(self, statement: Statement, value: Value) -> None:
        if statement.offset is not None:
            place = statement.target, statement.dtype, statement.offset
            self.memory.store(*place, value, statement.storage)

    # --- accumulations -------------------------------------------------------------------------

    def _accumulate(self, promoted: Sequence[Loop]) -> None:
        """Adds at every copy of the tile. Through the innermost loops, which the target does not
        depend on, its elements stay in registers (scalar replacement)."""
        accumulate = self.nest.accumulate
        assert accumulate is not None
        access, copies = accumulate.access, self._copies()
        if not promoted:
            # Load, add, store; one copy after the other, since two may be the same element.
            for copy in copies:
                self.expressions.at(*copy)
                self.memory.accumulate(access, self._added)
            return
        totals = []
        # `_is_injective` in `cpu/loop_order.py` has made sure that copies are different elements.
        for copy in copies:
            self.expressions.at(*copy)
            totals.append(self.memory.load_now(access))
        after = self._through(promoted, totals)
        for copy, total in zip(copies, after, strict=True):
            self.expressions.at(*copy)
            self.memory.store_at(access, total)

    def _through(self, loops: Sequence[Loop], totals: list[Value]) -> list[Value]:
        """The totals after the loops from here inwards."""
        if not loops:
            after = []
            for copy, total in zip(self._copies(), totals, strict=True):
                self.expressions.at(*copy)
                after.append(self._added(total))
            return after
        loop, *rest = loops
        (segment,) = loop.segments
        # No tile has copies of these indices, so there is one segment of single steps.
        dtype = self.nest.statements[0].dtype
        carried = [((self.wide if t.vector else self.scalar).type(dtype), t.name) for t in totals]
        with self.e.loop("0", str(segment.count), 1, carried) as opened:
            self.output_loops[loop.index.name] = OpenNestLoop(loop, segment, opened.index, 0)
            inside = [Value(name, t.vector) for name, t in zip(opened.carried, totals, strict=True)]
            opened.close(*[total.name for total in self._through(rest, inside)])
            del self.output_loops[loop.index.name]
        return [Value(name, t.vector) for name, t in zip(opened.results, totals, strict=True)]

    def _added(self, old: Value) -> Value:
        """The old element plus the value at this copy."""
        (expr,), (statement,) = self.nest.bodies, self.nest.statements
        expressions, a = self.expressions, self.wide if old.vector else self.scalar
        get = expressions.vector if old.vector else lambda x: expressions.value(x).name
        # One rounding instead of two.
        if is_product(expr) and expr.dtype == statement.dtype:
            total = a.intrinsic("fma", expr.dtype, *map(get, expr.children), old.name)
            return Value(total, old.vector)
        new = self._cast(expressions.value(expr), expr.dtype, statement.dtype)
        name = expressions.spread(new, statement.dtype) if old.vector else new.name
        return Value(add(a, statement.dtype, old.name, name), old.vector)
