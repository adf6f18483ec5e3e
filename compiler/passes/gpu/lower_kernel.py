"""Kernels to grids: how a kernel's work is divided among blocks, threads and lanes.

    a map, a short reduction        →   one thread per element
    a long reduction                →   several threads per element, joined in a tree
    a sum of products               →   tiles in shared memory (`matmul_tiling`)
    attention                       →   tiles of scores (`attention/`)
    too few blocks for the machine  →   parts, and a grid that joins them (`split_k`)

Accumulations into a target gather instead (`scatter_to_gather`), so there are no atomics and every
run gives the same bits. Indices are coalesced and addressed as for the CPU (`passes/lowering/`).
Tests: tests/backends/test_cuda.py.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.dtypes import is_float
from ...ir.equation import Index
from ...ir.expr import Idx, reads
from ...targets import WARP, GpuTarget
from ..kernels.kernel import Kernel, Plan
from ..lowering.access import Statement
from ..lowering.coalesce_indices import accesses_of, coalesce_indices, store_offsets
from .attention.attention_kernel import AttentionKernel
from .attention.tiling import attention_tiling
from .grid_ir import Grid, MatmulTile, ThreadPerElement, TreeReduction, one_thread_per_element
from .matmul_tiling import matmul_tiling
from .scatter_to_gather import scatter_to_gather
from .split_k import split_k


def lower_kernel(kernel: Kernel, plan: Plan, target: GpuTarget) -> tuple[Grid, ...]:
    """The grids of a kernel, in the order in which they run."""
    if isinstance(kernel, AttentionKernel):
        return (attention_tiling(kernel, plan, target),)
    kernel = scatter_to_gather(kernel, plan.system)
    # first what is computed, in few indices and plain addresses; then how it is divided
    grid = undivided(kernel, plan)
    if grid.reduce is None:
        return (one_thread_per_element(grid, target),)
    # a tile of products reuses what it loads: it is the better division wherever it applies
    tiled = matmul_tiling(grid, target)
    if tiled is None:
        tiled = _reduction(grid, target)
    return tuple(_blocked(each, target) for each in split_k(tiled, target))


def undivided(kernel: Kernel, plan: Plan) -> Grid:
    """The kernel's work, not divided yet."""
    # for example [b, t, i] → [b*t, i], where all accesses allow it
    form, anchor = coalesce_indices(kernel, plan), kernel.anchor
    places = store_offsets(form, kernel, plan)
    # the results of the reduction first, then the epilogue, in the order of the equations
    statements = tuple(
        Statement(r.element, r.value, places[r.element]) for r in (*form.bodies, *form.values)
    )
    span = anchor.span
    source = f"{span}: {span.source.line(span.line).strip()}" if span else ""
    return Grid(
        name=kernel.name,
        how=ThreadPerElement(),
        threads=0,
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
    along, threads = _contiguous(grid), target.block_threads
    # how many threads all multiprocessors hold at once
    resident = target.processors * target.threads
    # A short reduction is not worth a tree. Threads along contiguous elements load whole sectors by
    # themselves already, so with enough of them no element needs more than one.
    if grid.points < target.serial_points or (grid.elements >= resident and along == "outputs"):
        return one_thread_per_element(grid, target)
    # the lanes of a warp join by shuffles, without shared memory or a barrier
    lanes = WARP
    if along == "outputs":
        lanes = threads // WARP  # a warp loads adjacent elements
    # few elements with many points each, as a loss has: a whole block for each
    elif grid.points >= threads and grid.elements * WARP < resident:
        lanes = threads
    blocks = -(-grid.elements // (threads // lanes))
    return replace(grid, how=TreeReduction(lanes, along), threads=threads, blocks=blocks)


def _blocked(grid: Grid, target: GpuTarget) -> Grid:
    """The grid, by blocks of terms if it sums so many floats one after the other that rounding
    would show (blocked summation, see `cpu/blocked_sums.py`)."""
    terms, block = grid.chunk or grid.points, target.short_block
    # A tile of products has no registers left for totals; it would spill them.
    if isinstance(grid.how, MatmulTile):
        return grid
    if isinstance(grid.how, TreeReduction):
        terms = -(-terms // grid.how.lanes)
    if grid.reduce != "sum" or not is_float(grid.dtype) or terms <= target.whole_blocks * block:
        return grid
    return replace(grid, block=block)


def _contiguous(grid: Grid) -> str:
    """Whether memory is contiguous along the points of the reduction or along the elements."""
    # reads of memory in what is reduced; those of the epilogue are few
    body = [grid.accesses[r] for b in grid.bodies for r in reads(b) if r in grid.accesses]

    # how many reads go by one element when the last index of the group does
    def units(group: tuple[Index, ...]) -> int:
        last = Idx(group[-1].name) if group else None
        return sum(last is not None and a.offset.coefficients.get(last) == 1 for a in body)

    return "outputs" if units(grid.outputs) > units(grid.over) else "reduction"
