"""A linker for our modules: ELF objects for x86-64 or aarch64 into a shared library for Linux.

`link` takes the bytes of object files (position independent, small code model) and the names to
export, and returns the bytes of a library that `dlopen` takes and against which other linkers link.
`Unlinkable` is raised for what is not handled here; LLVM's own loader must then be used.

The library has three segments: read-only data (tables, constants), code, and writable data.
Functions of other libraries are reached through a global offset table that the system fills in when
it loads the library; calls to them go through a stub that jumps to such an address. Written after
"System V Application Binary Interface", chapters 4 and 5; what differs between processors is in
`elf_processors.py`. Tests: tests/backends/test_elf.py.
"""

from __future__ import annotations

import platform
import struct
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .elf_objects import ABSOLUTE, EXECUTABLE, NO_BITS, WRITE, Objects, Relocation, Section
from .elf_objects import Unlinkable as Unlinkable
from .elf_processors import PROCESSORS

NEEDED = ("libm.so.6", "libc.so.6")  # where functions of other libraries are looked for
LOAD, DYNAMIC, STACK = 1, 2, 0x6474E551  # kinds of segments
# entries of the dynamic section, for the loader
NEED, HASH, STRTAB, SYMTAB, RELA, RELASZ, RELAENT, STRSZ, SYMENT, SONAME, FLAGS = (
    1, 4, 5, 6, 7, 8, 9, 10, 11, 14, 30)  # fmt: skip
BIND_NOW = 8


def supported() -> bool:
    """Whether this computer loads what is made here."""
    return sys.platform == "linux" and platform.machine() == "x86_64" and sys.maxsize > 2**32


def link(objects: Iterable[bytes], exports: Iterable[str], name: str = "") -> bytes:
    """The shared library. What one object lacks and another has is found there. `name` is what a
    program that is linked with it looks for when it runs."""
    return _Library(Objects(objects), tuple(exports), name).written()


@dataclass
class _Part:
    """A stretch of the library. Its bytes may be filled in after its place is known."""

    size: int
    alignment: int = 8
    address: int = 0
    data: bytearray = field(default_factory=bytearray)


class _Library:
    """Places first, then the bytes, which need the places."""

    def __init__(self, source: Objects, exports: Sequence[str], name: str):
        self.source, self.exports, self.name = source, exports, name
        if source.machine not in PROCESSORS:
            raise Unlinkable("objects for another processor")
        self.processor = PROCESSORS[source.machine]
        used = {r.symbol for r in source.relocations}
        # Sorted, so that the same objects give the same library, byte for byte.
        self.foreign = [n for n in sorted(used) if source.symbols[n].section == 0]
        # Some code takes addresses of our own symbols from the table as well.
        through = {r.symbol for r in source.relocations if r.kind in self.processor.through_slot}
        self.slots = {n: k for k, n in enumerate(sorted({*self.foreign, *through}))}
        self.dynamic: list[tuple[int, int, int]] = []  # relocations that the loader does
        self._strings()
        self._lay_out()

    def _strings(self) -> None:
        """The names that the loader sees, and where each begins."""
        self.names = [*(self.source.symbols[n].name for n in self.foreign), *self.exports]
        self.strings, self.at = b"\0", {}
        # Offset 0 is the empty name, by convention.
        for name in dict.fromkeys([*self.names, *NEEDED, *filter(None, [self.name])]):
            self.at[name] = len(self.strings)
            self.strings += name.encode() + b"\0"

    def _lay_out(self) -> None:
        """Gives every part and section its address, which is its place in the file as well."""
        # Sizes by the ABI: header 64, a segment's header 56, a symbol 24, a relocation 24, an entry
        # of the dynamic section 16. Symbol 0 is reserved.
        absolute = sum(r.kind == self.processor.absolute for r in self.source.relocations)
        self.header = _Part(64 + 56 * 5)
        self.symbols = _Part(24 * (1 + len(self.names)))
        self.text = _Part(len(self.strings), 1)
        self.hash = _Part(4 * (4 + len(self.names)))
        self.relocations = _Part(24 * (len(self.slots) + absolute))
        self.stubs = _Part(16 * len(self.foreign), 16)
        self.table = _Part(8 * len(self.slots))
        self.orders = _Part(16 * (12 + len(NEEDED)))
        loaded = self.source.loaded
        written = [s for s in loaded if s.flags & WRITE]
        code = [s for s in loaded if s.flags & EXECUTABLE and s not in written]
        constant = [s for s in loaded if s not in written and s not in code]
        filled = [s for s in written if s.kind != NO_BITS]
        empty = [s for s in written if s.kind == NO_BITS]
        # Each segment begins on a page of its own, as permissions are those of whole pages.
        self.file: list[_Part | Section] = []
        tables = [self.header, self.symbols, self.text, self.hash, self.relocations]
        self.read_only = (0, self._place([*tables, *constant], 0))
        start = _up(self.read_only[1], self.processor.page)
        self.code = (start, self._place([*code, self.stubs], start))
        start = _up(self.code[1], self.processor.page)
        self.end = self._place([self.table, self.orders, *filled], start)
        # Data without bytes comes last: it extends the segment in memory beyond its end in the
        # file.
        self.written_to = (start, self._place(empty, self.end))

    def _place(self, parts: Sequence[_Part | Section], position: int) -> int:
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
            slot = self.table.address + 8 * self.slots[symbol]
            self.processor.stub(self.image, self.stubs.address + 16 * number, slot)
        for relocation in self.source.relocations:
            self._relocate(relocation)
        self._put(self.text.address, f"{len(self.strings)}s", self.strings)
        self._write_symbols()
        for number, entry in enumerate(self.dynamic):
            self._put(self.relocations.address + 24 * number, "QQq", *entry)
        self._write_orders()
        sections = self._sections()
        self._write_header(sections)
        return bytes(self.image + self._section_headers(sections))

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
            entry = (slot, self._dynamic_number(number) << 32 | self.processor.slot, 0)
            self.dynamic.append(entry)
        else:
            self.dynamic.append((slot, self.processor.relative, self._address(number)))

    def _dynamic_number(self, number: int) -> int:
        return 1 + self.foreign.index(number)

    def _relocate(self, r: Relocation) -> None:
        here, processor = r.section.address + r.at, self.processor
        # An absolute address is known to the loader alone, which can write it into writable data
        # only.
        if r.kind == processor.absolute and r.section.flags & WRITE:
            if self._is_foreign(r.symbol):
                entry = (here, self._dynamic_number(r.symbol) << 32 | r.kind, r.addend)
            else:
                entry = (here, processor.relative, self._address(r.symbol) + r.addend)
            self.dynamic.append(entry)
            return
        # Code and data keep their distance wherever the library is loaded.
        if r.kind in processor.through_slot:
            value = self.table.address + 8 * self.slots[r.symbol] + r.addend
        elif r.kind in processor.calls and self._is_foreign(r.symbol):
            value = self.stubs.address + 16 * self.foreign.index(r.symbol) + r.addend
        else:
            value = self._address(r.symbol) + r.addend
        if not processor.change(self.image, here, r.kind, value):
            raise Unlinkable(f"relocation {r.kind} in {r.section.name}")

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
            flags = self.source.sections[symbol.section].flags
            is_code = flags & EXECUTABLE
            self._put(
                place,
                "IBBHQQ",
                self.at[name],
                # Global; 2 is a function, 1 an object.
                0x12 if is_code else 0x11,
                0,
                self._section_number(
                    ".text" if is_code else ".data" if flags & WRITE else ".rodata"
                ),
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
            *([(SONAME, self.at[self.name])] if self.name else []),
            (0, 0),
        ]
        for number, row in enumerate(rows):
            self._put(self.orders.address + 16 * number, "QQ", *row)

    # --- sections, for other linkers -------------------------------------------------------------

    SECTIONS = ("", ".dynsym", ".dynstr", ".hash", ".rela.dyn", ".rodata", ".text", ".data",
                ".dynamic", ".bss", ".shstrtab")  # fmt: skip

    def _section_number(self, name: str) -> int:
        return self.SECTIONS.index(name)

    def _sections(self) -> list[tuple[int, ...]]:
        """Section headers without their names (Elf64_Shdr): kind, flags, address, place in the
        file, size, link, information, alignment, size of an entry."""
        names = self.SECTIONS.index
        data, end = self.table.address, self.end
        constants = self.relocations.address + self.relocations.size
        tables = [
            # kind, flags, part, link, information, size of an entry; 1 is the first global symbol
            (11, 2, self.symbols, names(".dynstr"), 1, 24),
            (3, 2, self.text, 0, 0, 0),
            (5, 2, self.hash, names(".dynsym"), 0, 4),
            (4, 2, self.relocations, names(".dynsym"), 0, 24),
        ]
        found: list[tuple[int, ...]] = [(0,) * 9]
        for kind, flags, part, link, information, entry in tables:
            place = part.address
            found.append(
                (kind, flags, place, place, part.size, link, information, part.alignment, entry)
            )
        code, (_, reach) = self.code[0], self.written_to
        found += [
            (1, 2, constants, constants, self.read_only[1] - constants, 0, 0, 1, 0),
            (1, 6, code, code, self.code[1] - code, 0, 0, 16, 0),
            (1, 3, data, data, end - data, 0, 0, 8, 0),
        ]
        place = self.orders.address
        found += [
            (6, 3, place, place, self.orders.size, names(".dynstr"), 0, 8, 16),
            (8, 3, end, end, reach - end, 0, 0, 1, 0),
            (3, 0, 0, end, len(self._section_names()), 0, 0, 1, 0),
        ]
        return found

    def _section_names(self) -> bytes:
        return b"".join(name.encode() + b"\0" for name in self.SECTIONS)

    def _section_headers(self, sections: Sequence[tuple[int, ...]]) -> bytes:
        """The names and the headers, which follow the image."""
        names, parts, start = self._section_names(), [], 0
        for name, section in zip(self.SECTIONS, sections, strict=True):
            parts.append(struct.pack("<IIQQQQIIQQ", start, *section))
            start += len(name) + 1
        return names.ljust(_up(self.end + len(names), 8) - self.end, b"\0") + b"".join(parts)

    def _write_header(self, sections: Sequence[object]) -> None:
        headers = _up(self.end + len(self._section_names()), 8)
        self._put(
            0,
            # Elf64_Ehdr: 64 bits, little-endian, version 1; a shared library (3), version 1; no
            # entry point, program headers at 64; sizes and numbers of headers; the section of names
            "4s4B8xHHIQQQIHHHHHH",
            b"\x7fELF", 2, 1, 1, 0, 3, self.processor.machine, 1, 0, 64, headers, 0, 64, 56, 5,
            64, len(sections), len(sections) - 1,
        )  # fmt: skip
        start, stop = self.written_to
        segments = [
            # Permissions: 4 is reading, 2 writing, 1 executing; nothing is both written and
            # executed. The last one asks for a stack that is not executable.
            (LOAD, 4, *self.read_only, self.read_only[1], self.processor.page),
            (LOAD, 5, *self.code, self.code[1], self.processor.page),
            (LOAD, 6, start, self.end, stop, self.processor.page),
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
