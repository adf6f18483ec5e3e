"""Persistent loops: a recurrence in one launch, whose blocks go through all of its steps.

`persistent_kernel` and `shared_state` make it, `codegen/cuda/persistent.py` writes it as CUDA C++.
Every decision stands in it. What one kernel computes at one step is a grid of `grid_ir`, divided
among the blocks of a group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ...ir.dtypes import BYTES
from ...ir.equation import Index
from ...ir.expr import Read
from ...targets import SHARED_ALIGNMENT
from .grid_ir import Grid, TreeReduction, accumulator_bytes, statement_lines


@dataclass(frozen=True)
class StepKernel:
    """One kernel at one step: the elements of `grid` for each row of the group. The grid has
    neither the steps nor the `rows` among its outputs.

    A thread that takes part in a reduction does so for `rows_at_once` rows, so that what these have
    in common is loaded once. With `barrier` it begins when all threads of the group have finished
    the kernels before it. `weights` are reads that are the same at all steps: each thread keeps the
    ones that it needs in shared memory, for up to `elements_per_thread` elements of the grid."""

    grid: Grid
    rows: tuple[Index, ...]
    rows_at_once: int
    barrier: bool
    weights: tuple[Read, ...] = ()
    elements_per_thread: int = 1

    def __str__(self) -> str:
        rows = f", {self.rows_at_once} rows at once" if self.rows_at_once > 1 else ""
        weights = f", {self.weight_bytes:,} bytes of weights in shared memory"
        return f"{self.grid.how}{rows}{weights if self.weights else ''}"

    @property
    def lanes(self) -> int:
        """Threads that reduce for one element."""
        return self.grid.how.lanes if isinstance(self.grid.how, TreeReduction) else 1

    @property
    def points_per_lane(self) -> int:
        """Points of the reduction that one of these threads has."""
        return -(-self.grid.points // self.lanes)

    @property
    def weight_count(self) -> int:
        """Weights in the shared memory of a block."""
        # rounded up: some lanes have one point less
        per_thread = self.elements_per_thread * self.points_per_lane * len(self.weights)
        return per_thread * self.grid.threads

    @property
    def weight_bytes(self) -> int:
        return self.weight_count * BYTES[self.grid.dtype]

    @property
    def elements_at_once(self) -> int:
        """Elements that the threads of a block reduce at once, for `rows_at_once` rows each."""
        return self.grid.threads // self.lanes

    @property
    def reduction_bytes(self) -> int:
        """Of shared memory in which threads that are not lanes of one warp join their results."""
        grid, how = self.grid, self.grid.how
        # lanes along the reduction are a warp and join by shuffles
        if not isinstance(how, TreeReduction) or how.along == "reduction":
            return 0
        # every thread has an accumulator for each row and body
        return grid.threads * self.rows_at_once * len(grid.bodies) * accumulator_bytes(grid)


@dataclass(frozen=True)
class SharedTensor:
    """The latest steps of `tensor`, `count` elements in shared memory under a name of their own."""

    name: str
    tensor: str
    dtype: str
    count: int

    @property
    def bytes(self) -> int:
        """Rounded up, so that what follows is aligned."""
        return -(-self.count * BYTES[self.dtype] // SHARED_ALIGNMENT) * SHARED_ALIGNMENT


@dataclass(frozen=True)
class StepLoop:
    """`body` in order for every value of the index, from the first to the last or back."""

    index: Index
    reverse: bool
    body: tuple[StepKernel | StepLoop, ...]

    @property
    def kernels(self) -> Iterator[StepKernel]:
        for item in self.body:
            if isinstance(item, StepKernel):
                yield item
            else:
                yield from item.kernels


@dataclass(frozen=True)
class PersistentLoop:
    """A recurrence in one launch. No row reads what another row computes, so `groups` of blocks
    take `rows` of them each and go through all steps on their own. The `group_blocks` blocks of a
    group divide the elements of each step and synchronize by a barrier of the group: for all of
    them to be resident, there are not more blocks than multiprocessors. `fixed` are indices that
    loops around it bind."""

    name: str
    steps: StepLoop
    fixed: tuple[str, ...]
    groups: int
    rows: int
    group_blocks: int
    threads: int
    shared_tensors: tuple[SharedTensor, ...] = ()
    why: tuple[str, ...] = field(default=(), compare=False)

    resident = 1  # blocks that a multiprocessor must have registers for

    @property
    def blocks(self) -> int:
        return self.groups * self.group_blocks

    @property
    def reduction_bytes(self) -> int:
        """Of shared memory, at its start, in which threads join their results."""
        # kernels run one after the other and use the same place
        return max(kernel.reduction_bytes for kernel in self.steps.kernels)

    @property
    def shared_bytes(self) -> int:
        # weights stay through all steps, so each kernel has a place of its own for them
        weights = sum(kernel.weight_bytes for kernel in self.steps.kernels)
        return self.reduction_bytes + sum(t.bytes for t in self.shared_tensors) + weights

    def __str__(self) -> str:
        return "\n".join(_loop_lines(self))


def _loop_lines(loop: PersistentLoop) -> Iterator[str]:
    fixed = f"({', '.join(loop.fixed)})" if loop.fixed else ""
    yield f"persistent loop {loop.name}{fixed}"
    yield from (f"    # {why}" for why in loop.why)
    yield f"    {loop.blocks} blocks of {loop.threads} threads"
    for tensor in loop.shared_tensors:
        yield f"    {tensor.tensor}: its latest steps in {tensor.bytes:,} bytes of shared memory"
    barrier = "barrier" if loop.group_blocks == 1 else f"barrier of {loop.group_blocks} blocks"
    yield from _step_lines(loop.steps, barrier, "    ")


def _step_lines(steps: StepLoop, barrier: str, indent: str) -> Iterator[str]:
    index = steps.index
    yield f"{indent}for {index.name} < {index.size}{' from the last' if steps.reverse else ''}:"
    indent += "    "
    for item in steps.body:
        if isinstance(item, StepLoop):
            yield from _step_lines(item, barrier, indent)
            continue
        if item.barrier:
            yield f"{indent}{barrier}"
        yield f"{indent}kernel {item.grid.name}: {item}"
        yield from (f"{indent}    # {why}" for why in (item.grid.source, *item.grid.why) if why)
        yield from (f"{indent}    {line}" for line in statement_lines(item.grid))
