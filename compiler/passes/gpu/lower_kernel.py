"""Kernels to grids: the schedule for blocks and threads.

In: a `Kernel` and its `Plan`. Out: the `Grid`s that compute it, one after the other: one, or two
where a long reduction of few results is divided among blocks and a second grid joins the parts in
their order. Indices are merged and addressed as for the CPU (`merge.py`, `access.py`); how a
product is cut into tiles is `contract.py`, a square that is not stored `streams.py`, with tensor
cores `warp_streams.py`. There are no atomics, so every run gives the same bits.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.equation import Index
from ...ir.expr import Idx, reads
from ...targets import GpuTarget
from ..kernels.kernel import Kernel, Plan, Streamed
from ..lowering.access import Statement
from ..lowering.coalesce_indices import accesses_of, coalesce_indices, store_offsets
from .attention.tiling_mma import mma_tiling
from .attention.tiling_simt import simt_tiling
from .grid_ir import BLOCK, Each, Grid, Together, one_thread_per_element
from .matmul_tiling import matmul_tiling
from .scatter_to_gather import scatter_to_gather
from .split_k import split_k

ALONE = 32  # points that one thread reduces over by itself


def lower_kernel(kernel: Kernel, plan: Plan, target: GpuTarget) -> tuple[Grid, ...]:
    """The grids of a kernel, in the order in which they run."""
    if isinstance(kernel, Streamed):
        return (mma_tiling(kernel, plan, target) or simt_tiling(kernel, plan, target),)
    kernel = scatter_to_gather(kernel, plan.system)
    grid = undivided(kernel, plan)
    if grid.reduce is None:
        return (one_thread_per_element(grid),)
    tiled = matmul_tiling(grid, target)
    if tiled is None:
        tiled = _reduction(grid, target)
    return split_k(tiled, target)


def undivided(kernel: Kernel, plan: Plan) -> Grid:
    """The kernel's work, not divided yet."""
    form, anchor = coalesce_indices(kernel, plan), kernel.anchor
    places = store_offsets(form, kernel, plan)
    statements = tuple(
        Statement(r.element, r.value, places[r.element]) for r in (*form.bodies, *form.values)
    )
    span = anchor.span
    source = f"{span}: {span.source.line(span.line).strip()}" if span else ""
    return Grid(
        name=kernel.name,
        how=Each(),
        threads=BLOCK,
        blocks=0,
        outputs=form.outputs,
        over=form.over if anchor.reduce else (),
        bodies=tuple(b.value for b in form.bodies),
        reduce=anchor.reduce,
        statements=statements,
        accesses=accesses_of(form, plan),
        sizes=form.sizes,
        position=form.position,
        fixed=kernel.fixed,
        source=source,
        why=(kernel.reason,) if kernel.reason else (),
    )


def _reduction(grid: Grid, target: GpuTarget) -> Grid:
    """One thread per element where that is enough threads, or little to do; else several."""
    along = _along(grid)
    busy = target.processors * target.threads
    if grid.points < ALONE or (grid.elements >= busy and along == "outputs"):
        return one_thread_per_element(grid)
    lanes = 32
    while (
        along == "over"
        and lanes < BLOCK
        and lanes * 8 <= grid.points
        and grid.elements * lanes < busy
    ):
        lanes *= 8
    if along == "outputs":
        lanes = 8
    per_block = BLOCK // lanes
    return replace(
        grid, how=Together(lanes, along), threads=BLOCK, blocks=-(-grid.elements // per_block)
    )


def _along(grid: Grid) -> str:
    """Whether neighbours in memory are neighbouring points or neighbouring elements."""
    body = [grid.accesses[r] for b in grid.bodies for r in reads(b) if r in grid.accesses]

    def units(group: tuple[Index, ...]) -> int:
        last = Idx(group[-1].name) if group else None
        return sum(last is not None and a.offset.coefficients.get(last) == 1 for a in body)

    return "outputs" if units(grid.outputs) > units(grid.over) else "over"
