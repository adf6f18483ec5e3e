"""Sums of products as tiles in shared memory.

In: a `Grid` not divided yet. Out: the grid in tiles, if its body is a product of one part that
depends on some output indices and one that depends on others; else nothing. Matrix products,
batched ones, convolutions and both their gradients are all of this form: what the parts read is
computed while the tile is loaded.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ..grids import RESIDENT, GpuTarget, Grid, Operand, Tile
from ..ir import BYTES, Expr, Idx, Index, Read, is_float, reads
from .copies import copied
from .products import Parts, parts

LEAST = 8  # elements on a side, and points, below which tiles are not worth it
PART = 256  # points that a layer of blocks has at least
Sides = tuple[int, int, int, int, int]  # height, width, depth, rows, columns
SIDES: tuple[Sides, ...] = ((128, 128, 16, 8, 8), (64, 64, 16, 4, 4), (32, 32, 16, 2, 2),
                            (16, 16, 16, 1, 1))  # fmt: skip
ANY = 32  # the side of tiles that are taken however few they are
HELD = 64  # words of results that a thread holds at most
COPIES = 8  # of a thread and a step, for which there is room beside as many results
THREADS = 256  # of every tile
STAGES = 3  # of what is copied asynchronously; 2 of what is computed


def contraction(grid: Grid, target: GpuTarget) -> Grid | None:
    """The grid in tiles, or None."""
    if grid.reduce != "sum" or not is_float(grid.dtype) or grid.points < LEAST:
        return None
    found = [p for p in (_parts(body, grid) for body in grid.bodies) if p]
    if len(found) < len(grid.bodies) or len({(p.left, p.down, p.across) for p in found}) > 1:
        return None
    down, across = found[0].down, found[0].across
    batch = tuple(i for i in grid.outputs if i not in down and i not in across)
    height, width = (prod(i.size for i in group) for group in (down, across))
    if min(height, width) < LEAST:
        return None
    copies = prod(i.size for i in batch)
    sides = _sides(height, width, copies, grid, target)
    left = _operand(found[0].left, down, grid)
    rights = tuple(_operand(p.right, across, grid) for p in found)
    stages = STAGES if any(o.copied for o in (left, *rights)) else 2
    how = Tile(left, rights, batch, *sides, stages)
    blocks = copies * -(-height // how.height) * -(-width // how.width)
    return replace(grid, how=how, threads=THREADS, blocks=blocks, resident=_resident(how, grid))


def _operand(part: Expr, own: tuple[Index, ...], grid: Grid) -> Operand:
    deep, count = _is_deep(part, own, grid), copied(part, grid, own)
    # in shared memory elements lie next to each other: points are copied one at a time
    return Operand(part, own, deep, min(count, 1) if deep else count)


def _resident(how: Tile, grid: Grid) -> int:
    """One block where the results and the places of many copies take most of the registers."""
    if how.rows * how.columns * len(how.rights) * BYTES[grid.dtype] // 4 < HELD:
        return RESIDENT
    sides = [(how.left, how.height), *((right, how.width) for right in how.rights)]
    plain = all(isinstance(o.part, Read) and not grid.accesses[o.part].checks for o, _ in sides)
    copies = sum(side * how.depth // max(o.copied, 1) // THREADS for o, side in sides)
    return RESIDENT if plain and copies <= COPIES else 1


def _sides(height: int, width: int, copies: int, grid: Grid, target: GpuTarget) -> Sides:
    """The largest tile that wastes little, whose results fit the registers and that leaves every
    processor something to do, by layers of blocks if need be."""
    words = len(grid.bodies) * BYTES[grid.dtype] // 4
    for sides in SIDES:
        tall, wide, _, rows, columns = sides
        blocks = copies * -(-height // tall) * -(-width // wide)
        wasted = blocks * tall * wide / (copies * height * width)
        enough = blocks * max(1, grid.points // PART) >= target.processors or tall == ANY
        if wasted <= 1.5 and enough and rows * columns * words <= HELD:
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
