"""Kernels that stream a square, as grids: the tiles in which blocks of threads go through it.

In: a `Streamed` kernel and its `Plan`. Out: its `Grid`. Tiles are as large as shared memory and
registers allow and leave every processor something to do; what is loaded by neighbouring threads
lies together in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod

from ....ir.affine import Affine
from ....ir.equation import Index
from ....ir.expr import Expr, Idx, Read, reads
from ....targets import GpuTarget
from ...kernels.kernel import Plan, Product, Streamed
from ...lowering.access import Access, Statement
from ...lowering.addressing import access_of, offset_of
from ..grid_ir import Grid, Pair, Panel, RowSum, Stream
from .masked_tiles import masked_tiles

SIDE = 16  # threads along a row of a tile, and rows of threads
WIDTH = 64  # columns of a tile
HEIGHTS = (64, 32, 16)  # rows of a tile, the best first
LOWEST = 32  # of those, the last that is worth it to have more blocks
SHARED = 96 << 10  # bytes of shared memory that every GPU since Ampere gives a block
HELD = 80  # numbers of the square and of sums in a thread's registers, of which it has 128


def simt_tiling(kernel: Streamed, plan: Plan, target: GpuTarget) -> Grid:
    """The grid of the kernel."""
    maker = Maker(kernel, plan)
    grids = (maker.grid(maker.how(height), SIDE * SIDE) for height in HEIGHTS)
    best = chosen(grids, HELD, target)
    assert best is not None, f"`{kernel.name}` does not fit"  # `attention` saw to that
    return best


def chosen(grids: Iterable[Grid], most: int, target: GpuTarget) -> Grid | None:
    """The first that fits into shared memory and, with `most` numbers, into registers, or a lower
    one that leaves more processors something to do."""
    best: tuple[Grid, Stream] | None = None
    for grid in grids:
        how = grid.how
        assert isinstance(how, Stream)
        if grid.shared_bytes > SHARED or how.held > most:
            continue
        if best is None or (
            best[0].blocks < target.processors and LOWEST <= how.height < best[1].height
        ):
            best = grid, how
    return None if best is None else best[0]


class Maker:
    """Grids of one kernel. `along` are more indices that its panels have."""

    def __init__(self, kernel: Streamed, plan: Plan, along: Sequence[Index] = ()):
        self.kernel, self.tensors = kernel, plan.system.tensors
        along = [
            *along,
            *(i for p in kernel.products for i in p.deep),
            *(i for t in kernel.totals for i in t.wide),
        ]
        every = (*kernel.batch, kernel.own, *kernel.extra, kernel.other, *along)
        self.sizes: Mapping[str, int] = {i.name: i.size for i in every}

    def how(self, height: int) -> Stream:
        kernel = self.kernel
        return Stream(
            kernel.batch,
            kernel.own,
            kernel.extra,
            kernel.other,
            height,
            WIDTH,
            height // SIDE,
            WIDTH // SIDE,
            tuple(map(self._pair, kernel.products)),
            tuple(RowSum(t.total, t.weight, *self._wide(t.factor, t.wide)) for t in kernel.totals),
            masked_tiles(kernel),
        )

    def grid(self, how: Stream, threads: int) -> Grid:
        kernel = self.kernel
        highest = kernel.highest
        if highest is not None:
            how = replace(
                how,
                score=highest.score,
                shift=highest.shift,
                top=highest.result,
                weight=highest.weight,
            )
        tall = -(-kernel.own.size // how.height)
        results: list[tuple[Read, Expr]] = []
        if highest is not None:
            results.append((highest.result, highest.result))
        results += [(t.result, t.value) for t in kernel.totals]
        statements = tuple(Statement(own, value, self._place(own)) for own, value in results)
        expressions = tuple(how.expressions)
        anchor = kernel.equations[-1]
        source = f"{span}: {span.source.line(span.line).strip()}" if (span := anchor.span) else ""
        return Grid(
            name=kernel.name,
            how=how,
            threads=threads,
            blocks=tall * prod(i.size for i in kernel.batch),
            outputs=(*kernel.batch, kernel.own),
            over=(*kernel.extra, kernel.other),
            bodies=expressions,
            reduce=None,
            statements=statements,
            accesses=self._accesses((*expressions, *(s.value for s in statements))),
            sizes=self.sizes,
            source=source,
            why=(kernel.reason,),
        )

    def _pair(self, product: Product) -> Pair:
        mine = self._operand(product.mine, product.deep, self.kernel.own)
        return Pair(
            product.read, mine, self._operand(product.theirs, product.deep, self.kernel.other)
        )

    def _wide(self, factor: Expr | None, wide: tuple[Index, ...]) -> tuple[Panel | None, int]:
        """What a sum runs along, and how many of its elements a thread holds."""
        if factor is None:
            return None, 0
        operand = self._operand(factor, wide, self.kernel.other)
        columns = -(-operand.points // SIDE)
        return operand, columns if columns <= 4 else -(-columns // 4) * 4

    def _operand(self, value: Expr, along: tuple[Index, ...], across: Index) -> Panel:
        found = self._accesses((value,)).values()

        def units(index: Index) -> int:
            return sum(a.offset.coefficients.get(Idx(index.name)) == 1 for a in found)

        return Panel(value, along, units(along[-1]) >= units(across))

    def _accesses(self, expressions: tuple[Expr, ...]) -> dict[Read, Access]:
        """Every read of memory; what the kernel computes itself is none."""
        kernel = self.kernel
        own = {p.read for p in kernel.products} | {t.total for t in kernel.totals}
        own |= {t.result for t in kernel.totals}
        if kernel.highest is not None:
            own |= {kernel.highest.result, kernel.highest.weight}
        every = dict.fromkeys(r for e in expressions for r in reads(e) if r not in own)
        return {r: access_of(r, self.tensors[r.tensor], self.sizes) for r in every}

    def _place(self, result: Read) -> Affine:
        return offset_of(result.index, self.tensors[result.tensor].strides, self.sizes)
