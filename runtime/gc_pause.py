"""The garbage collector rests while a program is read and compiled.

Syntax trees and equations have no cycles, so they are freed without it; it would only walk
over them again and again while they grow.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """Without collection inside; as it was afterwards, whatever happens. It may be nested."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            _age()
            gc.enable()


def _age() -> None:
    """Count all objects as old. They would be young otherwise, and all be walked over at once."""
    if gc.get_freeze_count() == 0:  # else somebody wants those never looked at that would be thawed
        gc.freeze()
        gc.unfreeze()
