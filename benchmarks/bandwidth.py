"""How many bytes a second this computer reads and writes, where so many are gone over in turns.

In: a number of threads, and how large the memory is: what fits into a cache comes from there. Out:
10^9 bytes per second, read and written, of copying one half of it to the other.
"""

from __future__ import annotations

import time
from threading import Barrier, Thread

import numpy as np

REPEATS = 15
LEAST = 0.001  # 10^9 bytes; with less a copy is over before all threads have begun


def bandwidth(threads: int, gbyte: float) -> float:
    """The best of a few copies."""
    count = int(max(gbyte, LEAST) * 1e9 / 8 / threads)
    together = Barrier(threads)
    seconds = [0.0] * threads

    def work(number: int) -> None:
        source, target = np.ones(count, np.float32), np.zeros(count, np.float32)
        best = float("inf")
        for _ in range(REPEATS):
            together.wait()
            begin = time.perf_counter()
            np.copyto(target, source)
            best = min(best, time.perf_counter() - begin)
        seconds[number] = best

    team = [Thread(target=work, args=(n,)) for n in range(threads)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    return sum(8 * count / s / 1e9 for s in seconds)
