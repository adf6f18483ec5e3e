"""A square that is never stored, as the inside of one CUDA C++ kernel.

In: a `Grid` whose form is a `Stream`, and a `Writer` that knows its tensors. Out: lines in the
writer. A block keeps its own side of every product in shared memory; tiles of the other side come
one after the other. Elements of the square live in registers, `product0[r][c]`, from the products
until the sums have taken them; a sum along a third index takes them through shared memory.
Half a warp has a row of a tile, so what a row needs of all its threads goes by shuffles.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ...grids import PADDING, Grid, Panel, RowSum, Stream
from ...ir import BYTES, Expr, Idx, Index, Read, index_names, reads
from ...loops import Statement
from .writer import Writer

UNROLL = "#pragma unroll"
TURNED = 4  # neighbouring numbers that go through shared memory as one


def stream(w: Writer, grid: Grid, how: Stream) -> None:
    """The body of the kernel."""
    _Maker(w, grid, how).kernel()


class _Maker:
    def __init__(self, w: Writer, grid: Grid, how: Stream):
        self.w, self.grid, self.how = w, grid, how
        self.high, self.broad = how.height + PADDING, how.width + PADDING
        self.lanes = how.width // how.columns  # threads that share a row
        self.wide = [(n, g) for n, g in enumerate(how.sums) if g.factor is not None]

    def kernel(self) -> None:
        w, how = self.w, self.how
        self._shared()
        tall = -(-how.own.size // how.height)
        w.line(f"const i32 row = THREAD / {self.lanes}, column = THREAD % {self.lanes};")
        w.line(f"const i32 m0 = BLOCK % {tall} * {how.height};")
        w.unflatten(w.let("i32", f"BLOCK / {tall}", "batch"), how.batch)
        for n, pair in enumerate(how.pairs):
            if not self._moves(pair.mine):
                self._fill(f"mine{n}", pair.mine, how.own, "m0", how.height)
        self._start()
        with self._loops():
            self._leave_out()
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
            x, k = (f"e / {points}", f"e % {points}") if operand.together else (
                f"e % {side // TURNED}", f"e / {side // TURNED}")  # fmt: skip
            w.line(f"const i32 x = {x} * {TURNED}, k = {k};")
            w.unflatten("k", operand.along)
            w.line(UNROLL)
            with w.block(f"for (i32 i = 0; i < {TURNED}; ++i)"):
                self._at(index, f"{first} + x + i", side)
                loaded = self._within(f"{first} + x + i", index, side, w.value(operand.value))
                w.line(f"AT({tile}, k * {row} + x + i, {points * row}) = {loaded};")

    def _fill_rows(self, one: RowSum) -> None:
        """All threads load a factor's tile, each element's points in a row, of which there may be
        some more than the factor has: those are zero."""
        w, how, spread = self.w, self.how, self.how.spread(one)
        assert one.factor is not None
        points, row, count = one.factor.points, spread + PADDING, how.width * spread
        w.line(f"{UNROLL} 2")
        with w.block(f"for (i32 e = THREAD; e < {count}; e += {self.grid.threads})"):
            x, k = (f"e / {spread}", f"e % {spread}") if one.factor.together else (
                f"e % {how.width}", f"e / {how.width}")  # fmt: skip
            w.line(f"const i32 x = {x}, k = {k};")
            w.unflatten("k" if spread == points else f"nn::min(k, {points - 1})", one.factor.along)
            self._at(how.other, "n0 + x", how.width)
            loaded = self._within("n0 + x", how.other, how.width, w.value(one.factor.value))
            if spread > points:
                loaded = f"k < {points} ? {loaded} : 0"
            w.line(f"AT(theirs, x * {row} + k, {how.width * row}) = {loaded};")

    # --- rows and columns ----------------------------------------------------------------------

    def _own(self, r: str) -> str:
        return f"m0 + row * {self.how.rows} + {r}"

    def _other(self, c: str) -> str:
        return f"n0 + column * {self.how.columns} + {c}"

    def _at(self, index: Index, text: str, side: int) -> None:
        """Gives the index its value; beyond the last it is the last, and the result is not used."""
        last = index.size - 1
        self.w.place(index.name, text if index.size % side == 0 else f"nn::min({text}, {last})")

    def _within(self, text: str, index: Index, side: int, value: str, otherwise: str = "0") -> str:
        """The value, if the place is not beyond the last; it always is not where tiles fit."""
        return value if index.size % side == 0 else f"{text} < {index.size} ? {value} : {otherwise}"

    @contextmanager
    def _each_row(self) -> Iterator[None]:
        w = self.w
        w.line(UNROLL)
        with w.block(f"for (i32 r = 0; r < {self.how.rows}; ++r)"):
            self._at(self.how.own, self._own("r"), self.how.height)
            yield

    @contextmanager
    def _each_element(self, value: Expr) -> Iterator[None]:
        """The elements of the tile that a thread has; what a row has in common is computed once."""
        w, how = self.w, self.how
        with self._each_row():
            for part in _still(value, how):
                w.value(part)
            w.line(UNROLL)
            with w.block(f"for (i32 c = 0; c < {how.columns}; ++c)"):
                self._at(how.other, self._other("c"), how.width)
                for n, pair in enumerate(how.pairs):
                    w.known(pair.read, f"product{n}[r][c]")
                if how.weight is not None:
                    w.known(how.weight, "weight[r][c]")
                yield

    def _counted(self, value: str, otherwise: str = "0") -> str:
        """The value of an element of the tile, if it lies within the square's columns."""
        return self._within(self._other("c"), self.how.other, self.how.width, value, otherwise)

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
        with ExitStack() as inside:
            for index in how.extra:
                name = w.fresh("x")
                head = f"for (i32 {name} = 0; {name} < {index.size}; ++{name})"
                inside.enter_context(w.block(head))
                w.places[index.name] = name
            moving = [(n, p.mine) for n, p in enumerate(how.pairs) if self._moves(p.mine)]
            if moving:
                w.line("BARRIER();")
            for n, mine in moving:
                self._fill(f"mine{n}", mine, how.own, "m0", how.height)
            size = how.other.size
            inside.enter_context(w.block(f"for (i32 n0 = 0; n0 < {size}; n0 += {how.width})"))
            yield

    def _moves(self, operand: Panel) -> bool:
        """Whether it is another for every point of the extra indices."""
        return not index_names(operand.value).isdisjoint(i.name for i in self.how.extra)

    def _leave_out(self) -> None:
        """The next tile, where all of this one is hidden: its least form is positive."""
        w, how = self.w, self.how
        for form in how.hidden:
            for index, first, side in ((how.own, "m0", how.height), (how.other, "n0", how.width)):
                last = f"nn::min({first} + {side}, {index.size}) - 1"
                low = form.coefficients.get(Idx(index.name), 0) >= 0
                w.place(index.name, first if low else last)
            text, _ = w.form(form)
            w.line(f"if ({text} > 0) continue;")

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
            w.line(f"for (i32 r = 0; r < {rows}; ++r) a[r] = AT(mine{n}, k * {self.high} + "
                   f"row * {rows} + r, {theirs.points * self.high});")  # fmt: skip
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
        """The scores, their new maximum, and exp(score - shift) in the place of the scores. Where
        nothing has been seen yet, what was summed is 0 and stays so."""
        w, how = self.w, self.how
        assert how.score is not None and how.shift is not None and how.top is not None
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
            w.line(f"for (i32 c = 0; c < {columns}; ++c) "
                   "highest = nn::max(highest, weight[r][c]);")  # fmt: skip
            w.line(f"for (i32 mask = {self.lanes // 2}; mask > 0; mask /= 2) "
                   "highest = nn::max(highest, SHUFFLE(highest, mask));")  # fmt: skip
            w.known(how.top, "highest")
            shift = w.let("f32", w.value(how.shift), "shift")
            w.line(f"const f32 next = {shift} == -INFINITE ? 0 : {shift};")
            w.line("shrunk[r] = top[r] == -INFINITE ? 0 : expf(base[r] - next);")
            w.line("top[r] = highest;")
            w.line("base[r] = next;")
            w.line(UNROLL)
            w.line(f"for (i32 c = 0; c < {columns}; ++c) "
                   "weight[r][c] = expf(weight[r][c] - next);")  # fmt: skip
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
                w.line(f"for (i32 i = 0; i < {TURNED}; ++i) a[r][i] = AT(weights, (row * {how.rows}"
                       f" + r) * {self.broad} + k0 + i, {how.height * self.broad});")  # fmt: skip
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
        statements = list(self.grid.statements)
        top = statements.pop(0) if how.score is not None else None
        with self._each_row():
            if top is not None:
                assert how.top is not None and how.shift is not None
                w.known(how.top, "top[r]")
                if how.shift is how.top:  # of a row that is hidden wholly, weights are exp(nan)
                    w.line("const f32 whole = top[r] == -INFINITE ? NOT_A_NUMBER : 1;")
            for n, (one, statement) in enumerate(zip(how.sums, statements, strict=True)):
                if one.factor is None:
                    w.line(f"for (i32 mask = {self.lanes // 2}; mask > 0; mask /= 2) "
                           f"sum{n}[r] += SHUFFLE(sum{n}[r], mask);")  # fmt: skip
                    w.known(one.total, self._total(f"sum{n}[r]"))
                    w.known(statement.own, w.value(statement.value))
            with w.block(f"if ({self._own('r')} < {how.own.size})"):
                numbers = [s for s, g in zip(statements, how.sums, strict=True) if not g.factor]
                if top is not None:
                    numbers.insert(0, top)
                if numbers:
                    with w.block("if (column == 0)"):
                        for statement in numbers:
                            w.finish((statement,), [])
                for n, one in self.wide:
                    self._store_wide(n, one, statements[n])

    def _total(self, text: str) -> str:
        guarded = self.how.score is None or self.how.shift is not self.how.top
        return text if guarded else f"({text} * whole)"

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
                    w.known(one.total, self._total(f"sum{n}[r][{column}]"))
                    w.finish((statement,), [])


def _still(expr: Expr, how: Stream) -> Iterator[Expr]:
    """The largest parts of an expression that are the same for all elements of a row."""
    made = {p.read for p in how.pairs} | {how.weight}
    stack = [expr]
    while stack:
        node = stack.pop()
        if not node.children:
            continue
        if how.other.name not in index_names(node) and made.isdisjoint(reads(node)):
            yield node
        elif not isinstance(node, Read):
            stack += node.children
