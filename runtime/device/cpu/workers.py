"""The threads of this process that help with steps: one pool, which all programs share.

Workers wait in native code for the next run (compiler/codegen/llvm/thread_pool.py). A run is of one
program, by the calling thread and as many workers as the program wants; one at a time. The pool
begins with its first run, grows when a program wants more threads, and ends with the process; after
a fork the child has a pool of its own. Results do not depend on how many threads there are, so
where no thread can be started fewer do the work. Tests: tests/backends/test_workers.py.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
from collections.abc import Callable
from ctypes import c_int64, c_void_p
from threading import RLock, Thread
from time import perf_counter

import numpy as np

from ....compiler.codegen.llvm.thread_pool import GENERATION, POOL_BYTES, POOL_SPINS
from ....compiler.ir.dtypes import LINE
from ...forks import renew_after_fork
from .code_cache import Code
from .thread_throttle import ThreadThrottle

BRIEF = 1e-3  # seconds of a run: restricting the caller to a core takes up to 0.05 ms of them
FEW_SPINS = 20  # where there are more threads than cores: who waits must leave its core to others


class Workers:
    """Threads 1, 2, … of every run; the caller is thread 0.

    Each keeps to one core while it runs a step: threads that wait by spinning must not share one.
    The caller's own restriction is restored after every run. In brief runs the caller is restricted
    only where it is on a worker's core: it then stays on the other for a while.
    """

    def __init__(self) -> None:
        # Re-entrant, since a signal's handler may call a program between two instructions of a run.
        self._turn = RLock()
        self._closed = False
        self._begin()
        renew_after_fork(self)

    def renew(self) -> None:
        self._turn = RLock()
        self._begin()

    def _begin(self) -> None:
        self._threads: list[Thread] = []
        memory = np.zeros(POOL_BYTES + LINE, np.uint8)
        start = -memory.ctypes.data % LINE
        self._cells = memory[start : start + POOL_BYTES]
        self._cores: list[int] = []
        # The code that the workers wait in, of the program that ran first.
        self._code: Code | None = None

    def run(
        self,
        code: Code,
        step: Callable[..., None],
        arena: int,
        throttle: ThreadThrottle,
        spins: int,
    ) -> None:
        """One run of the code on an arena; `step` is its function `run`. A thread that waits spins
        so many times first."""
        with self._turn:
            team = 1 + self._at_least(throttle.team - 1, code, spins)
            began, pool = perf_counter(), self._cells.ctypes.data
            if team == 1 or team > len(self._cores) or self._is_apart(throttle.least, team):
                step(pool, arena, team)
            else:
                self._pinned(step, pool, arena, team)
            throttle.ran(perf_counter() - began)

    def _is_apart(self, seconds: float, team: int) -> bool:
        """Whether the caller of a run that may take so long need not be moved off the cores of the
        team's workers."""
        if seconds >= BRIEF:
            return False
        core = _current_core()
        return core >= 0 and core not in self._cores[1:team]

    def _pinned(self, step: Callable[..., None], pool: int, arena: int, team: int) -> None:
        # The calling thread is the user's: its own restriction is restored even if the run raises.
        before = os.sched_getaffinity(0)
        try:
            _keep_to(self._cores[0])
            step(pool, arena, team)
        finally:
            # cores may be taken away at any time; the system has then chosen others
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, before)

    def _at_least(self, wanted: int, code: Code, spins: int) -> int:
        """Start workers until there are as many, if that is possible; how many can help."""
        if len(self._threads) < wanted and not self._closed:
            try:
                self._grow(wanted, code)
            except BaseException:
                # Ctrl-C: nobody knows whether the last thread has begun. A second one with its
                # number would do its work twice.
                self._stop()
                self._begin()
                raise
            crowded = len(self._cores) and len(self._threads) >= len(self._cores)
            cell = self._cells[POOL_SPINS : POOL_SPINS + 4].view(np.int32)
            cell[0] = FEW_SPINS if crowded else spins
        return min(wanted, len(self._threads))

    def _grow(self, wanted: int, code: Code) -> None:
        if self._code is None:
            self._code, self._cores = code, allowed_cores()
        work = self._code.library.function("work", c_void_p, c_int64, c_int64)
        # No run is under way: a new worker waits for the one after this.
        (found,) = self._cells[GENERATION : GENERATION + 4].view(np.int32)
        while len(self._threads) < wanted:
            number = len(self._threads) + 1
            core = self._cores[number] if number < len(self._cores) else None
            given = (self._code, work, self._cells, number, int(found), core)
            thread = Thread(target=_work, args=given, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads are allowed, or the interpreter ends
                return
            self._threads.append(thread)

    def _stop(self) -> None:
        if self._code is not None:
            self._code.library.function("stop", c_void_p)(self._cells.ctypes.data)

    def close(self) -> None:
        """End the workers, after the run that is under way; later runs have the caller alone."""
        with self._turn:
            self._stop()
            for thread in self._threads:
                thread.join()
            self._begin()
            self._closed = True


def _work(
    code: Code,
    work: Callable[..., None],
    cells: np.ndarray,
    number: int,
    found: int,
    core: int | None,
) -> None:
    """What a worker thread does. It holds the code and the cells for as long as it lives."""
    if core is not None:
        _keep_to(core)
    work(cells.ctypes.data, number, found)


def allowed_cores() -> list[int]:
    """The cores that the calling thread may use; empty where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _find_current_core() -> Callable[[], int]:
    """The C library's function for the core that the calling thread is on; -1 where it cannot
    say."""
    try:
        return ctypes.PyDLL(None).sched_getcpu
    except (AttributeError, OSError, TypeError):
        return lambda: -1


_current_core = _find_current_core()


def _keep_to(core: int) -> None:
    # A core may have been taken from the process since it was listed.
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {core})


WORKERS = Workers()
atexit.register(WORKERS.close)
