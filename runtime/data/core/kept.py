"""Data that are converted once: the next run finds their numbers in the user's cache.

In: arrays that took long to make, of which those larger than the memory for data are in files of
the cache already (`spool.py`). Out: the same again, where the files that they were made of have the
same names, sizes and times. A cache that is damaged costs time and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from ....compiler.ir.lazy_numpy import np
from .data_paths import Search
from .decompress import readable
from .feature_cache import load_cached, store_cached
from .spool import Spool, find_values
from .stored import Examples, Stored

LARGE = "in files"  # the entry that says which arrays are


@dataclass(frozen=True)
class Kept:
    """Arrays of one kind, and everything that they depend on."""

    cache: Path
    kind: str  # a folder in the cache
    key: str
    notify: Callable[[str], None]  # called with one line before a file is written

    @staticmethod
    def of(search: Search, kind: str, files: Iterable[Path], about: Any) -> Kept:
        """Of what is made of some files; `about` says how, in values that JSON has. E0617."""
        states = []
        for path in files:
            with readable(path):
                found = path.stat()
            states.append([str(path.resolve()), found.st_size, found.st_mtime_ns])
        key = json.dumps([states, about])
        return Kept(search.cache_folder, kind, key, once(search.notify))

    def spool(self, name: str, most: int) -> Spool:
        """For the array of that name: it may have so many bytes in memory."""
        return Spool(self._path(name), most, self.notify)

    def store(self, arrays: Mapping[str, Examples]) -> None:
        """Keep the arrays, if the cache can be written."""
        small = {name: one for name, one in arrays.items() if not isinstance(one, Stored)}
        large = [[n, a.dtype.str, a.shape] for n, a in arrays.items() if isinstance(a, Stored)]
        store_cached(self.cache, self.kind, self.key, {**small, LARGE: as_bytes(large)})

    def find(self) -> dict[str, Examples] | None:
        """What another run has kept; None if there is nothing, or it is damaged."""
        found: dict[str, Examples] | None = load_cached(self.cache, self.kind, self.key)  # type: ignore
        if found is None:
            return None
        for name, dtype, shape in from_bytes(found.pop(LARGE, as_bytes([]))):
            values = find_values(self._path(name), np.dtype(dtype), tuple(shape))
            if values is None:
                return None
            found[name] = values
        return found

    def _path(self, name: str) -> Path:
        hashed = sha256(self.key.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        return self.cache / self.kind / f"{hashed}.{name}.rows"


def once(notify: Callable[[str], None]) -> Callable[[str], None]:
    """The same, which says nothing twice."""
    return lru_cache(None)(notify)


def as_bytes(plain: Any) -> np.ndarray:
    """What JSON has, as an array."""
    return np.frombuffer(json.dumps(plain).encode(), np.uint8)


def from_bytes(array: Examples) -> Any:
    """What `as_bytes` was given; tuples are lists."""
    return json.loads(np.asarray(array).tobytes().decode())
