"""Launch IR: the functions of a program, the kernels made of them, and their launches in order.

`lower` makes it from a plan, `codegen/cuda/module.py` writes it as CUDA C++, and the device
launches it. Every decision stands in it: what runs together in one launch, with how many blocks,
and where in the arena every argument lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ...ir.equation import Index
from ..kernels.kernel import Kernel
from .grid_ir import Grid, ThreadPerElement
from .persistent_loop import PersistentLoop


@dataclass(frozen=True)
class KernelParameter:
    """A tensor that a function is given: its name inside the function, its type in memory, its size
    in elements, whether it is written, and whether it shares memory with no other parameter."""

    tensor: str
    dtype: str
    elements: int
    written: bool
    restrict: bool


@dataclass(frozen=True, eq=False)  # each function is itself
class Function:
    """A grid or a persistent loop as a function of its parameters; then come the indices that loops
    around it bind. A `fusible` function does not use the number of its block other than through an
    argument, so that several of them can be one kernel."""

    name: str
    body: Grid | PersistentLoop
    parameters: tuple[KernelParameter, ...]

    @property
    def fusible(self) -> bool:
        # a tile or a tree uses BLOCK itself; in these two the number of the block is an argument
        return isinstance(self.body, PersistentLoop) or isinstance(self.body.how, ThreadPerElement)

    @property
    def groups(self) -> int:
        """How many groups of blocks wait for each other; each needs a counter."""
        # one block alone waits for nobody
        return (
            self.body.groups
            if isinstance(self.body, PersistentLoop) and self.body.group_blocks > 1
            else 0
        )


@dataclass(frozen=True)
class FusedKernel:
    """One kernel whose first blocks compute the first function, the next ones the second, …"""

    name: str
    members: tuple[Function, ...]


@dataclass(frozen=True)
class Launch:
    """One launch: `blocks` by `layers` blocks of `threads` threads with `shared` bytes of shared
    memory each. The arguments are the `offsets` of tensors in the arena, in bytes, then the values
    of the indices that enclosing repetitions bind. `kernels` are those of the plan that it is part
    or all of."""

    function: str
    blocks: int
    layers: int
    threads: int
    shared: int
    offsets: tuple[int, ...]
    fixed: tuple[str, ...] = ()
    kernels: tuple[Kernel, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class LaunchLoop:
    """Launches in order for every value of the index, from the first to the last or back."""

    index: Index
    reverse: bool
    launches: tuple[Launch | LaunchLoop, ...]

    @property
    def values(self) -> range:
        size = self.index.size
        return range(size - 1, -1, -1) if self.reverse else range(size)


Launches = tuple[Launch | LaunchLoop, ...]


@dataclass(frozen=True)
class LaunchProgram:
    """`definitions` in an order in which each stands after what it uses, the launches of one run,
    and the bytes of the arena that they work in."""

    definitions: tuple[Function | FusedKernel, ...]
    launches: Launches
    arena_bytes: int


def distinct_launches(launches: Launches) -> Iterator[Launch]:
    """Every launch once, however often it is repeated."""
    # for tables of what there is, such as of entry points: repetitions do not count
    for item in launches:
        if isinstance(item, Launch):
            yield item
        else:
            yield from distinct_launches(item.launches)


def unrolled_launches(
    launches: Launches, indices: Mapping[str, int] | None = None
) -> Iterator[tuple[Launch, tuple[int, ...]]]:
    """Every launch of a run in order, with the values of its index arguments."""
    indices = indices or {}
    for item in launches:
        if isinstance(item, Launch):
            # arguments after the tensors: the current values of the loops around this launch
            yield item, tuple(indices[name] for name in item.fixed)
        else:
            # a loop within a loop sees the values of both
            for value in item.values:
                yield from unrolled_launches(item.launches, {**indices, item.index.name: value})
