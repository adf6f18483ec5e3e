"""Reading ELF object files of 64 bits: the sections, symbols and relocations of several.

Written after "System V Application Binary Interface", chapter 4. Tests: tests/backends/test_elf.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ....dsl.records import record

SKIPPED = (".eh_frame", ".note", ".comment")  # nobody unwinds our code

WRITE, ALLOCATED, EXECUTABLE, THREAD_LOCAL = 1, 2, 4, 0x400  # flags of sections
SYMBOLS, ADDENDS, NO_BITS = 2, 4, 8  # kinds of sections
ABSOLUTE = 0xFF00  # section numbers from here on mean something else


class Unlinkable(Exception):
    """The object needs more than the linker can do."""


@dataclass
class Section:
    name: str
    kind: int
    flags: int
    data: bytes
    size: int
    link: int
    target: int  # of relocations: the section that they change
    alignment: int
    address: int = -1  # in the library, once it is laid out


@record
class Symbol:
    name: str
    section: int
    value: int
    size: int
    shared: bool  # with other objects


@record
class Relocation:
    section: Section
    at: int
    kind: int
    symbol: int
    addend: int


class Objects:
    """Sections, symbols and relocations of object files, counted through."""

    def __init__(self, files: Iterable[bytes]):
        self.sections: list[Section] = []
        self.symbols: list[Symbol] = []
        self.loaded: list[Section] = []
        found: list[Relocation] = []
        self.machine = 0
        for data in files:
            self.machine = self._machine(data)
            before, first = len(self.sections), len(self.symbols)
            self.sections += _sections(data, before)
            own = self.sections[before:]
            # Numbers of sections and symbols count through all files, so what a file numbers from 0
            # is shifted.
            self.symbols += self._symbols(own, before)
            self.loaded += [s for s in own if self._is_loaded(s)]
            found += [r for s in own for r in self._relocations(s, first)]
        # What one file leaves undefined (section 0) and another defines: the definition takes its
        # place.
        known = {s.name: n for n, s in enumerate(self.symbols) if s.shared and s.section}
        lacking = {
            n: known[s.name]
            for n, s in enumerate(self.symbols)
            if not s.section and s.name in known
        }
        self.relocations = [replace(r, symbol=lacking.get(r.symbol, r.symbol)) for r in found]

    def _machine(self, data: bytes) -> int:
        """For which processor the file is; all are for one."""
        # 64 bits, little-endian; a relocatable file (1)
        if data[:6] != b"\x7fELF\2\1" or struct.unpack_from("<H", data, 16) != (1,):
            raise Unlinkable("not an ELF object of 64 bits")
        (found,) = struct.unpack_from("<H", data, 18)
        if self.machine not in (0, found):
            raise Unlinkable("objects for two processors")
        return int(found)

    @staticmethod
    def _is_loaded(section: Section) -> bool:
        if not section.flags & ALLOCATED or not section.size:
            return False
        # These need more of the loader than is written here.
        if section.flags & THREAD_LOCAL or section.name.startswith((".init", ".fini", ".ctors")):
            raise Unlinkable(f"the section {section.name}")
        return not section.name.startswith(SKIPPED)

    def _symbols(self, own: Sequence[Section], before: int) -> Iterator[Symbol]:
        table = next((s for s in own if s.kind == SYMBOLS), None)
        if table is None:
            return
        strings = self.sections[table.link].data
        # Elf64_Sym: name, binding and type, visibility, section, value, size. Section 0 is
        # "undefined" in every file, and must stay 0; a binding of 0 is local.
        for name, info, _, section, value, size in struct.iter_unpack("<IBBHQQ", table.data):
            inside = 0 < section < ABSOLUTE
            yield Symbol(
                _string(strings, name), section + before * inside, value, size, info >> 4 != 0
            )

    def _relocations(self, section: Section, first: int) -> Iterator[Relocation]:
        # Relocations of sections that are left out, such as unwinding tables, are left out, too.
        if section.kind != ADDENDS or self.sections[section.target] not in self.loaded:
            return
        # Elf64_Rela: the place, symbol << 32 | kind, the addend.
        for at, info, addend in struct.iter_unpack("<QQq", section.data):
            yield Relocation(
                self.sections[section.target], at, info & 0xFFFFFFFF, first + (info >> 32), addend
            )


def _sections(data: bytes, before: int) -> list[Section]:
    """The sections of an object file, numbered from `before` on."""
    # From the file's header: where the section headers are, their size and number, and which
    # section has their names.
    (start,) = struct.unpack_from("<Q", data, 40)
    width, count, names = struct.unpack_from("<HHH", data, 58)
    # Elf64_Shdr: name, type, flags, address, offset, size, link, info, alignment, size of an entry
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, start + n * width) for n in range(count)]
    contents = [b"" if h[1] == NO_BITS else data[h[4] : h[4] + h[5]] for h in headers]
    return [
        Section(
            _string(contents[names], h[0]),
            h[1],
            h[2],
            content,
            h[5],
            before + h[6],
            before + h[7],
            max(h[8], 1),
        )
        for h, content in zip(headers, contents, strict=True)
    ]


def _string(table: bytes, start: int) -> str:
    return table[start : table.index(b"\0", start)].decode()
