"""Batches that are read while the one before them is computed with, in a thread.

Which examples make up a batch is decided elsewhere, and what is read does not depend on when: the
thread saves time and changes no bit. At most `DEPTH` batches wait.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ....compiler.ir.lazy_numpy import np
from ...forks import renew_after_fork
from .stored import Stored

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

DEPTH = 2  # batches that are read ahead


class ReadAhead:
    """The stored fields of a split, and the batches of them that are expected next."""

    def __init__(self, fields: Mapping[str, Stored]):
        self._fields = fields
        self._slow = {name: one for name, one in fields.items() if one.ahead}
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Forget what is expected: a forked process has no other thread."""
        self._thread: ThreadPoolExecutor | None = None
        self._expected: OrderedDict[bytes, Future[dict[str, np.ndarray]]] = OrderedDict()

    def expect(self, batches: Iterable[np.ndarray]) -> None:
        """Begin to read these batches of rows, unless that has begun."""
        if not self._slow:
            return
        for rows in batches:
            key = rows.tobytes()
            if key in self._expected:
                continue
            if self._thread is None:
                from concurrent.futures import ThreadPoolExecutor  # rarely needed

                self._thread = ThreadPoolExecutor(1, "nnc-data")
            self._expected[key] = self._thread.submit(self._read, rows)
        # One batch more than are expected: that which is taken now.
        while len(self._expected) > DEPTH + 1:
            self._expected.popitem(last=False)[1].cancel()

    def _read(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: field.read(rows) for name, field in self._slow.items()}

    def read(self, name: str, rows: np.ndarray) -> np.ndarray:
        """The examples of a field, waited for if they are expected, else read now."""
        expected = self._expected.get(rows.tobytes()) if name in self._slow else None
        return self._fields[name].read(rows) if expected is None else expected.result()[name]
