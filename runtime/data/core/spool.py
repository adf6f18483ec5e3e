"""Rows that are read one after the other, and of which only so many may be in memory.

In: blocks of rows, f64 [n, width]. Out: all rows: an array, or examples in a file of the user's
cache, where the next run finds them. The file is the rows as they lie in memory, and a checksum.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ....compiler.ir.lazy_numpy import np
from ....dsl.diagnostics.diagnostic import fail
from ....dsl.files import make_folder, open_own, reason, replacing
from .stored import Examples, Mapped

FOOTER = 4  # bytes of the checksum
CHUNK = 1 << 20  # bytes that are checked at a time


class Spool:
    """Rows in memory, or in the file at `path` once they have more than `most` bytes."""

    def __init__(self, path: Path, most: int):
        self._path, self._most = path, most
        self._blocks: list[np.ndarray] = []
        self._bytes = self._checksum = 0
        self._file: BinaryIO | None = None
        self._shape = (0, 0)
        self._replacing: AbstractContextManager[BinaryIO] | None = None

    def add(self, block: np.ndarray) -> None:
        """The next rows. UserError E0617 if they can be stored nowhere."""
        self._shape = self._shape[0] + len(block), block.shape[1]
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
            help = "NNC_CACHE names another folder, NNC_DATA_MEMORY what may stay in memory"
            raise fail("E0617", message, help=help) from error

    def _write(self) -> None:
        if self._file is None:
            make_folder(self._path.parent)
            self._replacing = replacing(self._path, durable=False, private=True)
            self._file = self._replacing.__enter__()
        for block in self._blocks:
            raw = np.ascontiguousarray(block, "<f8").reshape(-1).view(np.uint8).data
            self._file.write(raw)
            self._checksum = zlib.crc32(raw, self._checksum)
        self._blocks.clear()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave no file behind, if it is not complete."""
        if self._replacing is not None:
            self._replacing.__exit__(*error)  # that of a block that is left before `rows`

    def rows(self) -> Examples | None:
        """All rows, None if there are none; ends the file."""
        if self._file is None:
            return np.concatenate(self._blocks) if self._blocks else None
        with self._stored():
            self._file.write(self._checksum.to_bytes(FOOTER, "little"))
            ended, self._replacing = self._replacing, None
            assert ended is not None
            ended.__exit__(None, None, None)
            return _mapped(self._path, self._shape)


def find_rows(path: Path, shape: tuple[int, int]) -> Examples | None:
    """The rows that another run has stored; None if there are none, or they are damaged."""
    try:
        with open_own(path) as file:
            checksum, left = 0, shape[0] * shape[1] * 8
            while left and (chunk := file.read(min(CHUNK, left))):
                checksum = zlib.crc32(chunk, checksum)
                left -= len(chunk)
            if left or file.read() != checksum.to_bytes(FOOTER, "little"):
                return None
        return _mapped(path, shape)
    except OSError:
        return None


def _mapped(path: Path, shape: tuple[int, int]) -> Examples:
    return Mapped(np.asarray(np.memmap(path, "<f8", "r", 0, shape)))
