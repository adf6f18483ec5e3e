"""A system on the CPU: machine code, one arena, one native call per run.

The `arrays` of a `CpuProgram` are views into the arena; `run` computes everything once, updates of
params and states included. The results do not depend on the number of threads, nor on whether the
code came from the cache (`code_cache.py`). Tests: tests/backends/test_cpu.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import c_int64, c_void_p
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from ....compiler.codegen.llvm.thread_pool import (
    ARENA_AGAIN,
    ARENA_BYTES,
    ARENA_EXAMPLES,
    ARENA_SPINS,
    MAX_THREADS,
)
from ....compiler.ir.dtypes import LINE
from ....compiler.ir.equation import CHECK, System
from ....compiler.options import DEFAULT, Options
from ....compiler.passes.kernels.kernel import Plan
from ....compiler.targets import CpuTarget
from ... import cache
from ...memory import require
from ...thread_count import available_processors
from ..bf16_arrays import Bf16Arrays, is_converted, memory_array, readable
from . import host
from .code_cache import MODULE, Code, cached_or_compiled, compiled
from .jit import LEVEL, assembly
from .thread_throttle import ThreadThrottle
from .workers import FEW_SPINS, WORKERS, allowed_cores

if TYPE_CHECKING:
    from ....compiler.codegen.llvm.module import Clock
    from ....compiler.pipeline import LlvmCode

BRIEF = 2e-5  # seconds: less than handing the interpreter to another thread and back
TRIALS = 3  # runs that are timed
ARGUMENTS = (c_void_p, c_int64, c_int64)  # of a step: the arena, which thread, how many


class CpuProgram:
    """A compiled system with its memory, which one caller uses at a time; a `twin` is for another.

    The code of a system is cached; that of a plan is not, and can have a `clock`. Raises
    NotEnoughMemory before it takes memory that is not there.
    """

    clock: Clock | None = None

    def __init__(
        self,
        source: System | Plan,
        threads: int = 1,
        target: CpuTarget | None = None,
        level: int = LEVEL,
        options: Options = DEFAULT,
        code: Code | None = None,
    ):
        self.system = source.system if isinstance(source, Plan) else source
        self.threads = min(threads, MAX_THREADS)
        self._planned = source if isinstance(source, Plan) else None
        self.target, self.options, self._level = target or host.target(), options, level
        self._code = code or self._find_code()
        if not self._code.shares_work:
            self.threads = 1
        # Behind the tensors that all threads see each thread has memory of its own.
        needed = self._code.arena_bytes + self.threads * self._code.held_bytes
        require(needed)
        # The arena begins at a cache line, with the cells of its barrier in front of it.
        self._memory = np.zeros(needed + ARENA_BYTES + 2 * LINE, np.uint8)
        start = -self._memory.ctypes.data % LINE + ARENA_BYTES
        self.arena = self._memory[start : start + needed + LINE]
        self._address = self.arena.ctypes.data
        self._again = self._memory[start + ARENA_AGAIN :][:4].view(np.int32)
        self._skips = False  # what that cell holds
        self.arrays = {
            name: self._memory_of(name)
            for name, tensor in self.system.tensors.items()
            if tensor.kind != "temp" or name in self.system.outputs
        }
        bf16 = {n: a for n, a in self.arrays.items() if is_converted(self.system.tensors[n])}
        self._bf16 = Bf16Arrays(self.system, bf16) if bf16 else None
        if self._bf16 is not None:
            self.arrays |= self._bf16.arrays
        # A cell of its own: kernels read it, and nothing is computed from it.
        self._examples = self._memory[start + ARENA_EXAMPLES :][:4].view(np.int32)
        self._examples[0] = self.system.batch
        if CHECK in self._code.offsets:
            at = self._code.offsets[CHECK]
            self.arrays[CHECK] = self.arena[at : at + 4].view(np.int32).reshape(())
        if self.threads == 1:
            self._step = self._code.library.function("step", *ARGUMENTS)
            self._trials: list[float] | None = []  # seconds of the first runs
            return
        self._run = self._code.library.function("run", c_void_p, c_void_p, c_int64)
        self._throttle = ThreadThrottle(self.threads)
        crowded = self.threads > len(allowed_cores()) > 0
        self._spins = FEW_SPINS if crowded else self.target.spin_iterations
        spins = self._memory[start - ARENA_BYTES + ARENA_SPINS :][:4].view(np.int32)
        spins[0] = self._spins

    def twin(self) -> CpuProgram:
        """The same code with an arena of its own, which holds zeros."""
        source = self._planned or self.system
        options = (self.threads, self.target, self._level, self.options)
        return CpuProgram(source, *options, self._code)

    @property
    def simultaneous(self) -> int:
        """How many runs of this program and its twins this computer carries at once."""
        # The workers help with one run at a time.
        return available_processors() if self.threads == 1 else 1

    def _find_code(self) -> Code:
        # The cache's key is a hash of the equations, which do not say by which passes a given plan
        # was made.
        entries = None if self._planned else cache.kernel_cache()
        if entries is None:
            return compiled(self.source, self._level, self.clock)
        decided = repr((self.target, self.options))
        return cached_or_compiled(self.system, decided, self._level, entries, lambda: self.source)

    def view(self, name: str) -> np.ndarray:
        """The tensor's place in the arena as an array; of numbers of bf16 a copy."""
        return readable(self._memory_of(name), self.system.tensors[name])

    def _memory_of(self, name: str) -> np.ndarray:
        tensor = self.system.tensors[name]
        start = self._code.offsets[name]
        return memory_array(self.arena[start : start + tensor.bytes], tensor)

    def shorten(self, examples: int) -> None:
        """Let the runs to come be of so many examples, the first ones of the system's batch."""
        assert 0 < examples <= self.system.batch
        self._examples[0] = examples

    def run(self) -> None:
        """Computes everything from the current inputs, params and states."""
        self._compute(False)

    def run_again(self) -> None:
        """As `run`, for the params and states of the run before: its prologue is still good."""
        self._compute(True)

    def _compute(self, again: bool) -> None:
        if self._bf16 is None:
            self._run_code(again)
            return
        self._bf16.store(inputs_alone=again)
        self._run_code(again)
        self._bf16.load()

    def _run_code(self, again: bool) -> None:
        if again is not self._skips:
            self._again[0], self._skips = again, again
        # Without workers there are no atomics: the step is called directly.
        if self.threads == 1:
            if self._trials is None:
                self._step(self._address, 0, 1)
            else:
                self._try(self._trials)
        else:
            WORKERS.run(self._code, self._run, self._address, self._throttle, self._spins)

    def _try(self, taken: list[float]) -> None:
        """One of the first runs, which tell whether other threads of Python should go on meanwhile.
        Where many callers have small programs, the changes between them would take longer than the
        runs."""
        began = perf_counter()
        self._step(self._address, 0, 1)
        taken.append(perf_counter() - began)
        if len(taken) == TRIALS:
            if min(taken) < BRIEF:
                self._step = self._code.library.function("step", *ARGUMENTS, alone=True)
            self._trials = None

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
        return self.source.modules(MODULE, self.clock)

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
