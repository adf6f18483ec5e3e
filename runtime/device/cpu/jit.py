"""LLVM text into machine code for this computer: object files, assembly, or functions to call.

Only LLVM's code generator runs, not its optimizer: the text is already in the form that the machine
should execute. Nor does the generator look for cheaper addresses in loops (loop strength reduction)
on x86-64, which is a fifth of its time: its instructions take such addresses as they are. Tests:
tests/backends/test_assembly.py, tests/backends/test_code_generator.py.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from itertools import count
from threading import Thread
from types import ModuleType

from . import features

LEVEL = 1  # the effort of the code generator, 0 to 3: more takes longer and gains nothing here
KNOWN = 22  # the newest version of LLVM whose options are known
SWITCH_INTERVAL = 1e-4  # seconds until a waiting thread gets the interpreter

_numbers = count()


@cache
def _llvm() -> ModuleType:
    import llvmlite.binding as llvm  # heavy, and not needed to import this file

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


@contextmanager
def _addresses_as_written() -> Iterator[Callable[[], None]]:
    """What is called, once LLVM may be loaded, makes its code generator look for no cheaper
    addresses until the end: the option is that of the whole process, where others may use LLVM."""

    def keep() -> None:
        _look_for_cheaper_addresses(False)

    try:
        yield keep
    finally:
        if _llvm.cache_info().currsize:
            _look_for_cheaper_addresses(True)


def _look_for_cheaper_addresses(look: bool) -> None:
    llvm = _llvm()
    # Given an option that it does not know, LLVM ends the process.
    if llvm.llvm_version_info[0] <= KNOWN and llvm.get_default_triple().startswith("x86_64"):
        llvm.set_option("nnc", f"-disable-lsr={'false' if look else 'true'}")


def load_ahead() -> None:
    """Another thread loads LLVM, while this one decides what to compile."""
    # Where no more threads are allowed, it is loaded when it is needed.
    with suppress(RuntimeError):
        Thread(target=_llvm, daemon=True).start()


@cache
def host_features() -> str:
    """The features that LLVM detects and the operating system lists; a hypervisor may mask some."""
    found = dict(_llvm().get_host_cpu_features())
    confirmed = _confirmed()
    # An extension that the processor reports and the system does not list may be disabled: its
    # instructions would be illegal.
    if confirmed:
        for name, wanted in found.items():
            if wanted and name.startswith(("avx", "amx", "fma", "f16c")):
                found[name] = name.replace("-", "_").replace(".", "_") in confirmed
    return ",".join(f"{'+' if on else '-'}{name}" for name, on in sorted(found.items()))


def _confirmed() -> frozenset[str]:
    """The flags that the system lists, in LLVM's spelling, too."""
    flags = features.flags()
    spelled = {f.replace("avx512_", "avx512").replace("avx_vnni", "avxvnni") for f in flags}
    return flags | spelled


def host_machine(level: int = LEVEL):
    """The code generator for this computer at an effort of 0 to 3. Its code may stand anywhere."""
    llvm = _llvm()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=host_features(),
        opt=level,
        reloc="pic",
        codemodel="small",
    )


class Machine:
    """Modules on their way to machine code. Functions are valid as long as it lives."""

    def __init__(self, texts: Iterable[str], level: int = LEVEL):
        self._texts, self._level = texts, level

    @cached_property
    def objects(self) -> list[bytes]:
        """An object file of each. Another thread loads LLVM and compiles while the texts that
        follow are still being written; then this one helps it, from the last text on."""
        with _responsive(), _addresses_as_written() as keep, ThreadPoolExecutor(1) as other:

            def machines() -> list:
                keep()
                return [host_machine(self._level) for _ in range(2)]

            # Two machines, as one may not be used by two threads at once. The import of LLVM
            # overlaps with writing the first text.
            try:
                both = other.submit(machines)
            except RuntimeError:  # no more threads are allowed, or the interpreter ends
                machine = machines()[0]
                return [_object(text, machine) for text in self._texts]
            # Iterating over the texts writes them; the other thread compiles from the first one on.
            begun = [
                (text, other.submit(lambda text: _object(text, both.result()[0]), text))
                for text in self._texts
            ]
            # A future that can be cancelled has not begun: this thread takes it over, from the
            # other end of the queue, until the two meet.
            last_first = [
                _object(text, both.result()[1]) if future.cancel() else future
                for text, future in reversed(begun)
            ]
        return [o if isinstance(o, bytes) else o.result() for o in reversed(last_first)]

    @cached_property
    def _loaded(self) -> Loaded:
        return Loaded(self.objects)

    def function(self, name: str, *arguments: type, alone: bool = False) -> Callable[..., None]:
        """The function as a Python callable without a result."""
        return self._loaded.function(name, *arguments, alone=alone)


@contextmanager
def _responsive() -> Iterator[None]:
    """Between two calls of LLVM a thread needs the interpreter for a moment. Python would let it
    wait for 5 ms, in which LLVM compiles a kernel."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _object(text: str, machine) -> bytes:
    """The object file of a module, by a machine that no other thread uses meanwhile."""
    llvm = _llvm()
    module = _parsed(text)
    # As llvmlite's `emit_object`, which would hold its lock. 1 stands for an object file, 0 for
    # assembly.
    with llvm.ffi.OutputString() as error:
        buffer = _unlocked_emit()(machine, module, 1, error)
        if not buffer:
            raise RuntimeError(str(error))
    try:
        start, size = (
            get(buffer)
            for get in (llvm.ffi.lib.LLVMPY_GetBufferStart, llvm.ffi.lib.LLVMPY_GetBufferSize)
        )
        return ctypes.string_at(start, size)
    finally:
        # `string_at` has copied the bytes.
        llvm.ffi.lib.LLVMPY_DisposeMemoryBuffer(buffer)


@cache
def _unlocked_emit() -> Callable:
    """What `emit_object` calls, without llvmlite's lock, which lets one thread at a time into LLVM.
    LLVM itself only requires that each thread has a context and a machine of its own."""
    library = _llvm().ffi.lib
    locked = library.LLVMPY_TargetMachineEmitToMemory
    # The loader gives the same copy of the library, with functions that have no lock around them.
    unlocked = ctypes.CDLL(library._name).LLVMPY_TargetMachineEmitToMemory
    unlocked.argtypes, unlocked.restype = locked.argtypes, locked.restype
    return unlocked


def assembly(text: str, level: int = LEVEL) -> str:
    """Of one module."""
    with _addresses_as_written() as keep:
        keep()
        return host_machine(level).emit_assembly(_parsed(text))


def _parsed(text: str):
    """A module in a context of its own."""
    llvm = _llvm()
    triple = llvm.get_default_triple()
    return llvm.parse_assembly(f'target triple = "{triple}"\n{text}', llvm.create_context())


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

    def function(self, name: str, *arguments: type, alone: bool = False) -> Callable[..., None]:
        """The function as a Python callable without a result."""
        found = self._jit.lookup(self._name, name)
        # The code is freed with its last tracker.
        self._trackers.append(found)
        made = ctypes.PYFUNCTYPE if alone else ctypes.CFUNCTYPE
        return made(None, *arguments)(found[name])
