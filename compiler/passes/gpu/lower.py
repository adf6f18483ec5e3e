"""Lowering for a GPU: a plan of kernels becomes functions and launches.

    kernels, recurrences   →   grids, persistent loops   →   launches in order

Kernels and recurrences that are equal up to the names of tensors share the function of the first
of them, with other offsets. A recurrence is one persistent loop where `persistent_kernel` chooses
that, else a repetition of the launches of its kernels. Independent neighbours share a launch
(`launch_fusion`). Tests: tests/backends/test_cuda.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...ir.dtypes import BYTES
from ...targets import COUNTER_STRIDE, GPU_TARGETS, GpuTarget
from ..kernels.equal_kernels import equal_kernels, item_signature
from ..kernels.kernel import Blocks, Kernel, Plan, Scan
from ..kernels.memory import aligned
from .grid_ir import Grid
from .launch_fusion import LaunchCall, fused_launch, may_join, single_launch
from .launch_ir import (
    Function,
    FusedKernel,
    KernelParameter,
    Launch,
    Launches,
    LaunchLoop,
    LaunchProgram,
)
from .lower_kernel import lower_kernel
from .persistent_kernel import persistent_kernel
from .split_k import PARTIAL_RESULTS


def lower(plan: Plan, target: GpuTarget = GPU_TARGETS["h100"]) -> LaunchProgram:
    """The program of a plan. Behind the plan's tensors the arena has the counters of blocks that
    wait for each other, then the partial results of split reductions."""
    return _Lowering(plan, target).program()


@dataclass(frozen=True)
class _LoopFunction:
    """The function of a recurrence; `arguments` are the positions of its tensors among all of the
    recurrence's."""

    function: Function
    arguments: tuple[int, ...]


class _Lowering:
    def __init__(self, plan: Plan, target: GpuTarget):
        self.plan, self.target = plan, target
        self.representatives = equal_kernels(plan)
        self.grids: dict[Kernel, tuple[Grid, ...]] = {}
        self.functions: dict[tuple, Function] = {}
        self.loops: dict[tuple, _LoopFunction | None] = {}
        self.fused: dict[tuple[Function, ...], FusedKernel] = {}
        self.definitions: list[Function | FusedKernel] = []
        # [plan's tensors | counters of groups of blocks | partial results]
        self.counters = aligned(plan.arena_bytes)
        # only persistent loops have blocks that wait for each other
        recurrent = any(isinstance(item, Scan) for item in plan.items)
        # at most one group for each processor: `may_join` allows no more in one launch
        counter_bytes = target.processors * COUNTER_STRIDE * BYTES["i32"]
        # One area serves all split reductions: the grid that joins the parts is launched before the
        # next one writes parts, since what cannot be fused flushes the pending calls.
        self.partial_results = self.counters + recurrent * counter_bytes
        self.partial_bytes = 0

    def program(self) -> LaunchProgram:
        items = tuple(i for i in self.plan.items if not isinstance(i, Blocks))  # a CPU's alone
        launches = self._launches(items)
        arena_bytes = self.partial_results + self.partial_bytes
        return LaunchProgram(tuple(self.definitions), launches, arena_bytes)

    def _launches(self, items: tuple[Kernel | Scan, ...]) -> Launches:
        found: list[Launch | LaunchLoop] = []
        pending: list[LaunchCall] = []  # calls that will be one launch
        for item in items:
            calls = self._scan(item) if isinstance(item, Scan) else self._kernel(item)
            # a loop over launches has launches of its own, with which nothing outside may be joined
            if isinstance(calls, LaunchLoop):
                found += [*self._fuse(pending), calls]
                continue
            # a split reduction is two calls, the parts and what joins them
            for call in calls:
                # calls wait here for neighbours that are independent of them
                if not may_join(call, pending, self.target):
                    found += self._fuse(pending)
                if call.function.fusible:
                    pending.append(call)
                else:
                    found.append(single_launch(call))
        return (*found, *self._fuse(pending))

    def _fuse(self, pending: list[LaunchCall]) -> list[Launch]:
        """The pending calls as one launch, if there are any; none are pending afterwards."""
        if not pending:
            return []
        # emptied in place: the caller holds the same list
        calls, pending[:] = tuple(pending), []
        members = tuple(call.function for call in calls)
        # equal neighbours, as the updates of equal layers are, share the fused kernel as well
        kernel = self.fused.get(members)
        if kernel is None:
            single = len(members) == 1
            # a single member needs an entry point, too: fusible functions are device functions
            name = f"{members[0].name}_kernel" if single else f"g{len(self.fused)}"
            kernel = self.fused[members] = FusedKernel(name, members)
            self.definitions.append(kernel)
        return [fused_launch(calls, kernel.name, self.counters)]

    # --- recurrences ---------------------------------------------------------------------------

    def _scan(self, scan: Scan) -> list[LaunchCall] | LaunchLoop:
        """One call, or the launches of every step. Recurrences share a function if they are equal
        up to names, have barriers at the same places, and the same tensors overlap."""
        # the text names tensors by their order of appearance: equal recurrences have equal texts
        text, tensors = item_signature(scan, self.plan.system)
        spans = [(n, self._span(t)) for n, t in enumerate(tensors) if t in self.plan.offsets]
        # intervals in the arena intersect: a and c are the first bytes, b and d the ends
        overlaps = tuple(
            (n, m) for n, (a, b) in spans for m, (c, d) in spans if n < m and a < d and c < b
        )
        # overlaps decide on `__restrict__`: it and the barriers are part of the code
        key = (text, overlaps, *(k.name in self.plan.barriers for k in scan.every))
        if key not in self.loops:
            overlapping = {tensors[n] for pair in overlaps for n in pair}
            self.loops[key] = self._loop_function(scan, tensors, overlapping)
        loop = self.loops[key]
        # separate launches were estimated to be faster
        if loop is None:
            # one launch for each kernel and step, unrolled when a graph is made of them
            return LaunchLoop(scan.index, scan.reverse, self._launches(scan.kernels))
        arguments = [tensors[n] for n in loop.arguments]
        stored = {t for kernel in scan.every for t in kernel.stored}
        spans_of_arguments = tuple((*self._span(t), t in stored) for t in arguments)
        offsets = tuple(self.plan.offsets[t] for t in arguments)
        # every kernel of the loop, so that a profile can give its time to all of them
        kernels = tuple(scan.every)
        return [LaunchCall(loop.function, offsets, spans_of_arguments, scan.fixed, kernels)]

    def _loop_function(
        self, scan: Scan, tensors: tuple[str, ...], overlapping: set[str]
    ) -> _LoopFunction | None:
        """The function of a recurrence, if it is to be one."""
        loop = persistent_kernel(scan, self.plan, self.target)
        if loop is None:
            return None
        found = dict.fromkeys(t for step in loop.steps.kernels for t in _tensors(step.grid))
        # what is read through shared memory alone is no parameter
        here = {kept.name for kept in loop.shared_tensors}
        written = {t for step in loop.steps.kernels for t in step.grid.stored}
        parameters = []
        for tensor in (t for t in found if t not in here):
            record = self.plan.system.tensors[tensor]
            # promising the compiler that overlapping pointers do not alias would be wrong
            restrict = tensor not in overlapping
            parameters.append(
                KernelParameter(
                    tensor, record.storage_dtype, record.size, tensor in written, restrict
                )
            )
        function = Function(f"s{len(self.loops)}_{_safe(loop.name)}", loop, tuple(parameters))
        self.definitions.append(function)
        # positions rather than names: another recurrence has other tensors at the same positions
        return _LoopFunction(function, tuple(tensors.index(p.tensor) for p in parameters))

    def _span(self, tensor: str) -> tuple[int, int]:
        start = self.plan.offsets[tensor]
        return start, start + self.plan.system.tensors[tensor].bytes

    # --- kernels -------------------------------------------------------------------------------

    def _kernel(self, kernel: Kernel) -> list[LaunchCall]:
        own = self.representatives[kernel]
        # equal kernels share the grids of the first of them, which have that one's tensors
        model = self.representatives[own.representative]
        if own.representative not in self.grids:
            grids = lower_kernel(own.representative, self.plan, self.target)
            self.grids[own.representative] = grids
        # tensors of the representative → those of this kernel, in order of appearance
        names = dict(zip(model.tensors, own.tensors, strict=True))
        return [
            self._call(own.representative, number, grid, names, kernel)
            for number, grid in enumerate(self.grids[own.representative])
        ]

    def _call(
        self, model: Kernel, number: int, grid: Grid, names: Mapping[str, str], kernel: Kernel
    ) -> LaunchCall:
        tensors = _tensors(grid)
        offsets = tuple(self._offset(names.get(t, t)) for t in tensors)
        spans = tuple(
            (offset, offset + self._bytes(grid, t), t in grid.stored)
            for t, offset in zip(tensors, offsets, strict=True)
        )
        # a tensor overlaps itself, hence the count of 1
        restrict = frozenset(
            t
            for t, (start, end, _) in zip(tensors, spans, strict=True)
            if sum(start < b and a < end for a, b, _ in spans) == 1
        )
        # two equal kernels whose tensors overlap differently are two functions
        key = (model, number, restrict)
        function = self.functions.get(key)
        if function is None:
            parameters = tuple(self._parameter(grid, t, t in restrict) for t in tensors)
            name = f"k{len(self.functions)}_{_safe(grid.name)}"
            function = self.functions[key] = Function(name, grid, parameters)
            self.definitions.append(function)
        if grid.part:
            # the largest split reduction decides how large the common area is
            self.partial_bytes = max(self.partial_bytes, self._bytes(grid, PARTIAL_RESULTS))
        return LaunchCall(function, offsets, spans, kernel.fixed, (kernel,))

    def _parameter(self, grid: Grid, tensor: str, restrict: bool) -> KernelParameter:
        # partial results are no tensor of the system: their type is that of what is reduced
        dtype = (
            grid.dtype
            if tensor == PARTIAL_RESULTS
            else self.plan.system.tensors[tensor].storage_dtype
        )
        elements = self._bytes(grid, tensor) // BYTES[dtype]
        return KernelParameter(tensor, dtype, elements, tensor in grid.stored, restrict)

    def _offset(self, tensor: str) -> int:
        return self.partial_results if tensor == PARTIAL_RESULTS else self.plan.offsets[tensor]

    def _bytes(self, grid: Grid, tensor: str) -> int:
        if tensor != PARTIAL_RESULTS:
            return self.plan.system.tensors[tensor].bytes
        # the grid of the parts has `part`; the one that joins them reduces over it
        parts = grid.part or grid.over[0]
        return len(grid.bodies) * parts.size * grid.elements * BYTES[grid.dtype]


def _safe(name: str) -> str:
    """As part of a C++ name."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in name)


def _tensors(grid: Grid) -> tuple[str, ...]:
    """The tensors in memory that the grid reads and writes, each once."""
    read = (grid.accesses[r].tensor for r in grid.reads)
    return tuple(dict.fromkeys((*read, *grid.stored)))
