"""How much of the computer others use while one process works.

In: a process id. Out: cores taken by everyone else between two looks, on Linux; elsewhere 0.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

QUIET = 0.1  # cores; with more than that taken by others, a turn says little
GLANCE = 0.1  # seconds that it takes to see whether others are busy


class Watch:
    """Looks at the clock and at the counters of `pid` and of the whole system."""

    def __init__(self, pid: int):
        self.pid = pid
        self.before = self._look()

    def foreign(self) -> float:
        """Cores that others have kept busy since the watch was made."""
        was, now = self.before, self._look()
        if was is None or now is None:
            return 0.0
        seconds, busy, own = (b - a for a, b in zip(was, now, strict=True))
        return max(0.0, (busy - own) / seconds)

    def _look(self) -> tuple[float, float, float] | None:
        """Seconds: of the clock, busy on all cores, used by the process."""
        try:
            line = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
            own = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        except OSError:
            return None
        tick = os.sysconf("SC_CLK_TCK")
        user, nice, system, _, _, interrupts, soft, stolen = map(int, line)
        busy = user + nice + system + interrupts + soft + stolen
        return time.perf_counter(), busy / tick, sum(map(int, own)) / tick


def await_quiet(pid: int, limit: float) -> None:
    """Wait until others leave the computer alone, or so many seconds have passed."""
    end = time.perf_counter() + limit
    while time.perf_counter() < end:
        watch = Watch(pid)
        time.sleep(GLANCE)
        if watch.foreign() < QUIET:
            return
