"""NumPy's `.npy` format: NumPy parses the header, this file checks it and maps the array.

In: bytes that should be an `.npy` header, in a file or a member of an archive. Out: what they
describe, or the mapped array. Pickled objects are refused, never loaded.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib.format import MAGIC_PREFIX, read_array_header_1_0, read_array_header_2_0

from ....dsl.diagnostics.diagnostic import fail
from ....dsl.regular_files import open_regular
from ...memory import NotEnoughMemory, require, size_text
from ..core.decompress import readable

# version of the format → parser; 3 differs from 2 only in the names of record fields
PARSERS = {1: read_array_header_1_0, 2: read_array_header_2_0, 3: read_array_header_2_0}
MAX_HEADER = 1 << 16  # bytes

# the language's type for a stored type; integers of 16 bits are read as i32
FIELD_DTYPES = {
    "b1": "bool", "u1": "u8", "i1": "i8",
    "i2": "i32", "u2": "i32", "i4": "i32", "u4": "i64", "i8": "i64",
    "f2": "f32", "f4": "f32", "f8": "f64",
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """The content of an `.npy` header; the values begin at byte `begin` of the array."""

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


def read_header(stream: IO[bytes], name: str) -> Header:
    """The header at the position of a stream. `name` is for messages: E0602, E0603, E0611."""
    # NumPy would read as many bytes as the header claims to have, up to 4 GB, before it refuses it
    head = BytesIO(stream.read(MAX_HEADER))
    start = head.read(8)
    if start[:6] != MAGIC_PREFIX:
        message = (
            f"{name} begins with {start[:6]!r}, but an .npy array begins with {MAGIC_PREFIX!r}"
        )
        raise fail("E0602", message, help=_other_kind(start))
    # Byte 6 is the major version. A file that ends before it has version 0, which is none.
    parse = PARSERS.get(start[6] if len(start) == 8 else 0)
    if parse is None:
        raise fail("E0603", f"{name} has no .npy format version that is known")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files of Python 2
            shape, column_major, dtype = parse(head, max_header_size=MAX_HEADER)
        # NumPy evaluates the header as a Python literal, so sizes may be True, negative or
        # beyond what any file can hold.
        if any(type(size) is not int or not 0 <= size < 1 << 63 for size in shape):
            raise ValueError("size")
        if len(shape) > 32:
            raise ValueError("shape")
    # Whatever NumPy's parsers of literals and types raise: the header may say anything.
    except Exception as error:
        # NumPy's own text is left out: it may advise to load the file unsafely
        raise fail(
            "E0603", f"the .npy header of {name} is damaged", help="save it again"
        ) from error
    if dtype.names:
        raise fail("E0611", f"{name} holds records; a field has one type")
    # The kinds are checked by name, e.g. `f4`: complex numbers, texts, dates and objects are not
    # among them. The byte order does not matter, since NumPy converts as it reads.
    if f"{dtype.kind}{dtype.itemsize}" not in FIELD_DTYPES:
        objects = "save it as numbers; pickled objects are never loaded"
        raise fail(
            "E0611",
            f"{name} holds values of type {dtype.name}, which the language does not have",
            help=objects if dtype.hasobject else "save it as integers or real numbers",
        )
    # A shape without axes, [], is a single number: its product is 1, yet it has no examples.
    if not prod(shape) or not shape:
        raise fail(
            "E0613" if shape else "E0607",
            f"{name} has shape {list(shape)}, so it holds no examples",
            help="" if shape else "the first axis counts the examples; save an array, not a number",
        )
    return Header(dtype, shape, column_major, head.tell())


def _other_kind(start: bytes) -> str:
    if start[:4] == b"PK\x03\x04":
        return 'it is an archive: write `npz("…")`'
    return "it looks like a web page" if start.lstrip()[:1] == b"<" else ""


def check_length(header: Header, found: int, name: str) -> None:
    """Raise E0603 unless exactly as many bytes follow a header as it says."""
    if found != header.size:
        raise fail(
            "E0603",
            f"{name} should hold {header.size} bytes of {header.dtype.name}{list(header.shape)} "
            f"after its header, but holds {found}",
            help="it is cut short; save or copy it again" if found < header.size else "",
        )


def map_values(path: Path, header: Header, offset: int) -> np.ndarray:
    """The values of a header, mapped read-only; `offset` is where they begin in the file."""
    # Fortran order is kept, not copied; `Split.take` gathers rows of any layout.
    order = "F" if header.column_major else "C"
    mapped = np.memmap(path, header.dtype, "r", offset, header.shape, order)  # type: ignore
    return np.asarray(mapped)


def read_values(stream: IO[bytes], header: Header, name: str) -> np.ndarray:
    """The values that follow a header in a stream, in memory; E0713 if there is too little."""
    # Refused beforehand, as the system might grant the memory and then end the process.
    try:
        require(header.size)
    except NotEnoughMemory as shortage:
        raise fail(
            "E0713",
            f"{name} takes {size_text(shortage.needed)} of memory, and "
            f"{size_text(shortage.free)} are free",
            help="`numpy.savez` stores it uncompressed, and then it is not held in memory",
        ) from None
    content = stream.read(header.size)
    check_length(header, len(content), name)
    flat = np.frombuffer(content, header.dtype)
    return flat.reshape(header.shape, order="F" if header.column_major else "C")


def npy_header(path: Path) -> Header:
    """The header of an `.npy` file. E0602, E0603, E0611, E0613 or E0617 if it is not one."""
    with readable(path), open_regular(path) as file:
        header = read_header(file, str(path))
        # The end's position is the length: no value is read to find out that a file is cut short.
        check_length(header, file.seek(0, 2) - header.begin, str(path))
    return header


def map_npy(path: Path, header: Header) -> np.ndarray:
    """The array of an `.npy` file with that header, mapped; E0617."""
    with readable(path):
        return map_values(path, header, header.begin)
