"""Numbers as they are written in programs: `3`, `60_000`, `0.5`, `1e-3`."""

from __future__ import annotations

import math
import re

# The terminal NUMBER of grammar.lark, with a test that compares them.
NUMBER = re.compile(r"[0-9]+(_[0-9]+)*(\.[0-9]+(_[0-9]+)*)?([eE][+-]?[0-9]+)?")


def number_of(text: str) -> int | float | None:
    """The value of what `NUMBER` matches; None if it does not fit in 64 bits."""
    if set(".eE") & set(text):
        value = float(text)
        return value if math.isfinite(value) else None
    # The length first: converting thousands of digits takes quadratic time, or fails in Python.
    return int(text) if len(text) < 30 and int(text) < 2**63 else None
