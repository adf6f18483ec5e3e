"""Matmul tiling: sums of products in tiles that pass through shared memory.

    y[i, j] = sum(k) a[i, k] * b[k, j]   →   a block computes a tile of y, `depth` points at a time,
                                             from tiles of a and b that its threads share

Each loaded element serves a whole row or column of the tile. While one step is multiplied, the next
ones are copied (a multistage pipeline). Applies to a sum whose body is a product of one factor that
depends on some output indices and one that depends on others: matrix products, batched ones,
convolutions and the gradients of all of them. What the factors compute is computed while the tile
is loaded. If both factors are rounded to bf16, tensor cores multiply them. Source: Volkov and
Demmel 2008; CUTLASS. Tests: tests/backends/test_cuda_tiles.py, tests/backends/test_cuda_rounded.py.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ...ir.build import call
from ...ir.dtypes import BYTES, is_float
from ...ir.equation import Index
from ...ir.expr import Apply, Const, Expr, Idx, Read, reads
from ...targets import GpuTarget, MatmulTileShape
from ..lowering.contraction import MatrixFactors, matrix_factors
from .async_copy import async_copy_width
from .grid_ir import Grid, MatmulTile, Operand


def matmul_tiling(grid: Grid, target: GpuTarget) -> Grid | None:
    """The grid in tiles, or None."""
    limits = target.matmul
    # integers wrap, and other reductions are no products: threads compute them one by one
    if grid.reduce != "sum" or not is_float(grid.dtype) or grid.points < limits.min_side:
        return None
    # several products in one kernel share the tile of their left factor: it must be the same
    found = [f for f in (_factors(body, grid) for body in grid.bodies) if f]
    if len(found) < len(grid.bodies) or len({(f.left, f.rows, f.columns) for f in found}) > 1:
        return None
    rows, columns = found[0].rows, found[0].columns
    # in both factors or in neither: each value of them is a matrix product of its own
    batch = tuple(i for i in grid.outputs if i not in rows and i not in columns)
    height, width = (prod(i.size for i in group) for group in (rows, columns))
    # as of a matrix and a vector: most of a tile would be empty
    if min(height, width) < limits.min_side:
        return None
    factors = (found[0].left, *(f.right for f in found))
    # Tensor cores multiply bf16 numbers, which is exact in f32, and add in f32.
    mma = grid.dtype == "f32" and all(_unrounded(factor, grid) is not None for factor in factors)
    why = grid.why
    # below a fragment's 16 by 8 by 16 most of what tensor cores compute would be thrown away
    if mma and min(height, width, grid.points) < limits.mma_side:
        mma, why = False, (*why, f"of bf16, but a side is below {limits.mma_side}: no tensor cores")
    products = prod(i.size for i in batch)
    shape = _shape(height, width, products, grid, target, limits.mma if mma else limits.simt)
    left = _operand(found[0].left, rows, grid, mma)
    rights = tuple(_operand(f.right, columns, grid, mma) for f in found)
    # several copies can be under way; what threads compute waits in registers, for one step
    copied = any(o.copy_width for o in (left, *rights))
    tile = MatmulTile(
        left,
        rights,
        batch,
        *shape[:5],
        stages=limits.copied_stages if copied else limits.computed_stages,
        tensor_cores=mma,
        vector=limits.vector,
        unroll=limits.unroll,
    )
    return replace(
        grid,
        how=tile,
        threads=shape.threads,
        # blocks at the edges are partly empty: sides are rounded up to whole tiles
        blocks=products * -(-height // tile.height) * -(-width // tile.width),
        why=why,
        resident=_min_blocks_per_sm(tile, grid, shape.threads, target),
    )


def _operand(value: Expr, indices: tuple[Index, ...], grid: Grid, mma: bool) -> Operand:
    along_points = _is_contiguous_along_points(value, indices, grid)
    access = grid.accesses.get(value) if isinstance(value, Read) else None
    if mma:  # what memory does not have as bf16 is rounded in registers
        # words of shared memory may lie along the points, too: either direction can be copied
        width = async_copy_width(access, grid.over if along_points else indices, "bf16")
        return Operand(_unrounded(value, grid) or value, indices, along_points, width)
    width = async_copy_width(access, indices, grid.dtype)
    # in shared memory the elements of a point are adjacent: points are copied one at a time
    return Operand(value, indices, along_points, min(width, 1) if along_points else width)


def _unrounded(value: Expr, grid: Grid) -> Expr | None:
    """What gives the value when it is rounded to bf16; None if that is not certain."""
    if isinstance(value, Read) and grid.accesses[value].dtype == "bf16":
        # a guarded read is rounded only if what it reads outside is, too
        return value if value.other is None or _unrounded(value.other, grid) is not None else None
    if isinstance(value, Apply):
        match value.fn:
            # the rounding itself: tensor cores round when the tile is stored in shared memory
            case "bf16":
                return value.args[0]
            # rounding is symmetric: -bf16(x) = bf16(-x)
            case "neg":
                negated = _unrounded(value.args[0], grid)
                return None if negated is None else call("neg", negated)
            # both branches must be rounded, or be 0 as outside a mask
            case "select":
                then, otherwise = (_unrounded(a, grid) for a in value.args[1:])
                if then is not None and otherwise is not None:
                    return call("select", value.args[0], then, otherwise)
    # 0 is the same number in bf16
    return value if isinstance(value, Const) and value.value == 0 else None


def _min_blocks_per_sm(tile: MatmulTile, grid: Grid, threads: int, target: GpuTarget) -> int:
    """One block where the accumulators take most of the registers beside values that wait to be
    stored, the addresses of many copies, or bounds checks of single f32 elements."""
    limits = target.matmul
    # registers of one accumulator: an f64 takes two
    words = len(tile.rights) * BYTES[grid.dtype] // BYTES["f32"]
    # few accumulators leave registers for two blocks in any case
    if tile.height * tile.width // threads * words < limits.accumulators:
        return target.min_blocks_per_sm
    sides = [(tile.left, tile.height), *((right, tile.width) for right in tile.rights)]
    # copied as they lie in memory, without bounds checks of single f32 elements
    plain = all(
        o.copy_width
        and isinstance(o.value, Read)
        and (tile.tensor_cores or not grid.accesses[o.value].checks)
        for o, _ in sides
    )
    # each copy in flight holds an address and a condition
    copies = sum(side * tile.depth // max(o.copy_width, 1) // threads for o, side in sides)
    return target.min_blocks_per_sm if plain and copies <= limits.copies_per_thread else 1


def _shape(
    height: int,
    width: int,
    products: int,
    grid: Grid,
    target: GpuTarget,
    shapes: tuple[MatmulTileShape, ...],
) -> MatmulTileShape:
    """The largest tile that wastes little, whose accumulators fit the registers and that gives
    every multiprocessor something to do, by split-K if need be."""
    limits = target.matmul
    # accumulators of one element, in words of registers
    words = len(grid.bodies) * BYTES[grid.dtype] // BYTES["f32"]
    # the table begins with the largest tiles, which load each operand the fewest times
    for shape in shapes:
        size = shape.height * shape.width
        blocks = products * -(-height // shape.height) * -(-width // shape.width)
        # computed over wanted elements: 1.3 if 30 % lie outside of the matrix
        waste = blocks * size / (products * height * width)
        # split-K may turn one block into so many
        splits = max(1, grid.points // target.split_points)
        # tiles of this height are taken even if they are too few for all multiprocessors
        enough = blocks * splits >= target.processors or shape.height == limits.few_blocks_side
        fits = size // shape.threads * words <= limits.accumulators
        if waste <= limits.max_waste and enough and fits:
            return shape
    # a shape that wastes much is still better than none
    return shapes[-1]


def _factors(body: Expr, grid: Grid) -> MatrixFactors | None:
    """The two factors of the product; the columns are what is stored contiguously."""
    found = matrix_factors(body, grid.outputs)
    # swap the factors if the last output index, contiguous in memory, is one of the rows
    if found is not None and _last(grid, found.rows) > _last(grid, found.columns):
        return MatrixFactors(found.right, found.left, found.columns, found.rows)
    return found


def _last(grid: Grid, indices: tuple[Index, ...]) -> int:
    return grid.outputs.index(indices[-1])


def _is_contiguous_along_points(value: Expr, indices: tuple[Index, ...], grid: Grid) -> bool:
    """Whether memory is contiguous along the points of the sum rather than along the outputs."""
    accesses = [grid.accesses[r] for r in reads(value) if r in grid.accesses]

    # reads that go by one element when this index does
    def unit_strides(index: Index) -> int:
        return sum(a.offset.coefficients.get(Idx(index.name)) == 1 for a in accesses)

    return unit_strides(grid.over[-1]) > unit_strides(indices[-1])
