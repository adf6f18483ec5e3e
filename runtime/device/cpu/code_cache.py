"""The machine code of a system: from the cache, or compiled now.

A `Code` has functions to call, and the offset of every tensor in the arena. The cache's key is a
hash of the equations, the target, the computer and the compiler itself; on a hit neither is the
system planned nor the compiler's lower half or LLVM imported. On x86-64 Linux the entry is a shared
library, which the system loads; elsewhere it is object files, which LLVM loads.
Tests: tests/runtime/test_cache.py.
"""

from __future__ import annotations

import ctypes
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .... import __version__
from ....compiler.ir.equation import System
from ....compiler.ir.structural_hash import system_signature
from ....dsl.records import record
from ...cache import FileCache, digest_of
from ...installed import installed_version, texts_digest
from . import elf_linker as elf
from . import features, jit

if TYPE_CHECKING:
    from ....compiler.codegen.llvm.module import Clock
    from ....compiler.pipeline import LlvmCode

MODULE = 100_000  # characters: LLVM begins soon, and one more module costs it 1 ms
FUNCTIONS = ("step", "run", "work", "stop")


class LoadedLibrary(Protocol):
    def function(self, name: str, *arguments: type, alone: bool = False) -> Callable[..., None]:
        """A function without a result; valid as long as the library lives. While it runs, no other
        thread of Python does if it runs `alone`."""


@record
class Code:
    """Functions, the offset of every tensor in the arena, the arena's size, how many bytes each
    thread has for itself behind it, and whether several threads are of use."""

    library: LoadedLibrary
    offsets: Mapping[str, int]
    arena_bytes: int
    held_bytes: int = 0
    shares_work: bool = True


class Shared:
    """A shared library that the operating system has loaded."""

    def __init__(self, path: Path):
        self._path = str(path)
        self._library = ctypes.CDLL(self._path)

    def function(self, name: str, *arguments: type, alone: bool = False) -> Callable[..., None]:
        library = self._library
        if alone:  # the same library, called in the other way
            library = ctypes.PyDLL(self._path, handle=library._handle)
        found = library[name]  # a new object for every look-up
        found.restype, found.argtypes = None, arguments
        return found


def compiled(source: LlvmCode, level: int, clock: Clock | None = None) -> Code:
    """The code, compiled and not cached; with a `clock` that counts the ticks of kernels."""
    return _code(jit.Machine(source.modules(MODULE, clock), level), source)


def _code(library: LoadedLibrary, source: LlvmCode) -> Code:
    plan = source.plan
    return Code(library, plan.offsets, plan.arena_bytes, plan.held_bytes, source.shares_work)


def cached_or_compiled(
    system: System,
    target: str,
    level: int,
    cache: FileCache,
    make: Callable[[], LlvmCode],
) -> Code:
    """The cached code of the system; else what `make` gives is compiled and cached.
    `target` is all else that decides the code."""
    name = f"{key(system, target, level)}.{'so' if elf.supported() else 'o'}"
    found = _load(cache, name)
    if found is not None:
        return found
    jit.load_ahead()
    source = make()
    machine = jit.Machine(source.modules(MODULE), level)
    try:
        binaries = machine.objects
        if elf.supported():
            binaries = [elf.link(binaries, FUNCTIONS)]
    except elf.Unlinkable:  # compiled, but only LLVM can load it
        return _code(machine, source)
    # Loaded from the entry just written: the same path as every later run takes.
    if cache.write(name, _packed(binaries, source)):
        found = _load(cache, name)
    return found or _code(machine, source)


# --- entries of the cache -------------------------------------------------------------------------


def _packed(binaries: Sequence[bytes], source: LlvmCode) -> bytes:
    """The code, then a trailer with the parts' sizes and the arena's layout, then its size."""
    plan = source.plan
    about = {
        "sizes": [len(b) for b in binaries],
        "arena": plan.arena_bytes,
        "held": plan.held_bytes,
        "shares": source.shares_work,
        "offsets": dict(plan.offsets),
    }
    layout = json.dumps(about).encode()
    # The loader ignores what follows an ELF file's own tables, so the entry is a library as it
    # stands. The size comes last, so that the trailer is found from the end.
    return b"".join([*binaries, layout, struct.pack("<Q", len(layout))])


def _load(cache: FileCache, name: str) -> Code | None:
    content = cache.read(name)
    if content is None:
        return None
    (length,) = struct.unpack("<Q", content[-8:])
    layout = json.loads(content[-8 - length : -8])
    library: LoadedLibrary
    if elf.supported():
        try:
            # The system maps the file itself: processes share its pages.
            library = Shared(cache.path(name))
        except OSError:  # removed just now, or nothing may be executed from there
            return None
    else:
        ends = [0, *accumulate(layout["sizes"])]
        library = jit.Loaded([content[a:b] for a, b in pairwise(ends)])
    arena, held, shares = layout["arena"], layout["held"], layout["shares"]
    return Code(library, layout["offsets"], arena, held, shares)


def key(system: System, target: str, level: int) -> str:
    """A hash of everything that decides the code of a system."""
    return digest_of(
        __version__,
        texts_digest("compiler"),
        texts_digest("runtime/device/cpu"),
        _llvm(),
        features.description(),
        target,
        str(level),
        system_signature(system),
    )


@cache
def _llvm() -> str:
    return installed_version("llvmlite")
