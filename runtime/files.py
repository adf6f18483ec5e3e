"""Files that appear complete or not at all: written under a temporary name, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path, durable: bool = False, private: bool = False) -> Iterator[BinaryIO]:
    """A binary file to write, which replaces `path` when the block ends without an exception; any
    exception, OSError included, leaves the old file.

    With `durable`, the data is flushed to the disk before the rename, so that a power failure also
    leaves the old file or the new one; this costs milliseconds. A `private` file can only be read
    by its owner.
    """
    # In the same folder, as a rename is atomic only within one file system; with the process's
    # number, so that two processes do not write to one file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if private:
            # Created with its permissions before there is anything in it to be read.
            temporary.touch(0o600)
        with temporary.open("wb") as file:
            yield file
            if durable:
                file.flush()
                # Before the rename, or a power failure could leave the new name with an empty file.
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            # The rename itself is an entry of the folder, and only on the disk when the folder is.
            _sync_folder(path.parent)
    finally:
        with suppress(OSError):  # it was never created, or its folder is read-only
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Flush the folder's entries to the disk, on systems that can open a folder."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def reason(error: BaseException) -> str:
    """What went wrong, without the path that `OSError` adds."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
