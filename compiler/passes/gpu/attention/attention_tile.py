"""The grid form of an attention kernel: how a block of threads visits matrices of scores in tiles.

In: what `tiling.py` decided of an `AttentionKernel`. Out: an `AttentionTile`, the `how` of a
`Grid`, which `codegen/cuda/attention.py` writes. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from ....ir.affine import Affine
from ....ir.dtypes import BYTES
from ....ir.equation import Index
from ....ir.expr import Expr, Read
from ....targets import SHARED_PADDING, WARP
from ...lowering.access import Access, Statement, form_text, value_text
from .attention_kernel import RowMax


@dataclass(frozen=True)
class Panel:
    """An operand in shared memory: `value` for each row (or column) of a tile and each point of
    `inner`. `coalesced`: neighbouring threads load neighbouring points rather than neighbouring
    rows. Panels with equal values are equal, whatever their indices are called in the kernel."""

    value: Expr
    inner: tuple[Index, ...]
    coalesced: bool

    @property
    def points(self) -> int:
        return prod(i.size for i in self.inner)


@dataclass(frozen=True)
class TileProduct:
    """A product, for which `read` stands, of two panels that have the same inner indices."""

    read: Read
    row_panel: Panel
    column_panel: Panel


@dataclass(frozen=True)
class TileTotal:
    """A row's sum of `weight`, for which `total` stands; with a `panel`, a vector over `features`,
    of which a thread (or with tensor cores a warp) holds `columns`. The grid's statement at the
    same position stores what becomes of it."""

    total: Read
    weight: Expr
    panel: Panel | None = None
    features: tuple[Index, ...] = ()
    columns: int = 0


@dataclass(frozen=True)
class AttentionTile:
    """A block has `height` rows for one point of `batch`, and visits tiles of `width` columns for
    each point of `extra`. A thread computes `rows` by `columns` elements of a tile; with tensor
    cores a warp does, whole rows of the tile, and while one tile is multiplied the next is copied
    to another of `stages` buffers. Where one of the forms `masked` is positive in a whole tile, the
    tile is skipped.

    Shared memory has every row panel of the products once. Column panels come tile by tile: with
    tensor cores each once, else one after the other to the same buffer."""

    batch: tuple[Index, ...]
    row: Index
    extra: tuple[Index, ...]
    column: Index
    height: int
    width: int
    rows: int
    columns: int
    products: tuple[TileProduct, ...]
    totals: tuple[TileTotal, ...]
    row_max: RowMax | None
    masked: tuple[Affine, ...]
    tensor_cores: bool
    stages: int = 1

    @property
    def row_panels(self) -> list[Panel]:
        return list(dict.fromkeys(p.row_panel for p in self.products))

    @property
    def column_panels(self) -> list[Panel]:
        panels = [p.column_panel for p in self.products]
        return list(dict.fromkeys((*panels, *(t.panel for t in self.totals if t.panel))))

    @property
    def expressions(self) -> Iterator[Expr]:
        """What is read from memory while tiles are visited; operands first."""
        for product in self.products:
            yield from (product.row_panel.value, product.column_panel.value)
        for total in self.totals:
            yield from (total.weight,) if not total.panel else (total.panel.value, total.weight)
        if self.row_max is not None:
            yield from (self.row_max.score, self.row_max.shift)
        for form in self.masked:
            yield from form.coefficients

    @property
    def registers(self) -> int:
        """Of a thread, for products, totals and, with tensor cores, the scales of its rows."""
        across = self.columns * len(self.products) + sum(t.columns for t in self.totals)
        return self.rows * across // WARP + self.rows if self.tensor_cores else self.rows * across

    # --- shared memory -------------------------------------------------------------------------

    def row_words(self, panel: Panel) -> int:
        """With tensor cores: words of two numbers from one row of a panel to the next."""
        return panel.points // 2 + SHARED_PADDING

    def spread(self, total: TileTotal) -> int:
        """Elements of a vector total that all threads of a row hold together: as many as it has,
        or some more."""
        return total.columns * (self.width // self.columns)

    @property
    def column_buffer(self) -> int:
        """Elements of the buffer that has one column panel after the other."""
        products = [p.column_panel.points * (self.width + SHARED_PADDING) for p in self.products]
        totals = [self.width * (self.spread(t) + SHARED_PADDING) for t in self.totals if t.panel]
        return max(products + totals)

    @property
    def shared_bytes(self) -> int:
        if self.tensor_cores:
            rows = self.height * sum(map(self.row_words, self.row_panels))
            columns = self.width * sum(map(self.row_words, self.column_panels))
            return (rows + self.stages * columns) * BYTES["i32"]
        rows = sum(p.points for p in self.row_panels) * (self.height + SHARED_PADDING)
        weights = any(t.panel for t in self.totals) * self.height * (self.width + SHARED_PADDING)
        return (rows + self.column_buffer + weights) * BYTES["f32"]

    # --- text ----------------------------------------------------------------------------------

    def __str__(self) -> str:
        unit = f"{self.rows}x{self.columns} per "
        unit += (
            f"warp by mma.sync m16n8k16 of bf16, {self.stages} stages"
            if self.tensor_cores
            else "thread"
        )
        return (
            f"tiles of {self.height} ({self.row.name}) by {self.width} ({self.column.name}), "
            f"{unit}, none stored"
        )

    def lines(
        self, statements: tuple[Statement, ...], accesses: Mapping[Read, Access]
    ) -> Iterator[str]:
        """The products, then what is made of a row."""

        def text(expr: Expr) -> str:
            return value_text(expr, accesses)

        def ranges(*indices: Index) -> str:
            return " ".join(f"{i.name} < {i.size}" for i in indices)

        for product in self.products:
            rows, columns = product.row_panel, product.column_panel
            operands = f"{text(rows.value)} * {text(columns.value)}"
            yield f"{text(product.read)} = sum({ranges(*rows.inner)}) {operands}"
        for form in self.masked:
            yield f"skip tiles in which {form_text(form)} > 0 everywhere"
        over = ranges(*self.extra, self.column)
        if (top := self.row_max) is not None:
            yield f"{top.weight.tensor} = exp({text(top.score)} - {text(top.shift)})"
            yield f"{top.result} = max({over}) {text(top.score)}"
        for total in self.totals:
            factor = f" * {text(total.panel.value)}" if total.panel else ""
            yield f"{total.total.tensor} = sum({over}) {text(total.weight)}{factor}"
        for statement in statements:
            assert statement.offset is not None
            yield (
                f"for {ranges(*self.batch, self.row)}: {statement.target}"
                f"[{form_text(statement.offset)}] = {text(statement.value)}"
            )
