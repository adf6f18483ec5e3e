"""How many threads to use when nobody says."""

from __future__ import annotations

import os


def default_threads(threads: int | None) -> int:
    """The number asked for, or as many as this process may run on."""
    if threads is not None:
        return threads
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
