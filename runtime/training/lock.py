"""A folder that one process works in.

In: a folder. Out: a context in which no other process has it. The system lets go of it when the
process ends, however it ends; nothing is left behind.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...dsl.diagnostics.diagnostic import fail

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within, the folder is this process's. UserError E0705 if it is another's."""
    if fcntl is None:
        yield
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise fail("E0706", f"cannot open {folder}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise fail("E0705", f"another process is training in {folder}") from error
        except OSError:  # the file system knows no locks
            pass
        yield
    finally:
        os.close(handle)
