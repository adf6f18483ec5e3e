"""The plain bytes of a file that may be gzip'd, mapped from disk and never held in memory twice.

In: a path. Out: its bytes as a read-only array; a gzip'd file is unpacked once into the cache.
This file does not look at what the bytes mean.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ....dsl.diagnostics.diagnostic import UserError, fail
from ....dsl.syntax.source import Span
from .data_paths import reason

GZIP_MAGIC = b"\x1f\x8b"
SHORTEST_GZIP = 18  # bytes: header and trailer
PIECE = 1 << 20  # bytes that are unpacked at a time
SMALL = 1 << 28  # bytes that any file may unpack to
DENSE = 100  # times its own size that a larger one may


def read_start(path: Path, count: int, span: Span | None = None) -> bytes:
    """Up to `count` of the first plain bytes of a file; E0603 or E0617 if it cannot be read."""
    with readable(path, span), open(path, "rb") as file:
        start = file.read(max(2, count))
        if not start:
            raise fail("E0603", f"{path} is empty", span, help="fetch or copy it again")
        if start[:2] != GZIP_MAGIC:
            return start[:count]
        if os.fstat(file.fileno()).st_size < SHORTEST_GZIP:
            raise EOFError("it is shorter than any gzip file")
        file.seek(0)
        with gzip.GzipFile(fileobj=file) as unpacked:
            return unpacked.read(count)


def plain_bytes(
    path: Path, cache: Path, span: Span | None = None, most: int | None = None
) -> np.ndarray:
    """All plain bytes of a file (u8 [n], mapped). E0603 if empty, corrupt, or if more than `most`
    bytes or than any honest file would come out of it, E0617 if refused."""
    with readable(path, span), open(path, "rb") as file:
        packed = file.read(2) == GZIP_MAGIC
        if not packed:
            return map_bytes(file, path, span)
        if most is None:
            most = max(SMALL, DENSE * os.fstat(file.fileno()).st_size)
        with _unpacked(file, path, cache, most) as plain:
            return map_bytes(plain, path, span)


def map_bytes(file: BinaryIO, path: Path, span: Span | None) -> np.ndarray:
    """All bytes of an open file as a read-only array; E0603 if there are none."""
    if not os.fstat(file.fileno()).st_size:
        raise fail("E0603", f"{path} is empty", span, help="fetch or copy it again")
    return np.asarray(np.memmap(file, np.uint8, "r"))


@contextmanager
def readable(path: Path, span: Span | None) -> Iterator[None]:
    """Turn what opening, reading and unpacking can raise into E0603 and E0617."""
    try:
        yield
    except UserError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise fail(
            "E0603",
            f"{path} does not unpack: {reason(error)}",
            span,
            help="fetch or copy it again",
        ) from error
    except OSError as error:
        raise fail("E0617", f"cannot read {path}: {reason(error)}", span) from error


@contextmanager
def _unpacked(packed: BinaryIO, path: Path, cache: Path, most: int) -> Iterator[BinaryIO]:
    """An open file with the unpacked bytes, up to `most`: kept in the cache, or unnamed where that
    fails."""
    state = os.fstat(packed.fileno())
    if state.st_size < SHORTEST_GZIP:
        raise EOFError("it is shorter than any gzip file")
    key = f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}"
    name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    kept = cache / "unpacked" / name
    packed.seek(-4, os.SEEK_END)
    length = int.from_bytes(packed.read(4), "little")  # how gzip ends: the size modulo 2^32
    if not _is_whole(kept, length):
        with suppress(OSError):  # a cache that cannot be written only costs time
            _keep(packed, kept, most)
    if _is_whole(kept, length):
        with open(kept, "rb") as plain:
            yield plain
        return
    with tempfile.TemporaryFile() as plain:
        _unpack(packed, plain, most)
        yield plain


def _is_whole(kept: Path, length: int) -> bool:
    try:
        return kept.stat().st_size & 0xFFFFFFFF == length
    except OSError:
        return False


def _keep(packed: BinaryIO, kept: Path, most: int) -> None:
    """Unpack beside the final name and rename, so that nobody ever sees half a file."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(dir=kept.parent)
    try:
        with open(descriptor, "wb") as plain:
            _unpack(packed, plain, most)
        os.replace(aside, kept)
    finally:
        Path(aside).unlink(missing_ok=True)


def _unpack(packed: BinaryIO, plain: BinaryIO, most: int) -> None:
    """EOFError if more than `most` bytes come out: a small file can unpack to fill any disk."""
    packed.seek(0)
    written = 0
    with gzip.GzipFile(fileobj=packed) as unpacked:
        while piece := unpacked.read(PIECE):
            written += len(piece)
            if written > most:
                raise EOFError(f"more than {most:,} bytes come out of it")
            plain.write(piece)
    plain.flush()
