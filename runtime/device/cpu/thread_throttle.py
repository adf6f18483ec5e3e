"""How many threads a run has: all, or all but one while another process keeps a core busy.

Threads that meet at barriers run at the speed of the slowest. If another process shares the core of
one of them, all wait for it at every barrier, and a step can take several times as long as without
that thread. So the time of runs is watched: where it rises, one thread less is tried, and where
that is faster it stays so, with a trial of all of them now and then. Results do not depend on the
number of threads. Tests: tests/backends/test_pace.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

WINDOW = 0.03  # seconds of runs that are judged together
SLOW = 1.5  # times the usual time at which fewer threads are tried
LONGEST = 32  # windows before all threads are tried again, at most


@dataclass
class ThreadThrottle:
    """The size of the `team` of the next run, from how long earlier runs took."""

    threads: int
    team: int = 0
    least: float = float("inf")  # seconds of the fastest run
    _spent: float = 0.0
    _runs: int = 0
    _usual: float = float("inf")  # seconds of an undisturbed run with all threads
    _last: dict[int, float] = field(default_factory=dict)  # by size of the team, when last seen
    _rest: int = 1  # windows to come before all are tried again
    _patience: int = 1

    def __post_init__(self) -> None:
        self.team = self.threads

    def ran(self, seconds: float) -> None:
        """A run of the present team took that long."""
        self.least = min(self.least, seconds)
        self._spent += seconds
        self._runs += 1
        if self._spent < WINDOW:
            return
        self._last[self.team] = self._spent / self._runs
        self._spent, self._runs = 0.0, 0
        if self.team == self.threads:
            self._judge_all()
        else:
            self._judge_fewer()

    def _judge_all(self) -> None:
        now, fewer = self._last[self.threads], self._last.get(self.threads - 1)
        # The best time seen stands for an undisturbed run.
        self._usual = min(self._usual, now)
        if self.threads == 1 or now <= SLOW * self._usual:
            self._last.pop(self.threads - 1, None)
            self._patience = 1
            return
        if fewer is not None:  # all have been tried again, in vain
            self._patience = min(2 * self._patience, LONGEST)
        self.team, self._rest = self.threads - 1, self._patience

    def _judge_fewer(self) -> None:
        self._rest -= 1
        if self._last[self.team] >= self._last[self.threads]:
            self._usual = self._last[self.threads]  # slower than it was, and no remedy
            self._last.pop(self.team)
            self.team, self._patience = self.threads, 1
        elif self._rest <= 0:
            self.team = self.threads
