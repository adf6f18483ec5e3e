"""A product in cache blocks as it was decided on: panels, stretches of rows and blocks of terms.

    a tiling, a cut of the sum, a stretch of rows   →   `CacheBlocks` of the loops, and the accesses
                                                        to what is packed

What is decided stands in `cache_blocks.py`; the code generator's part of it in `loop_ir.py`. Tests:
tests/passes/test_cache_blocks.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from ...ir.affine import Affine
from ...ir.dtypes import BYTES
from ...ir.expr import Expr, Idx, Read
from ..lowering.access import Access
from .loop_ir import PACKED_ROWS, PANEL, CacheBlocks, Loop
from .next_blocks import next_panel, next_rows, next_tile
from .tile_cost import Work
from .tiling import Rows, Tiling

F32 = BYTES["f32"]


@dataclass(frozen=True)
class Stretch:
    """Rows that share a panel: so many `steps` of the outermost loop over rows, once for every step
    of the loops over the indices `outside`. A block of the sum stays for so many `panels`."""

    outside: frozenset[str]
    steps: int
    rows: int
    panels: int = 1


@dataclass(frozen=True)
class Cut:
    """The loop over the sum that is cut, by its number, and the steps of a block; of the loops
    inside of it a block has all steps. `terms` are those of a block."""

    loop: int
    steps: int
    terms: int


@dataclass(frozen=True)
class Panels:
    """A nest in cache blocks: the tiling of its rows, the factor that is packed, where it is, and
    whether it is rounded on the way, the other one, whose rows may be packed, too, the blocks of
    the sum, and the stretches of rows. `cycles` are those of the whole nest."""

    work: Work
    tiling: Tiling
    packed: Read
    source: Access
    rounds: bool
    other: Read
    packs_rows: bool
    cut: Cut
    stretch: Stretch
    along: str  # the summed index that the packed factor is contiguous along, if it is transposed
    cycles: float
    share: float  # of the most multiply-adds that the core can do

    def __str__(self) -> str:
        columns = self.tiling.vectors * self.tiling.lanes
        size = self.cut.terms * columns * F32
        return (
            f"cache blocks: {self.cut.terms} terms, panels of {columns} of {self.tiling.vector} "
            f"({size:,} bytes), {self.stretch.rows} rows{', packed' * self.packs_rows}; "
            f"{self.share:.0%} of peak predicted"
        )

    def blocks(
        self, loops: Sequence[Loop], accesses: Mapping[Read, Access]
    ) -> tuple[CacheBlocks, dict[Read, Access]]:
        """The blocks of these loops, and what the accesses to what is packed become."""
        outer = [x for x in loops if x.kind != "reduce"]
        inner = [x for x in loops if x.kind == "reduce"]
        outside = next(n for n, x in enumerate(outer) if x.index.name == self.tiling.vector)
        first, *inside = (x.steps for x in outer[outside + 1 :])
        tiles = min(self.stretch.steps, first) * prod(inside)
        narrow = accesses[self.other]
        packs_rows = self.packs_rows and not narrow.checks  # loops are clipped to what is in bounds
        blocks = CacheBlocks(
            self.packed,
            self.source,
            outside,
            self.stretch.steps,
            self.stretch.panels,
            self.cut.loop,
            self.cut.steps,
            partial_sums(self.work, self.cut),
            self.along,
            self.rounds,
            None if self.along else self._ahead(),
            narrow if packs_rows else None,
            None if self.along else next_panel(self.work, self.source, self.tiling, tiles),
            next_rows(self.work, narrow, self.tiling, self.stretch.panels),
            next_tile(self.work, narrow, outer[-1], inner[-1]),
            str(self),
        )
        inner = inner[self.cut.loop :]
        offset = _packed(inner, {self.tiling.vector: self.tiling.vectors * self.tiling.lanes})
        packed = {self.packed: replace(self.source, tensor=PANEL, offset=offset)}
        if packs_rows:
            offset = _packed(inner, self.tiling.rows)
            packed[self.other] = replace(narrow, tensor=PACKED_ROWS, offset=offset)
        return blocks, packed

    def _ahead(self) -> Access:
        """What is packed some steps of the innermost loop later."""
        inner = Idx(self.work.over[-1].name)
        distance = self.work.target.prefetch.distance * self.source.offset.coefficients[inner]
        return replace(self.source, offset=self.source.offset + Affine({}, distance))


def _packed(inner: Sequence[Loop], tile: Rows) -> Affine:
    """Where an element is in what is packed for a tile: the tile's elements side by side, for each
    step of these loops."""
    strides: dict[Expr, int] = {}
    stride = 1
    for name, size in reversed([*tile.items()]):
        strides[Idx(name)] = stride
        stride *= size
    for loop in reversed(inner):
        strides[Idx(loop.index.name)] = stride
        stride *= loop.index.size
    return Affine(strides, 0)


def partial_sums(work: Work, cut: Cut) -> str:
    """The type of the sums between blocks; empty for one block. Long sums are added up in f64, as
    by `blocked_sums.py`."""
    limits, total = work.target.tiling, prod(i.size for i in work.over)
    if cut.terms >= total:
        return ""
    return "f64" if total > limits.whole_blocks * limits.long_block else "f32"
