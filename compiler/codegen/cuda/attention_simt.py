"""A square that is never stored, as the inside of one CUDA C++ kernel.

In: a `Grid` whose form is a `Stream`, and a `Writer` that knows its tensors. Out: lines in the
writer. A block keeps its own side of every product in shared memory; tiles of the other side come
one after the other. Elements of the square live in registers, `product0[r][c]`, from the products
until the sums have taken them; a sum along a third index takes them through shared memory.
Half a warp has a row of a tile, so what a row needs of all its threads goes by shuffles.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...ir.dtypes import BYTES
from ...ir.equation import Index
from ...ir.expr import Expr, reads
from ...passes.gpu.grid_ir import PADDING, Grid, Panel, RowSum, Stream
from ...passes.lowering.access import Statement
from .attention import UNROLL, Square, still
from .expressions import Writer

TURNED = 4  # neighbouring numbers that go through shared memory as one


def stream(w: Writer, grid: Grid, how: Stream) -> None:
    """The body of the kernel."""
    _Maker(w, grid, how).kernel()


class _Maker(Square):
    def __init__(self, w: Writer, grid: Grid, how: Stream):
        super().__init__(w, grid, how)
        self.high, self.broad = how.height + PADDING, how.width + PADDING
        self.lanes = how.width // how.columns  # threads that share a row

    def kernel(self) -> None:
        w, how = self.w, self.how
        self._shared()
        w.line(f"const i32 row = THREAD / {self.lanes}, column = THREAD % {self.lanes};")
        self.block()
        for n, pair in enumerate(how.pairs):
            if not self.moves(pair.mine):
                self._fill(f"mine{n}", pair.mine, how.own, "m0", how.height)
        self._start()
        with self._loops():
            self.leave_out()
            waiting = list(enumerate(how.sums))
            for n, pair in enumerate(how.pairs):
                self._product(n, pair.mine, pair.theirs)
                if how.score is not None and n == len(how.pairs) - 1:
                    self._exponentials()
                later = {p.read for p in how.pairs[n + 1 :]}
                for m, one in list(waiting):  # what can be summed now: fewer registers wait
                    if not later & set(reads(one.weight)) and (how.score is None or not later):
                        self._add(m, one)
                        waiting.remove((m, one))
        self._finish()

    # --- memory --------------------------------------------------------------------------------

    def _shared(self) -> None:
        w, how, start = self.w, self.how, 0
        for n, pair in enumerate(how.pairs):
            w.line(f"SHARED(f32, mine{n}, {start}, {pair.mine.points * self.high});")
            start += pair.mine.points * self.high * BYTES["f32"]
        w.line(f"SHARED(f32, theirs, {start}, {how.tile});")
        if self.wide:
            start += how.tile * BYTES["f32"]
            w.line(f"SHARED(f32, weights, {start}, {how.height * self.broad});")

    def _fill(self, tile: str, operand: Panel, index: Index, first: str, side: int) -> None:
        """All threads load a product's tile, each point's elements of the index in a row; what is
        beyond the last is zero. A thread turns four elements at once, so that neither memory nor
        the banks of the tile are visited in steps."""
        w, points, row = self.w, operand.points, side + PADDING
        count = points * side // TURNED
        w.line(f"{UNROLL} 1")
        with w.block(f"for (i32 e = THREAD; e < {count}; e += {self.grid.threads})"):
            x, k = (
                (f"e / {points}", f"e % {points}")
                if operand.together
                else (f"e % {side // TURNED}", f"e / {side // TURNED}")
            )
            w.line(f"const i32 x = {x} * {TURNED}, k = {k};")
            w.unflatten("k", operand.along)
            w.line(UNROLL)
            with w.block(f"for (i32 i = 0; i < {TURNED}; ++i)"):
                self.at(index, f"{first} + x + i", side)
                loaded = self.within(f"{first} + x + i", index, side, w.value(operand.value))
                w.line(f"AT({tile}, k * {row} + x + i, {points * row}) = {loaded};")

    def _fill_rows(self, one: RowSum) -> None:
        """All threads load a factor's tile, each element's points in a row, of which there may be
        some more than the factor has: those are zero."""
        w, how, spread = self.w, self.how, self.how.spread(one)
        assert one.factor is not None
        points, row, count = one.factor.points, spread + PADDING, how.width * spread
        w.line(f"{UNROLL} 2")
        with w.block(f"for (i32 e = THREAD; e < {count}; e += {self.grid.threads})"):
            x, k = (
                (f"e / {spread}", f"e % {spread}")
                if one.factor.together
                else (f"e % {how.width}", f"e / {how.width}")
            )
            w.line(f"const i32 x = {x}, k = {k};")
            w.unflatten("k" if spread == points else f"nn::min(k, {points - 1})", one.factor.along)
            self.at(how.other, "n0 + x", how.width)
            loaded = self.within("n0 + x", how.other, how.width, w.value(one.factor.value))
            if spread > points:
                loaded = f"k < {points} ? {loaded} : 0"
            w.line(f"AT(theirs, x * {row} + k, {how.width * row}) = {loaded};")

    # --- rows and columns ----------------------------------------------------------------------

    def _own(self, r: str) -> str:
        return f"m0 + row * {self.how.rows} + {r}"

    def _other(self, c: str) -> str:
        return f"n0 + column * {self.how.columns} + {c}"

    @contextmanager
    def _each_row(self) -> Iterator[None]:
        w = self.w
        w.line(UNROLL)
        with w.block(f"for (i32 r = 0; r < {self.how.rows}; ++r)"):
            self.at(self.how.own, self._own("r"), self.how.height)
            yield

    @contextmanager
    def _each_element(self, value: Expr) -> Iterator[None]:
        """The elements of the tile that a thread has; what a row has in common is computed once."""
        w, how = self.w, self.how
        with self._each_row():
            for part in still(value, how, how.other.name):
                w.value(part)
            w.line(UNROLL)
            with w.block(f"for (i32 c = 0; c < {how.columns}; ++c)"):
                self.at(how.other, self._other("c"), how.width)
                for n, pair in enumerate(how.pairs):
                    w.known(pair.read, f"product{n}[r][c]")
                if how.weight is not None:
                    w.known(how.weight, "weight[r][c]")
                yield

    def _counted(self, value: str, otherwise: str = "0") -> str:
        """The value of an element of the tile, if it lies within the square's columns."""
        return self.within(self._other("c"), self.how.other, self.how.width, value, otherwise)

    # --- the run -------------------------------------------------------------------------------

    def _start(self) -> None:
        w, how = self.w, self.how
        rows = how.rows
        if how.score is not None:
            w.line(f"f32 top[{rows}], base[{rows}] = {{}};")
            w.line(UNROLL)
            w.line(f"for (i32 r = 0; r < {rows}; ++r) top[r] = -INFINITE;")
        for n, one in enumerate(how.sums):
            columns = f"[{one.columns}]" if one.factor else ""
            w.line(f"f32 sum{n}[{rows}]{columns} = {{}};")

    @contextmanager
    def _loops(self) -> Iterator[None]:
        """Over extra indices, then over tiles of columns."""
        w, how = self.w, self.how
        with self.extra():
            moving = [(n, p.mine) for n, p in enumerate(how.pairs) if self.moves(p.mine)]
            if moving:
                w.line("BARRIER();")
            for n, mine in moving:
                self._fill(f"mine{n}", mine, how.own, "m0", how.height)
            with w.block(f"for (i32 n0 = 0; n0 < {how.other.size}; n0 += {how.width})"):
                yield

    def _product(self, n: int, mine: Panel, theirs: Panel) -> None:
        """The tile of a product."""
        w, how, rows = self.w, self.how, self.how.rows
        w.line("BARRIER();")
        self._fill("theirs", theirs, how.other, "n0", how.width)
        w.line("BARRIER();")
        w.line(f"f32 product{n}[{rows}][{how.columns}] = {{}};")
        with w.block(f"for (i32 k = 0; k < {theirs.points}; ++k)"):
            w.line(f"f32 a[{rows}];")
            w.line(UNROLL)
            w.line(
                f"for (i32 r = 0; r < {rows}; ++r) a[r] = AT(mine{n}, k * {self.high} + "
                f"row * {rows} + r, {theirs.points * self.high});"
            )
            start = f"k * {self.broad} + column * {how.columns}"
            self._multiply(f"product{n}", "a[r]", start, how.columns)

    def _multiply(self, into: str, left: str, start: str, size: int, group: int = 0) -> None:
        """Adds the products of a number of every row and some neighbours in `theirs`."""
        w = self.w
        column = f"{group * size} + c" if group else "c"
        w.line(UNROLL)
        with w.block(f"for (i32 c = 0; c < {size}; ++c)"):
            w.line(f"const f32 b = AT(theirs, {start} + c, {self.how.tile});")
            w.line(UNROLL)
            w.line(f"for (i32 r = 0; r < {self.how.rows}; ++r) {into}[r][{column}] += {left} * b;")

    def _exponentials(self) -> None:
        """The scores, their new maximum, and exp(score - shift) in the place of the scores."""
        w, how = self.w, self.how
        assert how.score is not None
        rows, columns = how.rows, how.columns
        w.line(f"f32 weight[{rows}][{columns}];")
        with self._each_element(how.score):
            value = w.value(how.score)
            w.line(f"weight[r][c] = {self._counted(value, '-INFINITE')};")
        w.line(f"f32 shrunk[{rows}];")
        w.line(UNROLL)
        with w.block(f"for (i32 r = 0; r < {rows}; ++r)"):
            w.line("f32 highest = top[r];")
            w.line(UNROLL)
            w.line(f"for (i32 c = 0; c < {columns}; ++c) highest = nn::max(highest, weight[r][c]);")
            w.line(
                f"for (i32 mask = {self.lanes // 2}; mask > 0; mask /= 2) "
                "highest = nn::max(highest, SHUFFLE(highest, mask));"
            )
            self.grow("[r]")
            w.line(UNROLL)
            w.line(f"for (i32 c = 0; c < {columns}; ++c) weight[r][c] = expf(weight[r][c] - next);")
        for n, one in enumerate(how.sums):
            w.line(UNROLL)
            with w.block(f"for (i32 r = 0; r < {rows}; ++r)"):
                if one.factor is None:
                    w.line(f"sum{n}[r] *= shrunk[r];")
                else:
                    w.line(UNROLL)
                    w.line(f"for (i32 c = 0; c < {one.columns}; ++c) sum{n}[r][c] *= shrunk[r];")

    def _add(self, n: int, one: RowSum) -> None:
        """What a tile gives to a sum."""
        w, how = self.w, self.how
        if one.factor is None:
            with self._each_element(one.weight):
                w.line(f"sum{n}[r] += {self._counted(w.value(one.weight))};")
            return
        w.line("BARRIER();")
        with self._each_element(one.weight):
            place = f"(row * {how.rows} + r) * {self.broad} + column * {how.columns} + c"
            value = self._counted(w.value(one.weight))
            w.line(f"AT(weights, {place}, {how.height * self.broad}) = {value};")
        self._fill_rows(one)
        w.line("BARRIER();")
        row = how.spread(one) + PADDING
        with w.block(f"for (i32 k0 = 0; k0 < {how.width}; k0 += {TURNED})"):
            w.line(f"f32 a[{how.rows}][{TURNED}];")
            w.line(UNROLL)
            with w.block(f"for (i32 r = 0; r < {how.rows}; ++r)"):
                w.line(UNROLL)
                w.line(
                    f"for (i32 i = 0; i < {TURNED}; ++i) a[r][i] = AT(weights, (row * {how.rows}"
                    f" + r) * {self.broad} + k0 + i, {how.height * self.broad});"
                )
            w.line(UNROLL)
            with w.block(f"for (i32 i = 0; i < {TURNED}; ++i)"):
                for group in range(one.columns // self._group(one)):
                    start = f"(k0 + i) * {row} + {self._part(group, one)}"
                    self._multiply(f"sum{n}", "a[r][i]", start, self._group(one), group)

    def _group(self, one: RowSum) -> int:
        """How many neighbouring elements along a sum a thread has."""
        return min(one.columns, 4)

    def _part(self, group: int, one: RowSum) -> str:
        size = self._group(one)
        start = group * size * self.lanes
        return (f"{start} + " if start else "") + f"column * {size}"

    # --- results -------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Numbers of rows, each joined by the threads that share the row, then what runs along."""
        w, how = self.w, self.how
        with self._each_row():
            numbers = self.totals("[r]", self.lanes)
            with w.block(f"if ({self._own('r')} < {how.own.size})"):
                if numbers:
                    with w.block("if (column == 0)"):
                        for statement in numbers:
                            w.finish((statement,), [])
                for n, one in self.wide:
                    self._store_wide(n, one, self.statement(n))

    def _store_wide(self, n: int, one: RowSum, statement: Statement) -> None:
        w = self.w
        assert one.factor is not None
        size = self._group(one)
        for group in range(one.columns // size):
            w.line(UNROLL)
            with w.block(f"for (i32 c = 0; c < {size}; ++c)"):
                place = w.let("i32", f"{self._part(group, one)} + c", "a")
                with w.block(f"if ({place} < {one.factor.points})"):
                    w.unflatten(place, one.factor.along)
                    column = f"{group * size} + c" if group else "c"
                    w.known(one.total, self.total(f"sum{n}[r][{column}]"))
                    w.finish((statement,), [])
