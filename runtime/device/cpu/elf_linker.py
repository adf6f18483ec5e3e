"""A linker for our modules: x86-64 ELF objects into a shared library for Linux.

`link` takes the bytes of object files (position independent, small code model) and the names to
export, and returns the bytes of a library that `dlopen` takes. `Unlinkable` is raised for what is
not handled here; LLVM's own loader must then be used.

The library has three segments: read-only data (tables, constants), code, and writable data.
Functions of other libraries are reached through a global offset table that the system fills in when
it loads the library; calls to them go through a stub that jumps to such an address. Written after
"System V Application Binary Interface, AMD64 Architecture Processor Supplement".
Tests: tests/backends/test_elf.py.
"""

from __future__ import annotations

import platform
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

PAGE = 4096
NEEDED = ("libm.so.6", "libc.so.6")  # where functions of other libraries are looked for
SKIPPED = (".eh_frame", ".note", ".comment")  # nobody unwinds our code

WRITE, ALLOCATED, EXECUTABLE, THREAD_LOCAL = 1, 2, 4, 0x400  # flags of sections
SYMBOLS, ADDENDS, NO_BITS = 2, 4, 8  # kinds of sections
ABSOLUTE = 0xFF00  # section numbers from here on mean something else
LOAD, DYNAMIC, STACK = 1, 2, 0x6474E551  # kinds of segments
# entries of the dynamic section, for the loader
NEED, HASH, STRTAB, SYMTAB, RELA, RELASZ, RELAENT, STRSZ, SYMENT, FLAGS = (
    1, 4, 5, 6, 7, 8, 9, 10, 11, 30)  # fmt: skip
BIND_NOW = 8
# relocations: an address, relative to here, a call, the place of an address, 64 bits relative
R_64, R_PC32, R_PLT32, R_GLOB_DAT, R_RELATIVE, R_GOTPCREL, R_PC64 = 1, 2, 4, 6, 8, 9, 24
R_GOTPCRELX, R_REX_GOTPCRELX = 41, 42
RELATIVE_TO_HERE = (R_PC32, R_PLT32)
THROUGH_SLOT = (R_GOTPCREL, R_GOTPCRELX, R_REX_GOTPCRELX)


class Unlinkable(Exception):
    """The object needs more than this file can do."""


def supported() -> bool:
    """Whether this computer loads what is made here."""
    return sys.platform == "linux" and platform.machine() == "x86_64" and sys.maxsize > 2**32


def link(objects: Iterable[bytes], exports: Iterable[str]) -> bytes:
    """The shared library. What one object lacks and another has is found there."""
    return _Library(_Objects(objects), tuple(exports)).written()


# --- reading --------------------------------------------------------------------------------------


@dataclass
class _Section:
    name: str
    kind: int
    flags: int
    data: bytes
    size: int
    link: int
    target: int  # of relocations: the section that they change
    alignment: int
    address: int = -1  # in the library, once it is laid out


@dataclass(frozen=True)
class _Symbol:
    name: str
    section: int
    value: int
    size: int
    shared: bool  # with other objects


@dataclass(frozen=True)
class _Relocation:
    section: _Section
    at: int
    kind: int
    symbol: int
    addend: int


class _Objects:
    """Sections, symbols and relocations of object files, counted through."""

    def __init__(self, files: Iterable[bytes]):
        self.sections: list[_Section] = []
        self.symbols: list[_Symbol] = []
        self.loaded: list[_Section] = []
        found: list[_Relocation] = []
        for data in files:
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

    @staticmethod
    def _is_loaded(section: _Section) -> bool:
        if not section.flags & ALLOCATED or not section.size:
            return False
        # These need more of the loader than is written here.
        if section.flags & THREAD_LOCAL or section.name.startswith((".init", ".fini", ".ctors")):
            raise Unlinkable(f"the section {section.name}")
        return not section.name.startswith(SKIPPED)

    def _symbols(self, own: Sequence[_Section], before: int) -> Iterator[_Symbol]:
        table = next((s for s in own if s.kind == SYMBOLS), None)
        if table is None:
            return
        strings = self.sections[table.link].data
        # Elf64_Sym: name, binding and type, visibility, section, value, size. Section 0 is
        # "undefined" in every file, and must stay 0; a binding of 0 is local.
        for name, info, _, section, value, size in struct.iter_unpack("<IBBHQQ", table.data):
            inside = 0 < section < ABSOLUTE
            yield _Symbol(
                _string(strings, name), section + before * inside, value, size, info >> 4 != 0
            )

    def _relocations(self, section: _Section, first: int) -> Iterator[_Relocation]:
        # Relocations of sections that are left out, such as unwinding tables, are left out, too.
        if section.kind != ADDENDS or self.sections[section.target] not in self.loaded:
            return
        # Elf64_Rela: the place, symbol << 32 | kind, the addend.
        for at, info, addend in struct.iter_unpack("<QQq", section.data):
            yield _Relocation(
                self.sections[section.target], at, info & 0xFFFFFFFF, first + (info >> 32), addend
            )


def _sections(data: bytes, before: int) -> list[_Section]:
    """The sections of an object file, numbered from `before` on."""
    # 64 bits, little-endian; a relocatable file (1) for x86-64 (62).
    if data[:6] != b"\x7fELF\2\1" or struct.unpack_from("<HH", data, 16) != (1, 62):
        raise Unlinkable("not an x86-64 ELF object")
    # From the file's header: where the section headers are, their size and number, and which
    # section has their names.
    (start,) = struct.unpack_from("<Q", data, 40)
    width, count, names = struct.unpack_from("<HHH", data, 58)
    # Elf64_Shdr: name, type, flags, address, offset, size, link, info, alignment, size of an entry
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, start + n * width) for n in range(count)]
    contents = [b"" if h[1] == NO_BITS else data[h[4] : h[4] + h[5]] for h in headers]
    return [
        _Section(
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


# --- writing --------------------------------------------------------------------------------------


@dataclass
class _Part:
    """A stretch of the library. Its bytes may be filled in after its place is known."""

    size: int
    alignment: int = 8
    address: int = 0
    data: bytearray = field(default_factory=bytearray)


class _Library:
    """Places first, then the bytes, which need the places."""

    def __init__(self, source: _Objects, exports: Sequence[str]):
        self.source, self.exports = source, exports
        used = {r.symbol for r in source.relocations}
        # Sorted, so that the same objects give the same library, byte for byte.
        self.foreign = [n for n in sorted(used) if source.symbols[n].section == 0]
        # Some code takes addresses of our own symbols from the table as well.
        through = {r.symbol for r in source.relocations if r.kind in THROUGH_SLOT}
        self.slots = {n: k for k, n in enumerate(sorted({*self.foreign, *through}))}
        self.dynamic: list[tuple[int, int, int]] = []  # relocations that the loader does
        self._strings()
        self._lay_out()

    def _strings(self) -> None:
        """The names that the loader sees, and where each begins."""
        self.names = [*(self.source.symbols[n].name for n in self.foreign), *self.exports]
        self.strings, self.at = b"\0", {}
        # Offset 0 is the empty name, by convention.
        for name in dict.fromkeys([*self.names, *NEEDED]):
            self.at[name] = len(self.strings)
            self.strings += name.encode() + b"\0"

    def _lay_out(self) -> None:
        """Gives every part and section its address, which is its place in the file as well."""
        # Sizes by the ABI: header 64, a segment's header 56, a symbol 24, a relocation 24, an entry
        # of the dynamic section 16. Symbol 0 is reserved.
        absolute = sum(r.kind == R_64 for r in self.source.relocations)
        self.header = _Part(64 + 56 * 5)
        self.symbols = _Part(24 * (1 + len(self.names)))
        self.text = _Part(len(self.strings), 1)
        self.hash = _Part(4 * (4 + len(self.names)))
        self.relocations = _Part(24 * (len(self.slots) + absolute))
        self.stubs = _Part(16 * len(self.foreign), 16)
        self.table = _Part(8 * len(self.slots))
        self.orders = _Part(16 * (11 + len(NEEDED)))
        loaded = self.source.loaded
        written = [s for s in loaded if s.flags & WRITE]
        code = [s for s in loaded if s.flags & EXECUTABLE and s not in written]
        constant = [s for s in loaded if s not in written and s not in code]
        filled = [s for s in written if s.kind != NO_BITS]
        empty = [s for s in written if s.kind == NO_BITS]
        # Each segment begins on a page of its own, as permissions are those of whole pages.
        self.file: list[_Part | _Section] = []
        tables = [self.header, self.symbols, self.text, self.hash, self.relocations]
        self.read_only = (0, self._place([*tables, *constant], 0))
        start = _up(self.read_only[1], PAGE)
        self.code = (start, self._place([*code, self.stubs], start))
        start = _up(self.code[1], PAGE)
        self.end = self._place([self.table, self.orders, *filled], start)
        # Data without bytes comes last: it extends the segment in memory beyond its end in the
        # file.
        self.written_to = (start, self._place(empty, self.end))

    def _place(self, parts: Sequence[_Part | _Section], position: int) -> int:
        for part in parts:
            position = _up(position, part.alignment)
            part.address = position
            position += part.size
        self.file += [p for p in parts if isinstance(p, _Part) or p.kind != NO_BITS]
        return position

    def written(self) -> bytes:
        self.image = bytearray(self.end)
        for part in self.source.loaded:
            self.image[part.address : part.address + len(part.data)] = part.data
        for symbol, slot in self.slots.items():
            self._fill_slot(symbol, self.table.address + 8 * slot)
        for number, symbol in enumerate(self.foreign):
            self._write_stub(symbol, self.stubs.address + 16 * number)
        for relocation in self.source.relocations:
            self._relocate(relocation)
        self._put(self.text.address, f"{len(self.strings)}s", self.strings)
        self._write_symbols()
        for number, entry in enumerate(self.dynamic):
            self._put(self.relocations.address + 24 * number, "QQq", *entry)
        self._write_orders()
        self._write_header()
        return bytes(self.image)

    def _put(self, address: int, form: str, *values: object) -> None:
        struct.pack_into("<" + form, self.image, address, *values)

    # --- relocations ---------------------------------------------------------------------------

    def _address(self, number: int) -> int:
        """Where a symbol of our own is."""
        symbol = self.source.symbols[number]
        section = self.source.sections[symbol.section] if symbol.section < ABSOLUTE else None
        # A section that is not loaded, or a special one.
        if section is None or section.address < 0:
            raise Unlinkable(f"the symbol {symbol.name!r} in no section")
        return section.address + symbol.value

    def _is_foreign(self, number: int) -> bool:
        return self.source.symbols[number].section == 0

    def _fill_slot(self, number: int, slot: int) -> None:
        if self._is_foreign(number):
            # The loader writes the address of the function, or adds the place at which it loads the
            # library.
            self.dynamic.append((slot, self._dynamic_number(number) << 32 | R_GLOB_DAT, 0))
        else:
            self.dynamic.append((slot, R_RELATIVE, self._address(number)))

    def _dynamic_number(self, number: int) -> int:
        return 1 + self.foreign.index(number)

    def _write_stub(self, number: int, address: int) -> None:
        """`jmp *slot(%rip)`"""
        # Relative to the next instruction, 6 bytes on.
        slot = self.table.address + 8 * self.slots[number]
        self._put(address, "2si", b"\xff\x25", slot - (address + 6))

    def _relocate(self, r: _Relocation) -> None:
        here = r.section.address + r.at
        if r.kind in RELATIVE_TO_HERE:
            # The ABI's S + A - P: symbol plus addend minus place; code and data keep their distance
            # wherever the library is loaded.
            self._put(here, "i", self._callable(r.symbol) + r.addend - here)
        elif r.kind in THROUGH_SLOT:
            slot = self.table.address + 8 * self.slots[r.symbol]
            self._put(here, "i", slot + r.addend - here)
        elif r.kind == R_PC64:
            self._put(here, "q", self._address(r.symbol) + r.addend - here)
        # An absolute address is known to the loader alone, which can write it into writable data
        # only.
        elif r.kind == R_64 and r.section.flags & WRITE:
            if self._is_foreign(r.symbol):
                entry = (here, self._dynamic_number(r.symbol) << 32 | R_64, r.addend)
            else:
                entry = (here, R_RELATIVE, self._address(r.symbol) + r.addend)
            self.dynamic.append(entry)
        else:
            raise Unlinkable(f"relocation {r.kind} in {r.section.name}")

    def _callable(self, number: int) -> int:
        """The symbol, or the stub that leads to it."""
        if self._is_foreign(number):
            return self.stubs.address + 16 * self.foreign.index(number)
        return self._address(number)

    # --- tables --------------------------------------------------------------------------------

    def _write_symbols(self) -> None:
        """Names for the loader, and its hash table: a single chain, as there are few."""
        own = {s.name: n for n, s in enumerate(self.source.symbols) if s.name and s.section}
        for number, name in enumerate(self.names, 1):
            place = self.symbols.address + 24 * number
            # Global (1 << 4), of no type, in section 0: the loader looks for it in the libraries
            # NEEDED.
            if number <= len(self.foreign):
                self._put(place, "IBBHQQ", self.at[name], 0x10, 0, 0, 0, 0)
                continue
            if name not in own:
                raise Unlinkable(f"no symbol {name}")
            symbol = self.source.symbols[own[name]]
            is_code = self.source.sections[symbol.section].flags & EXECUTABLE
            self._put(
                place,
                "IBBHQQ",
                self.at[name],
                # Global; 2 is a function, 1 an object. Any section but 0 means "defined here".
                0x12 if is_code else 0x11,
                0,
                1,
                self._address(own[name]),
                symbol.size,
            )
        count = len(self.names)
        # With one bucket every hash leads to the same chain, so no hash has to be computed here.
        # Each entry is the number of the next symbol; 0 ends the chain.
        chain = [0, *(n + 1 if n < count else 0 for n in range(1, count + 1))]
        self._put(self.hash.address, f"{4 + count}I", 1, count + 1, min(count, 1), *chain)

    def _write_orders(self) -> None:
        """The dynamic section."""
        # A library that calls nothing outside needs no other.
        needed = [(NEED, self.at[name]) for name in NEEDED] if self.foreign else []
        rows = [
            *needed,
            (HASH, self.hash.address),
            (STRTAB, self.text.address),
            (SYMTAB, self.symbols.address),
            (STRSZ, len(self.strings)),
            (SYMENT, 24),
            (RELA, self.relocations.address),
            (RELASZ, 24 * len(self.dynamic)),
            (RELAENT, 24),
            # All addresses are filled in at once: there is no code here for lazy binding.
            (FLAGS, BIND_NOW),
            (0, 0),
        ]
        for number, row in enumerate(rows):
            self._put(self.orders.address + 16 * number, "QQ", *row)

    def _write_header(self) -> None:
        self._put(
            0,
            # Elf64_Ehdr: 64 bits, little-endian, version 1; a shared library (3) for x86-64 (62),
            # version 1; no entry point, program headers at 64, no section headers; sizes and
            # numbers of headers
            "4s4B8xHHIQQQIHHHHHH",
            b"\x7fELF",
            2,
            1,
            1,
            0,
            3,
            62,
            1,
            0,
            64,
            0,
            0,
            64,
            56,
            5,
            64,
            0,
            0,
        )
        start, stop = self.written_to
        segments = [
            # Permissions: 4 is reading, 2 writing, 1 executing; nothing is both written and
            # executed. The last one asks for a stack that is not executable.
            (LOAD, 4, *self.read_only, self.read_only[1], PAGE),
            (LOAD, 5, *self.code, self.code[1], PAGE),
            (LOAD, 6, start, self.end, stop, PAGE),
            (DYNAMIC, 6, self.orders.address, *[self.orders.address + self.orders.size] * 2, 8),
            (STACK, 6, 0, 0, 0, 16),
        ]
        for number, (kind, flags, begin, end, reach, alignment) in enumerate(segments):
            self._put(
                64 + 56 * number,
                "IIQQQQQQ",
                kind,
                flags,
                begin,
                begin,
                begin,
                end - begin,
                reach - begin,
                alignment,
            )


def _up(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
