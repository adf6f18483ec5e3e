"""How many processors this process may use, and so how many threads help a run.

Threads that meet at barriers run at the speed of the slowest: more of them than processors only
wait for each other. What may be used is the least of what `taskset` or a container allow and of
the container's share of time. Tests: tests/runtime/test_thread_count.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


def available_processors() -> int:
    """At least 1."""
    # A container or `taskset` may allow fewer processors than the computer has.
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([allowed, *_shares()]))


def default_threads(asked: int | None = None) -> int:
    """All processors, or as many threads as were asked for, up to that."""
    available = available_processors()
    return available if asked is None else min(asked, available)


def too_many(asked: int | None) -> str:
    """What to tell who asked for more threads than can run; empty if there is nothing to tell."""
    used = default_threads(asked)
    if asked is None or asked == used:
        return ""
    processors = "1 processor" if used == 1 else f"{used} processors"
    which = "it is" if used == 1 else "they are"
    return f"{asked:,} threads: this process may use {processors}, and {which} used"


def _shares() -> Iterator[int]:
    """The limits of this process's control groups in processors, rounded up."""
    # Version 2 says "max 100000" or "150000 100000": microseconds in every so many.
    for folder in _groups(""):
        yield from _share(folder / "cpu.max", None)
    for folder in _groups("cpu"):
        yield from _share(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")


def _groups(controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of all above it; each may have a limit."""
    root = CONTROL_GROUPS / controller
    own = "/"
    try:
        # lines such as `0::/user.slice` (version 2) and `4:cpu,cpuacct:/docker/7f`
        for line in OWN_GROUP.read_text("utf-8", "replace").splitlines():
            _, _, rest = line.partition(":")
            names, _, path = rest.partition(":")
            if controller in names.split(","):
                own = path
    except OSError:
        pass
    place = Path(own.lstrip("/"))
    # Seen from inside a container, the path may be that of the host and lead nowhere; the root is
    # then the container's own group.
    return (root / part for part in (place, *place.parents))


def _share(limit: Path, period: Path | None) -> Iterator[int]:
    try:
        texts = limit.read_text("ascii").split()
        quota, every = texts[0], (period.read_text("ascii") if period else texts[1])
        # `max` in version 2 and -1 in version 1 stand for no limit.
        if quota != "max" and int(quota) > 0 and int(every) > 0:
            yield -(-int(quota) // int(every))
    except (OSError, ValueError, IndexError):
        pass
