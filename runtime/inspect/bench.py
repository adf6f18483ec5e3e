"""How fast a training step is, on numbers drawn at random.

In: a compiled training step's setup and a device. Out: a `Figures`. Data and their reading are
left out: a step is what the machine code does. Where the device holds examples and takes several
steps at a time, they are taken as training takes them.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from ...compiler.elaboration.train_block import Setup
from ...compiler.ir.dtypes import is_float
from ...compiler.ir.equation import System
from ...compiler.ir.work import flops
from ...dsl.records import record
from ..data import Split
from ..device import Batched, Device
from ..device.data_inputs import fields_of
from ..training.batch_inputs import all_examples
from ..training.bound_program import BoundProgram
from ..training.executor import Executor

WARMUP = 3


@record
class StepFigures:
    """Milliseconds of a step; 10^9 operations of its sums of products per second of the median
    step; seconds from the command's start to the end of the first step; the process's peak memory
    in 10^6 bytes."""

    median_ms: float
    min_ms: float
    gflops: float
    first_step_s: float
    peak_mb: float
    gpu: GpuFigures | None = None


@record
class GpuFigures:
    """What a step is on a GPU: kernels that it launches, steps that are one launch of a graph and
    why not more, 10^6 bytes of its arena, seconds of compiling or of reading what was compiled."""

    launches: int
    together: int
    why: str
    arena_mb: float
    compile_s: float


def measure(setup: Setup, device: Device, steps: int, seed: int, started: float) -> StepFigures:
    """Run `steps` training steps. `started` is the command's start on `time.perf_counter`."""
    # compiles, which is part of the time to the first step
    executor = Executor(setup, device, seed)
    bound = executor.training(setup.batch)
    fill_random(executor.system, dict(bound.fields), np.random.default_rng(seed))
    # the first step touches all memory for the first time
    bound.step[...] = 1
    bound.program.run()
    first = time.perf_counter() - started
    # from here on as training runs it: several steps in one launch if the device takes them
    run, together = _runner(bound)
    times = []
    # the steps are rounded up to whole launches
    for number in range(WARMUP + -(-steps // together)):
        begin = time.perf_counter()
        run(2 + number * together)
        # the steps of one launch have one time between them
        times.append((time.perf_counter() - begin) / together)
    # caches, clock rates and page tables have settled by then
    times = times[WARMUP:]
    from ...compiler.pipeline import derive  # after the time to the first step

    step = derive(executor.system)
    # operations of products as written, before passes leave any out
    work = sum(flops(eq, step) for eq in step.equations)
    middle = median(times)
    return StepFigures(
        middle * 1e3,
        min(times) * 1e3,
        work / middle / 1e9,
        first,
        peak_bytes() / 1e6,
        _on_gpu(bound, together),
    )


def _runner(bound: BoundProgram) -> tuple[Callable[[int], None], int]:
    """What takes as many steps as the device takes at a time, from the one of a number on; and how
    many that are."""
    # without fields there is nothing to hold on the device
    if not isinstance(bound.program, Batched) or not bound.fields:
        return lambda number: _run_step(bound, number), 1
    # the batch that was filled with random numbers is the whole data set
    batch = len(bound.fields[0][1])
    examples = all_examples(Split({name: array.copy() for name, array in bound.fields}))
    together = bound.together(examples)
    # every run takes the same rows: what is in them does not change the time
    rows = np.tile(np.arange(batch), (together, 1))

    def run(number: int) -> None:
        # a generator: it runs as it is gone through
        for _ in bound.run_many(examples, rows, range(number, number + together)):
            pass

    return run, together


def _run_step(bound: BoundProgram, number: int) -> None:
    bound.step[...] = number
    bound.program.run()


def _on_gpu(bound: BoundProgram, together: int) -> GpuFigures | None:
    program = bound.program
    if not isinstance(program, Batched):
        return None
    return GpuFigures(
        program.launches,
        together,
        program.not_held or program.rule,
        program.arena_bytes / 1e6,
        program.compile_seconds,
    )


def fill_random(system: System, arrays: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """Fill inputs with numbers of their kind: reals from 0 to 1, classes within their count."""
    limits = system.index_inputs or {}
    for tensor in fields_of(system):
        array = arrays[tensor.name]
        if is_float(tensor.dtype):
            # from 0 to 1: neither overflow nor denormal numbers, which take longer
            array[...] = rng.random(tensor.shape, np.float32)
        else:
            # of integers that index nothing, 0 and 1 are always allowed
            array[...] = rng.integers(0, limits.get(tensor.name, 2), tensor.shape)


def peak_bytes() -> int:
    """The most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # kilobytes on Linux, bytes on a Mac
    return peak if sys.platform == "darwin" else peak * 1024
