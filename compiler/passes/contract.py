"""Sums of products as tiles in shared memory.

In: a `Grid` not divided yet. Out: the grid in tiles, if its body is a product of one part that
depends on some output indices and one that depends on others; else nothing. Matrix products,
batched ones, convolutions and both their gradients are all of this form: what the parts read is
computed while the tile is loaded.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ..grids import GpuTarget, Grid, Tile
from ..ir import Expr, Idx, Index, is_float, reads
from .products import Parts, parts

LEAST = 8  # elements on a side, and points, below which tiles are not worth it
Sides = tuple[int, int, int, int, int]  # height, width, depth, rows, columns
SIDES: tuple[Sides, ...] = ((64, 64, 16, 4, 4), (32, 32, 16, 2, 2), (16, 16, 16, 1, 1))
THREADS = 256  # of every tile


def contraction(grid: Grid, target: GpuTarget) -> Grid | None:
    """The grid in tiles, or None."""
    if grid.reduce != "sum" or not is_float(grid.dtype) or grid.points < LEAST:
        return None
    found = [_parts(body, grid) for body in grid.bodies]
    if any(p is None for p in found) or len({(p.left, p.down, p.across) for p in found if p}) > 1:
        return None
    rights = tuple(p.right for p in found if p)
    assert found[0] is not None
    left, down, across = found[0].left, found[0].down, found[0].across
    batch = tuple(i for i in grid.outputs if i not in down and i not in across)
    height, width = (prod(i.size for i in group) for group in (down, across))
    if min(height, width) < LEAST:
        return None
    copies = prod(i.size for i in batch)
    sides = _sides(height, width, copies, target)
    deep = (_is_deep(left, down, grid), _is_deep(rights[0], across, grid))
    how = Tile(left, rights, batch, down, across, *sides, *deep)
    blocks = copies * -(-height // how.height) * -(-width // how.width)
    return replace(grid, how=how, threads=THREADS, blocks=blocks)


def _sides(height: int, width: int, copies: int, target: GpuTarget) -> Sides:
    """The largest tile that wastes little and leaves every processor something to do."""
    for sides in SIDES:
        tall, wide, *_ = sides
        blocks = copies * -(-height // tall) * -(-width // wide)
        wasted = blocks * tall * wide / (copies * height * width)
        if wasted <= 1.5 and (blocks >= target.processors or tall == SIDES[1][0]):
            return sides
    return SIDES[-1]


def _parts(body: Expr, grid: Grid) -> Parts | None:
    """The two parts of the product; what is stored next to each other runs across."""
    found = parts(body, grid.outputs)
    if found is not None and _last(grid, found.down) > _last(grid, found.across):
        return Parts(found.right, found.left, found.across, found.down)
    return found


def _last(grid: Grid, indices: tuple[Index, ...]) -> int:
    return grid.outputs.index(indices[-1])


def _is_deep(part: Expr, outputs: tuple[Index, ...], grid: Grid) -> bool:
    """Whether memory runs along the points rather than along the outputs."""
    accesses = [grid.accesses[r] for r in reads(part) if r in grid.accesses]

    def units(index: Index) -> int:
        return sum(a.offset.coefficients.get(Idx(index.name)) == 1 for a in accesses)

    return units(grid.over[-1]) > units(outputs[-1])
