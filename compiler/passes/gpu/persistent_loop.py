"""Recurrences for a GPU: what each block does at every step, in which every decision stands.

In: what `passes/persistent` decided of a recurrence and `passes/keep` of shared memory. Out:
records that `codegen/cuda/recurrence.py` only has to spell, and their text. The work of one kernel
at one step is a grid as in `grids.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ...ir.dtypes import BYTES
from ...ir.equation import Index
from ...ir.expr import Read
from .grid_ir import Grid, Together, statement_lines


@dataclass(frozen=True)
class Share:
    """What a group of blocks does of one kernel at one step of a recurrence: the elements of `grid`
    for each of the group's rows. The grid has neither the steps nor the `rows` among its outputs. A
    thread that shares a reduction does so for `held` rows at once: what they have in common is read
    once. A share that `waits` begins when all before it has ended. Every thread keeps the `weights`
    in shared memory that it reads at every step, those of the `turns` elements that it takes part
    in; all are of the grid's type."""

    grid: Grid
    rows: tuple[Index, ...]
    held: int
    waits: bool
    weights: tuple[Read, ...] = ()
    turns: int = 1

    def __str__(self) -> str:
        held = f", {self.held} rows at once" if self.held > 1 else ""
        kept = f", {self.weight_bytes:,} bytes of weights kept" if self.weights else ""
        return f"{self.grid.how}{held}{kept}"

    @property
    def lanes(self) -> int:
        """Threads that reduce for one element."""
        return self.grid.how.lanes if isinstance(self.grid.how, Together) else 1

    @property
    def lane_points(self) -> int:
        """Points that a thread takes of an element."""
        return -(-self.grid.points // self.lanes)

    @property
    def kept_weights(self) -> int:
        """Of a block, for every point that one of its threads takes."""
        return self.turns * self.lane_points * len(self.weights) * self.grid.threads

    @property
    def weight_bytes(self) -> int:
        return self.kept_weights * BYTES[self.grid.dtype]

    @property
    def width(self) -> int:
        """Elements that the threads of a block reduce at once, for `held` rows each."""
        return self.grid.threads // self.lanes

    @property
    def shared_bytes(self) -> int:
        """Of the results that threads join through shared memory."""
        grid, how = self.grid, self.grid.how
        if not isinstance(how, Together) or how.along == "over":
            return 0
        size = 16 if grid.reduce in ("argmax", "argmin") else BYTES[grid.dtype]
        return grid.threads * self.held * len(grid.bodies) * size


@dataclass(frozen=True)
class Kept:
    """A tensor's latest steps in shared memory under a name of their own: `count` elements."""

    name: str
    tensor: str
    dtype: str
    count: int

    @property
    def bytes(self) -> int:
        """A multiple of 16, so that all that follows is aligned."""
        return -(-self.count * BYTES[self.dtype] // 16) * 16


@dataclass(frozen=True)
class Steps:
    """`parts` in order for every value of the index, from the first to the last or back."""

    index: Index
    reverse: bool
    parts: tuple[Share | Steps, ...]

    @property
    def shares(self) -> Iterator[Share]:
        for part in self.parts:
            if isinstance(part, Share):
                yield part
            else:
                yield from part.shares


@dataclass(frozen=True)
class Sweep:
    """A recurrence in one launch. No row reads what another one computes, so `groups` of blocks
    take `rows` of them each and go through all steps on their own. The `members` of a group share
    the elements of each step and wait for each other; to be sure that they run at once there are
    not more blocks than processors. `fixed` are indices that are bound outside of it."""

    name: str
    steps: Steps
    fixed: tuple[str, ...]
    groups: int
    rows: int
    members: int
    threads: int
    kept: tuple[Kept, ...] = ()
    why: tuple[str, ...] = field(default=(), compare=False)

    @property
    def blocks(self) -> int:
        return self.groups * self.members

    @property
    def resident(self) -> int:
        """Blocks that a processor must have registers for."""
        return 1

    @property
    def joined_bytes(self) -> int:
        """Of shared memory, at its start, in which threads join what they have reduced."""
        return max(share.shared_bytes for share in self.steps.shares)

    @property
    def shared_bytes(self) -> int:
        weights = sum(share.weight_bytes for share in self.steps.shares)
        return self.joined_bytes + sum(kept.bytes for kept in self.kept) + weights

    def __str__(self) -> str:
        return "\n".join(_sweep_lines(self))


def _sweep_lines(sweep: Sweep) -> Iterator[str]:
    fixed = f"({', '.join(sweep.fixed)})" if sweep.fixed else ""
    yield f"sweep {sweep.name}{fixed}"
    yield from (f"    # {why}" for why in sweep.why)
    yield f"    {sweep.blocks} blocks of {sweep.threads} threads"
    for kept in sweep.kept:
        yield f"    {kept.tensor}: its latest steps in {kept.bytes:,} bytes of shared memory"
    wait = "all threads wait" if sweep.members == 1 else f"all {sweep.members} blocks wait"
    yield from _steps_lines(sweep.steps, wait, "    ")


def _steps_lines(steps: Steps, wait: str, indent: str) -> Iterator[str]:
    index = steps.index
    yield f"{indent}for {index.name} < {index.size}{' from the last' if steps.reverse else ''}:"
    indent += "    "
    for part in steps.parts:
        if isinstance(part, Steps):
            yield from _steps_lines(part, wait, indent)
            continue
        if part.waits:
            yield f"{indent}{wait}"
        yield f"{indent}share {part.grid.name}: {part}"
        yield from (f"{indent}    # {why}" for why in (part.grid.source, *part.grid.why) if why)
        yield from (f"{indent}    {line}" for line in statement_lines(part.grid))
