"""Programs for several callers at once: each borrows one, and with it an arena of its own.

A program computes in its arena, so two callers may never have the same one. The pool makes as many
twins as the device can run at once and no more: who comes later waits. What callers get is copied
out of the arena before they give it back. Tests: tests/runtime/test_threads.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, get_ident
from typing import Generic, TypeVar
from weakref import ref

from ..forks import renew_after_fork
from ..memory import NotEnoughMemory

T = TypeVar("T")


class ProgramPool(Generic[T]):
    """Programs that compute the same. `twin` makes one more of them from the first one's code; no
    more than `limit` are in use. Without it there is one."""

    def __init__(self, first: T, twin: Callable[[], T] | None = None, limit: int = 1):
        self._free, self._twin, self._limit = [first], twin, limit
        # Who has which program. One that was lost with its caller, as by Ctrl-C right after it was
        # taken, is no longer counted.
        self._lent: dict[ref[T], int] = {}
        self._changed = Condition()
        renew_after_fork(self)

    @contextmanager
    def lend(self) -> Iterator[T]:
        """A program that no other caller has, until the end of the block. It holds what its last
        caller left."""
        program = self._take()
        try:
            yield program
        finally:
            self._give_back(program)

    def _take(self) -> T:
        with self._changed:
            while not self._free:
                # A caller that has one already, such as a signal's handler, would wait for itself.
                own = get_ident() in self._lent.values()
                if own and self._twin is None:
                    raise RuntimeError("called in the middle of another call by the same thread")
                if self._twin and (own or len(self._lent) < self._limit):
                    try:
                        self._free.append(self._twin())
                        break
                    except NotEnoughMemory:
                        if own or not self._lent:
                            raise
                self._changed.wait()
            program = self._free.pop()
            self._lent[ref(program, self._lost)] = get_ident()
            return program

    def _give_back(self, program: T) -> None:
        with self._changed:
            self._lent.pop(ref(program), None)
            if len(self._free) < self._limit:
                self._free.append(program)
            # All of them: one that is interrupted while it waits could take the news with it.
            self._changed.notify_all()

    def _lost(self, program: ref[T]) -> None:
        with self._changed:
            if self._lent.pop(program, None) is not None:
                self._changed.notify_all()

    def renew(self) -> None:
        # What other threads had at the fork is in the middle of something.
        self._changed, self._lent = Condition(), {}
