"""A square that is never stored, with its products made by tensor cores.

In: a `Grid` whose form is a `WarpStream`, and a `Writer` that knows its tensors. Out: lines in the
writer. What is multiplied lies in shared memory as words of two bf16 numbers, the next tile of the
other side on its way while one is multiplied (Dao 2023, arXiv:2307.08691). A warp holds whole rows
of a tile: of every 16 by 8 elements `[i][j]` a lane has `[h * 2 + q]`, in the row lane / 4 + h * 8
and the column lane % 4 * 2 + q. Two of these side by side, rounded, are what the next product takes
from its left (PTX ISA, fragments of mma.m16n8k16), so that weights never leave the registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...ir.dtypes import BYTES
from ...ir.equation import Index
from ...ir.expr import Expr, Read
from ...passes.gpu.attention.mma_ir import LANES, STAGES, WarpStream
from ...passes.gpu.attention.mma_operands import COPIED
from ...passes.gpu.grid_ir import Grid, Panel
from .attention import UNROLL, Square, still
from .expressions import Writer
from .mma import COLUMN, DEPTH, ROW

SHARING = 4  # lanes that share a row


def warp_stream(w: Writer, grid: Grid, how: WarpStream) -> None:
    """The body of the kernel."""
    _Maker(w, grid, how).kernel()


class _Maker(Square):
    how: WarpStream

    def __init__(self, w: Writer, grid: Grid, how: WarpStream):
        super().__init__(w, grid, how)
        self.high, self.broad = how.rows // ROW, how.columns // COLUMN

    def kernel(self) -> None:
        w, how = self.w, self.how
        self._shared()
        w.line(
            f"const i32 lane = THREAD % {LANES}, first = THREAD / {LANES} * {how.rows}, "
            "row = first + lane / 4, column = lane % 4 * 2;"
        )
        self.block()
        for n, panel in enumerate(how.mine):
            if not self.moves(panel):
                self._copy(f"mine{n}", panel, how.own, "m0", how.height)
        self._start()
        with self._tiles():
            for n in range(len(how.pairs)):
                self._product(n)
            if how.score is not None:
                self._exponentials(how.score)
            self._weights()
            for n, _ in self.wide:
                self._add(n)
        if how.hidden:  # perhaps no tile has waited for what stays
            w.line("WAIT(0);")
        self._finish()

    # --- memory --------------------------------------------------------------------------------

    def _shared(self) -> None:
        w, how, start = self.w, self.how, 0
        for name, panels, rows in (
            ("mine", how.mine, how.height),
            ("theirs", how.theirs, STAGES * how.width),
        ):
            for n, panel in enumerate(panels):
                count = rows * how.row(panel)
                w.line(f"SHARED(u32, {name}{n}, {start}, {count});")
                start += count * BYTES["i32"]

    def _copy(
        self, array: str, panel: Panel, index: Index, first: str, side: int, slot: str = ""
    ) -> None:
        """All threads ask for a panel's tile; rows beyond the last are zero."""
        w, row, pieces = self.w, self.how.row(panel), panel.points // COPIED
        assert isinstance(panel.value, Read)
        access = self.grid.accesses[panel.value]
        count, threads = side * pieces, self.grid.threads
        with self._each("u", -(-count // threads)):
            w.line(f"const i32 e = THREAD + u * {threads};")
            if count % threads:
                w.line(f"if (e >= {count}) break;")
            w.line(f"const i32 x = e / {pieces}, k = e % {pieces} * {COPIED};")
            self.at(index, f"{first} + x", side)
            w.unflatten("k", panel.along)
            checks = [w.condition(access.checks)] if access.checks else []
            if index.size % side:
                checks.insert(0, f"{first} + x < {index.size}")
            place = f"({slot} * {side} + x) * {row} + k / 2" if slot else f"x * {row} + k / 2"
            size = (STAGES if slot else 1) * side * row
            source = w.element(access.tensor, access.offset)
            ok = " && ".join(checks) or "true"
            w.line(f"COPY({COPIED}, {array}, {place}, {size}, {source}, {ok});")

    @contextmanager
    def _tiles(self) -> Iterator[None]:
        """Over extra indices, then over tiles of columns of which something is seen. One barrier
        for a tile is enough: the next one comes where the one before has been read."""
        w, how, size = self.w, self.how, self.how.other.size
        with self.extra():
            if how.extra:
                w.line("BARRIER();")
            for n, panel in enumerate(how.mine):
                if self.moves(panel):
                    self._copy(f"mine{n}", panel, how.own, "m0", how.height)
            with w.block("const auto load = [&](const i32 n0, const i32 slot)", "};"):
                for n, panel in enumerate(how.theirs):
                    self._copy(f"theirs{n}", panel, how.other, "n0", how.width, "slot")
            with w.block("const auto seen = [&](i32 n0)", "};"):
                with w.block(f"for (; n0 < {size}; n0 += {how.width})"):
                    self.leave_out()
                    w.line("break;")
                w.line("return n0;")
            w.line("i32 n0 = seen(0), slot = 0;")
            w.line(f"if (n0 < {size}) load(n0, 0);")
            w.line("COMMIT();")
            with w.block(f"while (n0 < {size})"):
                w.line(f"const i32 next_n0 = seen(n0 + {how.width});")
                w.line("WAIT(0);")
                w.line("BARRIER();")
                w.line(f"if (next_n0 < {size}) load(next_n0, 1 - slot);")
                w.line("COMMIT();")
                yield
                w.line("n0 = next_n0;")
                w.line("slot = 1 - slot;")

    # --- rows and columns ----------------------------------------------------------------------

    @contextmanager
    def _each(self, name: str, count: int) -> Iterator[None]:
        self.w.line(UNROLL)
        with self.w.block(f"for (i32 {name} = 0; {name} < {count}; ++{name})"):
            yield

    @contextmanager
    def _rows(self) -> Iterator[None]:
        with self._each("i", self.high), self._each("h", 2):
            self.at(self.how.own, self._own, self.how.height)
            yield

    _own = f"m0 + row + i * {ROW} + h * 8"
    _other = f"n0 + column + j * {COLUMN} + q"

    @contextmanager
    def _elements(self, values: list[Expr]) -> Iterator[None]:
        """Of the columns `j` of the tile, the elements that a lane has; what a column has in common
        is computed once."""
        w, how = self.w, self.how
        with self._each("q", 2):
            self.at(how.other, self._other, how.width)
            for value in values:
                for part in still(value, how, how.own.name):
                    w.value(part)
            with self._rows():
                for n, pair in enumerate(how.pairs):
                    w.known(pair.read, f"product{n}[i][j][h * 2 + q]")
                if how.weight is not None:
                    w.known(how.weight, "weight[i][j][h * 2 + q]")
                yield

    def _counted(self, value: str, otherwise: str = "0") -> str:
        """The value of an element of the tile, if it lies within the square's columns."""
        return self.within(self._other, self.how.other, self.how.width, value, otherwise)

    # --- the run -------------------------------------------------------------------------------

    def _start(self) -> None:
        w, how = self.w, self.how
        if how.score is not None:
            w.line(f"f32 top[{self.high}][2], base[{self.high}][2] = {{}};")
            with self._each("i", self.high):
                w.line("top[i][0] = top[i][1] = -INFINITE;")
        for n, one in enumerate(how.sums):
            shape = f"[{one.columns // COLUMN}][4]" if one.factor else "[2]"
            w.line(f"f32 sum{n}[{self.high}]{shape} = {{}};")

    def _product(self, n: int) -> None:
        """The tile of a product."""
        w, how = self.w, self.how
        a, b = how.factors[n]
        mine, theirs = how.mine[a], how.theirs[b]
        w.line(f"f32 product{n}[{self.high}][{self.broad}][4] = {{}};")
        w.line(UNROLL)
        with w.block(f"for (i32 k = 0; k < {mine.points // 2}; k += {DEPTH // 2})"):
            w.line(f"u32 a[{self.high}][4];")
            w.line(UNROLL)
            w.line(
                f"for (i32 i = 0; i < {self.high}; ++i) MATRICES(false, a[i], mine{a}, "
                f"(first + i * {ROW} + lane % 16) * {how.row(mine)} + k + lane / 16 * 4, "
                f"{how.height * how.row(mine)});"
            )
            with self._each("j", self.broad // 2):
                w.line("u32 b[4];")
                place = f"slot * {how.width} + j * 16 + lane % 8 + lane / 16 * 8"
                self._matrices("false", b, theirs, place, "k + lane / 8 % 2 * 4")
                self._multiply(f"product{n}[i]", "a[i]", "j")

    def _matrices(self, turned: str, n: int, panel: Panel, row: str, word: str) -> None:
        self.w.line(
            f"MATRICES({turned}, b, theirs{n}, ({row}) * {self.how.row(panel)} + {word}, "
            f"{STAGES * self.how.width * self.how.row(panel)});"
        )

    def _multiply(self, into: str, left: str, right: str) -> None:
        """Adds the products with 16 columns of the other side, the two halves of `b`."""
        with self._each("i", self.high):
            self.w.line(f"MMA({into}[{right} * 2], {left}, b);")
            self.w.line(f"MMA({into}[{right} * 2 + 1], {left}, b + 2);")

    def _exponentials(self, score: Expr) -> None:
        """The scores, their new maximum, and exp(score - shift) in the place of the scores."""
        w, how, broad = self.w, self.how, self.broad
        w.line(f"f32 weight[{self.high}][{broad}][4];")
        with self._each("j", broad), self._elements([score]):
            value = self._counted(w.value(score), "-INFINITE")
            w.line(f"weight[i][j][h * 2 + q] = {value};")
        w.line(f"f32 shrunk[{self.high}][2];")
        with self._rows():
            w.line("f32 highest = top[i][h];")
            with self._each("j", broad), self._each("q", 2):
                w.line("highest = nn::max(highest, weight[i][j][h * 2 + q]);")
            w.line(
                f"for (i32 mask = {SHARING // 2}; mask > 0; mask /= 2) "
                "highest = nn::max(highest, SHUFFLE(highest, mask));"
            )
            self.grow("[i][h]")
            with self._each("j", broad), self._each("q", 2):
                w.line("weight[i][j][h * 2 + q] = expf(weight[i][j][h * 2 + q] - next);")
            for n, one in enumerate(how.sums):
                if one.factor is None:
                    w.line(f"sum{n}[i][h] *= shrunk[i][h];")
                    continue
                with self._each("c", one.columns // COLUMN), self._each("q", 2):
                    w.line(f"sum{n}[i][c][h * 2 + q] *= shrunk[i][h];")

    def _weights(self) -> None:
        """What a tile gives to sums that are numbers, and the weights of the others, rounded."""
        w, how = self.w, self.how
        for n, _ in self.wide:
            w.line(f"u32 weights{n}[{self.high}][{self.broad // 2}][4];")
        with self._each("j", self.broad):
            for n, _ in self.wide:
                w.line(f"f32 both{n}[{self.high}][4];")
            with self._elements([one.weight for one in how.sums]):
                for n, one in enumerate(how.sums):
                    value = self._counted(w.value(one.weight))
                    w.line(
                        f"both{n}[i][h * 2 + q] = {value};"
                        if one.factor
                        else f"sum{n}[i][h] += {value};"
                    )
            with self._each("i", self.high), self._each("h", 2):
                for n, _ in self.wide:
                    w.line(
                        f"weights{n}[i][j / 2][j % 2 * 2 + h] = "
                        f"PAIR(both{n}[i][h * 2], both{n}[i][h * 2 + 1]);"
                    )

    def _add(self, n: int) -> None:
        """What a tile gives to a sum that runs along values."""
        w, how, panel = self.w, self.how, self.how.theirs[self.how.values[n]]
        with self._each("k", how.columns // DEPTH), self._each("c", how.sums[n].columns // DEPTH):
            w.line("u32 b[4];")
            place = f"slot * {how.width} + k * {DEPTH} + lane % 16"
            self._matrices("true", how.values[n], panel, place, "c * 8 + lane / 16 * 4")
            self._multiply(f"sum{n}[i]", f"weights{n}[i][k]", "c")

    # --- results -------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Numbers of rows, each joined by the lanes that share the row, then what runs along."""
        w, how = self.w, self.how
        with self._rows():
            numbers = self.totals("[i][h]", SHARING)
            with w.block(f"if ({self._own} < {how.own.size})"):
                if numbers:
                    with w.block(f"if (lane % {SHARING} == 0)"):
                        for statement in numbers:
                            w.finish((statement,), [])
                for n, one in self.wide:
                    with self._each("c", one.columns // COLUMN), self._each("q", 2):
                        w.unflatten(w.let("i32", f"c * {COLUMN} + column + q", "a"), how.wide[n])
                        w.known(one.total, self.total(f"sum{n}[i][c][h * 2 + q]"))
                        w.finish((self.statement(n),), [])
