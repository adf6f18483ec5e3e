"""The plain bytes of a file that may be compressed by gzip, mapped from disk.

In: a path. Out: its bytes as a read-only array; a compressed file is unpacked once into the cache.
This file does not interpret the bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ....compiler.ir.lazy_numpy import np
from ....dsl.diagnostics.diagnostic import UserError, fail
from ....dsl.files import make_folder, open_own, reason, replacing, unnamed_file
from ....dsl.likely_paths import did_you_mean_path
from ....dsl.regular_files import open_regular

GZIP_MAGIC = b"\x1f\x8b"
SHORTEST_GZIP = 18  # bytes: header and trailer
CHUNK = 1 << 20  # bytes that are unpacked at a time
ALWAYS_ALLOWED = 1 << 28  # bytes that any file may unpack to
MAX_RATIO = 100  # times its own size that a larger file may unpack to
FOOTER = 12  # bytes behind an unpacked copy: its checksum and its length
AGAIN = "fetch or copy it again"


def read_start(path: Path, count: int) -> bytes:
    """Up to `count` of the first plain bytes of a file; E0603 or E0617 if it cannot be read."""
    with readable(path), open_regular(path) as file:
        # Two bytes at least, or a file could not be told from gzip when fewer are asked for.
        start = file.read(max(2, count))
        if not start:
            raise fail("E0603", f"{path} is empty", help=AGAIN)
        if start[:2] != GZIP_MAGIC:
            return start[:count]
        _check_gzip_size(file)
        file.seek(0)
        # The stream unpacks as it is read, so that a header costs only its own bytes.
        with gzip.GzipFile(fileobj=file) as unpacked:
            return unpacked.read(count)


def plain_bytes(path: Path, cache: Path, most: int | None = None) -> np.ndarray:
    """All plain bytes of a file (u8 [n], mapped). E0603 if it is empty, corrupt, or unpacks to more
    than `most` bytes (by default, more than any genuine file), E0617 if it cannot be read."""
    with _plain(path, cache, most) as (file, count):
        return np.asarray(np.memmap(file, np.uint8, "r", shape=(count,)))


def plain_blocks(path: Path, cache: Path, most: int) -> Iterator[bytes]:
    """The same, block by block; E0603 also if the file is cut short meanwhile."""
    with _plain(path, cache, most) as (file, count):
        if count > most:  # it was unpacked as bytes before, which are not held in memory
            raise EOFError(f"more than {most:,} bytes come out of it")
        file.seek(0)
        while count:
            if not (block := file.read(min(CHUNK, count))):
                raise fail("E0603", f"{path} has been cut short while it was read", help=AGAIN)
            count -= len(block)
            yield block


@contextmanager
def _plain(path: Path, cache: Path, most: int | None) -> Iterator[tuple[BinaryIO, int]]:
    """An open file that begins with the plain bytes, and how many they are. A mapping of them stays
    valid after the file is closed, and after a temporary file is deleted."""
    with readable(path), ExitStack() as opened:
        file = opened.enter_context(open_regular(path))
        packed = file.read(2) == GZIP_MAGIC
        count = os.fstat(file.fileno()).st_size
        if packed:
            if most is None:
                # A limit against "zip bombs", in proportion to the file.
                most = max(ALWAYS_ALLOWED, MAX_RATIO * count)
            file = opened.enter_context(_unpacked(file, path, cache, most))
            count = os.fstat(file.fileno()).st_size - FOOTER
        if not count:
            raise fail("E0603", f"{path} is empty", help=AGAIN)
        yield file, count


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what opening, reading and unpacking can raise into E0603 and E0617."""
    try:
        yield
    except UserError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise fail("E0603", f"{path} does not unpack: {reason(error)}", help=AGAIN) from error
    except OSError as error:
        help = did_you_mean_path(path) if isinstance(error, FileNotFoundError) else ""
        raise fail("E0617", f"cannot read {path}: {reason(error)}", help=help) from error


def _check_gzip_size(file: BinaryIO) -> None:
    if os.fstat(file.fileno()).st_size < SHORTEST_GZIP:
        raise EOFError("it is shorter than any gzip file")


@contextmanager
def _unpacked(packed: BinaryIO, path: Path, cache: Path, most: int) -> Iterator[BinaryIO]:
    """An open file with the unpacked bytes, at most `most`, and a footer: in the cache, or an
    unnamed temporary file where the cache cannot be written."""
    _check_gzip_size(packed)
    state = os.fstat(packed.fileno())
    # The unpacked copy belongs to this very file: another size or time makes another key.
    key = f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}"
    name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    cached = cache / "unpacked" / name
    # Errors of writing (a full disk, a read-only folder) only mean that there is no cached copy.
    # BadGzipFile is one of them and vanishes here, too, but `_unpack` below raises it once more.
    found = _open_intact(cached)
    if found is None:
        with suppress(OSError):
            make_folder(cached.parent)
            with replacing(cached, durable=False, private=True) as plain:
                _unpack(packed, plain, most)
            found = _open_intact(cached)
    if found is not None:
        with found as plain:
            yield plain
        return
    with unnamed_file() as plain:
        _unpack(packed, plain, most)
        yield plain


def _open_intact(cached: Path) -> BinaryIO | None:
    """The unpacked copy, if it is whole and what was written; else None."""
    try:
        file = open_own(cached)
    except OSError:
        return None
    with ExitStack() as closing:
        closing.push(file)
        # A disk that flips a bit of the copy would change the data without a word. The packed
        # file's own checksum does not serve: of several gzip files in one, it has only the last's.
        count = os.fstat(file.fileno()).st_size - FOOTER
        checksum, left = 0, count
        while left > 0 and (chunk := file.read(min(CHUNK, left))):
            checksum = zlib.crc32(chunk, checksum)
            left -= len(chunk)
        if count < 0 or file.read(FOOTER) != _footer(checksum, count):
            return None
        closing.pop_all()
    return file


def _footer(checksum: int, count: int) -> bytes:
    return checksum.to_bytes(4, "little") + count.to_bytes(FOOTER - 4, "little")


def _unpack(packed: BinaryIO, plain: BinaryIO, most: int) -> None:
    """EOFError if more than `most` bytes come out: a small file can unpack to fill any disk."""
    packed.seek(0)
    written = checksum = 0
    with gzip.GzipFile(fileobj=packed) as unpacked:
        while chunk := unpacked.read(CHUNK):
            written += len(chunk)
            # Checked before writing, so that the disk never takes more than was allowed.
            if written > most:
                raise EOFError(f"more than {most:,} bytes come out of it")
            plain.write(chunk)
            checksum = zlib.crc32(chunk, checksum)
    plain.write(_footer(checksum, written))
    plain.flush()
