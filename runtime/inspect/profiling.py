"""Where the time of a training step goes: kernels, and the lines of the source.

In: a `Setup`, threads, how many steps. Out: a `Profile`. The step is compiled with a clock that is
read before and after every kernel; the same step without clocks is run in turns with it, so that
the sum can be held against what a step takes. Of all steps the quieter half counts. A GPU is
measured by `gpu_profiling.py`, which gives a `Profile`, too.

A kernel computes several equations at once. Its time is shared out among them by their operations
(`compiler/ir/work.py`), and theirs goes to the lines that they come from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from ctypes import c_void_p
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ...compiler.codegen.llvm.module import Clock
from ...compiler.elaboration.train_block import Setup
from ...compiler.ir.equation import Equation, System
from ...compiler.ir.work import flops, operations
from ...compiler.passes.kernels.kernel import Blocks, Item, Kernel, Plan
from ...compiler.pipeline import plan
from ...dsl.syntax.source import Span
from ..device.cpu import host
from ..device.cpu.program import CpuProgram
from ..training.executor import Executor
from .bench import fill_random
from .peak import peak

if TYPE_CHECKING:
    from ..device.cuda.timing import KernelResources

STAGES = ("forward", "backward", "update")
WARMUP = 3
CALIBRATION = 0.05  # seconds over which the clock is compared with the time of day


@dataclass(frozen=True)
class Share:
    """What one equation takes of a step: milliseconds, 10^9 operations of products, 10^6 bytes."""

    equation: Equation
    stage: str
    ms: float
    gflop: float
    mb: float


@dataclass(frozen=True)
class KernelTime:
    """A kernel in one step, or several that are one launch; one of a recurrence runs `runs` times.
    `use` is what it takes of a GPU."""

    name: str
    runs: int
    ms: float
    shares: tuple[Share, ...]
    use: KernelResources | None = None

    @property
    def span(self) -> Span | None:
        """The place of the first equation, the anchor."""
        return self.shares[0].equation.span

    @property
    def gflop(self) -> float:
        return sum(share.gflop for share in self.shares)

    @property
    def mb(self) -> float:
        return sum(share.mb for share in self.shares)

    @property
    def stage(self) -> str:
        # of a kernel with equations of several stages: the one that takes most of its time
        return max(self.shares, key=lambda share: share.ms).stage


@dataclass
class LineTime:
    """What a place of the source takes of a step; `ms` are by stage. A place in the user's own file
    has, in `within`, the lines of the library that it asks for."""

    span: Span
    ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    gflop: float = 0.0
    mb: float = 0.0
    within: dict[tuple[str, int], LineTime] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.ms.values())

    @property
    def text(self) -> str:
        """The layer, function or equation that stands there; of the library, its whole line."""
        if self.span.source.library:
            return self.span.source.line(self.span.line).strip()
        return self.span.text.partition("\n")[0]

    def add(self, share: Share) -> None:
        self.ms[share.stage] += share.ms
        self.gflop += share.gflop
        self.mb += share.mb


@dataclass(frozen=True)
class Profile:
    """`step_ms` is a step without clocks, `clocked_ms` one with them; `peak` is in GFLOP/s. Of a
    GPU, `gpu` is its name, `bandwidth` that of its memory in GB/s, and there are no `threads`."""

    name: str
    batch: int
    threads: int
    steps: int
    peak: float
    step_ms: float
    clocked_ms: float
    kernels: tuple[KernelTime, ...]
    gpu: str = ""
    bandwidth: float = 0.0

    @property
    def kernel_ms(self) -> float:
        return sum(k.ms for k in self.kernels)

    @property
    def gflop(self) -> float:
        return sum(k.gflop for k in self.kernels)

    @property
    def mb(self) -> float:
        return sum(k.mb for k in self.kernels)

    def stage_ms(self, stage: str) -> float:
        return sum(s.ms for k in self.kernels for s in k.shares if s.stage == stage)

    def lines(self) -> list[LineTime]:
        """The places of the user's own files, from top to bottom."""
        found: dict[tuple[str, int, int], LineTime] = {}
        for share in (s for k in self.kernels for s in k.shares):
            # what passes make up themselves may stand for no line
            span = share.equation.span
            if span is None:
                continue
            own = span.user_span
            line = found.setdefault((own.source.name, own.line, own.column), LineTime(own))
            # an equation inside a layer counts for the line of the user's file that applies the
            # layer
            line.add(share)
            if own is not span:
                key = span.source.name, span.line
                line.within.setdefault(key, LineTime(span)).add(share)
        return [found[key] for key in sorted(found)]


def profile(name: str, setup: Setup, threads: int, steps: int, seed: int) -> Profile:
    """Run `steps` steps with clocks and as many without. UserError if the program is wrong."""
    # the same plan twice: one with a clock around each kernel, one without
    executor = Executor(setup, lambda system: CpuProgram(system, threads), seed)
    # the executor gives the plain program its initial values; the clocked one gets copies below
    bound = executor.training(setup.batch)
    plain, system = bound.program, bound.system
    clocked = ClockedProgram(plan(system, host.target()), threads)
    fill_random(system, dict(bound.fields), np.random.default_rng(seed))
    for each, array in clocked.arrays.items():
        array[...] = plain.arrays[each]
    # the counter has a rate of its own, which no instruction tells: it is measured
    rate = clocked.ticks_per_ms()
    ticks, clocked_ms, plain_ms = [], [], []
    # In turns, so that what slows the computer down for a while slows both.
    for number in range(WARMUP + steps):
        for program in (plain, clocked):
            if "step" in program.arrays:
                program.arrays["step"][...] = number + 1
        plain_ms.append(_timed(plain.run))
        clocked.clear()
        clocked_ms.append(_timed(clocked.run))
        ticks.append(clocked.ticks())
    # the same steps for all kernels, so that their times add up to that of a step
    quiet = faster_half(np.array(clocked_ms[WARMUP:]))
    alone = np.array(plain_ms[WARMUP:])
    per_kernel = np.array(ticks[WARMUP:], np.float64)[quiet].mean(0) / rate
    stages = stages_of(system, clocked.plan.system)
    kernels = tuple(
        kernel_time(kernel.name, (kernel,), runs, float(ms), clocked.plan.system, stages)
        # a kernel is the same function in every turn of a recurrence: its clock adds them up
        for (kernel, runs), ms in zip(runs_of(clocked.plan.items), per_kernel, strict=True)
    )
    return Profile(
        name,
        setup.batch,
        threads,
        steps,
        peak(threads),
        float(alone[faster_half(alone)].mean()),
        float(np.array(clocked_ms[WARMUP:])[quiet].mean()),
        kernels,
    )


def _timed(run: Callable[[], None]) -> float:
    begin = time.perf_counter()
    run()
    return (time.perf_counter() - begin) * 1e3


def faster_half(times: np.ndarray) -> np.ndarray:
    """The places of the steps that took least: what others do to the computer only adds."""
    # at least one, however few steps there are
    return np.argsort(times, kind="stable")[: max(1, len(times) // 2)]


# --- a program with clocks ------------------------------------------------------------------------


class ClockedProgram(CpuProgram):
    """A plan that counts the ticks of a clock for every kernel, in memory behind its arena. What is
    counted is the first thread's time from the kernel's call until all threads are done with it."""

    def __init__(self, source: Plan, threads: int):
        # the cells of the clocks lie behind the tensors in the same arena, so that kernels reach
        # them
        self.clock = Clock(source.arena_bytes, sum(1 for _ in source.kernels))
        super().__init__(replace(source, arena_bytes=self.clock.end(threads)), threads)
        cells = self.arena[self.clock.start : self.clock.end(threads)].view(np.int64)
        # [threads, kernels]: each thread has a row of its own, so that none waits for another's
        # line
        self._cells = cells.reshape(threads, -1)
        self._now = self._code.library.function("now", c_void_p)

    def clear(self) -> None:
        self._cells[...] = 0

    def ticks(self) -> np.ndarray:
        """By kernel, in the order of the plan."""
        return self._cells[0].copy()

    def ticks_per_ms(self) -> float:
        """How fast the clock goes."""
        cell = np.zeros(1, np.int64)

        # both clocks are read right after each other, at the beginning and at the end
        def now() -> tuple[int, float]:
            self._now(cell.ctypes.data)
            return int(cell[0]), time.perf_counter()

        first, begin = now()
        time.sleep(CALIBRATION)
        last, end = now()
        return (last - first) / ((end - begin) * 1e3)


def runs_of(items: Iterable[Item], turns: int = 1) -> list[tuple[Kernel, int]]:
    """Every kernel and how often a step runs it."""
    found = []
    for item in items:
        if isinstance(item, Kernel):
            found.append((item, turns))
        elif isinstance(item, Blocks):
            blocks = item.count_of(item.steps)
            found += [(kernel, turns * blocks) for kernel in item.kernels]
        else:
            # a recurrence in a recurrence: the turns multiply
            found += runs_of(item.kernels, turns * item.index.size)
    return found


# --- whose time it is -----------------------------------------------------------------------------


def stages_of(step: System, optimised: System) -> Mapping[str, str]:
    """The stage of every tensor that is computed. Forward is what the loss and the metrics need;
    backward what the gradients of the parameters need besides; the update is the rest, the next
    values of states included."""
    # Names are those of the unoptimised step. What passes have inlined away is skipped below; what
    # they have added counts for the stage that reads it.
    definition = optimised.definition
    stages: dict[str, str] = {}
    gradients = [g.target for g in step.gradients]
    for stage, roots in (("forward", step.outputs), ("backward", gradients)):
        stack = list(roots)
        while stack:
            name = stack.pop()
            # forward comes first, so what both need counts as forward
            if name in definition and name not in stages:
                stages[name] = stage
                # depth first along the sources; inputs and parameters have no definition and end it
                stack += definition[name].sources
    return stages


def kernel_time(
    name: str,
    kernels: Sequence[Kernel],
    runs: int,
    ms: float,
    system: System,
    stages: Mapping[str, str],
    use: KernelResources | None = None,
    counted: bool = True,
) -> KernelTime:
    """The time of kernels that run at once; their work is 0 where it is `counted` elsewhere."""
    # operations weigh the equations; every one has some, so the total is not 0
    total = sum(operations(eq, system) for kernel in kernels for eq in kernel.equations)
    shares = []
    for kernel in kernels:
        seen: set[str] = set()
        for eq in kernel.equations:
            # what stays in registers (`local`) is not moved; a tensor is counted once for each
            # kernel
            touched = {*(s for s in eq.sources if s not in kernel.local), eq.target} - kernel.local
            mb = sum(system.tensors[name].bytes for name in touched - seen) / 1e6
            seen |= touched
            shares.append(
                Share(
                    eq,
                    # neither forward nor backward: what computes new parameters and states
                    stages.get(eq.target, "update"),
                    ms * operations(eq, system) / total,
                    flops(eq, system) / 1e9 * counted,
                    mb * counted,
                )
            )
    return KernelTime(name, runs, ms, tuple(shares), use)
