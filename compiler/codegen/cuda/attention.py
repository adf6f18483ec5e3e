"""Attention kernels in CUDA C++: the walk over tiles, the online softmax, the totals.

In: a `Grid` whose form is an `AttentionTile`, and a `Writer` that knows its tensors. Out: lines in
the writer:

    load the row panels
    for each tile of columns that is not masked as a whole:
        product0 = …, product1 = …                  elements of the tile, in registers
        weight   = exp(score - shift)               with a softmax; totals so far are rescaled
        sum0 += …                                   numbers of a row, or vectors over features
    store what becomes of the sums

Who multiplies, and which thread has which element, is that of an engine: threads
(`attention_simt.py`) or tensor cores (`attention_mma.py`). Elements, rows and vectors are addressed
through its `Layout`, so that all else is written once.

Source: Dao et al. 2022 (FlashAttention, arXiv:2205.14135), Milakov and Gimelshein 2018 (online
softmax, arXiv:1805.02867). Tests: tests/backends/test_cuda_attention.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

from ...ir.equation import Index
from ...ir.expr import Expr, Idx, Read, index_names, reads
from ...passes.gpu.attention.attention_kernel import RowMax
from ...passes.gpu.attention.attention_tile import AttentionTile, Panel, TileTotal
from ...passes.gpu.grid_ir import Grid
from ...passes.lowering.access import Statement
from .expressions import Writer

UNROLL = "#pragma unroll"
Loop = tuple[str, int]  # a variable and the number of its values
Total = tuple[int, TileTotal]  # with its number


@dataclass(frozen=True)
class Layout:
    """Which elements of an array over rows and columns a thread has: loops over these, their row
    and column, and where the thread's own array has them. `shape` is that of the own array, with
    `[rows][columns]`; `row_shape` and `row_at` are those of an array over rows alone."""

    row_loops: tuple[Loop, ...]
    column_loops: tuple[Loop, ...]
    row: str
    column: str
    shape: str
    at: str
    row_shape: str
    row_at: str


class AttentionEngine(ABC):
    """Writes a kernel. `lanes` threads share a row; with `totals_together` all totals take a tile
    in one pass over its elements, else each as soon as its products are there."""

    lanes: int
    totals_together: bool

    def __init__(self, w: Writer, grid: Grid, how: AttentionTile):
        self.w, self.grid, self.how = w, grid, how
        self.layout = self.layout_of(how.columns)

    @abstractmethod
    def layout_of(self, columns: int) -> Layout:
        """The layout of an array of which a thread or a warp has so many columns."""

    @abstractmethod
    def declare(self) -> None:
        """Shared memory, and the thread's `row` and `column`."""

    @abstractmethod
    def load_rows(self, n: int, panel: Panel) -> None:
        """Fills the row panel `n` of shared memory."""

    @abstractmethod
    def tiles(self) -> AbstractContextManager[None]:
        """Around what is done with a tile, whose first column is `n0`."""

    @abstractmethod
    def product(self, n: int) -> None:
        """Computes the thread's elements of a product in the array `product{n}`."""

    @abstractmethod
    def begin_weights(self, totals: Sequence[Total]) -> None:
        """What comes before the loops in which elements get weights for these totals."""

    @abstractmethod
    def weights(self, totals: Sequence[Total]) -> AbstractContextManager[None]:
        """Around the elements at one value of the first column loop, whose weights are kept."""

    @abstractmethod
    def keep_weight(self, n: int, value: str) -> str:
        """A statement that keeps an element's weight for the total `n`."""

    @abstractmethod
    def add_products(self, n: int, total: TileTotal) -> None:
        """Adds the products of weights and the total's panel to `sum{n}`."""

    # --- the kernel ----------------------------------------------------------------------------

    def write(self) -> None:
        w, how = self.w, self.how
        self.declare()
        tall = -(-how.row.size // how.height)
        w.line(f"const i32 m0 = BLOCK % {tall} * {how.height};")
        w.unflatten(w.let("i32", f"BLOCK / {tall}", "batch"), how.batch)
        for n, panel in enumerate(how.row_panels):
            if not self.moves(panel):
                self.load_rows(n, panel)
        self._start()
        waiting = list(enumerate(how.totals))
        with self.tiles():
            for n, _ in enumerate(how.products):
                self.product(n)
                later = {p.read for p in how.products[n + 1 :]}
                if how.row_max is not None and not later:
                    self._online_softmax(how.row_max)
                if later and (self.totals_together or how.row_max is not None):
                    continue
                ready = [(m, t) for m, t in waiting if not later & set(reads(t.weight))]
                waiting = [item for item in waiting if item not in ready]
                for group in [ready] if self.totals_together else [[item] for item in ready]:
                    if group:
                        self._add(group)
        self._finish()

    def _start(self) -> None:
        w, how, layout = self.w, self.how, self.layout
        if how.row_max is not None:
            w.line(f"f32 top{layout.row_shape}, base{layout.row_shape} = {{}};")
            with self.loops(layout.row_loops):
                w.line(f"top{layout.row_at} = -INFINITE;")
        for n, total in enumerate(how.totals):
            shape = self.layout_of(total.columns).shape if total.panel else layout.row_shape
            w.line(f"f32 sum{n}{shape} = {{}};")

    def _online_softmax(self, row_max: RowMax) -> None:
        """Scores, their maximum so far, and exp(score - shift). Where the maximum grows, sums are
        rescaled by exp(old shift - new shift); before a row's first finite score they are 0."""
        w, layout = self.w, self.layout
        at, row = layout.at, layout.row_at
        w.line(f"f32 weight{layout.shape};")
        with self.loops(layout.column_loops[:1]), self.elements([row_max.score]):
            w.line(f"weight{at} = {self.inside(w.value(row_max.score), '-INFINITE')};")
        with self.loops(layout.row_loops):
            w.line(f"f32 highest = top{row};")
            with self.loops(layout.column_loops):
                w.line(f"highest = nn::max(highest, weight{at});")
            w.line(
                f"for (i32 mask = {self.lanes // 2}; mask > 0; mask /= 2) "
                "highest = nn::max(highest, SHUFFLE(highest, mask));"
            )
            w.known(row_max.result, "highest")
            shift = w.let("f32", w.value(row_max.shift), "shift")
            w.line(f"const f32 next = {shift} == -INFINITE ? 0 : {shift};")
            w.line(f"const f32 scale = top{row} == -INFINITE ? 0 : expf(base{row} - next);")
            w.line(f"top{row} = highest;")
            w.line(f"base{row} = next;")
            with self.loops(layout.column_loops):
                w.line(f"weight{at} = expf(weight{at} - next);")
            for n, total in enumerate(self.how.totals):
                own = self.layout_of(total.columns)
                with self.loops(own.column_loops if total.panel else ()):
                    w.line(f"sum{n}{own.at if total.panel else row} *= scale;")

    def _add(self, totals: list[Total]) -> None:
        """What a tile gives to totals."""
        w, layout = self.w, self.layout
        vectors = [(n, total) for n, total in totals if total.panel]
        if vectors:
            self.begin_weights(vectors)
        with (
            self.loops(layout.column_loops[:1]),
            self.weights(vectors),
            self.elements([total.weight for _, total in totals]),
        ):
            for n, total in totals:
                value = self.inside(w.value(total.weight))
                number = f"sum{n}{layout.row_at} += {value};"
                w.line(self.keep_weight(n, value) if total.panel else number)
        for n, total in vectors:
            self.add_products(n, total)

    # --- results -------------------------------------------------------------------------------

    def _finish(self) -> None:
        w, how = self.w, self.how
        with self.each_row():
            numbers = self._row_numbers()
            with w.block(f"if (m0 + {self.layout.row} < {how.row.size})"):
                if numbers:
                    with w.block("if (column == 0)"):
                        for statement in numbers:
                            w.finish((statement,), [])
                for n, total in enumerate(how.totals):
                    if total.panel:
                        self._store_vector(n, total, total.panel.points)

    def _row_numbers(self) -> list[Statement]:
        """The statements of a row's maximum and of totals that are numbers, each added up over the
        threads that share the row."""
        w, how, row = self.w, self.how, self.layout.row_at
        found = []
        if how.row_max is not None:
            found.append(self.grid.statements[0])
            w.known(how.row_max.result, f"top{row}")
            if self._nan_if_masked():
                w.line(f"const f32 whole = top{row} == -INFINITE ? NOT_A_NUMBER : 1;")
        for n, total in enumerate(how.totals):
            if not total.panel:
                w.line(
                    f"for (i32 mask = {self.lanes // 2}; mask > 0; mask /= 2) "
                    f"sum{n}{row} += SHUFFLE(sum{n}{row}, mask);"
                )
                statement = self._statement(n)
                w.known(total.total, self._total(f"sum{n}{row}"))
                w.known(statement.element, w.value(statement.value))
                found.append(statement)
        return found

    def _store_vector(self, n: int, total: TileTotal, points: int) -> None:
        w, layout = self.w, self.layout_of(total.columns)
        with self.loops(layout.column_loops):
            feature = w.let("i32", layout.column, "a")
            padded = self.how.spread(total) > points
            with w.block(f"if ({feature} < {points})" if padded else ""):
                w.unflatten(feature, total.features)
                w.known(total.total, self._total(f"sum{n}{layout.at}"))
                w.finish((self._statement(n),), [])

    def _nan_if_masked(self) -> bool:
        """Whether the equations make a row without a finite score NaN: exp(-inf - -inf)."""
        row_max = self.how.row_max
        return row_max is not None and row_max.shift is row_max.result

    def _total(self, text: str) -> str:
        return f"({text} * whole)" if self._nan_if_masked() else text

    def _statement(self, n: int) -> Statement:
        return self.grid.statements[n + (self.how.row_max is not None)]

    # --- loops and places ----------------------------------------------------------------------

    @contextmanager
    def loops(self, loops: Sequence[Loop]) -> Iterator[None]:
        w = self.w
        with ExitStack() as inside:
            for name, count in loops:
                w.line(UNROLL)
                inside.enter_context(w.block(f"for (i32 {name} = 0; {name} < {count}; ++{name})"))
            yield

    @contextmanager
    def each_row(self) -> Iterator[None]:
        with self.loops(self.layout.row_loops):
            self.place(self.how.row, f"m0 + {self.layout.row}", self.how.height)
            yield

    @contextmanager
    def elements(self, values: list[Expr]) -> Iterator[None]:
        """The thread's elements of a tile at one value of the first column loop. What a column has
        in common is computed once for its rows."""
        w, how, layout = self.w, self.how, self.layout
        with self.loops(layout.column_loops[1:]):
            self.place(how.column, f"n0 + {layout.column}", how.width)
            for value in values:
                for part in self._invariant(value, how.row.name):
                    w.value(part)
            with self.each_row():
                for n, product in enumerate(how.products):
                    w.known(product.read, f"product{n}{layout.at}")
                if how.row_max is not None:
                    w.known(how.row_max.weight, f"weight{layout.at}")
                yield

    def _invariant(self, expr: Expr, index: str) -> Iterator[Expr]:
        """The largest parts of an expression that do not change with the index."""
        computed: set[Expr] = {p.read for p in self.how.products}
        if self.how.row_max is not None:
            computed.add(self.how.row_max.weight)
        stack = [expr]
        while stack:
            node = stack.pop()
            if not node.children:
                continue
            if index not in index_names(node) and computed.isdisjoint(reads(node)):
                yield node
            elif not isinstance(node, Read):
                stack += node.children

    def inside(self, value: str, otherwise: str = "0") -> str:
        """The value of an element, if the matrix has its column."""
        how = self.how
        if how.column.size % how.width == 0:
            return value
        return f"n0 + {self.layout.column} < {how.column.size} ? {value} : {otherwise}"

    def place(self, index: Index, text: str, side: int) -> None:
        """Gives the index its value; past the end it is the last, and the result is not used."""
        last = index.size - 1
        self.w.place(index.name, text if index.size % side == 0 else f"nn::min({text}, {last})")

    @contextmanager
    def extra_loops(self) -> Iterator[None]:
        w = self.w
        with ExitStack() as inside:
            for index in self.how.extra:
                name = w.fresh("x")
                head = f"for (i32 {name} = 0; {name} < {index.size}; ++{name})"
                inside.enter_context(w.block(head))
                w.places[index.name] = name
            yield

    def moves(self, panel: Panel) -> bool:
        """Whether the panel differs between points of the extra indices."""
        return not index_names(panel.value).isdisjoint(i.name for i in self.how.extra)

    def skip_masked(self) -> None:
        """Continues with the next tile if all of this one is masked: a form is positive even where
        it is least."""
        w, how = self.w, self.how
        for form in how.masked:
            for index, first, side in ((how.row, "m0", how.height), (how.column, "n0", how.width)):
                last = f"nn::min({first} + {side}, {index.size}) - 1"
                low = form.coefficients.get(Idx(index.name), 0) >= 0
                w.place(index.name, first if low else last)
            text, _ = w.form(form)
            w.line(f"if ({text} > 0) continue;")
