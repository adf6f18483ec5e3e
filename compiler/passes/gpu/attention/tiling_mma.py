"""Kernels that stream a square with tensor cores, as grids.

In: a `Streamed` kernel whose operands are stored as bf16 (`bf16_storage.py`), and its `Plan`. Out:
its `Grid`, in tiles that warps multiply; nothing for other kernels. A warp has whole rows of a
tile, so that what it has computed of the square is, as it lies in registers, an operand of the next
product. What several products and sums read of a row comes to shared memory once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from ....ir.equation import Index
from ....ir.expr import Apply, Expr, Read
from ....ir.terms import with_indices
from ....targets import GpuTarget
from ...kernels.kernel import Plan, Streamed
from ..grid_ir import Grid, Pair, Panel, RowSum
from .masked_tiles import masked_tiles
from .mma_ir import LANES, WarpStream
from .mma_operands import has_bf16_rows, longer_than_one
from .tiling_simt import Maker, chosen, simt_tiling

# rows and columns of a warp, and warps of a block, the best first: more rows of a warp take what
# it loads of the other side more often
SHAPES = ((32, 64, 4), (32, 32, 4), (16, 64, 4), (16, 32, 4), (16, 64, 2), (16, 32, 2),
          (16, 16, 4), (16, 16, 2), (16, 16, 1))  # fmt: skip
HELD = 176  # numbers in a lane's registers, of which it has 255


def mma_tiling(kernel: Streamed, plan: Plan, target: GpuTarget) -> Grid | None:
    """The grid of the kernel, if its operands are stored as bf16; without tensor cores, if it has
    more products at once than there is room for."""
    found = _panels(kernel, plan, Maker(kernel, plan).sizes)
    if found is None:
        return None
    along = [i for panel in (*found.mine, *found.theirs) for i in panel.along]
    maker = Maker(kernel, plan, along)
    grids = (maker.grid(found.stream(*shape), LANES * shape[-1]) for shape in SHAPES)
    best = chosen(grids, HELD, target)
    if best is not None:
        return best
    plain = simt_tiling(kernel, plan, target)
    return replace(plain, why=(*plain.why, "no tensor cores: not enough registers"))


class _Panels:
    """What comes to shared memory, each panel once."""

    def __init__(self, kernel: Streamed):
        self.kernel = kernel
        self.mine: list[Panel] = []
        self.theirs: list[Panel] = []
        self.pairs: list[Pair] = []
        self.factors: list[tuple[int, int]] = []
        self.sums: list[tuple[RowSum, int]] = []

    def stream(self, rows: int, columns: int, warps: int) -> WarpStream:
        kernel = self.kernel
        return WarpStream(
            kernel.batch,
            kernel.own,
            kernel.extra,
            kernel.other,
            rows * warps,
            columns,
            rows,
            columns,
            tuple(self.pairs),
            tuple(one for one, _ in self.sums),
            masked_tiles(kernel),
            mine=tuple(self.mine),
            theirs=tuple(self.theirs),
            factors=tuple(self.factors),
            values=tuple(n for _, n in self.sums),
            wide=tuple(t.wide for t in kernel.totals),
        )


def _panels(kernel: Streamed, plan: Plan, sizes: Mapping[str, int]) -> _Panels | None:
    """The panels, if memory has rows of bf16 numbers of all operands."""

    def panel_of(operand: Expr, along: tuple[Index, ...]) -> Panel | None:
        return _panel(operand, along, plan, sizes)

    made = _Panels(kernel)
    for product in kernel.products:
        mine, theirs = (panel_of(side, product.deep) for side in (product.mine, product.theirs))
        if mine is None or theirs is None:
            return None
        made.pairs.append(Pair(product.read, mine, theirs))
        made.factors.append((_number(mine, made.mine), _number(theirs, made.theirs)))
    for total in kernel.totals:
        if total.factor is None:
            made.sums.append((RowSum(total.total, total.weight), 0))
            continue
        panel = panel_of(total.factor, total.wide)
        if panel is None or not (isinstance(total.weight, Apply) and total.weight.fn == "bf16"):
            return None
        size = prod(i.size for i in total.wide)
        made.sums.append(
            (RowSum(total.total, total.weight.args[0], panel, size), _number(panel, made.theirs))
        )
    return made


def _panel(
    operand: Expr, along: tuple[Index, ...], plan: Plan, sizes: Mapping[str, int]
) -> Panel | None:
    """The panel; the indices of its rows have the same names wherever rows are as long."""
    along = longer_than_one(along)
    if not isinstance(operand, Read):
        return None
    if not has_bf16_rows(operand, along, plan.system.tensors[operand.tensor], sizes):
        return None
    own = tuple(Index(f"element{n} of {i.size}", i.size) for n, i in enumerate(along))
    names = {i.name: o.name for i, o in zip(along, own, strict=True)}
    return Panel(with_indices(operand, names), own, together=True)


def _number(panel: Panel, panels: list[Panel]) -> int:
    """Which of the panels it is; the last, if it is new."""
    if panel not in panels:
        panels.append(panel)
    return panels.index(panel)
