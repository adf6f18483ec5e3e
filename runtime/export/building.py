"""Objects, archives and shared libraries of an exported model, without a C compiler or a linker.

In: LLVM texts that belong together, and a machine. Out: the bytes of a file. Tests:
tests/runtime/test_export.py.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

from ...compiler.machines import Machine
from ...dsl.diagnostics.diagnostic import fail
from ..device.cpu import elf_linker
from ..device.cpu.jit import LEVEL


@cache
def _llvm() -> ModuleType:
    import llvmlite.binding as llvm  # heavy

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.initialize_native_asmparser()  # of the text that asks for the processor's features
    return llvm


def object_of(texts: Sequence[str], prefix: str, machine: Machine) -> bytes:
    """One object file of several modules. Only the functions that C calls are visible."""
    llvm = _llvm()
    generator = llvm.Target.from_triple(machine.triple).create_target_machine(
        cpu=machine.cpu, features=machine.features, opt=LEVEL, reloc="pic", codemodel="small"
    )
    head = f'target datalayout = "{generator.target_data}"\ntarget triple = "{machine.triple}"\n'
    context = llvm.create_context()
    whole, *others = (llvm.parse_assembly(head + text, context) for text in texts)
    for module in others:
        whole.link_in(module)
    # Modules see each other's helpers; a program that has several libraries does not.
    for function in whole.functions:
        own = function.name.startswith(f"{prefix}.") or function.name == "memset"
        if own and not function.is_declaration:
            function.linkage = llvm.Linkage.internal
    whole.verify()
    made: bytes = generator.emit_object(whole)
    return made


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


# --- archives -------------------------------------------------------------------------------------


def archive(name: str, object: bytes, symbols: Sequence[str]) -> bytes:
    """A static library of one object, with the index that linkers look in: the archive format of
    System V, as GNU's and LLVM's `ar` write it."""
    names = b"".join(symbol.encode() + b"\0" for symbol in symbols)
    index_bytes = 4 * (1 + len(symbols)) + len(names)
    first = len(MAGIC) + HEADER + index_bytes + index_bytes % 2
    # Every symbol is in the one member, which begins after the index.
    index = struct.pack(f">{1 + len(symbols)}I", len(symbols), *[first] * len(symbols)) + names
    return MAGIC + _member("/", index) + _member(f"{name}/", object)


MAGIC, HEADER = b"!<arch>\n", 60


def _member(name: str, data: bytes) -> bytes:
    """Members have neither times nor owners, so that the same model gives the same archive, and
    begin at even places."""
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'644':<8}{len(data):<10}`\n"
    return head.encode() + data + b"\n" * (len(data) % 2)


def sections(object: bytes) -> dict[str, int]:
    """The bytes of code, constants and variables in an object, where it is one of ELF."""
    from ..device.cpu.elf_objects import EXECUTABLE, WRITE, Objects, Unlinkable

    try:
        loaded: list[Any] = Objects([object]).loaded
    except Unlinkable:
        return {}
    found = {"code": 0, "constants": 0, "variables": 0}
    for section in loaded:
        kind = "code" if section.flags & EXECUTABLE else "constants"
        found["variables" if section.flags & WRITE else kind] += section.size
    return found
