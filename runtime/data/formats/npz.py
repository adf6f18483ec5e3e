"""`npz("set.npz")`: every array of the archive is a field.

In: an archive written by `numpy.savez` or `numpy.savez_compressed`, the first axis of each array
counting the examples. Out: fields with the names of the arrays; `x_test` and `x_validation` form
the other splits. Arrays stored without compression are mapped from disk, the others unpacked, into
a file of the user's cache if they are larger than the memory for data. A pattern like
`npz("part-*.npz")` names several archives of the same arrays, whose examples follow each other in
the order of the names, numbers by their value.
"""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from sys import maxsize
from typing import Literal

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ....dsl.files import reason
from ....dsl.regular_files import open_regular
from ...memory import size_text
from ..core.dataset import Dataset, Schema
from ..core.decompress import ALWAYS_ALLOWED, MAX_RATIO, readable
from ..core.kept import Kept, once
from ..core.mapped_file import MappedFile
from ..core.named_arrays import dataset_of, joined_header, schema_of
from ..core.source import DataSource, Request, Setting
from ..core.spool import Spool
from ..core.stored import Examples, Mapped, bounded, joined
from .numpy_format import Header, check_length, map_values, read_header, read_values

# The second is an archive without members; it is valid and reported as empty later.
ARCHIVE_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
KIND = "arrays"  # the folder in the cache
VERSION = 1  # of how arrays are kept there
BLOCK = 1 << 20  # bytes that are unpacked at a time
LOCAL_HEADER = 30  # bytes of a member's local header, before its name
ENCRYPTED = 1
# what `zipfile` and its decompressors raise for archives that are damaged or made up
DAMAGE = (
    zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error, lzma.LZMAError, RuntimeError,
    struct.error, ValueError, LookupError, OverflowError,
)  # fmt: skip


def describe(request: Request) -> Schema:
    """From the headers of the arrays alone."""
    headers = {}
    for path in request.files():
        with _open(path) as (archive, members):
            headers[path] = {name: _header(archive, m, path) for name, m in members.items()}
    return schema_of(_joined(headers), _title_of([*headers]), request)


def load(request: Request) -> Dataset:
    """All splits. E0601 to E0603, E0607, E0611, E0613, E0615 or E0617 if that cannot be."""
    search = replace(request.search, notify=once(request.search.notify))
    left = search.memory
    arrays: dict[Path, dict[str, np.ndarray]] = {}
    headers: dict[Path, dict[str, Header]] = {}
    for path in request.files():
        kept = Kept.of(search, KIND, [path], VERSION)
        arrays[path], headers[path] = _read(path, left, kept)
        left -= sum(a.nbytes for a in arrays[path].values() if MappedFile.of(a) is None)
    whole = _joined(headers)
    parts = {(n, path): a for path, found in arrays.items() for n, a in found.items()}
    kept_arrays = bounded(parts, search.memory)
    joined_arrays = {name: joined([kept_arrays[name, path] for path in headers]) for name in whole}
    return dataset_of(joined_arrays, whole, _title_of([*headers]), request)


def _title_of(paths: list[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


def _joined(headers: dict[Path, dict[str, Header]]) -> dict[str, Header]:
    """The headers of the arrays, each of all archives; E0607 for one that lacks any."""
    (first, names), *others = headers.items()
    for path, found in others:
        for name in names.keys() ^ found.keys():
            lacks, has = (path, first) if name in names else (first, path)
            raise fail("E0607", f"{lacks} has no array `{name}`, and {has} has one")
    return {n: joined_header({f"`{n}` of {p}": h[n] for p, h in headers.items()}) for n in names}


def read_archive(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an archive by name, in memory or mapped; errors as `load`."""
    return _read(path, maxsize, None)[0]


def _read(
    path: Path, most: int, kept: Kept | None
) -> tuple[dict[str, np.ndarray], dict[str, Header]]:
    """The arrays of an archive and their headers, by name. Those that have to be unpacked and take
    more than `most` bytes together go to files, which are `kept`."""
    arrays: dict[str, np.ndarray] = {}
    headers: dict[str, Header] = {}
    files: dict[str, Examples] = {}
    before = kept.find() if kept else None
    with _open(path) as (archive, members):
        for number, (name, member) in enumerate(members.items()):
            header = headers[name] = _header(archive, member, path)
            in_file = kept if header.size > most and _is_packed(member) else None
            key = str(number)
            if before and key in before and in_file:
                files[key] = before[key]
            elif in_file:
                with in_file.spool(key, 0) as spool:
                    files[key] = _unpacked(archive, member, header, path, spool)
            else:
                arrays[name] = _values(archive, member, header, path)
                most -= header.size * _is_packed(member)
                continue
            arrays[name] = _as_header(_bytes_of(files[key]), header)
    if kept and files.keys() != (before or {}).keys():
        kept.store(files)
    return arrays, {name: headers[name] for name in arrays}


def _is_packed(member: zipfile.ZipInfo) -> bool:
    return member.compress_type != zipfile.ZIP_STORED


def _bytes_of(examples: Examples) -> np.ndarray:
    assert isinstance(examples, Mapped)
    return examples.array


def _as_header(flat: np.ndarray, header: Header) -> np.ndarray:
    """Bytes as the array that they are."""
    order: Literal["F", "C"] = "F" if header.column_major else "C"
    return flat.view(header.dtype).reshape(header.shape, order=order)


def _unpacked(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, header: Header, path: Path, spool: Spool
) -> Examples:
    """The bytes of an array, through memory block by block."""
    title = _title(member, path)
    _check_size(member, header, title)
    with archive.open(member) as stream:
        stream.read(header.begin)
        while block := stream.read(BLOCK):
            spool.add(np.frombuffer(block, np.uint8))
    values = spool.values()
    assert values is not None
    return values


@contextmanager
def _open(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """The open archive and its members by array name; E0602, E0603 and E0617."""
    with readable(path):
        with open_regular(path) as file:
            start = file.read(4)
        if start not in ARCHIVE_STARTS:
            hint = 'it is an .npy array: write `npy(NAME = "…")`' if start == b"\x93NUM" else ""
            raise fail("E0602", f"{path} is no .npz archive: it begins with {start!r}", help=hint)
        try:
            with zipfile.ZipFile(path) as archive:
                yield archive, _by_name(archive, path)
        except DAMAGE as error:
            message = f"{path} does not unpack: {reason(error)}"
            raise fail("E0603", message, help="save or copy it again") from error


# Names may occur twice in a ZIP file, of which the later would hide the earlier.
def _by_name(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name == member.filename:
            raise fail("E0602", f"{path} holds `{name}`, which is no .npy array")
        if name in members:
            raise fail("E0603", f"{path} holds two arrays `{name}`")
        if member.flag_bits & ENCRYPTED:
            raise fail("E0603", f"array `{name}` of {path} is encrypted")
        # What NumPy writes. Of other methods `zipfile` unpacks 4 kB at once, whatever comes out.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise fail(
                "E0603",
                f"array `{name}` of {path} is compressed by a method that NumPy does not write",
                help="write it with `numpy.savez` or `numpy.savez_compressed`",
            )
        members[name] = member
    return members


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> Header:
    with archive.open(member) as stream:
        return read_header(stream, _title(member, path))


def _values(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, header: Header, path: Path
) -> np.ndarray:
    title = _title(member, path)
    _check_size(member, header, title)
    # A member that is not compressed lies in the file as it is, and can be mapped like an `.npy`.
    if not _is_packed(member):
        return map_values(path, header, _begin(path, member) + header.begin)
    with archive.open(member) as stream:
        # Compressed bytes have to be unpacked from the start; the header has been read before.
        stream.read(header.begin)
        return read_values(stream, header, title)


def _check_size(member: zipfile.ZipInfo, header: Header, title: str) -> None:
    # The archive states the length, so that a wrong header is noticed before memory is taken.
    check_length(header, member.file_size - header.begin, title)
    most = max(ALWAYS_ALLOWED, MAX_RATIO * member.compress_size)
    if _is_packed(member) and member.file_size > most:
        raise fail(
            "E0603",
            f"{title} unpacks from {size_text(member.compress_size)} to "
            f"{size_text(member.file_size)}, more than {MAX_RATIO} times as much",
            help="`numpy.savez` stores it as it is, without compression",
        )


def _begin(path: Path, member: zipfile.ZipInfo) -> int:
    """The offset of a stored member's bytes, which follow a local header of variable length."""
    with open_regular(path) as file:
        file.seek(member.header_offset)
        local = file.read(LOCAL_HEADER)
    # The local header states the lengths of its name and of an extra field, at bytes 26 and 28. The
    # extra field may differ from that in the archive's directory, so it is read here.
    name, extra = (int.from_bytes(local[at : at + 2], "little") for at in (26, 28))
    return member.header_offset + LOCAL_HEADER + name + extra


def _title(member: zipfile.ZipInfo, path: Path) -> str:
    return f"array `{member.filename.removesuffix('.npy')}` of {path}"


NPZ = DataSource(
    "npz",
    "the arrays of an .npz archive; NAME_test and NAME_validation form the other splits",
    (Setting("file", "text", "the archive", positional=True),),
    describe,
    load,
)
