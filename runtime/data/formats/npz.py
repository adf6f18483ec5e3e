"""`npz("set.npz")`: every array of the archive is a field.

In: an archive written by `numpy.savez` or `numpy.savez_compressed`, the first axis of each array
counting the examples. Out: fields with the names of the arrays; `x_test` and `x_validation` form
the other splits. Arrays stored without compression are mapped from disk, the others unpacked. A
pattern like `npz("part-*.npz")` names several archives of the same arrays, whose examples follow
each other in the order of the names, numbers by their value.
"""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ....dsl.files import reason
from ....dsl.regular_files import open_regular
from ...memory import size_text
from ..core.dataset import Dataset, Schema
from ..core.decompress import ALWAYS_ALLOWED, MAX_RATIO, readable
from ..core.named_arrays import dataset_of, joined_header, schema_of
from ..core.source import DataSource, Request, Setting
from ..core.stored import bounded, joined
from .numpy_format import Header, check_length, map_values, read_header, read_values

# The second is an archive without members; it is valid and reported as empty later.
ARCHIVE_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
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
    read = {path: read_archive(path) for path in request.files()}
    headers = _joined({path: found for path, (_, found) in read.items()})
    parts = {(n, path): a for path, (arrays, _) in read.items() for n, a in arrays.items()}
    kept = bounded(parts, request.search.memory)
    arrays = {name: joined([kept[name, path] for path in read]) for name in headers}
    return dataset_of(arrays, headers, _title_of([*read]), request)


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


def read_archive(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Header]]:
    """The arrays of an archive and their headers, by name; errors as `load`."""
    arrays: dict[str, np.ndarray] = {}
    headers: dict[str, Header] = {}
    with _open(path) as (archive, members):
        for name, member in members.items():
            headers[name] = _header(archive, member, path)
            arrays[name] = _values(archive, member, headers[name], path)
    return arrays, headers


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
    # The archive states the length, so that a wrong header is noticed before memory is taken.
    check_length(header, member.file_size - header.begin, title)
    most = max(ALWAYS_ALLOWED, MAX_RATIO * member.compress_size)
    if member.compress_type != zipfile.ZIP_STORED and member.file_size > most:
        raise fail(
            "E0603",
            f"{title} unpacks from {size_text(member.compress_size)} to "
            f"{size_text(member.file_size)}, more than {MAX_RATIO} times as much",
            help="`numpy.savez` stores it as it is, without compression",
        )
    # A member that is not compressed lies in the file as it is, and can be mapped like an `.npy`.
    if member.compress_type == zipfile.ZIP_STORED:
        return map_values(path, header, _begin(path, member) + header.begin)
    with archive.open(member) as stream:
        # Compressed bytes have to be unpacked from the start; the header has been read before.
        stream.read(header.begin)
        return read_values(stream, header, title)


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
