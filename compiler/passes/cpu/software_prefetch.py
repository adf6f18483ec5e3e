"""Software prefetch: what a nest asks memory for before it reads it.

    acc += a[4096*k + i]   →   prefetch a[4096*(k + 8) + i]; acc += …

The hardware's prefetchers follow neighbouring addresses; the operands of a sum that lie far apart,
and what statements read after a long sum, they do not see coming. Later kernels' parameters are
prefetched by `passes/kernels/prefetch.py`. Tests: tests/passes/test_row_prefetch.py.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ...ir.affine import Affine
from ...ir.dtypes import BYTES
from ...ir.expr import Idx
from ..lowering.access import Access
from .loop_ir import Loop
from .tile_cost import Work
from .tiling import Tiling


def operand_prefetch(
    operands: list[Access], loops: tuple[Loop, ...], work: Work, tiling: Tiling
) -> tuple[Access, ...]:
    """The operands of a sum that are read one element at a time, each from a row far from that of
    the step before: what is read some steps later."""
    limits = work.target.prefetch
    if tiling.form != "outer" or loops[-1].kind != "reduce":
        return ()
    # In a short loop most prefetches would be of what comes after its end.
    if loops[-1].steps < 2 * limits.distance:
        return ()
    inner, vector = Idx(loops[-1].index.name), Idx(tiling.vector)
    found = []
    for a in operands:
        terms = a.offset.coefficients
        step = terms.get(inner, 0)
        # The address some steps ahead must be known without loading an index first. Neighbouring
        # steps are left to the hardware's own prefetchers; what vectors run over is read whole
        # lines at a time.
        plain = all(isinstance(atom, Idx) for atom in terms) and not a.checks
        if plain and vector not in terms and abs(step) * BYTES[a.dtype] >= limits.far_stride:
            ahead = a.offset + Affine({}, limits.distance * step)
            found.append(replace(a, offset=ahead))
    return tuple(found)


def epilogue_prefetch(others: list[Access], work: Work, tiling: Tiling) -> tuple[Access, ...]:
    """What statements read after a sum that takes long enough to bring it from memory: a cache line
    for every vector."""
    long = prod(i.size for i in work.over) >= work.target.prefetch.distance
    if not work.reduce or tiling.form != "outer" or not long:
        return ()
    vector = Idx(tiling.vector)
    return tuple(
        a
        for a in others
        if a.offset.coefficients.get(vector) == 1
        and not a.checks
        and all(isinstance(atom, Idx) for atom in a.offset.coefficients)
        # What is the same for all rows, such as a bias, is soon in the cache anyway.
        and any(tiling.rows.get(name, 1) > 1 for name in a.offset.indices)
    )
