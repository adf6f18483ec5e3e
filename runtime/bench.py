"""How fast a training step is, on numbers drawn at random.

In: a compiled training step's setup and a device. Out: a `Figures`. Data and their reading are
left out: a step is what the machine code does.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from statistics import median

import numpy as np

from ..compiler.ir import System, is_float
from ..compiler.training import Setup
from ..compiler.work import flops
from .device import Device
from .executor import Executor
from .feeding import class_limits, fields_of

WARMUP = 3


@dataclass(frozen=True)
class Figures:
    """Milliseconds of a step; 10^9 operations of its sums of products per second of the median
    step; seconds from the command's start to the end of the first step; the process's peak memory
    in 10^6 bytes."""

    median_ms: float
    min_ms: float
    gflops: float
    first_step_s: float
    peak_mb: float


def measure(setup: Setup, device: Device, steps: int, seed: int, started: float) -> Figures:
    """Run `steps` training steps. `started` is the command's start on `time.perf_counter`."""
    executor = Executor(setup, device, seed)
    bound = executor.training(setup.batch)
    draw(executor.system, dict(bound.fields), np.random.default_rng(seed))
    bound.step[...] = 1
    bound.program.run()
    first = time.perf_counter() - started
    times = []
    for number in range(WARMUP + steps):
        bound.step[...] = number + 2
        begin = time.perf_counter()
        bound.program.run()
        times.append(time.perf_counter() - begin)
    times = times[WARMUP:]
    work = sum(flops(eq, executor.system) for eq in executor.system.equations)
    middle = median(times)
    return Figures(middle * 1e3, min(times) * 1e3, work / middle / 1e9, first, peak_bytes() / 1e6)


def draw(system: System, arrays: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """Fill inputs with numbers of their kind: reals from 0 to 1, classes within their count."""
    limits = class_limits(system)
    for tensor in fields_of(system):
        array = arrays[tensor.name]
        if is_float(tensor.dtype):
            array[...] = rng.random(tensor.shape, np.float32)
        else:
            array[...] = rng.integers(0, limits.get(tensor.name, 2), tensor.shape)


def peak_bytes() -> int:
    """The most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
