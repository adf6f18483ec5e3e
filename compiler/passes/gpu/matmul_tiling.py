"""Sums of products as tiles in shared memory.

In: a `Grid` not divided yet. Out: the grid in tiles, if its body is a product of one part that
depends on some output indices and one that depends on others; else nothing. Matrix products,
batched ones, convolutions and both their gradients are all of this form: what the parts read is
computed while the tile is loaded. Where both parts are rounded to bf16, tensor cores multiply them.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import NamedTuple

from ...ir.build import call
from ...ir.dtypes import BYTES, is_float
from ...ir.equation import Index
from ...ir.expr import Apply, Const, Expr, Idx, Read, reads
from ...targets import GpuTarget
from ..lowering.contraction import MatrixFactors, matrix_factors
from .async_copy import async_copy_width
from .grid_ir import RESIDENT, Grid, Operand, Tile

LEAST = 8  # elements on a side, and points, below which tiles are not worth it
ANY = 32  # the side of tiles that are taken however few they are
HELD = 64  # words of results that a thread holds at most
COPIES = 8  # of a thread and a step, for which there is room beside as many results
MATRIX = 16  # elements on a side, and points, of what tensor cores multiply at once
STAGES = 3  # of what is copied asynchronously; 2 of what is computed


class Shape(NamedTuple):
    """Of a tile and of what a thread holds of it, or a warp with tensor cores."""

    height: int
    width: int
    depth: int
    rows: int
    columns: int
    threads: int


THREADS = (Shape(128, 128, 16, 8, 8, 256), Shape(64, 64, 16, 4, 4, 256),
           Shape(32, 32, 16, 2, 2, 256), Shape(16, 16, 16, 1, 1, 256))  # fmt: skip
WARPS = (Shape(128, 128, 32, 64, 32, 256), Shape(64, 64, 32, 32, 16, 256),
         Shape(32, 32, 32, 16, 16, 128))  # fmt: skip


def matmul_tiling(grid: Grid, target: GpuTarget) -> Grid | None:
    """The grid in tiles, or None."""
    if grid.reduce != "sum" or not is_float(grid.dtype) or grid.points < LEAST:
        return None
    found = [p for p in (_parts(body, grid) for body in grid.bodies) if p]
    if len(found) < len(grid.bodies) or len({(p.left, p.rows, p.columns) for p in found}) > 1:
        return None
    down, across = found[0].rows, found[0].columns
    batch = tuple(i for i in grid.outputs if i not in down and i not in across)
    height, width = (prod(i.size for i in group) for group in (down, across))
    if min(height, width) < LEAST:
        return None
    sides = (found[0].left, *(p.right for p in found))
    cores = grid.dtype == "f32" and all(_unrounded(part, grid) is not None for part in sides)
    why = grid.why
    if cores and min(height, width, grid.points) < MATRIX:
        cores, why = False, (*why, f"of bf16, but not of {MATRIX} elements: no tensor cores")
    copies = prod(i.size for i in batch)
    shape = _shape(height, width, copies, grid, target, WARPS if cores else THREADS)
    left = _operand(found[0].left, down, grid, cores)
    rights = tuple(_operand(p.right, across, grid, cores) for p in found)
    stages = STAGES if any(o.copied for o in (left, *rights)) else 2
    how = Tile(left, rights, batch, *shape[:5], stages, cores)
    blocks = copies * -(-height // how.height) * -(-width // how.width)
    return replace(
        grid,
        how=how,
        threads=shape.threads,
        blocks=blocks,
        why=why,
        resident=_resident(how, grid, shape.threads),
    )


def _operand(part: Expr, own: tuple[Index, ...], grid: Grid, cores: bool) -> Operand:
    deep = _is_deep(part, own, grid)
    access = grid.accesses.get(part) if isinstance(part, Read) else None
    if cores:  # what is not rounded in memory passes through registers
        count = async_copy_width(access, grid.over if deep else own, "bf16")
        return Operand(_unrounded(part, grid) or part, own, deep, count)
    count = async_copy_width(access, own, grid.dtype)
    # in shared memory elements lie next to each other: points are copied one at a time
    return Operand(part, own, deep, min(count, 1) if deep else count)


def _unrounded(part: Expr, grid: Grid) -> Expr | None:
    """What gives the part when it is rounded to bf16; None if that is not certain."""
    if isinstance(part, Read) and grid.accesses[part].dtype == "bf16":
        return part if part.other is None or _unrounded(part.other, grid) is not None else None
    if isinstance(part, Apply):
        match part.fn:
            case "bf16":
                return part.args[0]
            case "neg":
                inner = _unrounded(part.args[0], grid)
                return None if inner is None else call("neg", inner)
            case "select":
                yes, no = (_unrounded(a, grid) for a in part.args[1:])
                if yes is not None and no is not None:
                    return call("select", part.args[0], yes, no)
    return part if isinstance(part, Const) and part.value == 0 else None


def _resident(how: Tile, grid: Grid, threads: int) -> int:
    """One block where the results take most of the registers beside values that wait to be stored,
    the places of many copies, or checks of f32 elements one by one."""
    results = how.height * how.width // threads * len(how.rights) * BYTES[grid.dtype] // 4
    if results < HELD:
        return RESIDENT
    sides = [(how.left, how.height), *((right, how.width) for right in how.rights)]
    plain = all(
        o.copied
        and isinstance(o.part, Read)
        and (how.tensor_cores or not grid.accesses[o.part].checks)
        for o, _ in sides
    )
    copies = sum(side * how.depth // max(o.copied, 1) // threads for o, side in sides)
    return RESIDENT if plain and copies <= COPIES else 1


def _shape(
    height: int, width: int, copies: int, grid: Grid, target: GpuTarget, shapes: tuple[Shape, ...]
) -> Shape:
    """The largest tile that wastes little, whose results fit the registers and that leaves every
    processor something to do, by layers of blocks if need be."""
    words = len(grid.bodies) * BYTES[grid.dtype] // 4
    for shape in shapes:
        size = shape.height * shape.width
        blocks = copies * -(-height // shape.height) * -(-width // shape.width)
        wasted = blocks * size / (copies * height * width)
        splits = max(1, grid.points // target.split_points)
        enough = blocks * splits >= target.processors or shape.height == ANY
        if wasted <= 1.5 and enough and size // shape.threads * words <= HELD:
            return shape
    return shapes[-1]


def _parts(body: Expr, grid: Grid) -> MatrixFactors | None:
    """The two parts of the product; what is stored next to each other runs across."""
    found = matrix_factors(body, grid.outputs)
    if found is not None and _last(grid, found.rows) > _last(grid, found.columns):
        return MatrixFactors(found.right, found.left, found.columns, found.rows)
    return found


def _last(grid: Grid, indices: tuple[Index, ...]) -> int:
    return grid.outputs.index(indices[-1])


def _is_deep(part: Expr, outputs: tuple[Index, ...], grid: Grid) -> bool:
    """Whether memory runs along the points rather than along the outputs."""
    accesses = [grid.accesses[r] for r in reads(part) if r in grid.accesses]

    def units(index: Index) -> int:
        return sum(a.offset.coefficients.get(Idx(index.name)) == 1 for a in accesses)

    return units(grid.over[-1]) > units(outputs[-1])
