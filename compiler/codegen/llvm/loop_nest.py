"""One nest of loops as one LLVM function.

In: a `Nest` and where its tensors are. Out: the head and text of `define void @name(arena, thread,
threads, fixed indices…, offsets…, asked…)`. Every decision stands in the nest; this file opens the
loops, carries accumulators through them, and walks over the copies of the tile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from ...ir.affine import Affine
from ...ir.dtypes import is_float
from ...ir.expr import Apply, Expr, Idx
from ...passes.cpu.loop_ir import Loop, Nest, Segment, Statement
from . import bf16
from .accumulators import Accumulator, Reduction, add
from .expressions import Body
from .function_writer import Emitter
from .instructions import Arithmetic, bf16_dot, cast
from .values import Bases, Place, Value

Copy = tuple[dict[str, Place], int]  # the places of the indices, and the lanes that count
ARGUMENTS = "ptr %arena, i64 %thread, i64 %threads"


def function(
    nest: Nest,
    bases: Bases,
    declarations: dict[str, None],
    name: str,
    linkage: str,
    asked: int = 0,
) -> tuple[str, str]:
    """The function that runs one thread's share of the nest, and meanwhile asks for `asked`
    stretches of memory, which are arguments: each an offset, and how many bytes further every turn
    of the innermost loop goes. `void @name(…)`, and its text."""
    e = Emitter(declarations)
    writer = _Writer(e, nest, bases, asked)
    writer.nest_or_share()
    fixed = "".join(f", i64 {argument(index)}" for index in nest.fixed)
    offsets = "".join(f", i64 {base}" for base in bases.values() if isinstance(base, str))
    stretches = "".join(f", i64 %far{n}, i64 %step{n}" for n in range(asked))
    head = f"void @{name}({ARGUMENTS}{fixed}{offsets}{stretches})"
    return head, e.function(f"define {linkage} {head} #0")


def argument(index: str) -> str:
    """The name of an index that an enclosing scan passes."""
    return f"%at.{index}"


@dataclass(frozen=True)
class _Step:
    """Where an open loop stands: the first element of the tile, and the segment it is in."""

    loop: Loop
    segment: Segment
    base: str  # i64 SSA name, or empty if the loop has one step only
    offset: int

    def copies(self) -> Iterator[tuple[str, Place, int]]:
        """The index's place at every copy of the tile, with the lanes that count."""
        loop, lanes = self.loop, self.loop.lanes
        for copy in range(self.segment.tile):
            last = copy == self.segment.tile - 1
            place = Place(self.base, self.offset + copy * lanes, lanes > 1)
            yield loop.index.name, place, self.segment.valid if last else lanes


class _Writer:
    def __init__(self, e: Emitter, nest: Nest, bases: Bases, asked: int):
        self.e, self.nest, self.asked = e, nest, asked
        self.body = Body(e, nest, bases)
        self.steps: dict[str, _Step] = {}  # of the open output loops
        self.turns: dict[str, _Step] = {}  # of the open reduction loops
        self.fixed = {name: Place(argument(name), 0) for name in nest.fixed}
        vector = next((loop for loop in nest.loops if loop.lanes > 1), None)
        self.across = vector is not None and vector.kind == "reduce"
        self.wide = Arithmetic(e, nest.lanes)

    # --- output loops --------------------------------------------------------------------------

    def nest_or_share(self) -> None:
        """The whole nest; by the first thread alone if nothing in it is parallel."""
        shared = next((loop for loop in self.nest.loops if loop.kind == "parallel"), None)
        if shared is not None:
            if self.nest.accumulate is not None:
                (segment,) = shared.segments
                self.body.addresses.clear(
                    self.nest.accumulate, segment.count, *self._shares(segment.count)
                )
            self.outer(self.nest.outer)
            return
        first = self.e.op("icmp eq i64 %thread, 0", type="i1")
        with self.e.when(first):
            if self.nest.accumulate is not None:
                self.body.addresses.clear(self.nest.accumulate)
            self.outer(self.nest.outer)

    def outer(self, loops: Sequence[Loop]) -> None:
        """The output loops from here inwards, and the tile inside them."""
        accumulate = self.nest.accumulate
        if accumulate is not None and len(loops) == accumulate.held:
            self._accumulate(loops)
            return
        if not loops:
            self._tile()
            return
        loop, *rest = loops
        for segment in loop.segments:
            if loop.kind == "parallel":
                self._parallel(loop, segment, rest)
            elif segment.count == 1:
                self._inside(_Step(loop, segment, "", segment.start), rest)
            else:
                width = segment.tile * loop.lanes
                stop = segment.start + segment.count * width
                with self.e.loop(str(segment.start), str(stop), width) as opened:
                    self._inside(_Step(loop, segment, opened.index, 0), rest)

    def _inside(self, step: _Step, rest: Sequence[Loop]) -> None:
        self.steps[step.loop.index.name] = step
        self.body.blocks[step.loop.index.name] = step.offset, step.segment.tile
        self.outer(rest)
        del self.steps[step.loop.index.name]

    def _parallel(self, loop: Loop, segment: Segment, rest: Sequence[Loop]) -> None:
        """This thread's steps: a contiguous share, which may be empty."""
        first, last = self._shares(segment.count)
        width = segment.tile * loop.lanes
        start, stop = (self._element(step, width, segment.start) for step in (first, last))
        some = self.e.op("icmp slt i64 {0}, {1}", start, stop, type="i1")
        with self.e.when(some), self.e.loop(start, stop, width) as opened:
            self._inside(_Step(loop, segment, opened.index, 0), rest)

    def _shares(self, count: int) -> tuple[str, str]:
        """This thread's first step of `count`, and that of the next thread."""
        a = Arithmetic(self.e, 1)
        threads = ("%thread", a.op("add", "i64", "%thread", "1"))
        first, last = (
            a.op("udiv", "i64", a.op("mul", "i64", thread, str(count)), "%threads")
            for thread in threads
        )
        return first, last

    def _element(self, step: str, width: int, start: int) -> str:
        a = Arithmetic(self.e, 1)
        return a.op("add", "i64", a.op("mul", "i64", step, str(width)), str(start))

    # --- the tile ------------------------------------------------------------------------------

    def _copies(self) -> list[Copy]:
        """The places of all indices at every copy of the tile. Vectors change fastest, so that a
        row's scalars are done with before the next row's are needed."""
        found = []
        steps = sorted(self.steps.values(), key=lambda step: step.loop.lanes > 1)
        for combination in product(*(step.copies() for step in steps)):
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
        for copy in copies if nest.early else ():
            self.body.at(*copy)
            for access in nest.early:
                self.body.addresses.fetch(access)
        reduction = Reduction(nest.reduce, nest.bodies[0].dtype)
        a, count = self.wide, len(nest.bodies)
        chains = [[reduction.start(a) for _ in range(nest.chains)] for _ in copies * count]
        chains = self._reduce(nest.inner, copies, chains, reduction)
        totals = [self._joined(reduction, accumulators) for accumulators in chains]
        kind, row = reduction.kinds[-1], self.steps.get(nest.rolled)
        if row is not None and row.segment.tile > 1:
            self._rolled(row, copies, totals, kind)
            return
        for number, copy in enumerate(copies):
            self._finish(totals[number * count : (number + 1) * count], kind, copy)

    def _rolled(self, row: _Step, copies: list[Copy], totals: Sequence[Value], kind: str) -> None:
        """The statements at every copy, in a loop over the tile's rows of an index. Its totals are
        fetched from the stack."""
        e, a, name = self.e, Arithmetic(self.e, 1), row.loop.index.name
        type, count, rows = self.wide.type(kind), len(self.nest.bodies), row.segment.tile
        most = count * prod(max(s.tile for s in loop.segments) for loop in self.nest.outer)
        room = e.op(f"alloca [{most} x {type}], align 64", type="ptr")

        def cell(start: str, number: str) -> str:
            return e.op(f"getelementptr {type}, ptr {{0}}, i64 {{1}}", start, number, type="ptr")

        by_row = sorted(range(len(copies)), key=lambda n: copies[n][0][name].offset)
        flat = [total.name for n in by_row for total in totals[n * count : (n + 1) * count]]
        for number, total in enumerate(flat):
            e.effect(f"store {type} {{0}}, ptr {{1}}", total, cell(room, str(number)))
        with e.loop("0", str(rows), 1) as opened:
            own = cell(room, a.op("mul", "i64", opened.index, str(len(flat) // rows)))
            base = a.op("add", "i64", row.base or "0", opened.index)
            self.steps[name] = replace(row, segment=replace(row.segment, tile=1), base=base)
            for number, copy in enumerate(self._copies()):
                mine = [
                    e.fresh("load {T}, ptr {0}", cell(own, str(n)), type=type)
                    for n in range(number * count, (number + 1) * count)
                ]
                self._finish([Value(total, True) for total in mine], kind, copy)
        self.steps[name] = row

    def _joined(self, reduction: Reduction, accumulators: list[Accumulator]) -> Value:
        """The chains joined pairwise, then the lanes if the vector ran over a reduced index."""
        while len(accumulators) > 1:
            pairs = zip(accumulators[::2], accumulators[1::2], strict=True)
            accumulators = [reduction.take(self.wide, x, y) for x, y in pairs]
        (accumulator,) = accumulators
        if self.across:
            accumulator = reduction.across(self.wide, accumulator)
        return Value(accumulator[-1], self.nest.lanes > 1 and not self.across)

    def _finish(self, reduced: Sequence[Value], kind: str, copy: Copy) -> None:
        """The statements at one copy, the first of which have the values that were reduced, and
        their stores."""
        body = self.body
        body.at(*copy)
        for number, statement in enumerate(self.nest.statements):
            if number < len(reduced):
                value = self._cast(reduced[number], kind, statement.dtype)
            else:
                value = body.value(statement.value)
                value = self._cast(value, statement.value.dtype, statement.dtype)
            body.results[statement.element] = value
            self._store(statement, value)

    def _cast(self, value: Value, kind: str, dtype: str) -> Value:
        a = self.wide if value.vector else Arithmetic(self.e, 1)
        return Value(cast(a, kind, dtype, value.name), value.vector)

    def _store(self, statement: Statement, value: Value) -> None:
        if statement.offset is not None:
            addresses = self.body.addresses
            addresses.store(statement.target, statement.dtype, statement.offset, value)

    # --- reductions ----------------------------------------------------------------------------

    def _reduce(
        self,
        loops: Sequence[Loop],
        copies: list,
        chains: list[list[Accumulator]],
        reduction: Reduction,
        places: Mapping[str, Place] = {},
        valid: int = 0,
        turn: int = 0,
    ) -> list[list[Accumulator]]:
        """The accumulators after the reduction loops from here inwards."""
        valid = valid or self.nest.lanes
        if not loops:
            return self._point(copies, chains, reduction, places, valid, turn)
        loop, *rest = loops
        for segment in loop.segments:
            if segment.count == 1 and loop.is_whole:
                step = _Step(loop, segment, "", segment.start)
                chains = self._unrolled(step, rest, copies, chains, reduction, places, valid, turn)
                continue
            width = segment.tile * loop.lanes
            start, stop = self._range(loop, segment, width, copies, places)
            kinds = [self.wide.type(kind) for kind in reduction.kinds]
            flat = [
                (kind, name)
                for many in chains
                for accumulator in many
                for kind, name in zip(kinds, accumulator, strict=True)
            ]
            with self.e.loop(start, stop, width, flat, maybe_empty=not loop.is_whole) as opened:
                step = _Step(loop, segment, opened.index, 0)
                inside = _grouped(opened.carried, len(kinds), self.nest.chains)
                after = self._unrolled(step, rest, copies, inside, reduction, places, valid, turn)
                opened.close(*[name for many in after for acc in many for name in acc])
            chains = _grouped(opened.results, len(kinds), self.nest.chains)
        return chains

    def _range(self, loop: Loop, segment: Segment, width: int, copies, places) -> tuple[str, str]:
        """First and past-the-last element, within what the loop's clips and ends allow."""
        a = Arithmetic(self.e, 1)
        start, stop = str(segment.start), str(segment.start + segment.count * width)
        for form, size in loop.clip:
            self.body.at({**copies[0][0], **places}, self.nest.lanes)
            sign = form.coefficients[Idx(loop.index.name)]
            rest = form.without(Idx(loop.index.name)).scaled(-sign)
            zero = self.body.addresses.total(self.body.addresses.offset(rest), a)
            first, last = (0, size) if sign == 1 else (1 - size, 1)
            low = a.op("add", "i64", zero, str(first))
            high = a.op("add", "i64", zero, str(last))
            start = a.intrinsic("smax", "i64", start, low)
            stop = a.intrinsic("smin", "i64", stop, high)
        for form in loop.starts:
            start = a.intrinsic("smax", "i64", start, self._first(form, copies, places))
        for form in loop.stops:
            stop = a.intrinsic("smin", "i64", stop, self._first(form, copies, places))
        if loop.starts and width > 1:  # in whole steps
            before = a.op("sub", "i64", start, str(segment.start))
            steps = a.op("udiv", "i64", before, str(width))
            start = self._element(steps, width, segment.start)
        return start, stop

    def _first(self, form: Affine, copies, places) -> str:
        """The form at the first element of the tile."""
        outer = {name: place._replace(lanes=False) for name, place in copies[0][0].items()}
        self.body.at({**outer, **places}, self.nest.lanes)
        addresses = self.body.addresses
        return addresses.total(addresses.offset(form), Arithmetic(self.e, 1))

    def _unrolled(self, step: _Step, rest, copies, chains, reduction, places, valid, turn):
        self.turns[step.loop.index.name] = step
        for copy, (name, place, lanes) in enumerate(step.copies()):
            chains = self._reduce(
                rest,
                copies,
                chains,
                reduction,
                {**places, name: place},
                lanes if place.lanes else valid,
                turn * step.segment.tile + copy,
            )
        return chains

    def _point(self, copies, chains, reduction, places, valid, turn):
        """One point of the reduction at every copy of the tile."""
        chain = turn % self.nest.chains
        if turn == 0:
            self._ask()
        after, before = [], iter(chains)
        for number, (outer, lanes) in enumerate(copies):
            self.body.at({**outer, **places}, valid if self.across else lanes)
            for access in self.nest.fetched if number == 0 else ():
                self.body.addresses.fetch(access)
            for expr in self.nest.bodies:
                new = list(next(before))
                new[chain] = self._take(reduction, expr, new[chain])
                after.append(new)
        return after

    def _ask(self) -> None:
        """Asks for what follows: of each stretch, as much as this is of all points."""
        a, open_loops = Arithmetic(self.e, 1), {**self.steps, **self.turns}
        for number in range(self.asked):
            pointer = self.body.addresses.in_arena(f"%far{number}")
            for depth, loop in enumerate(self.nest.loops):
                inside = prod(inner.steps for inner in self.nest.loops[depth + 1 :])
                step = a.op("mul", "i64", f"%step{number}", str(inside))
                done = self._done(open_loops[loop.index.name], a)
                distance = a.op("mul", "i64", done, step)
                pointer = self.e.op(
                    "getelementptr i8, ptr {0}, i64 {1}", pointer, distance, type="ptr"
                )
            self.body.addresses.ask(pointer)

    def _done(self, step: _Step, a: Arithmetic) -> str:
        """How many steps of the loop came before this one."""
        segments = step.loop.segments
        before = sum(s.count for s in segments[: segments.index(step.segment)])
        if not step.base:
            return str(before)
        width = step.segment.tile * step.loop.lanes
        first = a.op("sub", "i64", step.base, str(step.segment.start))
        return a.op("add", "i64", a.op("udiv", "i64", first, str(width)), str(before))

    def _take(self, reduction: Reduction, expr: Expr, into: Accumulator) -> Accumulator:
        body, a = self.body, self.wide
        get = body.vector if a.lanes > 1 else lambda x: body.value(x).name
        new: Accumulator
        if (
            reduction.name == "sum"
            and isinstance(expr, Apply)
            and expr.fn == "mul"
            and is_float(expr.dtype)
        ):
            new = (a.intrinsic("fma", expr.dtype, *map(get, expr.args), into[0]),)
        elif reduction.name == "sum" and isinstance(expr, Apply) and expr.fn == "bf16_dot":
            p, q = map(get, expr.args)
            dot = bf16.dot if self.nest.pairs and a.lanes == bf16.LANES else bf16_dot
            new = (dot(a, p, q, into[0]),)
        elif reduction.positional:
            new = reduction.take(a, into, (get(expr), self._position()), later=True)
        else:
            new = reduction.take(a, into, (get(expr),))
        mask = body.addresses.mask() if self.across else ""
        return reduction.keep(a, mask, new, into) if mask else new

    def _position(self) -> str:
        """The number of the current point, as i32."""
        assert self.nest.position is not None
        offset = self.body.addresses.offset(self.nest.position)
        a = self.wide if offset.in_lanes else Arithmetic(self.e, 1)
        total = a.convert("trunc", "i64", "i32", self.body.addresses.total(offset, a))
        return total if offset.in_lanes else self.wide.splat("i32", total)

    # --- accumulations -------------------------------------------------------------------------

    def _accumulate(self, held: Sequence[Loop]) -> None:
        """Adds at every copy of the tile, through the innermost loops, which the target does not
        depend on."""
        accumulate = self.nest.accumulate
        assert accumulate is not None
        copies, addresses = self._copies(), self.body.addresses
        if not held:
            for copy in copies:
                self.body.at(*copy)
                addresses.accumulate(accumulate.access, self._added)
            return
        totals = []
        for copy in copies:
            self.body.at(*copy)
            totals.append(addresses.loaded(accumulate.access))
        after = self._through(held, totals)
        for copy, total in zip(copies, after, strict=True):
            self.body.at(*copy)
            addresses.store_at(accumulate.access, total)

    def _through(self, loops: Sequence[Loop], totals: list[Value]) -> list[Value]:
        """The totals after the loops from here inwards."""
        if not loops:
            after = []
            for copy, total in zip(self._copies(), totals, strict=True):
                self.body.at(*copy)
                after.append(self._added(total))
            return after
        loop, *rest = loops
        (segment,) = loop.segments
        dtype = self.nest.statements[0].dtype
        carried = [
            ((self.wide if t.vector else self.body.scalar).type(dtype), t.name) for t in totals
        ]
        with self.e.loop("0", str(segment.count), 1, carried) as opened:
            self.steps[loop.index.name] = _Step(loop, segment, opened.index, 0)
            inside = [Value(name, t.vector) for name, t in zip(opened.carried, totals, strict=True)]
            opened.close(*[total.name for total in self._through(rest, inside)])
            del self.steps[loop.index.name]
        return [Value(name, t.vector) for name, t in zip(opened.results, totals, strict=True)]

    def _added(self, old: Value) -> Value:
        """What stood there, and the value at this copy."""
        (expr,), (statement,) = self.nest.bodies, self.nest.statements
        a = self.wide if old.vector else Arithmetic(self.e, 1)

        def get(x: Expr) -> str:
            return self.body.vector(x) if old.vector else self.body.value(x).name

        if (
            isinstance(expr, Apply)
            and expr.fn == "mul"
            and is_float(expr.dtype)
            and expr.dtype == statement.dtype
        ):
            return Value(a.intrinsic("fma", expr.dtype, *map(get, expr.args), old.name), old.vector)
        new = self._cast(self.body.value(expr), expr.dtype, statement.dtype)
        name = self.body.spread(new, statement.dtype) if old.vector else new.name
        return Value(add(a, statement.dtype, old.name, name), old.vector)


def _grouped(names: Sequence[str], width: int, chains: int) -> list[list[Accumulator]]:
    """Flat names as copies of chains of accumulators."""
    accumulators = [tuple(names[i : i + width]) for i in range(0, len(names), width)]
    return [accumulators[i : i + chains] for i in range(0, len(accumulators), chains)]
