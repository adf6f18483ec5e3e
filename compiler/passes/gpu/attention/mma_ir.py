"""Streams whose products tensor cores make: the record, and what it takes of a processor.

In: what `passes/warp_streams.py` decided of a kernel whose operands are stored as pairs of bf16
numbers. Out: a `WarpStream`, the `how` of a `Grid`, which `codegen/cuda/attention_cores.py` spells.
It decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....ir.dtypes import BYTES
from ....ir.equation import Index
from ..grid_ir import PADDING, Panel, Stream

LANES = 32
STAGES = 2  # tiles of the other side in shared memory: one is multiplied, the next one comes


@dataclass(frozen=True, kw_only=True)
class WarpStream(Stream):
    """A stream of which a warp holds `rows` by `columns` elements of a tile, all of its columns.

    In shared memory two bf16 numbers are a word. `mine` are the panels that stay,
    `theirs` those that come tile by tile, each once however often it is read: `factors` says which
    of either a product multiplies, `values` which of theirs a sum runs along, and `wide` along
    which indices, none where a sum is one number."""

    mine: tuple[Panel, ...]
    theirs: tuple[Panel, ...]
    factors: tuple[tuple[int, int], ...]
    values: tuple[int, ...]
    wide: tuple[tuple[Index, ...], ...]

    @property
    def held(self) -> int:
        """Numbers of the square and of sums in a lane's registers, and one more for each row."""
        across = self.columns * len(self.pairs) + sum(g.columns for g in self.sums)
        return self.rows * across // LANES + self.rows

    @property
    def tile(self) -> int:
        """Words of shared memory of one step."""
        return sum(self.row(p) for p in self.theirs) * self.width

    def row(self, panel: Panel) -> int:
        """Words from one row of a panel to the next, which begins in other banks."""
        return panel.points // 2 + PADDING

    @property
    def shared_bytes(self) -> int:
        mine = sum(self.row(p) for p in self.mine) * self.height
        return (mine + STAGES * self.tile) * BYTES["i32"]

    def __str__(self) -> str:
        return (
            f"tiles of {self.height} ({self.own.name}) by {self.width} ({self.other.name}), "
            f"{self.rows}x{self.columns} per warp by mma.sync m16n8k16 of bf16, "
            f"{STAGES} stages, none stored"
        )
