"""The programs in a folder and below it, for commands and editors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

NOT_SEARCHED = ("settings.json", "backup.json", "pyvenv.cfg")  # of a run, of an environment


def programs_below(folder: Path) -> Iterator[Path]:
    """All `.nn` files but those in hidden folders, in environments of Python, and in the folders of
    runs, whose programs are what was trained, and no source."""
    for place, folders, names in os.walk(folder):
        here = Path(place)
        # What is named itself is searched, whatever it is.
        if here != folder and any(name in names for name in NOT_SEARCHED):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (here / name for name in names if name.endswith(".nn"))
