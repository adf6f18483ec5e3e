"""The three standard streams of a command, whatever the process was started with.

A stream that is closed gets its number back, or the next file to be opened would take it, and a
message of native code would be written into a checkpoint. What cannot be written to stdout is an
`OutputError`; stderr takes what it can, since nobody is left to be told. Characters that an
encoding lacks are escaped. Tests: tests/runtime/test_streams.py.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any

STDIN, STDOUT, STDERR = range(3)


class OutputError(Exception):
    """Standard output cannot be written: no OSError, so that it is not taken for one of a file."""

    def __init__(self, cause: OSError):
        closed = cause.errno == errno.EBADF
        super().__init__("it is closed" if closed else cause.strerror or str(cause))
        self.errno = cause.errno
        self.told = False  # whether the user knows

    @property
    def closed(self) -> bool:
        """Whether the process was started without standard output."""
        return self.errno == errno.EBADF

    @property
    def broken(self) -> bool:
        """Whether the reader at the other end of a pipe is gone, as `head` after its lines."""
        return self.errno in (errno.EPIPE, errno.ECONNRESET)


class _Output(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            while (written := super().write(data)) is None:  # a pipe that does not block
                select.select([], [self.fileno()], [])
            return written
        except OSError as error:
            raise OutputError(error) from error


class _Messages(_Output):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OutputError:
            return memoryview(data).nbytes


def open_streams() -> None:
    """Put streams as described above in the place of Python's own, for the rest of the process."""
    # In the wrong direction, so that reading and writing fail as they would on the closed one; the
    # lowest free number is the one that is given.
    for number, flags in ((STDIN, os.O_WRONLY), (STDOUT, os.O_RDONLY), (STDERR, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(STDIN, closefd=False)))
    sys.stdout = _text(_Output(STDOUT, "wb", closefd=False), sys.stdout)
    sys.stderr = _text(_Messages(STDERR, "wb", closefd=False), sys.stderr, line_buffering=True)


def _text(raw: io.FileIO, before: Any, line_buffering: bool = False) -> io.TextIOWrapper:
    """A text stream with the encoding of the one before it."""
    if before is not None:
        before.flush()
    errors = getattr(before, "errors", "strict")
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", "utf-8"),
        errors="backslashreplace" if errors == "strict" else errors,
        line_buffering=line_buffering or raw.isatty(),
    )


def discard_output() -> None:
    """Let stdout lead to nowhere: what is left in its buffer is written once more at the end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, STDOUT)
    os.close(null)
