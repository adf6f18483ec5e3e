"""Arrays that took long to compute, stored in the user's cache.

A cache that is damaged or cannot be written costs time and nothing else, so no function here fails.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from ...files import replacing


def load_cached(cache: Path, kind: str, key: str) -> dict[str, np.ndarray] | None:
    """The arrays that an earlier run stored; `key` is a text of everything they depend on."""
    try:
        # Without pickles, which could run code. Whatever is damaged counts as absent.
        with np.load(_path(cache, kind, key), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def store_cached(cache: Path, kind: str, key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Store the arrays if the cache can be written."""
    path = _path(cache, kind, key)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, private=True) as file:
            np.savez(file, **dict(arrays))  # type: ignore[arg-type]


def _path(cache: Path, kind: str, key: str) -> Path:
    # The key may be long and hold any characters; 128 bits of its hash make a safe file name.
    name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return cache / kind / f"{name}.npz"
