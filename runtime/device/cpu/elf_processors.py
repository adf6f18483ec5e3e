"""What differs between processors in a shared library: relocations, stubs, numbers of kinds.

Written after "System V Application Binary Interface, AMD64 Architecture Processor Supplement" and
"ELF for the Arm 64-bit Architecture (AArch64)". S is a symbol's address, A the addend, P the place
that is changed. Tests: tests/backends/test_elf.py, tests/runtime/test_export.py.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import ClassVar

from ....dsl.records import record

PAGE = 4096  # of instructions that take an address's page


@record
class X86:
    """x86-64."""

    machine: ClassVar[int] = 62
    page: ClassVar[int] = 4096  # at which segments begin
    # relocations of the loader: an address, that of another library's function, relative to here
    absolute: ClassVar[int] = 1
    slot: ClassVar[int] = 6
    relative: ClassVar[int] = 8
    calls: ClassVar[frozenset[int]] = frozenset({2, 4})  # R_X86_64_PC32, PLT32
    # R_X86_64_GOTPCREL and what may be relaxed to something else
    through_slot: ClassVar[frozenset[int]] = frozenset({9, 41, 42})

    def change(self, image: bytearray, place: int, kind: int, value: int) -> bool:
        """Write S + A, or for `through_slot` the slot's address and A; false for other kinds."""
        if kind in self.calls or kind in self.through_slot:
            struct.pack_into("<i", image, place, value - place)
        elif kind == 24:  # R_X86_64_PC64
            struct.pack_into("<q", image, place, value - place)
        else:
            return False
        return True

    def stub(self, image: bytearray, place: int, slot: int) -> None:
        """`jmp *slot(%rip)`"""
        # Relative to the next instruction, 6 bytes on.
        struct.pack_into("<2si", image, place, b"\xff\x25", slot - (place + 6))


@record
class Arm64:
    """aarch64."""

    machine: ClassVar[int] = 183
    page: ClassVar[int] = 65536  # Linux may have such pages
    absolute: ClassVar[int] = 257
    slot: ClassVar[int] = 1025
    relative: ClassVar[int] = 1027
    calls: ClassVar[frozenset[int]] = frozenset({282, 283})  # JUMP26, CALL26
    through_slot: ClassVar[frozenset[int]] = frozenset({311, 312})  # ADR_GOT_PAGE, LD64_GOT_LO12_NC
    # ADD_ABS_LO12_NC, LDST8 … 128_ABS_LO12_NC, LD64_GOT_LO12_NC: how the offset in a page is scaled
    low: ClassVar[Mapping[int, int]] = {277: 0, 278: 0, 284: 1, 285: 2, 286: 3, 299: 4, 312: 3}

    def change(self, image: bytearray, place: int, kind: int, value: int) -> bool:
        """As `X86.change`. Immediates of instructions are 0 in an object with addends."""
        if kind == 261:  # R_AARCH64_PREL32
            struct.pack_into("<i", image, place, value - place)
        elif kind == 260:  # R_AARCH64_PREL64
            struct.pack_into("<q", image, place, value - place)
        elif kind in self.calls:
            self._set(image, place, (value - place) >> 2 & 0x3FFFFFF)
        elif kind in (275, 311):  # ADR_PREL_PG_HI21, ADR_GOT_PAGE
            pages = value // PAGE - place // PAGE
            self._set(image, place, (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5)
        elif kind in self.low:
            self._set(image, place, (value % PAGE >> self.low[kind]) << 10)
        else:
            return False
        return True

    def stub(self, image: bytearray, place: int, slot: int) -> None:
        """`adrp x16, slot; ldr x17, [x16, slot]; br x17`"""
        struct.pack_into("<3I", image, place, 0x90000010, 0xF9400211, 0xD61F0220)
        self.change(image, place, 311, slot)
        self.change(image, place + 4, 312, slot)

    @staticmethod
    def _set(image: bytearray, place: int, bits: int) -> None:
        (instruction,) = struct.unpack_from("<I", image, place)
        struct.pack_into("<I", image, place, instruction | bits)


Processor = X86 | Arm64
PROCESSORS: dict[int, Processor] = {p.machine: p for p in (X86(), Arm64())}
