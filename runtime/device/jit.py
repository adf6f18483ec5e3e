"""LLVM text into machine code for this computer.

In: LLVM text. Out: object files, the assembly, or functions to call. Only LLVM's code generator
runs, not its optimizer: the text is already in the form that the machine should execute.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from itertools import count
from types import ModuleType

from . import host

LEVEL = 1  # the effort of the code generator, 0 to 3: more takes longer and gains nothing here

_numbers = count()


@cache
def _llvm() -> ModuleType:
    import llvmlite.binding as llvm  # heavy, and not needed to import this file

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


@cache
def host_features() -> str:
    """What LLVM finds and the operating system confirms; it may find what a hypervisor masks."""
    found = dict(_llvm().get_host_cpu_features())
    confirmed = _confirmed()
    if confirmed:
        for name, wanted in found.items():
            if wanted and name.startswith(("avx", "amx", "fma")):
                found[name] = name.replace("-", "_").replace(".", "_") in confirmed
    return ",".join(f"{'+' if on else '-'}{name}" for name, on in sorted(found.items()))


def _confirmed() -> frozenset[str]:
    """The flags that the system lists, in LLVM's spelling, too."""
    flags = host.flags()
    spelled = {f.replace("avx512_", "avx512").replace("avx_vnni", "avxvnni") for f in flags}
    return flags | spelled


def host_machine(level: int = LEVEL):
    """The code generator for this computer at an effort of 0 to 3. Its code may stand anywhere."""
    llvm = _llvm()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=host_features(), opt=level, reloc="pic",
        codemodel="small",
    )  # fmt: skip


class Machine:
    """Modules on their way to machine code. Functions are valid as long as it lives."""

    def __init__(self, texts: Iterable[str], level: int = LEVEL):
        self._texts, self._level = texts, level

    @cached_property
    def objects(self) -> list[bytes]:
        """An object file of each, compiled while the texts that follow are still being written:
        LLVM leaves the interpreter to us."""
        machine = host_machine(self._level)
        with ThreadPoolExecutor(1) as compiler:
            found = [compiler.submit(lambda text: machine.emit_object(_parsed(text)), text)
                     for text in self._texts]  # fmt: skip
        return [each.result() for each in found]

    @cached_property
    def _loaded(self) -> Loaded:
        return Loaded(self.objects)

    def function(self, name: str, *arguments: type) -> Callable[..., None]:
        """The function as a Python callable without a result."""
        return self._loaded.function(name, *arguments)


def assembly(text: str, level: int = LEVEL) -> str:
    """Of one module."""
    return host_machine(level).emit_assembly(_parsed(text))


def _parsed(text: str):
    llvm = _llvm()
    return llvm.parse_assembly(f'target triple = "{llvm.get_default_triple()}"\n{text}')


class Loaded:
    """Object files in memory. Functions are valid as long as it lives."""

    def __init__(self, objects: Iterable[bytes]):
        llvm = _llvm()
        self._name = f"nnc{next(_numbers)}"
        self._jit = llvm.create_lljit_compiler(host_machine(), use_jit_link=True)
        builder = llvm.JITLibraryBuilder().add_current_process()
        for object in objects:
            builder.add_object_img(object)
        self._trackers = [builder.link(self._jit, self._name)]

    def function(self, name: str, *arguments: type) -> Callable[..., None]:
        """The function as a Python callable without a result."""
        found = self._jit.lookup(self._name, name)
        self._trackers.append(found)
        return ctypes.CFUNCTYPE(None, *arguments)(found[name])
