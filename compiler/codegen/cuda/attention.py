"""What the kernels of attention have in common: rows, columns, and what is left out.

In: a `Grid` whose form is a `Stream`, and a `Writer` that knows its tensors. Out: lines in the
writer. A block has rows from `m0` on, and a tile of the square columns from `n0` on. How products
are made and who holds which element is in `attention.py` and `attention_cores.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ...ir.equation import Index
from ...ir.expr import Expr, Idx, Read, index_names, reads
from ...passes.gpu.grid_ir import Grid, Panel, Stream
from ...passes.lowering.access import Statement
from .expressions import Writer

UNROLL = "#pragma unroll"


class Square:
    def __init__(self, w: Writer, grid: Grid, how: Stream):
        self.w, self.grid, self.how = w, grid, how
        self.wide = [(n, g) for n, g in enumerate(how.sums) if g.factor is not None]

    def block(self) -> None:
        """Which rows of which square the block has."""
        w, how = self.w, self.how
        tall = -(-how.own.size // how.height)
        w.line(f"const i32 m0 = BLOCK % {tall} * {how.height};")
        w.unflatten(w.let("i32", f"BLOCK / {tall}", "batch"), how.batch)

    def at(self, index: Index, text: str, side: int) -> None:
        """Gives the index its value; beyond the last it is the last, and the result is not used."""
        last = index.size - 1
        self.w.place(index.name, text if index.size % side == 0 else f"nn::min({text}, {last})")

    def within(self, text: str, index: Index, side: int, value: str, otherwise: str = "0") -> str:
        """The value, if the place is not beyond the last; it always is not where tiles fit."""
        return value if index.size % side == 0 else f"{text} < {index.size} ? {value} : {otherwise}"

    @contextmanager
    def extra(self) -> Iterator[None]:
        """Loops over the extra indices."""
        w = self.w
        with ExitStack() as inside:
            for index in self.how.extra:
                name = w.fresh("x")
                head = f"for (i32 {name} = 0; {name} < {index.size}; ++{name})"
                inside.enter_context(w.block(head))
                w.places[index.name] = name
            yield

    def moves(self, operand: Panel) -> bool:
        """Whether it is another for every point of the extra indices."""
        return not index_names(operand.value).isdisjoint(i.name for i in self.how.extra)

    def leave_out(self) -> None:
        """The next tile, where all of this one is hidden: its least form is positive."""
        w, how = self.w, self.how
        for form in how.hidden:
            for index, first, side in ((how.own, "m0", how.height), (how.other, "n0", how.width)):
                last = f"nn::min({first} + {side}, {index.size}) - 1"
                low = form.coefficients.get(Idx(index.name), 0) >= 0
                w.place(index.name, first if low else last)
            text, _ = w.form(form)
            w.line(f"if ({text} > 0) continue;")

    # --- a row ---------------------------------------------------------------------------------

    def grow(self, row: str) -> None:
        """A row's new maximum, `highest`: what sums so far are to be multiplied with, `shrunk`, and
        what is to be subtracted from scores, `next`. Where nothing has been seen yet, what was
        summed is 0 and stays so."""
        w, how = self.w, self.how
        assert how.shift is not None and how.top is not None
        w.known(how.top, "highest")
        shift = w.let("f32", w.value(how.shift), "shift")
        w.line(f"const f32 next = {shift} == -INFINITE ? 0 : {shift};")
        w.line(f"shrunk{row} = top{row} == -INFINITE ? 0 : expf(base{row} - next);")
        w.line(f"top{row} = highest;")
        w.line(f"base{row} = next;")

    def totals(self, row: str, lanes: int) -> tuple[Statement, ...]:
        """What a row stores but once: its maximum, and sums that are one number, each joined by the
        `lanes` neighbours that share the row."""
        w, how = self.w, self.how
        statements = list(self.grid.statements)
        once = []
        if how.score is not None:
            assert how.top is not None and how.shift is not None
            once.append(statements.pop(0))
            w.known(how.top, f"top{row}")
            if how.shift is how.top:  # of a row that is hidden wholly, weights are exp(nan)
                w.line(f"const f32 whole = top{row} == -INFINITE ? NOT_A_NUMBER : 1;")
        for n, (one, statement) in enumerate(zip(how.sums, statements, strict=True)):
            if one.factor is None:
                w.line(
                    f"for (i32 mask = {lanes // 2}; mask > 0; mask /= 2) "
                    f"sum{n}{row} += SHUFFLE(sum{n}{row}, mask);"
                )
                w.known(one.total, self.total(f"sum{n}{row}"))
                w.known(statement.element, w.value(statement.value))
                once.append(statement)
        return tuple(once)

    def total(self, text: str) -> str:
        guarded = self.how.score is None or self.how.shift is not self.how.top
        return text if guarded else f"({text} * whole)"

    def statement(self, n: int) -> Statement:
        """What becomes of a sum."""
        return self.grid.statements[n + (self.how.score is not None)]


def still(expr: Expr, how: Stream, moving: str) -> Iterator[Expr]:
    """The largest parts of an expression that stay the same while the index moves."""
    made = {p.read for p in how.pairs} | {how.weight}
    stack = [expr]
    while stack:
        node = stack.pop()
        if not node.children:
            continue
        if moving not in index_names(node) and made.isdisjoint(reads(node)):
            yield node
        elif not isinstance(node, Read):
            stack += node.children
