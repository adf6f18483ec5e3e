"""How long each kernel of a program takes on the GPU, and what it takes of a processor.

In: a `CudaProgram`. Out: milliseconds by launch, from CUDA events before and after each of them.
Kernels are launched one by one, not as a graph. So that the GPU does not wait for Python between
two of them, it is kept busy by `wait` until a piece of the step is enqueued.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from ....compiler.codegen.cuda.module import Module
from ....compiler.passes.gpu.launch_ir import Launch
from .program import CudaProgram

PIECE = 200  # launches with their events: a stream takes about a thousand before it is full
SLACK = 1.5  # times what enqueueing took the last time
FIRST_MS = 20.0  # for a piece that was never enqueued
REGISTERS, LOCAL, STATIC_SHARED = 4, 3, 1  # CUfunction_attribute
CLOCK_KHZ, MEMORY_KHZ, MEMORY_BITS = 13, 36, 37  # cudaDeviceAttr

WAIT = """KERNEL(1, 1) wait(i32 kilocycles) {
#ifndef NNC_SIMULATOR
  const i64 start = clock64();
  while (clock64() - start < (i64)kilocycles * 1000) {}
#endif
}
"""


@dataclass(frozen=True)
class KernelResources:
    """Registers of a thread, bytes of its stack (spilled registers among them), bytes of shared
    memory of a block, and the share of a processor's threads that fit at once."""

    registers: int
    stack: int
    shared: int
    occupancy: float


class Timer:
    """Times the launches of a program. Every `step` is a whole run: params and states change."""

    def __init__(self, program: CudaProgram):
        self.program = program
        self.calls = list(program.calls())
        self.cuda = program.cupy.cuda
        # an event between each two launches, and one at both ends
        self._events = [self.cuda.Event() for _ in range(len(self.calls) + 1)]
        waiting = Launch("wait", 1, 1, 1, 0, (), ("kilocycles",))
        self._code = program.load(Module(WAIT, (waiting,), 0))
        self._wait = self._code.get_function("wait")
        self._clock_khz = self.cuda.runtime.deviceGetAttribute(CLOCK_KHZ, 0)
        # by the first launch of each piece: how long Python took to enqueue it
        self._took = {start: FIRST_MS for start in range(0, len(self.calls), PIECE)}

    def step(self) -> dict[Launch, float]:
        """Milliseconds of every launch in one run; of all its turns in a recurrence."""
        # a recurrence's launches are the same object at every step: their times add up
        stream = self.program.stream
        found = dict.fromkeys((launch for launch, _ in self.calls), 0.0)
        self.program.enqueue_inputs()
        # in pieces, as a stream holds about a thousand entries before enqueueing blocks
        for start, took in self._took.items():
            piece = self.calls[start : start + PIECE]
            events = self._events[start : start + len(piece) + 1]
            # the GPU spins while Python enqueues: then nothing but the GPU's own time lies between
            # events
            self._enqueue_wait(took * SLACK)
            began = perf_counter()
            events[0].record(stream)
            for (launch, arguments), event in zip(piece, events[1:], strict=True):
                self.program.enqueue(launch, arguments)
                event.record(stream)
            # measured anew in each step, for the wait of the next one
            self._took[start] = (perf_counter() - began) * 1e3
            stream.synchronize()
            for (launch, _), before, after in zip(piece, events, events[1:], strict=False):
                found[launch] += self.cuda.get_elapsed_time(before, after)
        return found

    def _enqueue_wait(self, ms: float) -> None:
        # kHz times ms are cycles, which the kernel counts in thousands, in 32 bits
        kilocycles = np.int32(min(ms * self._clock_khz / 1000, 1 << 30))
        self._wait((1, 1, 1), (1, 1, 1), (kilocycles,), 0, self.program.stream)

    def use(self, launch: Launch) -> KernelResources:
        """What the launch's kernel is compiled to."""
        driver, function = self.cuda.driver, self.program.function(launch)
        # threads of all blocks that fit, over threads that a multiprocessor can hold
        limit = self.program.cupy.cuda.runtime.getDeviceProperties(0)["maxThreadsPerMultiProcessor"]
        blocks = driver.occupancyMaxActiveBlocksPerMultiprocessor(
            function.ptr, launch.threads, launch.shared
        )
        registers, stack, static = (
            driver.funcGetAttribute(kind, function.ptr)
            for kind in (REGISTERS, LOCAL, STATIC_SHARED)
        )
        return KernelResources(
            registers, stack, static + launch.shared, blocks * launch.threads / limit
        )


def bandwidth(cupy: Any) -> float:
    """GB/s between the GPU and its memory, by its clock and width: both edges carry data."""
    khz, bits = (
        cupy.cuda.runtime.deviceGetAttribute(kind, 0) for kind in (MEMORY_KHZ, MEMORY_BITS)
    )
    # kHz to Hz, bits to bytes, bytes to GB; twice, for the clock's two edges
    return 2 * khz * 1e3 * bits / 8 / 1e9
