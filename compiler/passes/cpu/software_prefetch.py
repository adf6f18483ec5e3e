"""Software prefetch: what a nest asks memory for before it reads it.

    acc += a[4096*k + i]   →   prefetch a[4096*(k + 8) + i]; acc += …

The hardware's prefetchers follow neighbouring addresses; the operands of a sum that lie far apart,
and what statements read after a long sum, they do not see coming. Nor do they fetch the next panel
of a weight while the rows of a product pass over this one:

    for panels p, rows b by 6, k: acc += x[b, k] * w[p, k]   →   … prefetch a sixth of w[p + 1]

Later kernels' parameters are prefetched by `passes/kernels/prefetch.py`. Tests:
tests/passes/test_row_prefetch.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile
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
    """What operands of a sum read later: of those that are read one element at a time, each from a
    row far from that of the step before, some steps later; of panels the next one."""
    if tiling.form != "outer" or loops[-1].kind != "reduce":
        return ()
    rows = _far_rows(operands, loops, work, tiling)
    return (*rows, *(each for a in operands for each in _of_panel(a, loops, work, tiling)))


def _far_rows(
    operands: list[Access], loops: tuple[Loop, ...], work: Work, tiling: Tiling
) -> Iterator[Access]:
    limits = work.target.prefetch
    # In a short loop most prefetches would be of what comes after its end.
    if loops[-1].steps < 2 * limits.distance:
        return
    inner, vector = Idx(loops[-1].index.name), Idx(tiling.vector)
    for a in operands:
        terms = a.offset.coefficients
        step = terms.get(inner, 0)
        # The address some steps ahead must be known without loading an index first. Neighbouring
        # steps are left to the hardware's own prefetchers; what vectors run over is read whole
        # lines at a time.
        plain = all(isinstance(atom, Idx) for atom in terms) and not a.checks
        if plain and vector not in terms and abs(step) * BYTES[a.dtype] >= limits.far_stride:
            ahead = a.offset + Affine({}, limits.distance * step)
            yield replace(a, offset=ahead)


def _of_panel(
    access: Access, loops: tuple[Loop, ...], work: Work, tiling: Tiling
) -> Iterator[Access]:
    """What is prefetched of an operand whose panels, a tile's columns for all terms, are contiguous
    and too large for the first-level cache. If one tile of rows reads a panel, the next lines; if a
    few do, at each of them a part of the next panel, so that memory has the time of all."""
    target, terms = work.target, access.offset.coefficients
    width, vector = tiling.vectors * tiling.lanes, Idx(tiling.vector)
    plain = all(isinstance(atom, Idx) for atom in terms) and not access.checks
    # In the order in which they lie in memory, which may not be that of the loops.
    inner = sorted(work.over, key=lambda i: terms.get(Idx(i.name), 0), reverse=True)
    strides = [prod([width, *(i.size for i in inner[n + 1 :])]) for n in range(len(inner))]
    contiguous = [terms.get(Idx(i.name), 0) for i in inner] == strides
    panel, size = strides[0] * inner[0].size, BYTES[access.dtype]
    large = panel * size > target.tiling.cached_panel * target.l1.bytes
    if not plain or terms.get(vector) != 1 or not contiguous or not large:
        return
    line = target.l1.line // size
    # The loops that leave a panel as it is are inside of those from one to the next, but for those
    # of a single step.
    outer = [x for x in loops if x.kind != "reduce" and x.steps > 1]
    rows = list(reversed(list(takewhile(lambda x: Idx(x.index.name) not in terms, outer[::-1]))))
    around = outer[: len(outer) - len(rows)]
    # What loops around all panels read again is near already.
    if not around or any(Idx(x.index.name) not in terms for x in around):
        return
    tiles = prod(x.steps for x in rows)
    if tiles == 1:
        ahead = target.prefetch.distance * width
        for column in range(0, width, line):
            yield replace(access, offset=access.offset + Affine({}, ahead + column))
        return
    if tiles > target.prefetch.panel_tiles:
        return
    each = width // tiles  # elements for every term
    place = {Idx(i.name): each * n // width for i, n in zip(inner, strides, strict=True)}
    for n, x in enumerate(rows):
        later = each * panel // width * prod(y.steps for y in rows[n + 1 :])
        place[Idx(x.index.name)] = later // max(s.tile for s in x.segments)
    kept = {a: c for a, c in terms.items() if a not in place and a != vector}
    step = around[-1]
    following = terms[Idx(step.index.name)] * step.lanes * max(s.tile for s in step.segments)
    yield replace(access, offset=Affine(kept | place, access.offset.constant + following))


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
