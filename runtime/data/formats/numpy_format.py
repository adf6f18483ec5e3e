"""NumPy's `.npy` format, read without NumPy's reader: headers checked, arrays mapped from disk.

In: bytes that should be an `.npy` header, in a file or a member of an archive. Out: what they
describe, or the mapped array. Pickled objects are refused, never loaded.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from ....dsl.diagnostics.diagnostic import UserError, fail
from ....dsl.syntax.source import Span
from ...memory import Shortage, require, size_text
from ..core.decompress import readable

MAGIC = b"\x93NUMPY"
LENGTH_BYTES = {1: 2, 2: 4, 3: 4}  # of the header's length, by version of the format
LONGEST_HEADER = 1 << 16

# what the language calls the values of a stored type; narrower integers are read as i32
FIELD_DTYPES = {
    "b1": "bool", "u1": "u8",
    "i1": "i32", "i2": "i32", "u2": "i32", "i4": "i32", "u4": "i64", "i8": "i64",
    "f2": "f32", "f4": "f32", "f8": "f64",
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What an `.npy` header says; the values begin `begin` bytes after the magic number."""

    dtype: np.dtype
    shape: tuple[int, ...]
    column_major: bool
    begin: int

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def field_dtype(self) -> str:
        """The language's name of the type."""
        return FIELD_DTYPES[f"{self.dtype.kind}{self.dtype.itemsize}"]


def read_header(stream: IO[bytes], name: str, span: Span | None = None) -> Header:
    """The header at the position of a stream. `name` is for messages: E0602, E0603, E0611."""
    start = stream.read(8)
    if start[:6] != MAGIC:
        raise fail(
            "E0602",
            f"{name} begins with {start[:6]!r}, but an .npy array begins with {MAGIC!r}",
            span,
            help=_other_kind(start),
        )
    width = LENGTH_BYTES.get(start[6] if len(start) == 8 else 0)
    if width is None:
        raise fail("E0603", f"{name} has no .npy format version that is known", span)
    length = int.from_bytes(stream.read(width), "little")
    text = stream.read(min(length, LONGEST_HEADER))
    if len(text) < length:
        raise _damaged(name, span)
    try:
        words = ast.literal_eval(text.decode("utf-8").strip(" \n\0"))
        stored = (words["descr"], words["shape"], words["fortran_order"])
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise _damaged(name, span) from error
    return _checked(stored, 8 + width + length, name, span)


def _other_kind(start: bytes) -> str:
    if start[:4] == b"PK\x03\x04":
        return 'it is an archive: write `npz("…")`'
    return "it looks like a web page" if start.lstrip()[:1] == b"<" else ""


def _damaged(name: str, span: Span | None) -> UserError:
    return fail("E0603", f"the .npy header of {name} is damaged", span, help="save it again")


def _checked(stored: tuple[Any, ...], begin: int, name: str, span: Span | None) -> Header:
    description, shape, column_major = stored
    sizes = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
    if not sizes or not isinstance(column_major, bool) or len(shape) > 32:
        raise _damaged(name, span)
    if not isinstance(description, str):
        raise fail("E0611", f"{name} holds records; a field has one type", span)
    try:
        dtype = np.dtype(description)
    except (TypeError, ValueError, SyntaxError) as error:
        raise _damaged(name, span) from error
    if f"{dtype.kind}{dtype.itemsize}" not in FIELD_DTYPES:
        objects = "save it as numbers; pickled objects are never loaded"
        raise fail(
            "E0611",
            f"{name} holds values of type {dtype.name}, which the language does not have",
            span,
            help=objects if dtype.hasobject else "save it as integers or real numbers",
        )
    if not shape or not prod(shape):
        raise fail(
            "E0613" if shape else "E0607",
            f"{name} has shape {list(shape)}, so it holds no examples",
            span,
            help="" if shape else "the first axis counts the examples; save an array, not a number",
        )
    return Header(dtype, shape, column_major, begin)


def check_length(header: Header, found: int, name: str, span: Span | None = None) -> None:
    """Raise E0603 unless exactly the bytes that a header promises follow it."""
    if found != header.size:
        raise fail(
            "E0603",
            f"{name} should hold {header.size} bytes of {header.dtype.name}{list(header.shape)} "
            f"after its header, but holds {found}",
            span,
            help="it is cut short; save or copy it again" if found < header.size else "",
        )


def map_values(path: Path, header: Header, offset: int) -> np.ndarray:
    """The values of a header, mapped read-only; `offset` is where they begin in the file."""
    order = "F" if header.column_major else "C"
    mapped = np.memmap(path, header.dtype, "r", offset, header.shape, order)  # type: ignore
    return np.asarray(mapped)


def read_values(stream: IO[bytes], header: Header, name: str, span: Span | None) -> np.ndarray:
    """The values that follow a header in a stream, in memory; E0713 if there is too little."""
    try:
        require(header.size)
    except Shortage as shortage:
        raise fail(
            "E0713",
            f"{name} takes {size_text(shortage.needed)} of memory, and "
            f"{size_text(shortage.free)} are free",
            span,
            help="`numpy.savez` stores it uncompressed, and then it is not held in memory",
        ) from None
    content = stream.read(header.size)
    check_length(header, len(content), name, span)
    flat = np.frombuffer(content, header.dtype)
    return flat.reshape(header.shape, order="F" if header.column_major else "C")


def npy_header(path: Path, span: Span | None = None) -> Header:
    """The header of an `.npy` file, with its length checked against the file's."""
    with readable(path, span), open(path, "rb") as file:
        header = read_header(file, str(path), span)
        check_length(header, file.seek(0, 2) - header.begin, str(path), span)
    return header


def npy_values(path: Path, span: Span | None = None) -> np.ndarray:
    """The array of an `.npy` file, mapped. E0602, E0603, E0611, E0613 or E0617 if it is none."""
    header = npy_header(path, span)
    with readable(path, span):
        return map_values(path, header, header.begin)
