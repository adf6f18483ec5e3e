"""The default number of threads."""

from __future__ import annotations

import os


def default_threads(threads: int | None) -> int:
    """`threads`, or the number of processors that this process may use."""
    if threads is not None:
        return threads
    # A container or `taskset` may allow fewer processors than the computer has.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
