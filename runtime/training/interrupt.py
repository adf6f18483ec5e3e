"""Ctrl-C and the other signals that end a process: as a flag that the training loop polls, or,
before and after training, as an exception.

A second signal quits at once. A thread receives the signals, too, so that this holds while the main
thread runs native code, where Python would handle them only afterwards.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from ..messages import notify

_SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it
# Ctrl-C; `kill` and the end of a system or a job; the end of a terminal; the end of a reader
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
SIGPIPE = getattr(signal, "SIGPIPE", None)


class Stopped(BaseException):
    """A signal ends the command. `told`: the user knows."""

    def __init__(self, number: int, told: bool = False):
        super().__init__(signal.Signals(number).name)
        self.number, self.told = number, told


def exit_code(number: int) -> int:
    """The exit code, as a shell gives it to what a signal has ended."""
    return 128 + number


class Interrupted:
    """Whether a signal has come, as a function; and the number of the first."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.number: int = signal.SIGINT

    def __call__(self) -> bool:
        return self._event.is_set()

    def set(self, number: int) -> None:
        if not self._event.is_set():
            self.number = number
            self._event.set()


never = Interrupted()  # for runs that nobody can interrupt


@contextmanager
def watch_interrupt(quits: bool = False) -> Iterator[Interrupted]:
    """Yields whether training should stop. A command `quits` by any of the signals, and at once by
    a second; in a process of the user there is only Ctrl-C, and a second one is a KeyboardInterrupt
    after the native call. Outside the main thread nothing changes."""
    # Python allows signal handlers in the main thread only
    if threading.current_thread() is not threading.main_thread():
        yield never
        return
    interrupted, times = Interrupted(), 0

    # the receiving thread has set the flag at once; here a second signal becomes an exception
    def count(number: int, frame: object) -> None:
        nonlocal times
        times += 1
        interrupted.set(number)
        if times > 1 and number != SIGPIPE:
            if quits:
                _quit(number)
            raise KeyboardInterrupt

    def first(number: int) -> None:
        interrupted.set(number)
        # Who closes a pipe reads no messages, and may close another one.
        if number != SIGPIPE:
            notify("stopping after this step; once more to quit at once")

    with _handling(_wanted(SIGNALS) if quits else [signal.SIGINT], count, first, quits):
        yield interrupted


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """A signal raises `Stopped` in the main thread; a second one ends the process at once."""

    def stop(number: int, frame: object) -> None:
        raise Stopped(number)

    numbers = [number for number in _wanted(SIGNALS) if number != SIGPIPE]
    with _handling(numbers, stop, lambda number: None, quits=True):
        yield


def _wanted(numbers: Sequence[int]) -> list[int]:
    """Without those that the process was told to ignore, as `nohup` does. Python itself ignores
    SIGPIPE, and a shell lets background jobs ignore Ctrl-C, which can still be sent."""
    kept = (signal.SIGINT, SIGPIPE)
    return [n for n in numbers if n in kept or signal.getsignal(n) is not signal.SIG_IGN]


@contextmanager
def _handling(
    numbers: Sequence[int],
    handler: Callable[[int, object], None],
    first: Callable[[int], None],
    quits: bool,
) -> Iterator[None]:
    """Handle signals in the main thread by `handler`, when Python gets to it; and in a thread, at
    once, by `first`, the next one by the end of the process if `quits`."""
    # The C part of Python's handler writes the signal's number into this pipe.
    receiver, sender = os.pipe()
    # a full buffer must not block a signal handler
    os.set_blocking(sender, False)
    before = {number: signal.signal(number, handler) for number in numbers}
    wakeup = signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    thread = threading.Thread(target=_receive, args=(receiver, numbers, first, quits), daemon=True)
    # Without memory for one more thread signals are handled by the main thread alone.
    with suppress(RuntimeError):
        thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, old in before.items():
            signal.signal(number, old)
        os.close(sender)  # which ends the thread
        if thread.ident is not None:
            thread.join()
        os.close(receiver)


def _receive(
    receiver: int, numbers: Sequence[int], first: Callable[[int], None], quits: bool
) -> None:
    """Call `first` at the first signal; end the process at the second if `quits`."""
    seen = False
    while received := os.read(receiver, 16):
        # several signals may have come in one read
        for number in received:
            if number not in numbers:
                continue
            if not seen:
                first(number)
            elif quits and number != SIGPIPE:
                _quit(number)
            seen = True


def _quit(number: int) -> None:
    """End the process without writing anything; the last checkpoint stays valid."""
    # `rich` has no chance to restore the cursor itself
    if sys.stderr is not None and sys.stderr.isatty():
        print(_SHOW_CURSOR, end="", file=sys.stderr, flush=True)
    # without cleaning up: the main thread may be deep in native code
    os._exit(exit_code(number))
