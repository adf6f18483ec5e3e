"""Tiling of attention kernels: how many rows and columns a block, a warp and a thread have.

In: an `AttentionKernel` and its `Plan`. Out: its `Grid`. Tensor cores multiply if memory has rows
of bf16 numbers of all operands (`bf16_storage.py`) and registers suffice, else threads do, in f32.
Of the target's shapes, best first, the first that fits into shared memory and registers is taken,
or a lower one that keeps more multiprocessors busy: every block loads all column panels, so higher
tiles load less.

Source: Dao et al. 2022 (arXiv:2205.14135); Dao 2023 (FlashAttention-2, arXiv:2307.08691) for warps
that own whole rows, so that weights stay in registers from one product to the next. Tests:
tests/backends/test_cuda_attention.py, test_cuda_attention_cores.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from ....ir.equation import Index
from ....ir.expr import Expr, Idx, Read, reads
from ....ir.terms import is_rounded, with_indices
from ....targets import VECTOR_WORDS, AttentionTileShape, GpuTarget
from ...kernels.kernel import Plan
from ...lowering.access import Access, Statement
from ...lowering.addressing import access_of, offset_of
from ..grid_ir import Grid
from .attention_kernel import AttentionKernel, RowTotal
from .attention_tile import AttentionTile, Panel, TileProduct, TileTotal
from .masked_tiles import masked_tiles
from .mma_operands import has_bf16_rows, longer_than_one


def attention_tiling(kernel: AttentionKernel, plan: Plan, target: GpuTarget) -> Grid:
    """The grid of the kernel."""
    found, notes = _Tiling(kernel, plan, target), [kernel.reason]
    limits = target.attention
    if found.has_bf16_operands():
        grid = found.best(limits.mma_shapes, limits.mma_registers, True, notes)
        if grid is not None:
            return grid
        notes.append("no tensor cores: not enough registers")
    grid = found.best(limits.simt_shapes, limits.simt_registers, False, notes)
    assert grid is not None, f"`{kernel.name}` does not fit"  # `flash_attention` makes no such one
    return grid


class _Tiling:
    def __init__(self, kernel: AttentionKernel, plan: Plan, target: GpuTarget):
        self.kernel, self.tensors, self.target = kernel, plan.system.tensors, target
        self.sizes = kernel.sizes
        self.masked = masked_tiles(kernel, plan.system)

    def has_bf16_operands(self) -> bool:
        """Whether memory has rows of bf16 numbers of all that tensor cores would multiply, and
        weights are rounded."""
        operands = [
            (e, p.inner) for p in self.kernel.products for e in (p.row_operand, p.column_operand)
        ]
        for total in self.kernel.totals:
            if total.factor is not None:
                if not is_rounded(total.weight):
                    return False
                operands.append((total.factor, total.features))
        return all(
            isinstance(e, Read)
            and has_bf16_rows(e, longer_than_one(inner), self.tensors[e.tensor], self.sizes)
            for e, inner in operands
        )

    def best(
        self,
        shapes: Iterable[AttentionTileShape],
        registers: int,
        tensor_cores: bool,
        notes: list[str],
    ) -> Grid | None:
        """The grid of the best shape; None if none fits."""
        limits, best = self.target.attention, None
        for shape in shapes:
            tile = self._tile(shape, tensor_cores)
            if tile.shared_bytes > limits.shared or tile.registers > registers:
                continue
            if best is None or (
                self._blocks(best[0]) < self.target.processors
                and limits.min_height <= tile.height < best[0].height
            ):
                best = tile, shape
        return None if best is None else self._grid(*best, notes)

    def _blocks(self, tile: AttentionTile) -> int:
        batch = prod(i.size for i in self.kernel.batch)
        return -(-self.kernel.row.size // tile.height) * batch

    # --- a tile --------------------------------------------------------------------------------

    def _tile(self, shape: AttentionTileShape, tensor_cores: bool) -> AttentionTile:
        kernel = self.kernel
        products = tuple(
            TileProduct(
                p.read,
                self._panel(p.row_operand, p.inner, kernel.row, tensor_cores),
                self._panel(p.column_operand, p.inner, kernel.column, tensor_cores),
            )
            for p in kernel.products
        )
        totals = tuple(self._total(t, shape, tensor_cores) for t in kernel.totals)
        return AttentionTile(
            kernel.batch,
            kernel.row,
            kernel.extra,
            kernel.column,
            shape.height,
            shape.width,
            shape.rows,
            shape.columns,
            products,
            totals,
            kernel.row_max,
            self.masked,
            tensor_cores,
            self.target.attention.stages if tensor_cores else 1,
        )

    def _total(self, total: RowTotal, shape: AttentionTileShape, tensor_cores: bool) -> TileTotal:
        if total.factor is None:
            return TileTotal(total.total, total.weight)
        weight = total.weight
        panel = self._panel(total.factor, total.features, self.kernel.column, tensor_cores)
        columns = panel.points
        if tensor_cores:  # which round weights as they take them
            assert is_rounded(weight)
            weight = weight.args[0]
        else:  # in whole vectors, if there are so many
            columns = -(-columns // (shape.width // shape.columns))
            if columns > VECTOR_WORDS:
                columns = -(-columns // VECTOR_WORDS) * VECTOR_WORDS
        return TileTotal(total.total, weight, panel, total.features, columns)

    def _panel(
        self, value: Expr, inner: tuple[Index, ...], across: Index, tensor_cores: bool
    ) -> Panel:
        if tensor_cores:
            inner = longer_than_one(inner)
        accesses = self._accesses((value,)).values()

        def unit_strides(index: Index) -> int:
            return sum(a.offset.coefficients.get(Idx(index.name)) == 1 for a in accesses)

        own = tuple(Index(f"k{n}_{i.size}", i.size) for n, i in enumerate(inner))
        self.sizes.update((i.name, i.size) for i in own)
        names = {i.name: o.name for i, o in zip(inner, own, strict=True)}
        coalesced = tensor_cores or unit_strides(inner[-1]) >= unit_strides(across)
        return Panel(with_indices(value, names), own, coalesced)

    # --- the grid ------------------------------------------------------------------------------

    def _grid(self, tile: AttentionTile, shape: AttentionTileShape, notes: list[str]) -> Grid:
        kernel = self.kernel
        results: list[tuple[Read, Expr]] = [(t.result, t.value) for t in kernel.totals]
        if kernel.row_max is not None:
            results.insert(0, (kernel.row_max.result, kernel.row_max.result))
        statements = tuple(Statement(own, value, self._offset(own)) for own, value in results)
        expressions = tuple(tile.expressions)
        span = kernel.equations[-1].span
        return Grid(
            name=kernel.name,
            how=tile,
            threads=shape.threads,
            blocks=self._blocks(tile),
            outputs=(*kernel.batch, kernel.row),
            over=(*kernel.extra, kernel.column),
            bodies=expressions,
            reduce=None,
            statements=statements,
            accesses=self._accesses((*expressions, *(s.value for s in statements))),
            sizes=self.sizes,
            source=f"{span}: {span.source.line(span.line).strip()}" if span else "",
            why=tuple(notes),
        )

    def _accesses(self, expressions: tuple[Expr, ...]) -> dict[Read, Access]:
        """Every read of memory; what the kernel computes itself is none."""
        kernel = self.kernel
        computed = {p.read for p in kernel.products} | {t.total for t in kernel.totals}
        computed |= {t.result for t in kernel.totals}
        if kernel.row_max is not None:
            computed |= {kernel.row_max.result, kernel.row_max.weight}
        found = dict.fromkeys(r for e in expressions for r in reads(e) if r not in computed)
        return {r: access_of(r, self.tensors[r.tensor], self.sizes) for r in found}

    def _offset(self, result: Read):
        return offset_of(result.index, self.tensors[result.tensor].strides, self.sizes)
