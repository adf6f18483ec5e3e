"""Ctrl-C as a question that the loop asks, rather than an exception anywhere.

In: SIGINT. Out: a callable that says whether it came. A second Ctrl-C quits at once. Both are heard
by a thread of their own, also while the main one is in native code: Python itself would hear them
only after the step.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .progress import notify

CODE = 130  # the exit code, as a shell gives it to what SIGINT has ended
_SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it


def never() -> bool:
    """For where nobody interrupts."""
    return False


@contextmanager
def watch_interrupt(quits: bool = False) -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C is only noted. A second one ends the process at once if it `quits`;
    else, where the process is the user's own, it is a KeyboardInterrupt after the native call.
    Elsewhere than in the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield never
        return
    came = threading.Event()
    heard, told = socket.socketpair()
    told.setblocking(False)
    times = 0

    def note(number: int, frame: object) -> None:
        nonlocal times
        times += 1
        if times > 1:
            raise KeyboardInterrupt

    handler = signal.signal(signal.SIGINT, note)
    wakeup = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    ear = threading.Thread(target=_receive, args=(heard, came, quits), daemon=True)
    ear.start()
    try:
        yield came.is_set
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGINT, handler)
        told.close()  # the thread hears the end
        ear.join()
        heard.close()


def _receive(heard: socket.socket, came: threading.Event, quits: bool) -> None:
    """Note the first SIGINT; end the process at the second if it quits."""
    while numbers := heard.recv(16):
        for number in numbers:
            if number != signal.SIGINT:
                continue
            if came.is_set():
                if quits:
                    _quit()
                continue
            came.set()
            notify("stopping after this step; once more to quit at once")


def _quit() -> None:
    """Nothing is written: what was saved last stays."""
    if sys.stderr.isatty():
        print(_SHOW_CURSOR, end="", file=sys.stderr, flush=True)
    os._exit(CODE)
