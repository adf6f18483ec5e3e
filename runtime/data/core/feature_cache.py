"""Arrays that took long to compute, stored in the user's cache.

A cache that is damaged or cannot be written costs time and nothing else, so no function here fails.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ....compiler.ir.lazy_numpy import np
from ....dsl.files import make_folder, read_own, replacing

_HASH = "sha256"  # the entry with the hash of all others; no field of data is called so


def load_cached(cache: Path, kind: str, key: str) -> dict[str, np.ndarray] | None:
    """The arrays that an earlier run stored; `key` is a text of everything they depend on."""
    try:
        # Without pickles, which could run code. Whatever is damaged counts as absent.
        data = io.BytesIO(read_own(_path(cache, kind, key)))
        with np.load(data, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        SyntaxError,
        RuntimeError,
        NotImplementedError,
        TypeError,
        OverflowError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ):
        return None
    # The archive's own checksums do not cover its directory, nor the types and shapes that it says.
    written = found.pop(_HASH, None)
    if written is None or written.tobytes() != _hash(key, found):
        return None
    return found


def store_cached(cache: Path, kind: str, key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Store the arrays if the cache can be written."""
    path = _path(cache, kind, key)
    hashed = np.frombuffer(_hash(key, arrays), np.uint8)
    with suppress(OSError):
        make_folder(path.parent)
        with replacing(path, durable=False, private=True) as file:
            np.savez(file, **dict(arrays), **{_HASH: hashed})  # type: ignore[arg-type]


def _hash(key: str, arrays: Mapping[str, np.ndarray]) -> bytes:
    """A hash of the key, and of the names, types, shapes and numbers of arrays."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape"))
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(json.dumps([name, array.dtype.str, list(array.shape)]).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def _path(cache: Path, kind: str, key: str) -> Path:
    # The key may be long and hold any characters; 128 bits of its hash make a safe file name.
    name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return cache / kind / f"{name}.npz"
