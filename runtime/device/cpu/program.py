"""A system on the CPU: machine code, one arena, one native call per run.

The `arrays` of a `CpuProgram` are views into the arena; `run` computes everything once, updates of
params and states included. The results do not depend on the number of threads, nor on whether the
code came from the cache (`code_cache.py`). Tests: tests/backends/test_cpu.py.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from ctypes import c_int64, c_void_p
from functools import cached_property
from threading import Thread
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from ....compiler.codegen.llvm.thread_pool import BYTES, MAX_THREADS
from ....compiler.ir.dtypes import LINE, NUMPY
from ....compiler.ir.equation import System
from ....compiler.options import DEFAULT, Options
from ....compiler.passes.kernels.kernel import Plan
from ....compiler.targets import CpuTarget
from ... import cache
from ...memory import require
from . import host
from .code_cache import Code, cached_or_compiled, compiled
from .jit import LEVEL, assembly
from .thread_throttle import ThreadThrottle

if TYPE_CHECKING:
    from ....compiler.pipeline import LlvmCode

MODULE = 100_000  # characters: LLVM begins soon, and one more module costs it 1 ms


class CpuProgram:
    """A compiled system with its memory. Only one thread may call `run` at a time.

    The code of a system is cached; that of a plan is not. Raises Shortage before
    it takes memory that is not there.
    """

    def __init__(
        self,
        source: System | Plan,
        threads: int = 1,
        target: CpuTarget | None = None,
        level: int = LEVEL,
        options: Options = DEFAULT,
    ):
        self.system = source.system if isinstance(source, Plan) else source
        self.threads = min(threads, MAX_THREADS)
        self._planned = source if isinstance(source, Plan) else None
        self.target, self.options, self._level = target or host.target(), options, level
        self._code = self._find_code()
        self._step = self._code.library.function("step", c_void_p, c_int64, c_int64)
        require(self._code.arena_bytes)
        # The arena begins at a cache line, with the threads' cells in front of it.
        self._memory = np.zeros(self._code.arena_bytes + BYTES + 2 * LINE, np.uint8)
        start = -self._memory.ctypes.data % LINE + BYTES
        self._shared = self._memory[start - BYTES : start]  # by the threads
        self.arena = self._memory[start : start + self._code.arena_bytes + LINE]
        self._address = self.arena.ctypes.data
        self.arrays = {
            name: self.view(name)
            for name, tensor in self.system.tensors.items()
            if tensor.kind != "temp" or name in self.system.outputs
        }
        self._team: _Team | None = None

    def _find_code(self) -> Code:
        # The cache's key is a hash of the equations, which do not say by which passes a given plan
        # was made.
        entries = None if self._planned else cache.kernel_cache()
        if entries is None:
            return compiled(self.plan, self.modules(), self._level)
        decided = repr((self.target, self.options))
        return cached_or_compiled(
            self.system, decided, self._level, entries, lambda: (self.plan, self.modules())
        )

    def view(self, name: str) -> np.ndarray:
        """The tensor's place in the arena as an array."""
        tensor = self.system.tensors[name]
        start = self._code.offsets[name]
        # Padded rows have strides longer than the shape says.
        raw: np.ndarray = self.arena[start : start + tensor.bytes].view(NUMPY[tensor.dtype])
        steps = [stride * raw.itemsize for stride in tensor.strides]
        return np.ndarray(tensor.shape, raw.dtype, raw, strides=steps)

    def run(self) -> None:
        """Computes everything from the current inputs, params and states."""
        # No team, no atomics: the step is called directly.
        if self.threads == 1:
            self._step(self._address, 0, 1)
            return
        # Threads do not survive a fork, so a child begins anew, with cells as at first.
        if self._team is None or self._team.process != os.getpid():
            self._shared[:] = 0  # after a fork no thread is left that could change it
            self._team = _Team(self._code, self._address, self.threads)
            # Not a method of self, which would keep it alive. The memory is an argument, so that it
            # lives until the workers have ended.
            weakref.finalize(self, self._team.dismiss, self._memory)
        self._team.run()

    # --- for inspection ---------------------------------------------------------------------------

    @cached_property
    def source(self) -> LlvmCode:
        """What the compiler made; compiled now if the machine code came from the cache."""
        from ....compiler.pipeline import LlvmCode, compile  # not needed where the code was cached

        if self._planned:
            return LlvmCode(self._planned, self.target)
        return compile(self.system, self.target, self.options)

    @property
    def plan(self) -> Plan:
        return self.source.plan

    def modules(self) -> Iterator[str]:
        """The code as it is compiled: in modules, each written when LLVM is ready for it."""
        return self.source.modules(MODULE)

    @property
    def llvm(self) -> str:
        """The code as one module, to be read."""
        return self.source.text

    @property
    def assembly(self) -> str:
        return assembly(self.llvm, self._level)

    @property
    def loops(self) -> str:
        """The loop nests as text, each once."""
        models = dict.fromkeys(each.representative for each in self.source.equal_kernels.values())
        return "\n\n".join(str(self.source.nest(model)) for model in models)


class _Team:
    """Worker threads that wait in native code for the next run. They belong to one process: after
    a fork the child makes a team of its own.

    Each thread keeps to one core while it runs a step: threads that wait by spinning must not
    share one. The caller's own restriction is restored after every run.
    """

    def __init__(self, code: Code, address: int, threads: int):
        self.process = os.getpid()
        self._code = code  # keeps it alive
        self._run = code.library.function("run", c_void_p, c_int64)
        self._stop = code.library.function("stop", c_void_p)
        self._address, self._throttle = address, ThreadThrottle(threads)
        self._cores = _cores(threads)
        work = code.library.function("work", c_void_p, c_int64)
        self._workers = [
            Thread(target=self._work, args=(work, thread), daemon=True)
            for thread in range(1, threads)
        ]
        for worker in self._workers:
            worker.start()

    def _work(self, work: Callable[..., None], thread: int) -> None:
        if self._cores:
            os.sched_setaffinity(0, {self._cores[thread]})
        work(self._address, thread)

    def run(self) -> None:
        began, team = perf_counter(), self._throttle.team
        if team == 1 or not self._cores:
            self._run(self._address, team)
        else:
            # The calling thread is the user's: its own restriction is restored even if the run
            # raises.
            before = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {self._cores[0]})
            try:
                self._run(self._address, team)
            finally:
                os.sched_setaffinity(0, before)
        self._throttle.ran(perf_counter() - began)

    def dismiss(self, memory: np.ndarray) -> None:
        """Ends the workers. `memory` is what they wait in: it must outlive them."""
        if self.process == os.getpid():
            self._stop(self._address)
            for worker in self._workers:
                worker.join()


def _cores(threads: int) -> list[int]:
    """A core for each thread, or nothing if there are too few or the system does not say."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    # Cores that this process may use, which in a container are few.
    cores = sorted(os.sched_getaffinity(0))
    return cores[:threads] if len(cores) >= threads else []
