"""The IDX format of the MNIST files: a magic number, the sizes, the bytes.

In: the path of an IDX file of unsigned bytes, plain or gzip'd. Out: its array, mapped.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

from ....dsl.diagnostics.diagnostic import UserError, fail
from ..core.decompress import AGAIN, plain_bytes, read_start

UNSIGNED_BYTES = 0x0800  # the magic number is this plus the number of dimensions


def read_idx(path: Path, dimensions: int, cache: Path) -> np.ndarray:
    """The array (u8, `dimensions` axes) in a file; E0602, E0603 or E0617."""
    sizes = idx_sizes(path, dimensions)
    # The header is the magic number and one size per axis, 4 bytes each, big-endian.
    begin, expected = 4 + 4 * dimensions, prod(sizes)
    # One byte more than belongs there is enough to see that a file is too long, and a packed file
    # with a false size cannot fill the disk.
    stored = plain_bytes(path, cache, most=begin + expected + 1)
    found = len(stored) - begin
    if found != expected:
        shape = "x".join(map(str, sizes))
        raise fail(
            "E0603",
            f"{path} should hold {shape} = {expected} bytes after its header, but holds {found}",
            help="the file is cut short; fetch or copy it again" if found < expected else "",
        )
    return stored[begin:].reshape(sizes)


def idx_sizes(path: Path, dimensions: int) -> tuple[int, ...]:
    """The sizes in an IDX file's header; reads no more than the header."""
    header = read_start(path, 4 + 4 * dimensions)
    expected = UNSIGNED_BYTES + dimensions
    magic = int.from_bytes(header[:4], "big")
    # The magic number before the length: a web page in place of the file may be short, too.
    if len(header) >= 4 and magic != expected:
        raise _wrong_magic(header, path, magic, expected)
    if len(header) < 4 + 4 * dimensions:
        message = f"{path} is {len(header)} bytes long, shorter than an IDX header"
        raise fail("E0603", message, help=AGAIN)
    return tuple(int(size) for size in np.frombuffer(header, ">u4", dimensions, 4))


def _wrong_magic(header: bytes, path: Path, magic: int, expected: int) -> UserError:
    # The upper bytes are right, so only the number of dimensions differs.
    if magic >> 8 == UNSIGNED_BYTES >> 8:
        hint = (
            f"it is an IDX file of {magic & 0xFF} dimensions where {expected & 0xFF} belong; "
            "are images and labels exchanged?"
        )
    elif header.lstrip()[:1] == b"<":
        hint = "it looks like a web page; the download went wrong"
    elif header[:4] == b"vers":
        hint = "it looks like a Git LFS pointer; run `git lfs pull`"
    else:
        hint = AGAIN
    return fail(
        "E0602",
        f"{path} begins with 0x{magic:08x}, but an IDX file of {expected & 0xFF} "
        f"dimensions begins with 0x{expected:08x}",
        help=hint,
    )
