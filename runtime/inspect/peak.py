"""The most multiplications and additions that this computer does in a second, measured.

In: a number of threads. Out: 10^9 operations in f32 per second of a loop that does nothing but
fused multiply-adds in registers, on as many cores at once.
"""

from __future__ import annotations

import os
import time
from ctypes import c_int64, c_void_p
from threading import Barrier, Thread

import numpy as np

from ..device.cpu.jit import Machine, host_features

SUMS = 20  # independent of each other, so that each may wait for its last addition
UNROLLED = 4
TURNS = 100_000
REPEATS = 25


def peak(threads: int) -> float:
    """The best of a few repetitions, in GFLOP/s."""
    lanes = _lanes()
    machine = Machine([_text(lanes)])
    function = machine.function("spin", c_void_p, c_int64)
    seconds = [0.0] * threads
    # the threads start each repetition together: clock rates fall when all cores work
    together = Barrier(threads)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

    def work(number: int) -> None:
        # one thread for each core; with more threads than cores the system decides
        if len(cores) >= threads:
            os.sched_setaffinity(0, {cores[number]})
        # s = s * 0.5 + 0.5 goes to 1: neither overflow nor denormals, which are slower
        numbers = np.full((SUMS + 2) * lanes, 0.5, np.float32)
        best = float("inf")
        for _ in range(REPEATS):
            together.wait()
            begin = time.perf_counter()
            function(numbers.ctypes.data, TURNS)
            # the best one: others on the computer can only slow it down
            best = min(best, time.perf_counter() - begin)
        seconds[number] = best

    team = [Thread(target=work, args=(n,)) for n in range(threads)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    # a fused multiply-add is two operations
    return sum(2 * lanes * SUMS * UNROLLED * TURNS / s / 1e9 for s in seconds)


def _lanes() -> int:
    """f32 in the widest vector there is."""
    features = host_features().split(",")
    return 16 if "+avx512f" in features else 8 if "+avx2" in features else 4


def _text(lanes: int) -> str:
    """LLVM text: a loop around SUMS chains of multiply-adds."""
    vector = f"<{lanes} x float>"
    fma = f"llvm.fma.v{lanes}f32"
    lines = [
        f"declare {vector} @{fma}({vector}, {vector}, {vector})",
        "define void @spin(ptr %p, i64 %turns) {",
        "entry:",
        f"  %y = load {vector}, ptr %p, align 4",
        "  br label %loop",
        "loop:",
        "  %turn = phi i64 [ 0, %entry ], [ %next, %loop ]",
    ]
    # SUMS chains: a processor starts one or two a cycle, and each takes about four to finish
    for s in range(SUMS):
        lines.append(f"  %s{s}.0 = phi {vector} [ %y, %entry ], [ %s{s}.{UNROLLED}, %loop ]")
    for u in range(UNROLLED):
        for s in range(SUMS):
            parts = f"{vector} %s{s}.{u}, {vector} %y, {vector} %y"
            lines.append(f"  %s{s}.{u + 1} = call {vector} @{fma}({parts})")
    lines += [
        "  %next = add i64 %turn, 1",
        "  %more = icmp ult i64 %next, %turns",
        "  br i1 %more, label %loop, label %end",
        "end:",
    ]
    # The results are stored, or LLVM would remove the whole loop.
    for s in range(SUMS):
        lines.append(f"  %q{s} = getelementptr {vector}, ptr %p, i64 {s}")
        lines.append(f"  store {vector} %s{s}.{UNROLLED}, ptr %q{s}, align 4")
    return "\n".join([*lines, "  ret void", "}", ""])
