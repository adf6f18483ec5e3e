"""Pause the garbage collector while a program is read and compiled.

Syntax trees and equations have no cycles, so reference counting frees them; the collector would
traverse them repeatedly while they grow.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """No collection inside; afterwards it is enabled if it was before. May be nested."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # Only the outermost pause enables it again: inside another, it was off before.
        if before:
            _age()
            gc.enable()


def _age() -> None:
    """Move all objects to the oldest generation, so that the next collection skips them."""
    if gc.get_freeze_count() == 0:  # else this would unfreeze another library's objects
        gc.freeze()
        gc.unfreeze()
