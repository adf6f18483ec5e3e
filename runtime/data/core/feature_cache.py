"""Arrays that took long to compute, kept in the user's cache.

In: a kind and everything that the arrays depend on, as one text. Out: the arrays of an earlier run
or nothing. A cache that is damaged or cannot be written only costs time, so nothing here fails.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np


def recall(cache: Path, kind: str, key: str) -> dict[str, np.ndarray] | None:
    """The arrays kept under that key, or None."""
    try:
        with np.load(_place(cache, kind, key), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def keep(cache: Path, kind: str, key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write beside the final name and rename, so that nobody ever sees half a file."""
    place = _place(cache, kind, key)
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(dir=place.parent)
        try:
            with open(descriptor, "wb") as file:
                np.savez(file, **dict(arrays))  # type: ignore[arg-type]
            os.replace(aside, place)
        finally:
            Path(aside).unlink(missing_ok=True)


def _place(cache: Path, kind: str, key: str) -> Path:
    name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return cache / kind / f"{name}.npz"
