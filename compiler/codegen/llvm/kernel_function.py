"""The function of equal kernels, and how each of them calls it.

Where the tensors of equal kernels have different offsets, these are arguments of the function they
share; what is the same for all of them is a constant in its code.
Tests: tests/backends/test_cpu.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...passes.cpu.loop_ir import Nest
from ...passes.kernels.equal_kernels import SharedCode
from ...passes.kernels.kernel import Kernel, Plan
from . import loop_nest as nests


@dataclass(frozen=True)
class Apart:
    """A place that is known when the step runs: so many bytes behind the end of the arena, where
    the memory of params and states is taken to begin."""

    offset: int


Place = int | str | Apart | None  # in the arena; of a thread's own, by name; …; in registers


@dataclass(frozen=True)
class Call:
    """The function of a kernel and its arguments: the offsets of tensors that differ between equal
    kernels (of what a thread holds for itself, the names), and of tensors to prefetch, each with
    the bytes by which a trip advances. If it is `parallel`, all threads have a share in it; else
    the thread that is given the number 0 runs it."""

    name: str
    offsets: tuple[Place, ...]
    parallel: bool
    streams: tuple[tuple[Place, int], ...]


def place_of(name: str, plan: Plan) -> Place:
    """The tensor's place: its name if each thread has one of its own, None if it is in
    registers."""
    if name in plan.apart:
        return Apart(plan.offsets[name] - plan.arena_bytes)
    return name if name in plan.held else plan.offsets.get(name)


class KernelFunction:
    """The function of a group of equal kernels, `members`, of which the first represents them."""

    def __init__(
        self,
        number: int,
        members: Mapping[Kernel, SharedCode],
        plan: Plan,
        nest_of: Callable[[Kernel], Nest],
    ):
        first = next(iter(members))
        self.name = f'"k{number}.{first.name}"'
        self._plan, self._nest, self._tensors = plan, nest_of(first), members[first].tensors
        self._offsets: dict[Kernel, tuple[Place, ...]] = {
            kernel: tuple(place_of(t, plan) for t in shared.tensors)
            for kernel, shared in members.items()
        }
        # One column for each tensor of the function, one row for each kernel. What is the same in
        # all rows is a constant in the code, so that addresses fold; the rest are arguments.
        columns = enumerate(zip(*self._offsets.values(), strict=True))
        unknown = (str, Apart)
        self._varied = [
            n for n, column in columns if len(set(column)) > 1 or isinstance(column[0], unknown)
        ]
        self._prefetched = {kernel: plan.prefetch.get(kernel, ()) for kernel in members}
        # All kernels of a group call one function, so it has as many streams as the one with most.
        trips = self._nest.trip_count
        self._streams = max(map(len, self._prefetched.values())) if trips else 0

    def text(
        self, declarations: dict[str, None], linkage: str, places: Mapping[str, str]
    ) -> tuple[str, str]:
        """The head and the whole function."""
        bases: dict[str, int | str] = {}
        first = next(iter(self._offsets.values()))
        for n, (tensor, place) in enumerate(zip(self._tensors, first, strict=True)):
            if n in self._varied:
                bases[tensor] = f"%base{n}"
            elif isinstance(place, int):
                bases[tensor] = place
        return nests.function(
            self._nest, bases, declarations, self.name, linkage, self._streams, places
        )

    def call(self, kernel: Kernel) -> Call:
        """How a kernel calls it."""
        # Bytes by which a trip advances, rounded up: all of the tensor is prefetched, and a little
        # beyond it.
        stretches: list[tuple[Place, int]] = [
            (
                place_of(tensor, self._plan),
                -(-self._plan.system.tensors[tensor].bytes // self._nest.trip_count),
            )
            for tensor in self._prefetched[kernel][: self._streams]
        ]
        # A kernel with fewer tensors prefetches the arena's first line over and over, which costs
        # little.
        stretches += [(0, 0)] * (self._streams - len(stretches))
        offsets = tuple(self._offsets[kernel][n] for n in self._varied)
        parallel = any(loop.kind == "parallel" for loop in self._nest.loops)
        return Call(self.name, offsets, parallel, tuple(stretches))
