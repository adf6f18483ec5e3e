"""One nest of loops as one LLVM function.

    define void @name(arena, thread, threads, fixed indices…, tensor offsets…, prefetch streams…)

Every decision stands in the `Nest`; this file opens the loops, carries accumulators through them,
and walks over the copies of the register tile. Tests: tests/backends/test_cpu.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from ...ir.affine import Affine
from ...ir.dtypes import is_float
from ...ir.expr import Apply, Expr, Idx
from ...passes.cpu.loop_ir import Loop, Nest, Segment
from ...passes.lowering.access import Statement
from . import bf16
from .accumulators import Accumulator, Reduction, add
from .expressions import ExpressionWriter
from .function_writer import FunctionWriter
from .instructions import bf16_dot, cast
from .values import Bases, IndexValue, Value

Places = Mapping[str, IndexValue]
Copy = tuple[dict[str, IndexValue], int]  # the values of the indices, and the valid lanes
ARGUMENTS = "ptr %arena, i64 %thread, i64 %threads"


def function(
    nest: Nest,
    bases: Bases,
    declarations: dict[str, None],
    name: str,
    linkage: str,
    streams: int = 0,
) -> tuple[str, str]:
    """The head `void @name(…)` and the text of the function that runs one thread's share of the
    nest. Meanwhile it prefetches `streams` stretches of memory, which are arguments: the offset of
    each, and by how many bytes it advances with every trip of the innermost loop."""
    e = FunctionWriter(declarations)
    _NestWriter(e, nest, bases, streams).whole()
    arguments = [ARGUMENTS, *(f"i64 {argument(index)}" for index in nest.fixed)]
    arguments += [f"i64 {base}" for base in bases.values() if isinstance(base, str)]
    arguments += [f"i64 %prefetch{n}, i64 %advance{n}" for n in range(streams)]
    head = f"void @{name}({', '.join(arguments)})"
    return head, e.function(f"define {linkage} {head} #0")


def argument(index: str) -> str:
    """The name of an index that an enclosing scan passes."""
    return f"%at.{index}"


@dataclass(frozen=True)
class _OpenLoop:
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


class _NestWriter:
    def __init__(self, e: FunctionWriter, nest: Nest, bases: Bases, streams: int):
        self.e, self.nest, self.streams = e, nest, streams
        self.expressions = ExpressionWriter(e, nest, bases)
        self.memory = self.expressions.memory
        self.output_loops: dict[str, _OpenLoop] = {}
        self.reduction_loops: dict[str, _OpenLoop] = {}
        self.fixed = {name: IndexValue(argument(name), 0) for name in nest.fixed}
        # At most one loop runs over vectors. If it is a reduction, each lane has a partial sum (a
        # dot product); otherwise each lane is a result.
        vector = next((loop for loop in nest.loops if loop.lanes > 1), None)
        self.reduces_lanes = vector is not None and vector.kind == "reduce"
        self.scalar, self.wide = self.expressions.scalar, self.expressions.wide

    # --- output loops --------------------------------------------------------------------------

    def whole(self) -> None:
        """The whole nest; by the first thread alone if nothing in it is parallel."""
        parallel = next((loop for loop in self.nest.loops if loop.kind == "parallel"), None)
        accumulate = self.nest.accumulate
        if parallel is not None:
            if accumulate is not None:
                # Each thread clears just the part of the target that it then adds to: no barrier is
                # needed between.
                (segment,) = parallel.segments
                self.memory.clear(accumulate, segment.count, *self._share(segment.count))
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
        for segment in loop.segments:
            # Segments differ in the size of their tile, so each has code of its own.
            if loop.kind == "parallel":
                self._parallel(loop, segment, rest)
            # One step is no loop: the index is a constant, and addresses with it fold.
            elif segment.count == 1:
                self._inside(_OpenLoop(loop, segment, "", segment.start), rest)
            else:
                width = segment.tile * loop.lanes
                stop = segment.start + segment.count * width
                with self.e.loop(str(segment.start), str(stop), width) as opened:
                    self._inside(_OpenLoop(loop, segment, opened.index, 0), rest)

    def _inside(self, opened: _OpenLoop, rest: Sequence[Loop]) -> None:
        name = opened.loop.index.name
        self.output_loops[name] = opened
        # A block that is transposed in registers spans all rows of the tile: it needs the first one
        # and their number.
        self.expressions.blocks[name] = opened.offset, opened.segment.tile
        self.outer(rest)
        del self.output_loops[name]

    def _parallel(self, loop: Loop, segment: Segment, rest: Sequence[Loop]) -> None:
        """This thread's steps: a contiguous share, which may be empty."""
        first, last = self._share(segment.count)
        width = segment.tile * loop.lanes
        start, stop = (self._element(step, width, segment.start) for step in (first, last))
        # The writer's loops run at least once.
        some = self.e.op("icmp slt i64 {0}, {1}", start, stop, type="i1")
        with self.e.when(some), self.e.loop(start, stop, width) as opened:
            self._inside(_OpenLoop(loop, segment, opened.index, 0), rest)

    def _share(self, count: int) -> tuple[str, str]:
        """This thread's first step of `count`, and that of the next thread."""
        a = self.scalar
        threads = ("%thread", a.op("add", "i64", "%thread", "1"))
        first, last = (
            # thread * count / threads, rounded down: shares differ by 1 at most, and leave nothing
            # out.
            a.op("udiv", "i64", a.op("mul", "i64", thread, str(count)), "%threads")
            for thread in threads
        )
        return first, last

    def _element(self, step: str, width: int, start: int) -> str:
        a = self.scalar
        return a.op("add", "i64", a.op("mul", "i64", step, str(width)), str(start))

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
        # Before the sum, which takes long enough for memory to answer.
        for copy in copies if nest.epilogue_prefetch else ():
            self.expressions.at(*copy)
            for access in nest.epilogue_prefetch:
                self.memory.prefetch(access)
        reduction = Reduction(nest.reduce, nest.bodies[0].dtype)
        count = len(nest.bodies)
        start = [reduction.start(self.wide) for _ in range(nest.accumulators)]
        # One entry for each copy and body, the bodies of a copy side by side; each holds as many
        # accumulators as the nest has.
        partial = [start] * (len(copies) * count)
        if any(loop.block for loop in nest.inner):
            totals = self._blocked_totals(copies, partial, reduction)
        else:
            partial = self._reduce(nest.inner, copies, partial, reduction, {}, nest.lanes, 0)
            totals = [self._joined(reduction, accumulators) for accumulators in partial]
        # Of argmax the result is the position, the last part of its accumulator.
        kind, row = reduction.kinds[-1], self.output_loops.get(nest.row_loop)
        if row is not None and row.segment.tile > 1:
            self._row_loop(row, copies, totals, kind)
            return
        for number, copy in enumerate(copies):
            self._finish(totals[number * count : (number + 1) * count], kind, copy)

    def _row_loop(
        self, row: _OpenLoop, copies: list[Copy], totals: Sequence[Value], kind: str
    ) -> None:
        """The statements at every copy, in a loop over the tile's rows of an index. Its totals are
        spilled to the stack."""
        e, a, name = self.e, self.scalar, row.loop.index.name
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
        with e.loop("0", str(rows), 1) as opened:
            here = cell(stack, a.op("mul", "i64", opened.index, str(len(flat) // rows)))
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

    def _joined(self, reduction: Reduction, accumulators: list[Accumulator]) -> Value:
        """The accumulators joined pairwise, then the lanes if the vector ran over a reduced index:
        an order that depends on the nest alone."""
        accumulator = self._pairwise(reduction, accumulators)
        if self.reduces_lanes:
            accumulator = reduction.across(self.wide, accumulator)
        return Value(accumulator[-1], self.nest.lanes > 1 and not self.reduces_lanes)

    def _pairwise(self, reduction: Reduction, accumulators: list[Accumulator]) -> Accumulator:
        while len(accumulators) > 1:
            # Their number is a power of two.
            pairs = zip(accumulators[::2], accumulators[1::2], strict=True)
            accumulators = [reduction.take(self.wide, x, y) for x, y in pairs]
        return accumulators[0]

    def _finish(self, reduced: Sequence[Value], kind: str, copy: Copy) -> None:
        """The statements at one copy and their stores; the first have the reduced values."""
        expressions = self.expressions
        expressions.at(*copy)
        # Later statements find the values of earlier ones in `results`, in registers.
        for number, statement in enumerate(self.nest.statements):
            if number < len(reduced):
                value = self._cast(reduced[number], kind, statement.dtype)
            else:
                value = expressions.value(statement.value)
                value = self._cast(value, statement.value.dtype, statement.dtype)
            expressions.results[statement.element] = value
            self._store(statement, value)

    def _cast(self, value: Value, kind: str, dtype: str) -> Value:
        a = self.wide if value.vector else self.scalar
        return Value(cast(a, kind, dtype, value.name), value.vector)

    def _store(self, statement: Statement, value: Value) -> None:
        if statement.offset is not None:
            self.memory.store(statement.target, statement.dtype, statement.offset, value)

    # --- reductions ----------------------------------------------------------------------------

    def _reduce(
        self,
        loops: Sequence[Loop],
        copies: list[Copy],
        partial: list[list[Accumulator]],
        reduction: Reduction,
        places: Places,
        valid: int,
        trip: int,
    ) -> list[list[Accumulator]]:
        """The accumulators of every copy after the reduction loops from here inwards. `trip` is
        the number of the unrolled copy of the enclosing loops."""
        if not loops:
            return self._point(copies, partial, reduction, places, valid, trip)
        loop, *rest = loops
        for segment in loop.segments:
            # Loops that run fewer steps at some tiles need a test, even with one step.
            if segment.count == 1 and loop.is_whole:
                opened = _OpenLoop(loop, segment, "", segment.start)
                partial = self._unrolled(
                    opened, rest, copies, partial, reduction, places, valid, trip
                )
                continue
            stretch = self._range(loop, segment, segment.tile * loop.lanes, copies, places)
            partial = self._steps(
                loop,
                segment,
                stretch,
                rest,
                copies,
                partial,
                reduction,
                places,
                valid,
                trip,
                maybe_empty=not loop.is_whole,
            )
        return partial

    def _steps(
        self,
        loop: Loop,
        segment: Segment,
        stretch: tuple[str, str],
        rest: Sequence[Loop],
        copies: list[Copy],
        partial: list[list[Accumulator]],
        reduction: Reduction,
        places: Places,
        valid: int,
        trip: int,
        maybe_empty: bool = False,
    ) -> list[list[Accumulator]]:
        """The accumulators after a loop over a stretch of a segment, first and past-the-last
        element."""
        kinds = [self.wide.type(kind) for kind in reduction.kinds]
        # SSA form: every accumulator is a phi of the loop. They are passed as one flat list.
        flat = [
            (kind, name)
            for accumulators in partial
            for accumulator in accumulators
            for kind, name in zip(kinds, accumulator, strict=True)
        ]
        with self.e.loop(*stretch, segment.tile * loop.lanes, flat, maybe_empty) as inside:
            opened = _OpenLoop(loop, segment, inside.index, 0)
            carried = _grouped(inside.carried, len(kinds), self.nest.accumulators)
            after = self._unrolled(opened, rest, copies, carried, reduction, places, valid, trip)
            inside.close(*[name for accs in after for acc in accs for name in acc])
        return _grouped(inside.results, len(kinds), self.nest.accumulators)

    def _blocked_totals(
        self, copies: list[Copy], start: list[list[Accumulator]], reduction: Reduction
    ) -> list[Value]:
        """The sums of every copy, by blocks whose totals in f64 are on the stack, so that the
        registers are left to the blocks."""
        e, a, outer = self.e, self.wide, self.nest.outer
        type = a.type("f64")
        most = len(self.nest.bodies) * prod(max(s.tile for s in x.segments) for x in outer)
        stack = e.op(f"alloca [{most} x {type}], align 64", type="ptr")
        cells = [
            e.op(f"getelementptr {type}, ptr {{0}}, i64 {n}", stack, type="ptr")
            for n in range(len(start))
        ]
        for cell in cells:
            e.effect(f"store {type} zeroinitializer, ptr {{0}}", cell)

        def flush(partial: list[list[Accumulator]]) -> None:
            for cell, accumulators in zip(cells, partial, strict=True):
                (block,) = self._pairwise(reduction, accumulators)
                total = e.pinned("load {T}, ptr {0}", cell, type=type)
                total = a.op("fadd", "f64", total, cast(a, reduction.dtype, "f64", block))
                e.effect(f"store {type} {{0}}, ptr {{1}}", total, cell)

        self._blocks(self.nest.inner, copies, start, reduction, {}, flush)
        totals, wide = [], Reduction("sum", "f64")
        for cell in cells:
            total = e.pinned("load {T}, ptr {0}", cell, type=type)
            if self.reduces_lanes:
                (total,) = wide.across(a, (total,))
            narrow = self.scalar if self.reduces_lanes else a
            result = cast(narrow, "f64", reduction.dtype, total)
            totals.append(Value(result, self.nest.lanes > 1 and not self.reduces_lanes))
        return totals

    def _blocks(
        self,
        loops: Sequence[Loop],
        copies: list[Copy],
        start: list[list[Accumulator]],
        reduction: Reduction,
        places: Places,
        flush: Callable[[list[list[Accumulator]]], None],
    ) -> None:
        """The reduction loops from here inwards: `flush` takes the sums of every block. The loops
        around that with the blocks carry nothing."""
        loop, *rest = loops
        for segment in loop.segments:
            width = segment.tile * loop.lanes * max(loop.block, 1)
            single = segment.count == 1 and loop.is_whole
            first, last = str(segment.start), ""
            if not single:
                first, last = self._range(loop, segment, segment.tile * loop.lanes, copies, places)
            if single and loop.block:
                opened = _OpenLoop(loop, segment, "", segment.start)
                lanes = self.nest.lanes
                flush(self._unrolled(opened, rest, copies, start, reduction, places, lanes, 0))
            elif single:
                opened = _OpenLoop(loop, segment, "", segment.start)
                self._around_blocks(opened, rest, copies, start, reduction, places, flush)
            elif loop.block:
                with self.e.loop(first, last, width, maybe_empty=not loop.is_whole) as outside:
                    end = self.scalar.op("add", "i64", outside.index, str(width))
                    stretch = outside.index, self.scalar.intrinsic("smin", "i64", end, last)
                    inside = (loop, segment, stretch, rest, copies, start, reduction, places)
                    flush(self._steps(*inside, self.nest.lanes, 0))
                    outside.close()
            else:
                with self.e.loop(first, last, width, maybe_empty=not loop.is_whole) as outside:
                    opened = _OpenLoop(loop, segment, outside.index, 0)
                    self._around_blocks(opened, rest, copies, start, reduction, places, flush)
                    outside.close()

    def _around_blocks(self, opened: _OpenLoop, rest, copies, start, reduction, places, flush):
        self.reduction_loops[opened.loop.index.name] = opened
        for name, place, _ in opened.copies():
            self._blocks(rest, copies, start, reduction, {**places, name: place}, flush)

    def _range(
        self, loop: Loop, segment: Segment, width: int, copies: list[Copy], places: Places
    ) -> tuple[str, str]:
        """First and past-the-last element, within what the loop's clips and bounds allow."""
        a = self.scalar
        start, stop = str(segment.start), str(segment.start + segment.count * width)
        for form, size in loop.clip:
            self.expressions.at({**copies[0][0], **places}, self.nest.lanes)
            # Any copy will do: a clip depends on nothing that differs between copies of the tile.
            # 0 <= s + r < size   →   -r <= s < size - r
            # 0 <= r - s < size   →   r - size + 1 <= s < r + 1
            sign = form.coefficients[Idx(loop.index.name)]
            rest = form.without(Idx(loop.index.name)).scaled(-sign)
            zero = self.memory.total(self.memory.offset(rest), a)
            first, last = (0, size) if sign == 1 else (1 - size, 1)
            low = a.op("add", "i64", zero, str(first))
            high = a.op("add", "i64", zero, str(last))
            start = a.intrinsic("smax", "i64", start, low)
            stop = a.intrinsic("smin", "i64", stop, high)
        for form in loop.lower_bounds:
            start = a.intrinsic("smax", "i64", start, self._at_first(form, copies, places))
        for form in loop.upper_bounds:
            stop = a.intrinsic("smin", "i64", stop, self._at_first(form, copies, places))
        # Rounded down: what is added too early are terms of 0, and tiles stay aligned to the
        # segment.
        if loop.lower_bounds and width > 1:  # in whole steps
            before = a.op("sub", "i64", start, str(segment.start))
            steps = a.op("udiv", "i64", before, str(width))
            start = self._element(steps, width, segment.start)
        return start, stop

    def _at_first(self, form: Affine, copies: list[Copy], places: Places) -> str:
        """The form at the first element of the tile."""
        # Lane 0 of the first vector: the bounds are forms of a tile's first elements.
        outer = {name: place._replace(lanes=False) for name, place in copies[0][0].items()}
        self.expressions.at({**outer, **places}, self.nest.lanes)
        return self.memory.total(self.memory.offset(form), self.scalar)

    def _unrolled(
        self,
        opened: _OpenLoop,
        rest: Sequence[Loop],
        copies: list[Copy],
        partial: list[list[Accumulator]],
        reduction: Reduction,
        places: Places,
        valid: int,
        trip: int,
    ) -> list[list[Accumulator]]:
        """The unrolled copies of a reduction loop's body."""
        self.reduction_loops[opened.loop.index.name] = opened
        # `trip` numbers the points of one iteration in mixed radix: 0, 1, 2 … across all unrolled
        # loops.
        for copy, (name, place, lanes) in enumerate(opened.copies()):
            partial = self._reduce(
                rest,
                copies,
                partial,
                reduction,
                {**places, name: place},
                lanes if place.lanes else valid,
                trip * opened.segment.tile + copy,
            )
        return partial

    def _point(
        self,
        copies: list[Copy],
        partial: list[list[Accumulator]],
        reduction: Reduction,
        places: Places,
        valid: int,
        trip: int,
    ) -> list[list[Accumulator]]:
        """One point of the reduction at every copy of the tile."""
        # Consecutive points go to different accumulators, so that no addition waits for the one
        # before.
        which = trip % self.nest.accumulators
        if trip == 0:
            # Once for each iteration of the innermost loop that is left, not for each unrolled
            # point.
            self._prefetch_streams()
        after, before = [], iter(partial)
        for number, (outer, lanes) in enumerate(copies):
            self.expressions.at({**outer, **places}, valid if self.reduces_lanes else lanes)
            # At the first copy alone: a prefetch for each copy would cost as much as their loads.
            for access in self.nest.operand_prefetch if number == 0 else ():
                self.memory.prefetch(access)
            for expr in self.nest.bodies:
                accumulators = list(next(before))
                accumulators[which] = self._take(reduction, expr, accumulators[which])
                after.append(accumulators)
        return after

    def _prefetch_streams(self) -> None:
        """Prefetches for later kernels: of each stretch, the share that this point is of all."""
        a, opened = self.scalar, {**self.output_loops, **self.reduction_loops}
        for number in range(self.streams):
            pointer = self.memory.in_arena(f"%prefetch{number}")
            # The number of this iteration among all of the nest, in mixed radix, times the bytes of
            # each. The terms of outer loops are hoisted out of the inner ones.
            for depth, loop in enumerate(self.nest.loops):
                inside = prod(inner.steps for inner in self.nest.loops[depth + 1 :])
                step = a.op("mul", "i64", f"%advance{number}", str(inside))
                distance = a.op("mul", "i64", self._steps_before(opened[loop.index.name]), step)
                text = "getelementptr i8, ptr {0}, i64 {1}"
                pointer = self.e.op(text, pointer, distance, type="ptr")
            self.memory.prefetch_line(pointer)

    def _steps_before(self, opened: _OpenLoop) -> str:
        """How many steps of the loop came before this one."""
        a, segments = self.scalar, opened.loop.segments
        # Steps of the segments before this one, which have ended.
        before = sum(s.count for s in segments[: segments.index(opened.segment)])
        if not opened.base:
            return str(before)
        width = opened.segment.tile * opened.loop.lanes
        first = a.op("sub", "i64", opened.base, str(opened.segment.start))
        return a.op("add", "i64", a.op("udiv", "i64", first, str(width)), str(before))

    def _take(self, reduction: Reduction, expr: Expr, into: Accumulator) -> Accumulator:
        expressions, a = self.expressions, self.wide
        # A scalar factor is broadcast where the accumulator is a vector.
        get = expressions.vector if a.lanes > 1 else lambda x: expressions.value(x).name
        new: Accumulator
        if reduction.name == "sum" and _is_product(expr):
            new = (a.intrinsic("fma", expr.dtype, *map(get, expr.children), into[0]),)
        elif reduction.name == "sum" and isinstance(expr, Apply) and expr.fn == "bf16_dot":
            p, q = map(get, expr.args)
            dot = bf16.dot if self.nest.bf16_dot and a.lanes == bf16.LANES else bf16_dot
            new = (dot(a, p, q, into[0]),)
        elif reduction.positional:
            # Where points come in the order of their positions, a tie keeps the earlier one.
            new = reduction.take(
                a, into, (get(expr), self._position()), later=self.nest.visits_in_order
            )
        else:
            new = reduction.take(a, into, (get(expr),))
        # In the last vector of a reduced index, lanes beyond its end keep what they have. Where
        # lanes are results, surplus ones compute what is never stored.
        mask = self.memory.mask() if self.reduces_lanes else ""
        return reduction.blend(a, mask, new, into) if mask else new

    def _position(self) -> str:
        """The number of the current point, as i32."""
        assert self.nest.position is not None
        # The same for all lanes unless the vector runs over a reduced index.
        offset = self.memory.offset(self.nest.position)
        a = self.wide if offset.in_lanes else self.scalar
        total = a.convert("trunc", "i64", "i32", self.memory.total(offset, a))
        return total if offset.in_lanes else self.wide.splat("i32", total)

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
        # `_is_injective` in `cpu/lower.py` has made sure that copies are different elements.
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
            self.output_loops[loop.index.name] = _OpenLoop(loop, segment, opened.index, 0)
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
        if _is_product(expr) and expr.dtype == statement.dtype:
            total = a.intrinsic("fma", expr.dtype, *map(get, expr.children), old.name)
            return Value(total, old.vector)
        new = self._cast(expressions.value(expr), expr.dtype, statement.dtype)
        name = expressions.spread(new, statement.dtype) if old.vector else new.name
        return Value(add(a, statement.dtype, old.name, name), old.vector)


def _is_product(expr: Expr) -> bool:
    """Whether it is a product that a fused multiply-add can add."""
    return isinstance(expr, Apply) and expr.fn == "mul" and is_float(expr.dtype)


def _grouped(names: Sequence[str], width: int, count: int) -> list[list[Accumulator]]:
    """Flat names as lists of `count` accumulators of `width` names each."""
    accumulators = [tuple(names[i : i + width]) for i in range(0, len(names), width)]
    return [accumulators[i : i + count] for i in range(0, len(accumulators), count)]
