"""The reduction loops inside a register tile: accumulators carried through them in SSA form.

    acc = start                       %acc = phi [start], [%next]
    reduce for k: acc = fma(…)   →    %next = call @llvm.fma(…, %acc), once for every copy

The sums of one tile are a list with an entry for each copy and body, the bodies of a copy side by
side; each entry holds as many accumulators as the nest has. Tests: tests/backends/test_cpu.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from ...ir.affine import Affine
from ...ir.dtypes import is_float
from ...ir.expr import Apply, Expr, Idx
from ...passes.cpu.loop_ir import Loop, Nest, Segment, Sliding
from ...targets import FAR
from . import bf16, int8_dot
from .accumulators import Accumulator, Reduction
from .expressions import ExpressionWriter
from .function_writer import FunctionWriter
from .instructions import bf16_dot
from .open_loops import Copy, OpenNestLoop, element
from .values import IndexValue, Value

Sums = list[list[Accumulator]]


@dataclass(frozen=True)
class Tile:
    """A register tile whose sums are being written."""

    copies: Sequence[Copy]
    reduction: Reduction


@dataclass(frozen=True)
class Where:
    """The place inside the reduction loops that are open: the values of their indices, the valid
    lanes, and the number of the unrolled copy."""

    places: Mapping[str, IndexValue] = field(default_factory=dict)
    valid: int = 0
    trip: int = 0


@dataclass(frozen=True)
class Stretch:
    """The part of a loop's segment from element `first` to before `last`; nothing of it where that
    is not after the first, which can be if `maybe_empty`."""

    loop: Loop
    segment: Segment
    first: str
    last: str
    maybe_empty: bool

    @property
    def step(self) -> int:
        return self.segment.tile * self.loop.lanes


class ReductionLoops:
    """Writes the reduction loops of one nest. `output_loops` are those open around them."""

    def __init__(
        self,
        e: FunctionWriter,
        nest: Nest,
        expressions: ExpressionWriter,
        output_loops: dict[str, OpenNestLoop],
        streams: int,
    ):
        self.e, self.nest, self.expressions, self.streams = e, nest, expressions, streams
        self.memory = expressions.memory
        self.scalar, self.wide = expressions.scalar, expressions.wide
        self.output_loops = output_loops
        self.open: dict[str, OpenNestLoop] = {}
        self.block: dict[str, tuple[str, str]] = {}  # the part of loops that a cache block has
        # Every so many steps of the innermost loop something else is written, given the place.
        self.lines: tuple[int, Callable[[Sequence[Copy], Mapping[str, IndexValue]], None]] | None
        self.lines = None
        # At most one loop runs over vectors. If it is a reduction, each lane has a partial sum (a
        # dot product); otherwise each lane is a result.
        vector = next((loop for loop in nest.loops if loop.lanes > 1), None)
        self.reduces_lanes = vector is not None and vector.kind == "reduce"

    def start(self, tile: Tile) -> Sums:
        first = [tile.reduction.start(self.wide) for _ in range(self.nest.accumulators)]
        return [first] * (len(tile.copies) * len(self.nest.bodies))

    def totals(self, tile: Tile) -> list[Value]:
        """The reduced values of every copy and body."""
        at = Where(valid=self.nest.lanes)
        sums = self.through(self.nest.inner, tile, self.start(tile), at)
        return [self.joined(tile.reduction, accumulators) for accumulators in sums]

    def joined(self, reduction: Reduction, accumulators: list[Accumulator]) -> Value:
        """The accumulators joined pairwise, then the lanes if the vector ran over a reduced index:
        an order that depends on the nest alone."""
        accumulator = self.pairwise(reduction, accumulators)
        if self.reduces_lanes:
            accumulator = reduction.across(self.wide, accumulator)
        return Value(accumulator[-1], self.nest.lanes > 1 and not self.reduces_lanes)

    def pairwise(self, reduction: Reduction, accumulators: list[Accumulator]) -> Accumulator:
        while len(accumulators) > 1:
            # Their number is a power of two.
            pairs = zip(accumulators[::2], accumulators[1::2], strict=True)
            accumulators = [reduction.take(self.wide, x, y) for x, y in pairs]
        return accumulators[0]

    # --- loops ---------------------------------------------------------------------------------

    def through(self, loops: Sequence[Loop], tile: Tile, sums: Sums, at: Where) -> Sums:
        """The sums of the tile after the reduction loops from here inwards."""
        if not loops:
            return self._point(tile, sums, at)
        loop, *rest = loops
        for segment in loop.segments:
            # Loops that run fewer steps at some tiles need a test, even with one step.
            if segment.count == 1 and loop.is_whole and loop.index.name not in self.block:
                opened = OpenNestLoop(loop, segment, "", segment.start)
                sums = self.unrolled(opened, rest, tile, sums, at)
            else:
                sums = self.steps(self.stretch(loop, segment, tile, at), rest, tile, sums, at)
        return sums

    def steps(
        self, stretch: Stretch, rest: Sequence[Loop], tile: Tile, sums: Sums, at: Where
    ) -> Sums:
        """The sums after a loop over a stretch of a segment."""
        if self.lines is not None and not rest and stretch.step == 1:
            return self._by_lines(stretch, tile, sums, at, *self.lines)

        def body(index: str, carried: Sums) -> Sums:
            opened = OpenNestLoop(stretch.loop, stretch.segment, index, 0)
            return self.unrolled(opened, rest, tile, carried, at)

        return self._carried(stretch, stretch.step, tile, sums, body)

    def _by_lines(
        self,
        stretch: Stretch,
        tile: Tile,
        sums: Sums,
        at: Where,
        steps: int,
        write: Callable[[Sequence[Copy], Mapping[str, IndexValue]], None],
    ) -> Sums:
        """The sums after a loop over a stretch that is written as two: of each line of so many
        steps, something else first."""
        a, name = self.scalar, stretch.loop.index.name

        def line(first: str, carried: Sums) -> Sums:
            write(tile.copies, {**at.places, name: IndexValue(first, 0)})
            last = a.op("add", "i64", first, str(steps))
            last = a.intrinsic("smin", "i64", last, stretch.last)
            part = replace(stretch, first=first, last=last, maybe_empty=False)
            return self._carried(part, 1, tile, carried, step)

        def step(index: str, carried: Sums) -> Sums:
            opened = OpenNestLoop(stretch.loop, stretch.segment, index, 0)
            return self.unrolled(opened, (), tile, carried, at)

        return self._carried(stretch, steps, tile, sums, line)

    def _carried(
        self,
        stretch: Stretch,
        step: int,
        tile: Tile,
        sums: Sums,
        body: Callable[[str, Sums], Sums],
    ) -> Sums:
        """The sums after a loop over a stretch, whose body makes new ones of those before."""
        kinds = [self.wide.type(kind) for kind in tile.reduction.kinds]
        # SSA form: every accumulator is a phi of the loop. They are passed as one flat list.
        flat = [
            (kind, name)
            for accumulators in sums
            for accumulator in accumulators
            for kind, name in zip(kinds, accumulator, strict=True)
        ]
        span = stretch.first, stretch.last, step
        with self.e.loop(*span, flat, stretch.maybe_empty) as inside:
            carried = _grouped(inside.carried, len(kinds), self.nest.accumulators)
            after = body(inside.index, carried)
            inside.close(*[name for accs in after for acc in accs for name in acc])
        return _grouped(inside.results, len(kinds), self.nest.accumulators)

    def unrolled(
        self, opened: OpenNestLoop, rest: Sequence[Loop], tile: Tile, sums: Sums, at: Where
    ) -> Sums:
        """The unrolled copies of a reduction loop's body."""
        sliding = self.nest.sliding
        if sliding is not None and opened.loop.index.name == sliding.window:
            return self._sliding(sliding, opened, tile, sums, at)
        # `trip` numbers the points of one iteration in mixed radix: 0, 1, 2 … across all unrolled
        # loops.
        for copy, inside in enumerate(self.inside(opened, at)):
            there = replace(inside, trip=at.trip * opened.segment.tile + copy)
            sums = self.through(rest, tile, sums, there)
        return sums

    def _sliding(
        self, sliding: Sliding, opened: OpenNestLoop, tile: Tile, sums: Sums, at: Where
    ) -> Sums:
        """The unrolled steps of a window at all copies of the tile, by what they read: an element
        is loaded once for all steps at which some row reads it, and is then dead. The terms of a
        row are added in the order of the steps."""
        window, row = sliding.window, sliding.row
        points = [
            (sliding.sign * outer[row].offset + there.places[window].offset, there, number)
            for there in self.inside(opened, at)
            for number, (outer, _) in enumerate(tile.copies)
        ]
        if at.trip == 0:
            self._prefetch_streams()
        bodies, after = len(self.nest.bodies), list(sums)
        for _, there, number in sorted(points, key=lambda point: point[0]):
            own = slice(number * bodies, (number + 1) * bodies)
            after[own] = self._copy(tile, number, after[own], there)
        return after

    def inside(self, opened: OpenNestLoop, at: Where) -> Iterator[Where]:
        """The place at each of the loop's unrolled copies."""
        self.open[opened.loop.index.name] = opened
        for name, place, lanes in opened.copies():
            valid = lanes if place.lanes else at.valid
            yield Where({**at.places, name: place}, valid, at.trip)

    def stretch(self, loop: Loop, segment: Segment, tile: Tile, at: Where) -> Stretch:
        """The segment, as far as the loop's clips and bounds allow."""
        a, width = self.scalar, segment.tile * loop.lanes
        start, stop = str(segment.start), str(segment.start + segment.count * width)
        for form, size in loop.clip:
            self.expressions.at({**tile.copies[0][0], **at.places}, self.nest.lanes)
            # Any copy will do: a clip depends on nothing that differs between copies of the tile.
            factor = form.coefficients.get(Idx(loop.index.name), 0)
            rest = self.memory.total(self.memory.offset(form.without(Idx(loop.index.name))), a)
            if not factor:  # all terms or none
                some = a.compare("ult", "i64", rest, str(size))
                stop = a.select("i64", some, stop, start)
                continue
            low, high = self._clipped(rest, factor, size)
            start = a.intrinsic("smax", "i64", start, low)
            stop = a.intrinsic("smin", "i64", stop, high)
        for form in loop.lower_bounds:
            start = a.intrinsic("smax", "i64", start, self._at_first(form, tile, at))
        for form in loop.upper_bounds:
            stop = a.intrinsic("smin", "i64", stop, self._at_first(form, tile, at))
        # Rounded down: what is added too early are terms of 0, and tiles stay aligned to the
        # segment.
        if loop.lower_bounds and width > 1:  # in whole steps
            before = a.op("sub", "i64", start, str(segment.start))
            start = element(a, a.op("udiv", "i64", before, str(width)), width, segment.start)
        if loop.index.name in self.block:
            first, last = self.block[loop.index.name]
            if loop.is_whole:
                return Stretch(loop, segment, first, last, False)
            start = a.intrinsic("smax", "i64", start, first)
            stop = a.intrinsic("smin", "i64", stop, last)
        return Stretch(loop, segment, start, stop, not loop.is_whole)

    def _clipped(self, rest: str, factor: int, size: int) -> tuple[str, str]:
        """The first s and that past the last where 0 <= factor * s + rest < size."""
        a, by = self.scalar, abs(factor)

        def quotient(offset: int) -> str:
            """(rest + offset) / by, rounded down. Unsigned division is for numbers from 0 on."""
            if by == 1:
                return a.op("add", "i64", rest, str(offset))
            raised = a.op("add", "i64", rest, str(offset + by * FAR))
            return a.op("sub", "i64", a.op("udiv", "i64", raised, str(by)), str(FAR))

        # 0 <= f*s + r < size   →   -(r // f) <= s < -((r - size) // f)
        # 0 <= r - f*s < size   →   (r - size) // f + 1 <= s < r // f + 1
        ends = quotient(0), quotient(-size)
        if factor > 0:
            low, high = (a.op("sub", "i64", "0", end) for end in ends)
        else:
            high, low = (a.op("add", "i64", end, "1") for end in ends)
        return low, high

    def _at_first(self, form: Affine, tile: Tile, at: Where) -> str:
        """The form at the first element of the tile."""
        # Lane 0 of the first vector: the bounds are forms of a tile's first elements.
        outer = {name: place._replace(lanes=False) for name, place in tile.copies[0][0].items()}
        self.expressions.at({**outer, **at.places}, self.nest.lanes)
        return self.memory.total(self.memory.offset(form), self.scalar)

    # --- one point -----------------------------------------------------------------------------

    def _point(self, tile: Tile, sums: Sums, at: Where) -> Sums:
        """One point of the reduction at every copy of the tile."""
        if at.trip == 0:
            # Once for each iteration of the innermost loop that is left, not for each unrolled
            # point.
            self._prefetch_streams()
        bodies = len(self.nest.bodies)
        after: Sums = []
        for number in range(len(tile.copies)):
            after += self._copy(tile, number, sums[number * bodies : (number + 1) * bodies], at)
        return after

    def _copy(self, tile: Tile, number: int, sums: Sums, at: Where) -> Sums:
        """One point of the reduction at one copy of the tile."""
        outer, lanes = tile.copies[number]
        self.expressions.at({**outer, **at.places}, at.valid if self.reduces_lanes else lanes)
        # At the first copy alone: a prefetch for each copy would cost as much as their loads.
        for access in self.nest.operand_prefetch if number == 0 else ():
            self.memory.prefetch(access)
        # Consecutive points go to different accumulators, so that no addition waits for the one
        # before.
        which, after = at.trip % self.nest.accumulators, []
        for expr, before in zip(self.nest.bodies, sums, strict=True):
            accumulators = list(before)
            accumulators[which] = self._take(tile.reduction, expr, accumulators[which])
            after.append(accumulators)
        return after

    def _prefetch_streams(self) -> None:
        """Prefetches for later kernels: of each stretch, the share that this point is of all."""
        a, opened = self.scalar, {**self.output_loops, **self.open}
        for number in range(self.streams):
            pointer = self.memory.in_arena(f"%prefetch{number}")
            # The number of this iteration among all of the nest, in mixed radix, times the bytes of
            # each. The terms of outer loops are hoisted out of the inner ones.
            for depth, loop in enumerate(self.nest.loops):
                inside = prod(inner.steps for inner in self.nest.loops[depth + 1 :])
                step = a.op("mul", "i64", f"%advance{number}", str(inside))
                distance = a.op("mul", "i64", self.steps_before(opened[loop.index.name]), step)
                text = "getelementptr i8, ptr {0}, i64 {1}"
                pointer = self.e.op(text, pointer, distance, type="ptr")
            self.memory.prefetch_line(pointer)

    def steps_before(self, opened: OpenNestLoop) -> str:
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
        if reduction.name == "sum" and is_product(expr):
            new = (a.intrinsic("fma", expr.dtype, *map(get, expr.children), into[0]),)
        elif reduction.name == "sum" and isinstance(expr, Apply) and expr.fn == "bf16_dot":
            p, q = map(get, expr.args)
            dot = bf16.dot if self.nest.bf16_instructions and a.lanes == bf16.LANES else bf16_dot
            new = (dot(a, p, q, into[0]),)
        elif reduction.name == "sum" and isinstance(expr, Apply) and expr.fn == "int8_dot":
            p, q = map(get, expr.args)
            new = (int8_dot.added(a, p, q, into[0], self.nest),)
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


def is_product(expr: Expr) -> bool:
    """Whether it is a product that a fused multiply-add can add."""
    return isinstance(expr, Apply) and expr.fn == "mul" and is_float(expr.dtype)


def _grouped(names: Sequence[str], width: int, count: int) -> Sums:
    """Flat names as lists of `count` accumulators of `width` names each."""
    accumulators = [tuple(names[i : i + width]) for i in range(0, len(names), width)]
    return [accumulators[i : i + count] for i in range(0, len(accumulators), count)]
