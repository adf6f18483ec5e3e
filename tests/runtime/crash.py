"""`python crash.py N ARGUMENTS…`: nnc, killed by SIGKILL at the Nth moment in its dealings with
files: in the middle of a write, before and after a sync, a rename or a removal. With N = 0 it is
not killed, and says at the end how many moments there were."""

from __future__ import annotations

import os
import signal
import sys

from nnc.runtime.cli import run

fatal = int(sys.argv[1])
moments = 0


def moment() -> None:
    global moments
    moments += 1
    if moments == fatal:
        os.kill(os.getpid(), signal.SIGKILL)


def with_moments(function):
    def wrapped(*arguments, **named):
        moment()
        result = function(*arguments, **named)
        moment()
        return result

    return wrapped


class Halting:
    """A file whose writes happen in two halves."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        self.file.__enter__()
        return self

    def __exit__(self, *error):
        return self.file.__exit__(*error)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        moment()
        self.file.write(data[len(data) // 2 :])


original = os.fdopen
os.fdopen = lambda handle, mode: (  # type: ignore[assignment]
    Halting(original(handle, mode)) if "w" in mode else original(handle, mode)
)
for name in ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir"):
    setattr(os, name, with_moments(getattr(os, name)))
code = run(sys.argv[2:])
if not fatal:
    print(f"moments {moments}")
sys.exit(code)
