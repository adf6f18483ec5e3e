"""Kernels to grids: the schedule for blocks and threads.

In: a `Kernel` and its `Plan`. Out: the `Grid`s that compute it, one after the other: one, or two
where a long reduction of few results is divided among blocks and a second grid joins the parts in
their order. Indices are merged and addressed as for the CPU (`merge.py`, `access.py`); how a
product is cut into tiles is `contract.py`, a square that is not stored `streams.py`, with tensor
cores `warp_streams.py`. There are no atomics, so every run gives the same bits.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.affine import Affine
from ...ir.build import literal
from ...ir.equation import Index
from ...ir.expr import Expr, Idx, Read, reads
from ...targets import GpuTarget
from ..kernels.kernel import Kernel, Plan, Streamed
from ..lowering.access import Access, Statement
from ..lowering.coalesce_indices import accesses_of, coalesce_indices, store_offsets
from .attention.tiling_mma import mma_tiling
from .attention.tiling_simt import simt_tiling
from .grid_ir import BLOCK, Each, Grid, Tile, Together
from .matmul_tiling import PART, matmul_tiling
from .scatter_to_gather import scatter_to_gather

ALONE = 32  # points that one thread reduces over by itself
SCRATCH = "parts of a sum"  # the tensor that holds the results of layers


def lower(kernel: Kernel, plan: Plan, target: GpuTarget | None = None) -> tuple[Grid, ...]:
    """The grids of a kernel, in the order in which they run."""
    target = target or GpuTarget()
    if isinstance(kernel, Streamed):
        return (mma_tiling(kernel, plan, target) or simt_tiling(kernel, plan, target),)
    kernel = scatter_to_gather(kernel, plan.system)
    grid = undivided(kernel, plan)
    if grid.reduce is None:
        return (_each(grid),)
    tiled = matmul_tiling(grid, target)
    if tiled is None:
        tiled = _reduction(grid, target)
    return _divided(tiled, target)


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


def _each(grid: Grid) -> Grid:
    return replace(grid, how=Each(), threads=BLOCK, blocks=-(-grid.elements // BLOCK))


def _reduction(grid: Grid, target: GpuTarget) -> Grid:
    """One thread per element where that is enough threads, or little to do; else several."""
    along = _along(grid)
    busy = target.processors * target.threads
    if grid.points < ALONE or (grid.elements >= busy and along == "outputs"):
        return _each(grid)
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


# --- layers ---------------------------------------------------------------------------------------


def _divided(grid: Grid, target: GpuTarget) -> tuple[Grid, ...]:
    """A reduction by too few blocks, in layers of blocks, and the grid that joins the layers."""
    layers = min(target.processors // max(grid.blocks, 1), grid.points // PART)
    if layers < 2 or grid.reduce not in ("sum", "max", "min", "prod") or isinstance(grid.how, Each):
        return (grid,)
    step = grid.how.depth if isinstance(grid.how, Tile) else 1
    chunk = -(-grid.points // layers // step) * step
    part = Index("part", -(-grid.points // chunk))
    sizes = {**grid.sizes, "part": part.size}
    number = _number((part, *grid.outputs))
    first, whole, found = [], [], {}
    for n, body in enumerate(grid.bodies):
        place = number + Affine({}, n * part.size * grid.elements)
        index = tuple(Idx(i.name) for i in (part, *grid.outputs))
        read = Read(SCRATCH, (literal(n), *index), None, body.dtype)
        found[read] = Access(SCRATCH, body.dtype, place)
        first.append(Statement(read, body, place))
        whole.append(replace(grid.statements[n], value=read))
    parts = replace(
        grid,
        name=f"{grid.name} (parts)",
        part=part,
        chunk=chunk,
        sizes=sizes,
        statements=tuple(first),
    )
    joined = replace(
        grid,
        over=(part,),
        bodies=tuple(s.value for s in whole),
        sizes=sizes,
        statements=(*whole, *grid.statements[len(whole) :]),
        accesses={**grid.accesses, **found},
        why=("the parts in their order",),
    )
    return parts, _each(joined)


def _number(indices: tuple[Index, ...]) -> Affine:
    """The place of an element if all are stored in order."""
    coefficients: dict[Expr, int] = {}
    stride = 1
    for index in reversed(indices):
        coefficients[Idx(index.name)] = stride
        stride *= index.size
    return Affine(coefficients, 0)
