"""Regular files alone: what a user names may also be a folder, a pipe, a device or a socket.

In: a path. Out: an open file, or an OSError that says what the path is. Every file of a user is
opened here, so that none can make a command wait for ever or read without an end.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotRegularError(OSError):
    """The path names something that is no regular file; `strerror` says what it is."""


def open_regular(path: Path | str) -> BinaryIO:
    """A regular file, opened to be read as bytes; a link to one counts. OSError otherwise."""
    # Looked at before it is opened: opening a device can have effects, such as rewinding a tape.
    _check(os.stat(path).st_mode, path)
    # O_NONBLOCK: a pipe that has come into its place since would wait for a writer. Reading a
    # regular file is not changed by it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags)
    try:
        _check(os.fstat(handle).st_mode, path)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _check(mode: int, path: Path | str) -> None:
    if not stat.S_ISREG(mode):
        kind = next((kind for fits, kind in _KINDS if fits(mode)), "something else")
        raise NotRegularError(None, f"it is {kind}, not a file", str(path))


def is_within(path: Path | str, folders: list[Path]) -> bool:
    """Whether a path, its links followed, lies in one of the folders, theirs followed, too."""
    # `realpath` follows what exists and takes the rest as written, so a missing file has an answer.
    real = os.path.realpath(path)
    for folder in map(os.path.realpath, folders):
        try:
            if os.path.commonpath([folder, real]) == folder:
                return True
        except ValueError:  # on different drives of Windows
            continue
    return False
