"""Ctrl-C as a flag that the training loop polls, instead of an exception.

A second Ctrl-C quits at once. A thread receives both signals, so that they work while the main
thread runs native code, where Python would handle them only after the step.
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
    """An `interrupted` for runs that nobody can interrupt."""
    return False


@contextmanager
def watch_interrupt(quits: bool = False) -> Iterator[Callable[[], bool]]:
    """Yields whether Ctrl-C was pressed. A second Ctrl-C ends the process at once if `quits`; else
    it is a KeyboardInterrupt after the native call, as in a process of the user. Outside the main
    thread nothing changes."""
    # Python allows signal handlers in the main thread only
    if threading.current_thread() is not threading.main_thread():
        yield never
        return
    interrupted = threading.Event()
    # The C part of Python's handler writes the signal's number into this socket at once; the Python
    # part below runs only when native code returns.
    receiver, sender = socket.socketpair()
    # a full buffer must not block a signal handler
    sender.setblocking(False)
    times = 0

    # the receiving thread sets the flag; here a second signal becomes an exception
    def count(number: int, frame: object) -> None:
        nonlocal times
        times += 1
        if times > 1:
            raise KeyboardInterrupt

    handler = signal.signal(signal.SIGINT, count)
    wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_receive, args=(receiver, interrupted, quits), daemon=True)
    thread.start()
    try:
        yield interrupted.is_set
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGINT, handler)
        sender.close()  # which ends the thread
        thread.join()
        receiver.close()


def _receive(receiver: socket.socket, interrupted: threading.Event, quits: bool) -> None:
    """Set the flag at the first SIGINT; end the process at the second if `quits`."""
    while numbers := receiver.recv(16):
        # several signals may have come in one read
        for number in numbers:
            if number != signal.SIGINT:
                continue
            if interrupted.is_set():
                if quits:
                    _quit()
                continue
            interrupted.set()
            notify("stopping after this step; once more to quit at once")


def _quit() -> None:
    """End the process without writing anything; the last checkpoint stays valid."""
    # `rich` has no chance to restore the cursor itself
    if sys.stderr.isatty():
        print(_SHOW_CURSOR, end="", file=sys.stderr, flush=True)
    # without cleaning up: the main thread may be deep in native code
    os._exit(CODE)
