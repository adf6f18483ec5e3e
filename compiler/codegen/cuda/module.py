"""A plan as one CUDA C++ source and the launches that run it.

In: a `Plan` and a target. Out: a `Module`: the prelude and one kernel per different grid or sweep,
and what is launched in which order with which tensors. Kernels and recurrences that are equal up to
names share the function of the first of them. Nothing here compiles or runs CUDA.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ...ir.dtypes import BYTES
from ...ir.equation import Index
from ...passes.gpu.grid_ir import Grid
from ...passes.gpu.lower import SCRATCH, lower
from ...passes.gpu.persistent_kernel import persistent_kernel
from ...passes.gpu.persistent_loop import Sweep
from ...passes.kernels.equal_kernels import equal_kernels, item_signature
from ...passes.kernels.kernel import Kernel, Plan, Scan
from ...passes.kernels.memory import aligned
from ...targets import GPU_TARGETS, GpuTarget
from .kernel import Function, group
from .kernel import kernel as kernel_text
from .persistent import APART, recurrence

ARGUMENTS = 500  # of one launch, of 8 bytes each: older drivers take 4 KB


@dataclass(frozen=True)
class Launch:
    """One launch: `blocks` by `layers` blocks of `threads` threads, `shared` bytes for each block.
    The arguments are the places of tensors, in bytes from the start of the arena, then the values
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


Span = tuple[int, int, bool]  # bytes of the arena from, to, and whether they are written


@dataclass(frozen=True)
class _Call:
    """One grid of one kernel, or one sweep, with its arguments, not yet part of a launch."""

    function: Function
    grid: Grid | Sweep
    offsets: tuple[int, ...]
    spans: tuple[Span, ...]
    fixed: tuple[str, ...]
    kernels: tuple[Kernel, ...]

    def beside(self, other: _Call) -> bool:
        """Whether they may be one launch: both are free, of one kind and one size of blocks, and
        neither needs the place in a loop, nor what the other writes."""
        alone = not self.function.free or self.fixed or other.fixed
        alike = type(self.grid) is type(other.grid) and self.grid.threads == other.grid.threads
        return (
            alike
            and not alone
            and not any(
                a < d and c < b and (written or also)
                for a, b, written in self.spans
                for c, d, also in other.spans
            )
        )

    @property
    def meeting(self) -> int:
        """The groups of blocks that wait for each other."""
        return self.grid.groups if isinstance(self.grid, Sweep) and self.grid.members > 1 else 0


@dataclass(frozen=True)
class _Swept:
    """The function of a sweep; `arguments` are the places of its tensors among all of the
    recurrence."""

    sweep: Sweep
    function: Function
    arguments: tuple[int, ...]


@dataclass(frozen=True)
class Repeat:
    """Launches in order for every value of the index, from the first to the last or back."""

    index: Index
    reverse: bool
    launches: tuple[Launch | Repeat, ...]

    @property
    def values(self) -> range:
        size = self.index.size
        return range(size - 1, -1, -1) if self.reverse else range(size)


Launches = tuple[Launch | Repeat, ...]


@dataclass(frozen=True)
class Module:
    """`source` without the prelude, the launches of one run, and the arena that they work in.
    `grids` and `sweeps` are those of the functions, by name; `entries` are the kernels' names."""

    kernels: str
    launches: Launches
    arena_bytes: int
    grids: Mapping[str, Grid]
    sweeps: Mapping[str, Sweep] = field(default_factory=dict)

    @property
    def entries(self) -> frozenset[str]:
        return frozenset(launch.function for launch in _all(self.launches))

    @property
    def source(self) -> str:
        return f"{prelude()}\n{self.kernels}"


@cache
def prelude() -> str:
    return Path(__file__).with_name("prelude.cuh").read_text("utf-8")


def _all(launches: Launches) -> Iterator[Launch]:
    """Every launch once."""
    for item in launches:
        if isinstance(item, Launch):
            yield item
        else:
            yield from _all(item.launches)


def flat(
    launches: Launches, at: Mapping[str, int] | None = None
) -> Iterator[tuple[Launch, tuple[int, ...]]]:
    """Every launch in order with its index arguments."""
    at = at or {}
    for item in launches:
        if isinstance(item, Launch):
            yield item, tuple(at[name] for name in item.fixed)
        else:
            for value in item.values:
                yield from flat(item.launches, {**at, item.index.name: value})


def module(plan: Plan, target: GpuTarget = GPU_TARGETS["h100"]) -> Module:
    """The source and the launches for a plan."""
    return _Maker(plan, target).module()


class _Maker:
    def __init__(self, plan: Plan, target: GpuTarget):
        self.plan, self.target = plan, target
        self.shared = equal_kernels(plan)
        self.grids: dict[Kernel, tuple[Grid, ...]] = {}
        self.functions: dict[tuple, Function] = {}
        self.groups: dict[tuple[Function, ...], str] = {}
        self.texts: list[str] = []
        self.named: dict[str, Grid] = {}
        self.waiting = plan.barriers
        self.swept: dict[tuple, _Swept | None] = {}
        self.counters = aligned(plan.arena_bytes)  # of groups of blocks
        recurrent = any(isinstance(item, Scan) for item in plan.items)
        self.scratch = self.counters + recurrent * target.processors * APART * BYTES["i32"]
        self.scratch_bytes = 0

    def module(self) -> Module:
        launches = self._launches(self.plan.items)
        sweeps = {made.function.name: made.sweep for made in self.swept.values() if made}
        return Module(
            "\n".join(self.texts), launches, self.scratch + self.scratch_bytes, self.named, sweeps
        )

    def _launches(self, items: tuple[Kernel | Scan, ...]) -> Launches:
        found: list[Launch | Repeat] = []
        waiting: list[_Call] = []  # of free functions that may run at once
        for item in items:
            calls = self._recurrence(item) if isinstance(item, Scan) else self._calls(item)
            if isinstance(calls, Repeat):
                found += [*self._together(waiting), calls]
                continue
            for call in calls:
                if not self._fits(call, waiting):
                    found += self._together(waiting)
                if call.function.free:
                    waiting.append(call)
                else:
                    found.append(_launch(call))
        return (*found, *self._together(waiting))

    def _fits(self, call: _Call, waiting: list[_Call]) -> bool:
        """Whether it may be one launch with those that wait."""
        arguments = sum(len(c.offsets) for c in (*waiting, call))
        at_once = sum(c.grid.blocks for c in (*waiting, call) if c.meeting)
        return (
            arguments <= ARGUMENTS
            and at_once <= self.target.processors
            and all(map(call.beside, waiting))
        )

    def _together(self, calls: list[_Call]) -> list[Launch]:
        """The free calls as one launch; the list is empty afterwards."""
        if not calls:
            return []
        members, calls[:] = tuple(calls), []
        functions = tuple(c.function for c in members)
        threads = members[0].grid.threads
        name = self.groups.get(functions)
        if name is None:
            name = self.groups[functions] = f"g{len(self.groups)}"
            if len(members) == 1:
                name = self.groups[functions] = f"{functions[0].name}_kernel"
            self.texts.append(
                group(
                    name,
                    [(c.function, c.grid.blocks) for c in members],
                    threads,
                    members[0].grid.resident,
                )
            )
        offsets: list[int] = []
        meeting = 0  # groups so far
        for call in members:
            offsets += call.offsets
            if call.meeting:
                offsets.append(self.counters + meeting * APART * BYTES["i32"])
                meeting += call.meeting
        return [
            Launch(
                name,
                sum(c.grid.blocks for c in members),
                1,
                threads,
                max(c.grid.shared_bytes for c in members),
                tuple(offsets),
                members[0].fixed,
                tuple(k for c in members for k in c.kernels),
            )
        ]

    def _recurrence(self, scan: Scan) -> list[_Call] | Repeat:
        """One call, or the launches of every step. Recurrences that are equal up to names, wait
        alike and have tensors that share memory alike have one function."""
        text, own = item_signature(scan, self.plan.system)
        spans = [(n, self._span(t)) for n, t in enumerate(own) if t in self.plan.offsets]
        overlaps = tuple(
            (n, m) for n, (a, b) in spans for m, (c, d) in spans if n < m and a < d and c < b
        )
        key = (text, overlaps, *(k.name in self.waiting for k in scan.every))
        if key not in self.swept:
            self.swept[key] = self._sweep(scan, own, {n for pair in overlaps for n in pair})
        made = self.swept[key]
        if made is None:
            return Repeat(scan.index, scan.reverse, self._launches(scan.kernels))
        arguments = [own[n] for n in made.arguments]
        stored = {t for kernel in scan.every for t in kernel.stored}
        touched = tuple((*self._span(t), t in stored) for t in arguments)
        offsets = tuple(self.plan.offsets[t] for t in arguments)
        return [_Call(made.function, made.sweep, offsets, touched, scan.fixed, tuple(scan.every))]

    def _sweep(self, scan: Scan, tensors: tuple[str, ...], mingled: set[int]) -> _Swept | None:
        """The function of a recurrence, if it has one. `mingled` tensors share memory."""
        sweep = persistent_kernel(scan, self.plan, self.waiting, self.target)
        if sweep is None:
            return None
        found = (t for share in sweep.steps.shares for t in _arguments(share.grid))
        here = {kept.name for kept in sweep.kept}
        arguments = tuple(t for t in dict.fromkeys(found) if t not in here)
        types = {t: self.plan.system.tensors[t].storage_dtype for t in arguments}
        extents = {t: self.plan.system.tensors[t].size for t in arguments}
        places = tuple(tensors.index(t) for t in arguments)
        exclusive = frozenset(t for t, n in zip(arguments, places, strict=True) if n not in mingled)
        name = f"s{len(self.swept)}_{_safe(sweep.name)}"
        function = recurrence(sweep, name, arguments, types, extents, exclusive)
        self.texts.append(function.text)
        return _Swept(sweep, function, places)

    def _span(self, tensor: str) -> tuple[int, int]:
        start = self.plan.offsets[tensor]
        return start, start + self.plan.system.tensors[tensor].bytes

    def _calls(self, kernel: Kernel) -> list[_Call]:
        own = self.shared[kernel]
        model = self.shared[own.representative]
        if own.representative not in self.grids:
            self.grids[own.representative] = lower(own.representative, self.plan, self.target)
        names = dict(zip(model.tensors, own.tensors, strict=True))
        return [
            self._call(own.representative, number, grid, names, kernel)
            for number, grid in enumerate(self.grids[own.representative])
        ]

    def _call(
        self, model: Kernel, number: int, grid: Grid, names: Mapping[str, str], kernel: Kernel
    ) -> _Call:
        arguments = _arguments(grid)
        offsets = tuple(self._offset(names.get(t, t)) for t in arguments)
        sizes = [self._bytes(grid, t) for t in arguments]
        stored = set(grid.stored)
        spans = tuple(
            (o, o + size, t in stored) for t, o, size in zip(arguments, offsets, sizes, strict=True)
        )
        exclusive = frozenset(
            t
            for t, (start, end, _) in zip(arguments, spans, strict=True)
            if sum(start < b and a < end for a, b, _ in spans) == 1
        )
        key = (model, number, exclusive)
        function = self.functions.get(key)
        if function is None:
            name = f"k{len(self.functions)}_{_safe(grid.name)}"
            function = self._function(grid, name, arguments, exclusive)
            self.functions[key], self.named[name] = function, grid
            self.texts.append(function.text)
        if grid.part:
            self.scratch_bytes = max(self.scratch_bytes, self._bytes(grid, SCRATCH))
        return _Call(function, grid, offsets, spans, kernel.fixed, (kernel,))

    def _function(
        self, grid: Grid, name: str, arguments: tuple[str, ...], exclusive: frozenset[str]
    ) -> Function:
        types = {t: self._type(grid, t) for t in arguments}
        extents = {t: self._bytes(grid, t) // BYTES[types[t]] for t in arguments}
        return kernel_text(grid, name, arguments, types, extents, exclusive)

    def _offset(self, tensor: str) -> int:
        return self.scratch if tensor == SCRATCH else self.plan.offsets[tensor]

    def _type(self, grid: Grid, tensor: str) -> str:
        return grid.dtype if tensor == SCRATCH else self.plan.system.tensors[tensor].storage_dtype

    def _bytes(self, grid: Grid, tensor: str) -> int:
        if tensor != SCRATCH:
            return self.plan.system.tensors[tensor].bytes
        layers = grid.part or grid.over[0]
        return len(grid.bodies) * layers.size * grid.elements * BYTES[grid.dtype]


def _launch(call: _Call) -> Launch:
    grid = call.grid
    assert isinstance(grid, Grid)
    layers = grid.part.size if grid.part else 1
    return Launch(
        call.function.name,
        grid.blocks,
        layers,
        grid.threads,
        grid.shared_bytes,
        call.offsets,
        call.fixed,
        call.kernels,
    )


def _safe(name: str) -> str:
    """As part of a C++ name."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in name)


def _arguments(grid: Grid) -> tuple[str, ...]:
    """The tensors in memory that the grid reads and writes, each once."""
    read = (grid.accesses[r].tensor for r in grid.reads)
    return tuple(dict.fromkeys((*read, *grid.stored)))
