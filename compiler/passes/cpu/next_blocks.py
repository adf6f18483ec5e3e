"""What cache blocks prefetch: what the next one packs, while the tiles of one are computed.

    for blocks k0, panels j0: pack b[k0…, j0…]; for tiles of i: sum in the block
    →   each tile prefetches its share of the lines of the panel that is packed next, and of what
        the next block reads of a

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
from .loop_ir import Following
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


def is_near(work: Work, factor: Access) -> bool:
    """Whether all that the nest reads of the factor stays in the second-level cache."""
    return bytes_read(work, factor) <= work.target.tiling.cached_panel * work.target.l2.bytes


def bytes_read(work: Work, factor: Access) -> int:
    """What the nest reads of a factor: all of it, or one element for each of its indices."""
    names = factor.offset.indices
    indices = (*work.outputs, *work.over)
    elements = prod(i.size for i in indices if i.name in names)
    return min(work.footprints[factor.tensor], elements * BYTES["f32"])


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
