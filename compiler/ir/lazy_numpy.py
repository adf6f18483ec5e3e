"""NumPy, imported when it is first used.

Importing it takes a quarter of the time in which a program is checked, and most programs are
checked without an array: modules that stand in that path take `np` from here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
else:

    class _Lazy:
        def __getattr__(self, name: str) -> Any:
            value = getattr(import_module("numpy"), name)
            # From now on it is found in the object, before this method is asked.
            setattr(self, name, value)
            return value

    np = _Lazy()

__all__ = ["np"]
