"""Numbers that come block by block, and of which only so many may be in memory.

In: blocks [n, …], all of one type and width. Out: all of them, one after the other: an array, or
examples in a file of the user's cache, where the next run finds them. The file is the numbers as
they lie in memory, and a checksum.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from ....compiler.ir.lazy_numpy import np
from ....dsl.diagnostics.diagnostic import fail
from ....dsl.files import make_folder, open_own, reason, replacing
from .stored import Examples, Mapped

FOOTER = 4  # bytes of the checksum
CHUNK = 1 << 20  # bytes that are checked at a time


class _GivenUp(Exception):
    """What ends the writing of a file that nobody wants."""


class Spool:
    """Numbers in memory, or in the file at `path` once they have more than `most` bytes; `notify`
    is told when that begins."""

    def __init__(self, path: Path, most: int, notify: Callable[[str], None] | None = None):
        self._path, self._most, self._notify = path, most, notify
        self._blocks: list[np.ndarray] = []
        self._count = self._bytes = self._checksum = 0
        self._first: np.ndarray | None = None  # an empty block, for the type and the width
        self._file: BinaryIO | None = None
        self._replacing: AbstractContextManager[BinaryIO] | None = None

    def add(self, block: np.ndarray) -> None:
        """The next numbers. UserError E0617 if they can be stored nowhere."""
        if self._first is None:
            self._first = block[:0].copy()
        self._count += len(block)
        self._bytes += block.nbytes
        self._blocks.append(block)
        if self._bytes > self._most:
            with self._stored():
                self._write()

    @contextmanager
    def _stored(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            size = f"more than {self._most:,} bytes of data"
            message = f"{size} go to {self._path.parent}, which is not possible: {reason(error)}"
            help = "make room there; NNC_DATA_MEMORY says what may stay in memory"
            raise fail("E0617", message, help=help) from error

    def _write(self) -> None:
        if self._file is None:
            make_folder(self._path.parent)
            self._replacing = replacing(self._path, durable=False, private=True)
            self._file = self._replacing.__enter__()
            if self._notify:
                self._notify(f"data that do not fit into memory go to {self._path.parent}, once")
        for block in self._blocks:
            if block.size:
                raw = np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
                self._file.write(raw)
                self._checksum = zlib.crc32(raw, self._checksum)
        self._blocks.clear()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave no file behind, if it is not complete."""
        self._discard()

    def _discard(self) -> None:
        ended, self._replacing = self._replacing, None
        if ended is not None:
            given_up = _GivenUp()
            ended.__exit__(_GivenUp, given_up, None)

    def values(self) -> Examples | None:
        """All numbers, None if there was no block; ends the file."""
        if self._first is None:
            return None
        if self._file is None:
            blocks, self._blocks = self._blocks, []
            return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        shape = self._count, *self._first.shape[1:]
        with self._stored():
            # Who is first stores the numbers: a file that another run reads by now stays.
            found = find_values(self._path, self._first.dtype, shape)
            if found is not None:
                self._discard()
                return found
            self._file.write(self._checksum.to_bytes(FOOTER, "little"))
            ended, self._replacing = self._replacing, None
            assert ended is not None
            ended.__exit__(None, None, None)
            return _mapped(self._path, self._first.dtype, shape)


def find_values(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> Examples | None:
    """The numbers that another run has stored; None if there are none, or they are damaged."""
    try:
        with open_own(path) as file:
            checksum, left = 0, prod(shape) * dtype.itemsize
            while left and (chunk := file.read(min(CHUNK, left))):
                checksum = zlib.crc32(chunk, checksum)
                left -= len(chunk)
            if left or file.read() != checksum.to_bytes(FOOTER, "little"):
                return None
        return _mapped(path, dtype, shape)
    except OSError:
        return None


def _mapped(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> Examples:
    return Mapped(np.asarray(np.memmap(path, dtype, "r", 0, shape)))
