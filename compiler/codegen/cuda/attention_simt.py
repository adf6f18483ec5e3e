"""Attention whose products are fused multiply-adds of threads, in f32.

The threads of a block are a grid of rows and columns: one holds `rows` neighbouring rows and
`columns` neighbouring columns of a tile; the threads of a row are lanes of one warp. Row panels
stay in shared memory, transposed; column panels come one after the other to one buffer, transposed
for products and by rows for totals. Weights go through shared memory to the threads that add
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from ...ir.dtypes import BYTES
from ...ir.equation import Index
from ...passes.gpu.attention.attention_tile import AttentionTile, Panel, TileTotal
from ...passes.gpu.grid_ir import Grid
from ...targets import SHARED_PADDING, VECTOR_WORDS
from .attention import UNROLL, AttentionEngine, Layout, Loop, Total
from .expressions import Writer


class SimtAttention(AttentionEngine):
    totals_together = False

    def __init__(self, w: Writer, grid: Grid, how: AttentionTile):
        self.lanes = how.width // how.columns
        super().__init__(w, grid, how)
        self.high, self.broad = how.height + SHARED_PADDING, how.width + SHARED_PADDING

    def layout_of(self, columns: int) -> Layout:
        """Columns in groups of neighbours, as many as threads of a row times a group apart."""
        rows, group = self.how.rows, min(columns, VECTOR_WORDS) or 1
        column = f"column * {group} + c"
        loops: tuple[Loop, ...] = (("c", group),)
        at = "c"
        if columns > group:
            column, at = f"g * {group * self.lanes} + {column}", f"g * {group} + c"
            loops = (("g", columns // group), *loops)
        return Layout(
            (("r", rows),),
            loops,
            f"row * {rows} + r",
            column,
            f"[{rows}][{columns}]",
            f"[r][{at}]",
            f"[{rows}]",
            "[r]",
        )

    def declare(self) -> None:
        w, how, start = self.w, self.how, 0
        sizes = [(f"rows{n}", p.points * self.high) for n, p in enumerate(how.row_panels)]
        sizes.append(("columns", how.column_buffer))
        if any(total.panel for total in how.totals):
            sizes.append(("weights", how.height * self.broad))
        for name, count in sizes:
            w.line(f"SHARED(f32, {name}, {start}, {count});")
            start += count * BYTES["f32"]
        w.line(f"const i32 row = THREAD / {self.lanes}, column = THREAD % {self.lanes};")

    def load_rows(self, n: int, panel: Panel) -> None:
        self._load(f"rows{n}", panel, self.how.row, "m0", self.how.height)

    def _load(
        self, array: str, panel: Panel, index: Index, first: str, side: int, spread: int = 0
    ) -> None:
        """All threads load a panel: transposed, or by rows of `spread` points, of which those that
        the panel does not have are 0. Past the end of the index everything is 0. To transpose, a
        thread has a vector, so that neither loads nor stores of neighbouring threads are far
        apart."""
        w, points, vector = self.w, spread or panel.points, 1 if spread else VECTOR_WORDS
        w.line(f"{UNROLL} {2 if spread else 1}")
        head = f"for (i32 e = THREAD; e < {points * side // vector}; e += {self.grid.threads})"
        with w.block(head):
            x, k = (
                (f"e / {points}", f"e % {points}")
                if panel.coalesced
                else (f"e % {side // vector}", f"e / {side // vector}")
            )
            w.line(f"const i32 x = {x} * {vector}, k = {k};")
            last = panel.points - 1
            w.unflatten("k" if points == panel.points else f"nn::min(k, {last})", panel.inner)
            with self.loops([("i", vector)]):
                self.place(index, f"{first} + x + i", side)
                value = w.value(panel.value)
                if index.size % side:
                    value = f"{first} + x + i < {index.size} ? {value} : 0"
                if points > panel.points:
                    value = f"k < {panel.points} ? ({value}) : 0"
                if spread:
                    row = points + SHARED_PADDING
                    w.line(f"AT({array}, (x + i) * {row} + k, {side * row}) = {value};")
                else:
                    row = side + SHARED_PADDING
                    w.line(f"AT({array}, k * {row} + x + i, {points * row}) = {value};")

    @contextmanager
    def tiles(self) -> Iterator[None]:
        w, how = self.w, self.how
        with self.extra_loops():
            moving = [(n, panel) for n, panel in enumerate(how.row_panels) if self.moves(panel)]
            if moving:
                w.line("BARRIER();")
            for n, panel in moving:
                self.load_rows(n, panel)
            with w.block(f"for (i32 n0 = 0; n0 < {how.column.size}; n0 += {how.width})"):
                self.skip_masked()
                yield

    def product(self, n: int) -> None:
        w, how, rows = self.w, self.how, self.how.rows
        product = how.products[n]
        points, panel = product.column_panel.points, how.row_panels.index(product.row_panel)
        w.line("BARRIER();")
        self._load("columns", product.column_panel, how.column, "n0", how.width)
        w.line("BARRIER();")
        w.line(f"f32 product{n}{self.layout.shape} = {{}};")
        with w.block(f"for (i32 k = 0; k < {points}; ++k)"):
            w.line(f"f32 a[{rows}];")
            place = f"k * {self.high} + {self.layout.row}"
            with self.loops(self.layout.row_loops):
                w.line(f"a[r] = AT(rows{panel}, {place}, {points * self.high});")
            self._multiply(f"product{n}", "a[r]", f"k * {self.broad}", self.layout)

    def _multiply(self, into: str, left: str, start: str, layout: Layout) -> None:
        """Adds the products of a number of every row and a row of the column buffer."""
        w = self.w
        with self.loops(layout.column_loops):
            w.line(
                f"const f32 b = AT(columns, {start} + {layout.column}, {self.how.column_buffer});"
            )
            with self.loops(layout.row_loops):
                w.line(f"{into}{layout.at} += {left} * b;")

    def begin_weights(self, totals: Sequence[Total]) -> None:
        self.w.line("BARRIER();")

    def weights(self, totals: Sequence[Total]) -> AbstractContextManager[None]:
        return nullcontext()

    def keep_weight(self, n: int, value: str) -> str:
        place = f"({self.layout.row}) * {self.broad} + {self.layout.column}"
        return f"AT(weights, {place}, {self.how.height * self.broad}) = {value};"

    def add_products(self, n: int, total: TileTotal) -> None:
        w, how, spread = self.w, self.how, self.how.spread(total)
        assert total.panel is not None
        self._load("columns", total.panel, how.column, "n0", how.width, spread)
        w.line("BARRIER();")
        with w.block(f"for (i32 k0 = 0; k0 < {how.width}; k0 += {VECTOR_WORDS})"):
            w.line(f"f32 a[{how.rows}][{VECTOR_WORDS}];")
            place = f"({self.layout.row}) * {self.broad} + k0 + i"
            with self.loops([*self.layout.row_loops, ("i", VECTOR_WORDS)]):
                w.line(f"a[r][i] = AT(weights, {place}, {how.height * self.broad});")
            with self.loops([("i", VECTOR_WORDS)]):
                start = f"(k0 + i) * {spread + SHARED_PADDING}"
                self._multiply(f"sum{n}", "a[r][i]", start, self.layout_of(total.columns))
