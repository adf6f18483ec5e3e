"""Every diagnostic code: what it means, a wrong example and a right one.

In: nothing. Out: `CATALOGUE`, in code order. The messages themselves are where they are found.
E01 syntax · E02 names and structure · E03 sizes, indices, types · E04 train blocks ·
E05 recurrences and differentiation · E06 data · E07 runs and checkpoints · W warnings.

To add a code, add an `Entry` to its part, `catalogue_….py`. `tests/language` holds each to its
word: the wrong example yields exactly this code, the right one none.
"""

from __future__ import annotations

from .catalogue_entry import Entry
from .catalogue_names import NAMES
from .catalogue_sizes import SIZES
from .catalogue_syntax import TEXT
from .catalogue_training import TRAINING

__all__ = ["CATALOGUE", "Entry"]

CATALOGUE: dict[str, Entry] = {
    entry.code: entry for entry in sorted((*TEXT, *NAMES, *SIZES, *TRAINING), key=lambda e: e.code)
}
