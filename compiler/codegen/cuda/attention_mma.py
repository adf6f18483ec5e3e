"""Attention whose products are those of tensor cores, of bf16 operands.

Panels lie in shared memory as words of two bf16 numbers; while a tile is multiplied, the next one
is copied asynchronously (Dao 2023, arXiv:2307.08691). A warp holds whole rows of a tile: of every
16 by 8 elements `[i][j]` a lane has `[h * 2 + q]`, in the row lane / 4 + h * 8 and the column
lane % 4 * 2 + q. Two of these side by side, rounded, are the left operand of the next product (PTX
ISA, fragments of mma.m16n8k16), so that weights never leave the registers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ...ir.dtypes import BYTES
from ...ir.equation import Index
from ...ir.expr import Read
from ...passes.gpu.attention.attention_tile import Panel, TileTotal
from ...passes.gpu.attention.mma_operands import COPIED
from ...targets import WARP
from .attention import AttentionEngine, Layout, Total
from .mma import COLUMN, DEPTH, ROW


class MmaAttention(AttentionEngine):
    lanes = 4
    totals_together = True

    def layout_of(self, columns: int) -> Layout:
        high, broad = self.how.rows // ROW, columns // COLUMN
        return Layout(
            (("i", high), ("h", 2)),
            (("j", broad), ("q", 2)),
            f"row + i * {ROW} + h * 8",
            f"column + j * {COLUMN} + q",
            f"[{high}][{broad}][4]",
            "[i][j][h * 2 + q]",
            f"[{high}][2]",
            "[i][h]",
        )

    def declare(self) -> None:
        w, how, start = self.w, self.how, 0
        for name, panels, rows in (
            ("rows", how.row_panels, how.height),
            ("columns", how.column_panels, how.stages * how.width),
        ):
            for n, panel in enumerate(panels):
                count = rows * how.row_words(panel)
                w.line(f"SHARED(u32, {name}{n}, {start}, {count});")
                start += count * BYTES["i32"]
        w.line(
            f"const i32 lane = THREAD % {WARP}, first = THREAD / {WARP} * {how.rows}, "
            "row = first + lane / 4, column = lane % 4 * 2;"
        )

    def load_rows(self, n: int, panel: Panel) -> None:
        self._copy(f"rows{n}", panel, self.how.row, "m0", self.how.height)

    def _copy(
        self, array: str, panel: Panel, index: Index, first: str, side: int, slot: str = ""
    ) -> None:
        """All threads start copies of a panel; past the end of the index everything is 0."""
        w, row, pieces = self.w, self.how.row_words(panel), panel.points // COPIED
        assert isinstance(panel.value, Read)
        access = self.grid.accesses[panel.value]
        count, threads = side * pieces, self.grid.threads
        with self.loops([("u", -(-count // threads))]):
            w.line(f"const i32 e = THREAD + u * {threads};")
            if count % threads:
                w.line(f"if (e >= {count}) break;")
            w.line(f"const i32 x = e / {pieces}, k = e % {pieces} * {COPIED};")
            self.place(index, f"{first} + x", side)
            w.unflatten("k", panel.inner)
            checks = [f"{first} + x < {index.size}"] if index.size % side else []
            if access.checks:
                checks.append(w.condition(access.checks))
            into = f"({slot} * {side} + x)" if slot else "x"
            size = (self.how.stages if slot else 1) * side * row
            source = w.element(access.tensor, access.offset)
            inside = " && ".join(checks) or "true"
            w.line(f"COPY({COPIED}, {array}, {into} * {row} + k / 2, {size}, {source}, {inside});")

    @contextmanager
    def tiles(self) -> Iterator[None]:
        """One barrier for a tile: the next tile is copied to the buffer that was read before it."""
        w, how, size = self.w, self.how, self.how.column.size
        with self.extra_loops():
            if how.extra:
                w.line("BARRIER();")
            for n, panel in enumerate(how.row_panels):
                if self.moves(panel):
                    self.load_rows(n, panel)
            with w.block("const auto load = [&](const i32 n0, const i32 slot)", "};"):
                for n, panel in enumerate(how.column_panels):
                    self._copy(f"columns{n}", panel, how.column, "n0", how.width, "slot")
            with w.block("const auto unmasked = [&](i32 n0)", "};"):
                with w.block(f"for (; n0 < {size}; n0 += {how.width})"):
                    self.skip_masked()
                    w.line("break;")
                w.line("return n0;")
            w.line("i32 n0 = unmasked(0), slot = 0;")
            w.line(f"if (n0 < {size}) load(n0, 0);")
            w.line("COMMIT();")
            with w.block(f"while (n0 < {size})"):
                w.line(f"const i32 next_n0 = unmasked(n0 + {how.width});")
                w.line("WAIT(0);")
                w.line("BARRIER();")
                w.line(f"if (next_n0 < {size}) load(next_n0, 1 - slot);")
                w.line("COMMIT();")
                yield
                w.line("n0 = next_n0;")
                w.line("slot = 1 - slot;")
        if how.masked:  # if no tile was visited, nothing has waited for the row panels
            w.line("WAIT(0);")

    def product(self, n: int) -> None:
        w, how, layout = self.w, self.how, self.layout
        product = how.products[n]
        rows, columns = product.row_panel, product.column_panel
        array = how.row_panels.index(rows)
        ((_, high), _), ((_, broad), _) = layout.row_loops, layout.column_loops
        w.line(f"f32 product{n}{layout.shape} = {{}};")
        with self.loops([("k", rows.points // DEPTH)]):
            w.line(f"u32 a[{high}][4];")
            place = (
                f"(first + i * {ROW} + lane % 16) * {how.row_words(rows)} "
                f"+ k * {DEPTH // 2} + lane / 16 * 4"
            )
            with self.loops([("i", high)]):
                size = how.height * how.row_words(rows)
                w.line(f"MATRICES(false, a[i], rows{array}, {place}, {size});")
            with self.loops([("j", broad // 2)]):
                row = "j * 16 + lane % 8 + lane / 16 * 8"
                self._right(columns, "false", row, f"k * {DEPTH // 2} + lane / 8 % 2 * 4")
                self._multiply(f"product{n}[i]", "a[i]", "j")

    def _right(self, panel: Panel, transposed: str, row: str, word: str) -> None:
        """The right operand `b` of two products, from a panel of the tile."""
        how = self.how
        words, array = how.row_words(panel), how.column_panels.index(panel)
        place = f"(slot * {how.width} + {row}) * {words} + {word}"
        size = how.stages * how.width * words
        self.w.line("u32 b[4];")
        self.w.line(f"MATRICES({transposed}, b, columns{array}, {place}, {size});")

    def _multiply(self, into: str, left: str, right: str) -> None:
        """Adds the products with 16 columns, the two halves of `b`."""
        with self.loops(self.layout.row_loops[:1]):
            self.w.line(f"MMA({into}[{right} * 2], {left}, b);")
            self.w.line(f"MMA({into}[{right} * 2 + 1], {left}, b + 2);")

    def begin_weights(self, totals: Sequence[Total]) -> None:
        (_, high), (_, broad) = self.layout.row_loops[0], self.layout.column_loops[0]
        for n, _ in totals:
            self.w.line(f"u32 weights{n}[{high}][{broad // 2}][4];")

    @contextmanager
    def weights(self, totals: Sequence[Total]) -> Iterator[None]:
        """Weights are rounded in pairs as soon as a lane has both: registers are scarce."""
        w, loops = self.w, self.layout.row_loops
        for n, _ in totals:
            w.line(f"f32 both{n}[{loops[0][1]}][4];")
        yield
        with self.loops(loops):
            for n, _ in totals:
                pair = f"PAIR(both{n}[i][h * 2], both{n}[i][h * 2 + 1])"
                w.line(f"weights{n}[i][j / 2][j % 2 * 2 + h] = {pair};")

    def keep_weight(self, n: int, value: str) -> str:
        return f"both{n}[i][h * 2 + q] = {value};"

    def add_products(self, n: int, total: TileTotal) -> None:
        how = self.how
        assert total.panel is not None
        with self.loops([("k", how.columns // DEPTH), ("c", total.columns // DEPTH)]):
            row = f"k * {DEPTH} + lane % 16"
            self._right(total.panel, "true", row, "c * 8 + lane / 16 * 4")
            self._multiply(f"sum{n}[i]", f"weights{n}[i][k]", "c")
