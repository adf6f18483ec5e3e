"""A WebAssembly object as a module that a host instantiates, without a linker.

    type, import (memory, stack pointer), function, code, data, "linking", "reloc.CODE"
    →   type, [import], function, memory, global, export, code, data

An object is nearly a module already: LLVM writes indices and addresses as if it were alone. What is
left is to place its data behind the stack, to define what it imports, and to export functions.
Written after "WebAssembly Core Specification" and "WebAssembly Object File Linking" (tool
conventions). Tests: tests/runtime/test_export_wasm.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

MAGIC = b"\0asm"  # then the version
PAGE = 1 << 16  # bytes of memory, by which it grows
ALIGNMENT = 64  # of data, and of what follows them
# sections
CUSTOM, TYPE, IMPORT, FUNCTION, MEMORY, GLOBAL, EXPORT, CODE, DATA = 0, 1, 2, 3, 5, 6, 7, 10, 11
# kinds of imports and exports, and of symbols (where the third is a table)
OF_FUNCTION, OF_MEMORY, OF_GLOBAL = 0, 2, 3
FUNCTION_SYMBOL, DATA_SYMBOL, SECTION_SYMBOL = 0, 1, 3
SYMBOL_TABLE = 8  # in the section "linking"
UNDEFINED, EXPLICIT_NAME = 0x10, 0x40  # flags of a symbol
I32, CONSTANT, END = 0x7F, 0x41, 0x0B  # a type; `i32.const`; the end of an expression
# relocations: those of indices, which are final, and those of addresses
FINAL = {0: "FUNCTION_INDEX_LEB", 6: "TYPE_INDEX_LEB", 7: "GLOBAL_INDEX_LEB"}
LEB, SLEB, WORD = 3, 4, 5  # R_WASM_MEMORY_ADDR_LEB, _SLEB, _I32
MATH = "Math"  # the module of imports that JavaScript has


class Unlinkable(Exception):
    """The object has what a module made here cannot have."""


@dataclass
class Reader:
    """Numbers and names from bytes on."""

    data: bytes
    place: int = 0

    @property
    def more(self) -> bool:
        return self.place < len(self.data)

    def byte(self) -> int:
        self.place += 1
        return self.data[self.place - 1]

    def number(self, signed: bool = False) -> int:
        """An integer in LEB128."""
        found = shift = 0
        while True:
            byte = self.byte()
            found |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return found - (1 << shift) if signed and byte & 0x40 else found

    def take(self, size: int) -> bytes:
        self.place += size
        return self.data[self.place - size : self.place]

    def counted(self) -> bytes:
        return self.take(self.number())

    def name(self) -> str:
        return self.counted().decode()


def number(value: int) -> bytes:
    """An unsigned integer in LEB128."""
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def padded(value: int) -> bytes:
    """A number of 32 bits in the five bytes that an object has for it; below 2^31, where its sign
    is 0 however it is read."""
    return bytes([*(value >> shift & 0x7F | 0x80 for shift in (0, 7, 14, 21)), value >> 28])


def text(name: str) -> bytes:
    data = name.encode()
    return number(len(data)) + data


def vector(parts: Sequence[bytes]) -> bytes:
    return number(len(parts)) + b"".join(parts)


def section(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + number(len(content)) + content


def constant(value: int) -> bytes:
    """An expression with the value."""
    return bytes([CONSTANT]) + padded(value) + bytes([END])


@dataclass(frozen=True)
class Symbol:
    """A function by its index, or data by their segment and where they begin there."""

    kind: int
    name: str
    index: int
    offset: int = 0
    is_defined: bool = True


@dataclass
class Object:
    """What an object has: sections with content, symbols, places to change by section."""

    sections: dict[int, bytes] = field(default_factory=dict)
    symbols: list[Symbol] = field(default_factory=list)
    relocations: dict[int, list[tuple[int, int, int, int]]] = field(default_factory=dict)


def module(
    object: bytes, exports: Sequence[str], functions: Collection[str] = (), stack: int = PAGE
) -> bytes:
    """The module of one object, with its memory, `memory`, and the first free address of it,
    `__heap_base`; `exports` are functions, or data, whose addresses are globals. The `stack` of so
    many bytes grows down to 0, beyond which every access traps; data are behind it. Of `functions`
    that are missing, those that JavaScript has as `Math.…` are imported. Unlinkable for others."""
    found = _read(object)
    segments = _segments(found.sections.get(DATA, b"\0"))
    bases, end = [], stack
    for offset, data in segments:
        bases.append(stack + offset)
        end = max(end, stack + offset + len(data))
    code = _changed(found, CODE, bases)
    changed = _changed(found, DATA, bases)
    heap = -(-end // ALIGNMENT) * ALIGNMENT
    by_name = {s.name: s for s in found.symbols if s.is_defined}
    global_names = ["__heap_base", *(n for n in exports if by_name[n].kind == DATA_SYMBOL)]
    addresses = [heap, *(bases[by_name[n].index] + by_name[n].offset for n in global_names[1:])]
    named = [("memory", OF_MEMORY, 0)]
    named += [(n, OF_FUNCTION, by_name[n].index) for n in exports if n not in global_names]
    named += [(n, OF_GLOBAL, 1 + k) for k, n in enumerate(global_names)]
    parts = [
        MAGIC + b"\1\0\0\0",
        section(TYPE, found.sections[TYPE]),
        *_imports(found.sections.get(IMPORT, b"\0"), functions),
        section(FUNCTION, found.sections[FUNCTION]),
        section(MEMORY, vector([b"\0" + number(-(-heap // PAGE))])),
        section(
            GLOBAL,
            vector(
                [
                    bytes([I32, 1]) + constant(stack),
                    *(bytes([I32, 0]) + constant(a) for a in addresses),
                ]
            ),
        ),
        section(EXPORT, vector([text(n) + bytes([kind]) + number(k) for n, kind, k in named])),
        section(CODE, code),
    ]
    content = [
        b"\0" + constant(base) + number(len(data)) + data
        for base, (_, data) in zip(bases, _segments(changed), strict=True)
        if any(data)  # memory is zeros at first
    ]
    return b"".join([*parts, section(DATA, vector(content))])


def sizes(object: bytes) -> dict[str, int]:
    """The bytes of code and of data in an object or module."""
    found = _read(object).sections
    return {"code": len(found[CODE]), "constants": len(found.get(DATA, b""))}


def imported(module: bytes) -> list[str]:
    """The functions that a module imports."""
    reader = Reader(_read(module).sections.get(IMPORT, b"\0"))
    found = []
    for _ in range(reader.number()):
        reader.name()
        found.append(reader.name())
        reader.byte()
        reader.number()
    return found


def _imports(content: bytes, functions: Collection[str]) -> Iterator[bytes]:
    """The section of imports, if functions are. Memory and the stack pointer become the module's
    own, with the same indices."""
    reader, kept = Reader(content), []
    for _ in range(reader.number()):
        reader.name()
        name, kind = reader.name(), reader.byte()
        if kind == OF_FUNCTION:
            if name not in functions:
                raise Unlinkable(f"it calls {name}, which is not there")
            kept.append(text(MATH) + text(name) + bytes([OF_FUNCTION]) + number(reader.number()))
        elif kind == OF_MEMORY:
            limits = reader.byte()
            reader.number()
            if limits & 1:
                reader.number()
        elif kind == OF_GLOBAL and name == "__stack_pointer":
            reader.take(2)
        else:
            raise Unlinkable(f"it needs {name}, which is not there")
    if kept:
        yield section(IMPORT, vector(kept))


def _read(object: bytes) -> Object:
    reader, found, order = Reader(object, 8), Object(), list[int]()
    while reader.more:
        kind = reader.byte()
        content = reader.counted()
        order.append(kind)
        if kind != CUSTOM:
            found.sections[kind] = content
            continue
        custom = Reader(content)
        name = custom.name()
        if name == "linking":
            found.symbols = _symbols(custom)
        elif name.startswith("reloc."):
            target = order[custom.number()]
            found.relocations[target] = list(_relocations(custom))
    return found


def _symbols(reader: Reader) -> list[Symbol]:
    """The symbol table."""
    reader.number()  # the version
    while reader.more:
        kind = reader.byte()
        part = Reader(reader.counted())
        if kind == SYMBOL_TABLE:
            return [_symbol(part) for _ in range(part.number())]
    return []


def _symbol(reader: Reader) -> Symbol:
    kind, flags = reader.byte(), reader.number()
    is_defined = not flags & UNDEFINED
    if kind == DATA_SYMBOL:
        name = reader.name()
        if not is_defined:
            return Symbol(kind, name, 0, is_defined=False)
        index, offset = reader.number(), reader.number()
        reader.number()  # its size
        return Symbol(kind, name, index, offset)
    index = reader.number()
    has_name = kind != SECTION_SYMBOL and (is_defined or flags & EXPLICIT_NAME)
    return Symbol(kind, reader.name() if has_name else "", index, 0, is_defined)


def _relocations(reader: Reader) -> Iterator[tuple[int, int, int, int]]:
    """Kind, place, symbol, what is added to its address."""
    for _ in range(reader.number()):
        kind, place, symbol = reader.byte(), reader.number(), reader.number()
        if kind in (LEB, SLEB, WORD):
            yield kind, place, symbol, reader.number(signed=True)
        elif kind not in FINAL:
            raise Unlinkable(f"it has a relocation of kind {kind}")


def _changed(object: Object, kind: int, bases: Sequence[int]) -> bytes:
    """A section with the addresses of data where these are."""
    made = bytearray(object.sections.get(kind, b"\0"))
    for how, place, index, more in object.relocations.get(kind, ()):
        symbol = object.symbols[index]
        if not symbol.is_defined:
            raise Unlinkable(f"it needs {symbol.name}, which is not there")
        address = bases[symbol.index] + symbol.offset + more
        data = address.to_bytes(4, "little") if how == WORD else padded(address)
        made[place : place + len(data)] = data
    return bytes(made)


def _segments(content: bytes) -> list[tuple[int, bytes]]:
    """Where each segment of data begins in the object, and its bytes."""
    reader, found = Reader(content), []
    for _ in range(reader.number()):
        flags, opcode = reader.number(), reader.byte()
        offset, end = reader.number(signed=True), reader.byte()
        if (flags, opcode, end) != (0, CONSTANT, END):
            raise Unlinkable("it has data without an address")
        found.append((offset, reader.counted()))
    return found
