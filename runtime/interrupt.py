"""Ctrl-C as a question that the loop asks, rather than an exception anywhere.

In: SIGINT. Out: a callable that says whether it came. A second Ctrl-C interrupts at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .progress import say


def never() -> bool:
    """For where nobody interrupts."""
    return False


@contextmanager
def watch_interrupt() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C is only noted. Elsewhere than in the main thread nothing changes."""
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield never
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: object) -> None:
        came.set()
        signal.signal(signal.SIGINT, before)
        say("stopping after this step")

    signal.signal(signal.SIGINT, note)
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGINT, before)
