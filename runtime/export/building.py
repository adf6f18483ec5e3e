"""Objects, archives and shared libraries of an exported model, without a C compiler or a linker.

In: LLVM texts that belong together, and a machine. Out: the bytes of a file. Tests:
tests/runtime/test_export.py.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from ...compiler.ir.dtypes import LINE
from ...compiler.machines import Machine
from ...dsl.diagnostics.diagnostic import fail
from ..device.cpu import elf_linker
from ..device.cpu.elf_objects import ALLOCATED, EXECUTABLE, NO_BITS, WRITE
from ..device.cpu.jit import LEVEL
from . import wasm_linker


@cache
def _llvm() -> ModuleType:
    import llvmlite.binding as llvm  # heavy

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.initialize_native_asmparser()  # of the text that asks for the processor's features
    return llvm


def object_of(
    texts: Sequence[str], prefix: str, machine: Machine, is_member: bool = False
) -> bytes:
    """One object file of several modules. Only the functions that C calls are visible; a member of
    an archive sees the helpers of the others, too."""
    generator, whole = _linked(texts, prefix, machine, is_member)
    made: bytes = generator.emit_object(whole)
    return _for_all_conventions(made) if machine.architecture.startswith("thumb") else made


def assembly_of(texts: Sequence[str], prefix: str, machine: Machine) -> str:
    """The assembly of that object."""
    generator, whole = _linked(texts, prefix, machine, False)
    assembly: str = generator.emit_assembly(whole)
    return assembly


def _linked(texts: Sequence[str], prefix: str, machine: Machine, is_member: bool) -> Any:
    """LLVM's code generator for the machine, and the modules as one."""
    llvm = _llvm()
    generator = llvm.Target.from_triple(machine.triple).create_target_machine(
        cpu=machine.cpu,
        features=machine.features,
        opt=LEVEL,
        reloc="pic" if machine.position_independent else "static",
        codemodel="small",
    )
    head = f'target datalayout = "{generator.target_data}"\ntarget triple = "{machine.triple}"\n'
    context = llvm.create_context()
    whole, *others = (llvm.parse_assembly(head + text, context) for text in texts)
    for module in others:
        whole.link_in(module)
    # Modules see each other's helpers; a program that has several libraries does not.
    for function in whole.functions:
        shared = not is_member and function.name.startswith(f"{prefix}.")
        own = shared or function.name == "memset"
        if own and not function.is_declaration:
            function.linkage = llvm.Linkage.internal
    whole.verify()
    return generator, whole


def _for_all_conventions(object: bytes) -> bytes:
    """An object for ARM with the mark that it goes with programs of both conventions for floats
    (Tag_ABI_VFP_args is 3), as no function that C calls takes or gives any: "Addenda to, and Errata
    in, the ABI for the Arm Architecture", section 3."""
    (start,) = struct.unpack_from("<I", object, 32)
    width, count = struct.unpack_from("<HH", object, 46)
    headers = range(start, start + count * width, width)
    header = next(h for h in headers if struct.unpack_from("<I", object, h + 4)[0] == ATTRIBUTES)
    place, size = struct.unpack_from("<II", object, header + 16)
    section = object[place : place + size]
    # "A", the length of what follows, "aeabi", the tag of the whole file, its length, tags
    inner = section.index(b"\0", 5) + 1
    first, second = (struct.unpack_from("<I", section, at)[0] for at in (1, inner + 1))
    changed = bytearray(section + bytes([VFP_ARGUMENTS, 3]))
    struct.pack_into("<I", changed, 1, first + 2)
    struct.pack_into("<I", changed, inner + 1, second + 2)
    made = bytearray(object)
    struct.pack_into("<II", made, header + 16, len(object), len(changed))
    return bytes(made + changed)


ATTRIBUTES, VFP_ARGUMENTS = 0x70000003, 28  # a kind of section, a tag in it


def shared_library(object: bytes, exports: Sequence[str], name: str) -> bytes:
    """The object as a library. UserError E0724 if it needs what the linker cannot do."""
    try:
        return elf_linker.link([object], exports, name)
    except elf_linker.Unlinkable as error:
        raise fail(
            "E0724",
            f"no shared library can be made of it: {error}",
            help="`--as a` and `--as o` leave linking to the C compiler",
        ) from error


def webassembly(
    texts: Sequence[str], prefix: str, machine: Machine, exports: Sequence[str]
) -> bytes:
    """The texts as a module. UserError E0724 if it calls what JavaScript has not."""
    object = object_of(texts, prefix, machine)
    # A function of the library calls a program, which calls a kernel.
    largest = max(frame for text in texts for frame in frames(text))
    stack = wasm_linker.PAGE * (1 + -(-2 * largest // wasm_linker.PAGE))
    try:
        return wasm_linker.module(object, exports, MATH, stack)
    except wasm_linker.Unlinkable as error:
        raise fail(
            "E0724",
            f"no WebAssembly module can be made of it: {error}",
            help='a model in f32 (`precision = "f32"`) calls nothing',
        ) from error


def frames(text: str) -> Iterator[int]:
    """What each function of an LLVM text takes of the stack for its arrays, at most."""
    yield 0
    for function in text.split("\ndefine ")[1:]:
        sizes = (_bytes_of(kind) for kind in re.findall(r"= alloca ([^,\n]+)", function))
        yield sum(size + LINE for size in sizes)


def _bytes_of(kind: str) -> int:
    """Of a type such as `[12 x <4 x float>]`."""
    count, scalar = 1, kind
    while found := re.fullmatch(r"[\[<](\d+) x (.*)[\]>]", scalar):
        count, scalar = count * int(found[1]), found[2]
    return count * SCALARS.get(scalar, 8)


SCALARS = {"i1": 1, "i8": 1, "i16": 2, "half": 2, "bfloat": 2, "i32": 4, "float": 4}

# functions of C's library for which JavaScript has `Math.…`
MATH = frozenset(
    ["acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "cos", "cosh", "exp",
     "expm1", "log", "log10", "log1p", "log2", "pow", "sin", "sinh", "tan", "tanh"]
)  # fmt: skip


# --- archives -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """An object file of an archive, and what others find in it."""

    name: str
    object: bytes
    symbols: tuple[str, ...]


def archive(members: Sequence[Member]) -> bytes:
    """A static library, with the index that linkers look in: the archive format of System V, as
    GNU's and LLVM's `ar` write it. A linker takes the members that are called."""
    names = b"".join(symbol.encode() + b"\0" for m in members for symbol in m.symbols)
    count = sum(len(m.symbols) for m in members)
    place = len(MAGIC) + HEADER + _even(4 * (1 + count) + len(names))
    table = ""
    heads = []
    for member in members:  # names of more than 15 characters stand in a table
        if len(member.name) > LONGEST:
            heads.append(f"/{len(table)}")
            table += f"{member.name}/\n"
        else:
            heads.append(f"{member.name}/")
    place += (HEADER + _even(len(table))) * bool(table)
    places = []
    for member in members:
        places += [place] * len(member.symbols)
        place += HEADER + _even(len(member.object))
    index = struct.pack(f">{1 + count}I", count, *places) + names
    parts = [MAGIC, _member("/", index)]
    parts += [_member("//", table.encode())] * bool(table)
    parts += [_member(head, m.object) for head, m in zip(heads, members, strict=True)]
    return b"".join(parts)


def _even(size: int) -> int:
    return size + size % 2


MAGIC, HEADER, LONGEST = b"!<arch>\n", 60, 15


def _member(name: str, data: bytes) -> bytes:
    """Members have neither times nor owners, so that the same model gives the same archive, and
    begin at even places."""
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'644':<8}{len(data):<10}`\n"
    return head.encode() + data + b"\n" * (len(data) % 2)


def sections(object: bytes) -> dict[str, int]:
    """The bytes of code, constants and variables in an object, where it is one of ELF."""
    if object[:4] == wasm_linker.MAGIC:
        return wasm_linker.sizes(object)
    if object[:4] != b"\x7fELF":
        return {}
    # Elf64_Ehdr and Elf64_Shdr, or those of 32 bits: where the headers are, their size and number;
    # of a section: kind, flags, size
    if object[4] == 2:
        start, place, header = struct.unpack_from("<Q", object, 40)[0], 58, "<4xIQ16xQ"
    else:
        start, place, header = struct.unpack_from("<I", object, 32)[0], 46, "<4xII8xI"
    width, count = struct.unpack_from("<HH", object, place)
    found = {"code": 0, "constants": 0, "variables": 0}
    for number in range(count):
        kind, flags, size = struct.unpack_from(header, object, start + number * width)
        if kind in (PROGRAM_BITS, NO_BITS) and flags & ALLOCATED:
            name = "code" if flags & EXECUTABLE else "constants"
            found["variables" if flags & WRITE else name] += size
    return found


PROGRAM_BITS = 1  # a section with content of the program's own
