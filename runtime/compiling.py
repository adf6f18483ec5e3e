"""What reading and compiling a program needs of the process: one thread at a time, no collection.

The compiler is Python, which runs in one thread at a time in any case. One lock keeps what belongs
to the whole process in order: the garbage collector's state, the interval in which threads switch,
interned expressions, the parser; and two threads that need the same code do not both compile it.

Syntax trees and equations have no cycles, so reference counting frees them; the collector would
traverse them repeatedly while they grow. Tests: tests/runtime/test_collecting.py,
tests/runtime/test_threads.py.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")
_lock = RLock()


@contextmanager
def compiling() -> Iterator[None]:
    """No other thread compiles inside, and nothing is collected; afterwards the collector is as it
    was before. May be nested."""
    with _lock:
        before = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            # Only the outermost enables it again: inside another, it was off before.
            if before:
                _age()
                gc.enable()


class compiled_once(Generic[T]):
    """A property that compiles something when it is first read, in one thread. (`cached_property`
    has locks of its own in Python 3.11, which two threads would take in different orders.)"""

    def __init__(self, compute: Callable[[Any], T]):
        self._compute, self.__doc__ = compute, compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, one: None, owner: type) -> compiled_once[T]: ...
    @overload
    def __get__(self, one: object, owner: type) -> T: ...
    def __get__(self, one: object, owner: type) -> Any:
        if one is None:
            return self
        with compiling():
            # From now on it is found in the object, before its class is asked.
            if self._name not in one.__dict__:
                one.__dict__[self._name] = self._compute(one)
            return one.__dict__[self._name]


def _age() -> None:
    """Move all objects to the oldest generation, so that the next collection skips them."""
    if gc.get_freeze_count() == 0:  # else this would unfreeze another library's objects
        gc.freeze()
        gc.unfreeze()


# A child that is forked in the middle of another thread's compilation would have the half of it: a
# lock that nobody gives back, tables and LLVM in the middle of a change. So a fork waits.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )
