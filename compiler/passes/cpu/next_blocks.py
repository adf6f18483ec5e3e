"""What cache blocks prefetch: what the next one packs, while the tiles of one are computed.

    for blocks k0, panels j0: pack b[k0…, j0…]; for tiles of i: sum in the block
    →   each tile prefetches its share of the lines of the panel that is packed next, and of what
        the next block reads of a, or what the next tile does

A core that copies from memory waits for most of the time: its prefetchers do not follow rows that
are far apart, and copying is too short to ask for much in advance. While products are computed
nothing else wants the memory. Only for factors that do not stay in the second-level cache anyway.
Software prefetching: Mowry, Lam and Gupta, "Design and evaluation of a compiler algorithm for
prefetching", 1992. Tests: tests/passes/test_cache_blocks.py.
"""

from __future__ import annotations

from math import prod

from ...ir.dtypes import BYTES
from ...ir.expr import Idx
from ..lowering.access import Access
from .loop_ir import Following, Loop, NextTile
from .tile_cost import Work
from .tiling import Tiling


def next_panel(work: Work, factor: Access, tiling: Tiling, tiles: int) -> Following | None:
    """What each of so many tiles of a panel prefetches of the factor that is packed into panels."""
    step = _step(work, factor)
    wanted = work.target.prefetch.next_blocks and not is_near(work, factor)
    return Following(factor, step, tiling.vectors, tiles) if step and wanted else None


def next_rows(work: Work, factor: Access, tiling: Tiling, panels: int) -> Following | None:
    """What a tile prefetches of the rows of the other factor, whose neighbours lie side by side,
    for the next block: tiles of all panels that read the same lines share these."""
    step, rows = _step(work, factor), [n for n, size in tiling.rows.items() if size > 1]
    beside = len(rows) == 1 and factor.offset.coefficients.get(Idx(rows[0])) == 1
    wanted = work.target.prefetch.next_blocks and not is_near(work, factor)
    if not step or not beside or not wanted:
        return None
    own = tiling.rows[rows[0]] * BYTES[factor.dtype]
    sharing = max(1, work.target.l1.line // own)
    return Following(factor, step, 1, panels * sharing)


def next_tile(work: Work, factor: Access, rows: Loop, terms: Loop) -> NextTile | None:
    """What a tile prefetches of the rows of the other factor that the next one reads: where their
    terms lie side by side in memory, and no window reads them again for the rows beside. `rows` is
    the loop from tile to tile, `terms` the innermost one over the sum."""
    strides = factor.offset.coefficients
    step = strides.get(Idx(rows.index.name), 0) * max(s.tile for s in rows.segments)
    line = work.target.l1.line // BYTES[factor.dtype]
    beside = strides.get(Idx(terms.index.name)) == 1 and terms.steps == terms.index.size > line
    wanted = work.target.prefetch.next_blocks and not is_near(work, factor)
    if not step or not beside or not wanted or _elements(work, factor) > _size(work, factor):
        return None
    return NextTile(factor, step, line)


def is_near(work: Work, factor: Access) -> bool:
    """Whether all that the nest reads of the factor stays in the second-level cache."""
    return bytes_read(work, factor) <= work.target.tiling.cached_panel * work.target.l2.bytes


def bytes_read(work: Work, factor: Access) -> int:
    """What the nest reads of a factor: all of it, or one element for each of its indices."""
    return min(_size(work, factor), _elements(work, factor)) * BYTES["f32"]


def _size(work: Work, factor: Access) -> int:
    """All elements of a factor of f32 numbers."""
    return work.footprints[factor.tensor] // BYTES["f32"]


def _elements(work: Work, factor: Access) -> int:
    """One for each of a factor's indices."""
    names = factor.offset.indices
    return prod(i.size for i in (*work.outputs, *work.over) if i.name in names)


def _step(work: Work, factor: Access) -> int:
    """How far apart the factor's terms are, one after the other; 0 if not equally far."""
    step = found = 0
    for index in reversed(work.over):
        stride = factor.offset.coefficients.get(Idx(index.name), 0)
        if found and stride != step:
            return 0
        found = found or stride
        step = stride * index.size
    return found
