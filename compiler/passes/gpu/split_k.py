"""Split-K: a reduction by too few blocks is divided among more, and a second grid joins the parts.

    y[i] = sum(k < 4096) a[i, k]   →   part[s, i] = sum(k < 1024) a[i, 1024*s + k]
                                       y[i] = sum(s < 4) part[s, i]

The gradient of a bias or of a small weight matrix has few results and many points: with one block
per tile of results most multiprocessors are idle. The second grid adds the parts in their order, so
every run gives the same bits. Applies where the multiprocessors have room for at least twice as
many blocks and every part has `target.split_points` points or more. Source: CUTLASS, "parallelized
reductions"; on CPUs `passes/equations/split_reductions.py` does the same to equations.
Tests: tests/backends/test_cuda.py, tests/backends/test_cuda_tiles.py.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.affine import Affine
from ...ir.build import literal
from ...ir.equation import Index
from ...ir.expr import Idx, Read
from ...targets import GpuTarget
from ..lowering.access import Access, Statement
from ..lowering.addressing import offset_of, row_major
from .grid_ir import Grid, MatmulTile, ThreadPerElement, one_thread_per_element

PARTIAL_RESULTS = "partial results"  # the tensor that holds the parts


def split_k(grid: Grid, target: GpuTarget) -> tuple[Grid, ...]:
    """The grid itself, or the one that computes parts and the one that joins them."""
    # how often the blocks fit the machine, and how many parts are long enough
    splits = min(target.processors // max(grid.blocks, 1), grid.points // target.split_points)
    # A position of argmax would be that within its part. One thread per element is taken for short
    # reductions or for many elements, neither of which needs parts.
    if (
        splits < 2
        or grid.reduce not in ("sum", "max", "min", "prod")
        or isinstance(grid.how, ThreadPerElement)
    ):
        return (grid,)
    # a part is whole steps of a tile deep, so that only the last one has a remainder
    step = grid.how.depth if isinstance(grid.how, MatmulTile) else 1
    # points of a part, rounded up: -(-a // b) is the quotient rounded up
    chunk = -(-grid.points // splits // step) * step
    # rounding up may leave the last parts empty: count again
    part = Index("part", -(-grid.points // chunk))
    sizes = {**grid.sizes, "part": part.size}
    index = tuple(Idx(i.name) for i in (part, *grid.outputs))
    shape = tuple(i.size for i in (part, *grid.outputs))
    # [bodies, parts, elements], the elements contiguous: threads store side by side
    element = offset_of(index, row_major(shape), sizes)
    stores, results, accesses = [], [], dict(grid.accesses)
    for n, body in enumerate(grid.bodies):
        # each body has an area of its own, one after the other
        offset = element + Affine({}, n * part.size * grid.elements)
        read = Read(PARTIAL_RESULTS, (literal(n), *index), None, body.dtype)
        accesses[read] = Access(PARTIAL_RESULTS, body.dtype, offset)
        stores.append(Statement(read, body, offset))
        # the second grid's statements are those of the plain one, on the joined value
        results.append(replace(grid.statements[n], value=read))
    parts = replace(
        grid,
        name=f"{grid.name} (parts)",
        part=part,
        chunk=chunk,
        sizes=sizes,
        statements=tuple(stores),
    )
    # a reduction over the parts, by one thread in their order: that fixes the sum's bits
    joined = replace(
        grid,
        over=(part,),
        bodies=tuple(s.value for s in results),
        sizes=sizes,
        # the epilogue is computed after joining, once
        statements=(*results, *grid.statements[len(results) :]),
        accesses=accesses,
        why=("joins the parts in their order",),
    )
    return parts, one_thread_per_element(joined, target)
