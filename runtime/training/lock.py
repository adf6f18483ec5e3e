"""An exclusive lock on a folder. The system releases it when the process ends, however it ends; no
lock file is left behind.
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
    """Hold the lock. UserError E0705 if another process holds it."""
    if fcntl is None:
        yield
        return
    try:
        # a folder can be opened and locked like a file, so no lock file is needed
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise fail("E0706", f"cannot open {folder}: {error.strerror}") from error
    try:
        try:
            # not blocking: a second trainer should say so, not wait for hours
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise fail("E0705", f"another process is training in {folder}") from error
        except OSError:  # the file system has no locks
            pass
        yield
    finally:
        # which releases the lock, as the end of the process does
        os.close(handle)


def is_locked(folder: Path) -> bool:
    """Whether another process holds the lock; false where that cannot be known."""
    if fcntl is None:
        return False
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        # Shared, so that who only looks is in nobody else's way who looks.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    finally:
        os.close(handle)
    return False
