"""The pool of threads that all programs of a process share."""

from __future__ import annotations

import os
import threading
from threading import Thread

import numpy as np
import pytest
from support import plan, system, values

from nnc.runtime.device.cpu import workers
from nnc.runtime.device.cpu.program import CpuProgram
from nnc.runtime.device.cpu.workers import WORKERS, Workers

PRODUCTS = """model M(x: f32[SIZE, 300], w: f32[300, 256]) -> y: f32[SIZE, 256] {
    h[b, o] = tanh(sum(i) x[b, i]*w[i, o])
    y[b, o] = h[b, o] / (1 + sum(k) h[b, k]^2)
}"""


def program(threads: int, size: int = 64) -> CpuProgram:
    whole = system(PRODUCTS.replace("SIZE", str(size)), float_type="f32")
    made = CpuProgram(plan(whole), threads=threads)
    for name, value in values(whole).items():
        made.arrays[name][...] = value
    return made


def answer(of: CpuProgram) -> bytes:
    of.arrays["y"][...] = 0
    of.run()
    return of.arrays["y"].tobytes()


@pytest.fixture
def pool(monkeypatch):
    """A pool of the test's own, which ends with it."""
    own = Workers()
    monkeypatch.setattr("nnc.runtime.device.cpu.program.WORKERS", own)
    yield own
    own.close()


def test_one_pool_serves_all_programs_and_grows(pool):
    few, many = program(2), program(5, 40)
    alone = [answer(program(1)), answer(program(1, 40))]
    assert answer(few) == alone[0] and len(pool._threads) == 1
    assert answer(many) == alone[1] and len(pool._threads) == 4
    for _ in range(50):
        assert [answer(few), answer(many)] == alone
    assert len(pool._threads) == 4


def test_many_more_threads_than_cores(pool):
    """Who waits leaves its core: this ends, and soon."""
    crowd = program(64)
    expected = answer(program(1))
    for _ in range(20):
        assert answer(crowd) == expected
    assert crowd._spins == workers.FEW_SPINS or len(workers.allowed_cores()) >= 64


def test_programs_come_and_go(pool):
    """The first program's code is what the workers wait in; it outlives the program."""
    expected = answer(program(1))
    for _ in range(4):
        assert answer(program(3)) == expected


def test_callers_take_turns(pool):
    """Also where they share a program, whose arrays they would have to guard themselves."""
    shared, expected = program(2), answer(program(1))
    barrier = threading.Barrier(4)

    def call() -> None:
        barrier.wait()
        for _ in range(50):
            shared.run()

    threads = [Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answer(shared) == expected


def test_no_thread_can_be_started(pool, monkeypatch):
    class NoThread(Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(workers, "Thread", NoThread)
    assert answer(program(3)) == answer(program(1))
    assert not pool._threads


def test_ctrl_c_while_threads_are_started(pool, monkeypatch):
    """Nobody knows whether the thread has begun, so a pool without it takes over."""

    class Interrupted(Thread):
        def start(self) -> None:
            super().start()
            raise KeyboardInterrupt

    several, expected = program(3), answer(program(1))
    with monkeypatch.context() as patch:
        patch.setattr(workers, "Thread", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            several.run()
    for _ in range(20):
        assert answer(several) == expected


def test_a_closed_pool_leaves_the_work_to_the_caller(pool):
    several, expected = program(3), answer(program(1))
    assert answer(several) == expected
    threads = list(pool._threads)
    pool.close()
    assert not any(thread.is_alive() for thread in threads)
    assert answer(several) == expected and not pool._threads


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be chosen")
def test_the_caller_keeps_its_cores(pool):
    before = os.sched_getaffinity(0)
    program(min(2, len(before))).run()
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("seconds", "core", "restricted"),
    [(1e-4, 0, False), (1e-4, 1, True), (1e-4, -1, True), (1e-4, 9, False), (1.0, 0, True)],
)
def test_the_caller_of_a_brief_run_is_moved_only_off_a_workers_core(
    pool, monkeypatch, seconds: float, core: int, restricted: bool
) -> None:
    pool._cores = [0, 1, 2, 3]
    monkeypatch.setattr(workers, "_current_core", lambda: core)
    assert pool._is_apart(seconds, 2) is not restricted
    # The third core is a worker's for larger teams only.
    monkeypatch.setattr(workers, "_current_core", lambda: 2)
    assert pool._is_apart(1e-4, 2) and not pool._is_apart(1e-4, 3)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be chosen")
def test_the_core_of_the_caller_is_one_that_it_may_use():
    assert workers._current_core() in {-1, *os.sched_getaffinity(0)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_has_workers_of_its_own():
    several = program(3)
    expected = answer(several)
    child = os.fork()
    if not child:
        good = not WORKERS._threads and answer(several) == expected and len(WORKERS._threads) == 2
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert answer(several) == expected


def test_arenas_are_apart():
    one = program(2)
    other = one.twin()
    assert not any(array.any() for array in other.arrays.values())
    for name, array in one.arrays.items():
        assert not np.shares_memory(array, other.arrays[name])
        if name != "y":
            other.arrays[name][...] = array
    assert answer(one) == answer(other)


@pytest.mark.parametrize(("size", "threads"), [(64, 3), (1, 1)])
def test_programs_with_nothing_to_share_have_one_thread(pool, size: int, threads: int) -> None:
    """Nobody wakes a worker for a sum of a few thousand terms, nor where the code was cached."""
    text = f"""model M(x: f32[{size}, 30], w: f32[30, {4 * size}]) -> y: f32[{size}, {4 * size}] {{
        y[b, o] = tanh(sum(i) x[b, i]*w[i, o])
    }}"""
    for _ in range(2):
        made = CpuProgram(system(text, float_type="f32"), threads=3)
        assert made.threads == threads
    made.run()
    assert len(pool._threads) == threads - 1
