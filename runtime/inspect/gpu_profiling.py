"""Where the time of a training step goes on a GPU.

In: a `Setup`, how many steps. Out: a `Profile`: milliseconds of every launch from the GPU's own
events, what its kernel takes of a processor, and the whole step as the one graph that training
launches. A launch may be several kernels of the plan, and a long sum is two launches: one computes
parts, which has all the work, and one joins them.
"""

from __future__ import annotations

import time

import numpy as np

from ...compiler.elaboration.train_block import Setup
from ...compiler.passes.gpu.launch_ir import Launch
from ...compiler.passes.kernels.kernel import Kernel
from ..device.cuda.program import CudaProgram
from ..device.cuda.timing import Timer, bandwidth
from ..training.executor import Executor
from .bench import fill_random
from .profiling import WARMUP, KernelTime, Profile, faster_half, kernel_time, stages_of


def profile(name: str, setup: Setup, steps: int, seed: int) -> Profile:
    """Run `steps` steps launch by launch, and as many as graphs. UserError E0720 without a GPU."""
    bound = Executor(setup, CudaProgram, seed).training(setup.batch)
    step, program = bound.system, bound.program
    assert isinstance(program, CudaProgram)
    fill_random(step, dict(bound.fields), np.random.default_rng(seed))
    # records an event before and after every launch, so it cannot run as one graph
    timer = Timer(program)
    timed: list[dict[Launch, float]] = []
    whole: list[float] = []
    # in turns, so that both see the same clock rate of the GPU
    for number in range(1, WARMUP + steps + 1):
        bound.step[...] = number
        began = time.perf_counter()
        # the step as training takes it: one graph, whose kernels start right after each other
        program.run()
        whole.append((time.perf_counter() - began) * 1e3)
        # then once more, launch by launch
        timed.append(timer.step())
    sums = np.array([sum(found.values()) for found in timed[WARMUP:]])
    # the same quiet steps for all launches, so that their times add up
    quiet, alone = faster_half(sums), np.array(whole[WARMUP:])
    means = {
        launch: float(np.mean([timed[WARMUP + n][launch] for n in quiet])) for launch in timed[0]
    }
    return Profile(
        name,
        setup.batch,
        # no threads, and no peak measured: figures are held against the memory's bandwidth
        0,
        steps,
        0.0,
        float(alone[faster_half(alone)].mean()),
        float(sums[quiet].mean()),
        tuple(_kernels(timer, means, step)),
        program.found.device,
        bandwidth(program.cupy),
    )


def _kernels(timer: Timer, means: dict[Launch, float], step) -> list[KernelTime]:
    system = timer.program.plan.system
    stages = stages_of(step, system)
    # a launch in a recurrence is made once for each of its turns
    runs: dict[Launch, int] = {}
    for launch, _ in timer.calls:
        runs[launch] = runs.get(launch, 0) + 1
    found: list[KernelTime] = []
    worked: set[Kernel] = set()
    for launch, ms in means.items():
        name = ", ".join(kernel.name for kernel in launch.kernels)
        # The second launch of a split sum works on kernels that are counted already.
        counted = not worked.issuperset(launch.kernels)
        worked.update(launch.kernels)
        found.append(
            kernel_time(
                name, launch.kernels, runs[launch], ms, system, stages, timer.use(launch), counted
            )
        )
    return found
