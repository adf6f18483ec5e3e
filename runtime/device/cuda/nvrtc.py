"""CUDA C++ into machine code for a GPU: NVIDIA's run-time compiler, called directly.

In: a source and an architecture such as `sm_90a`. Out: a cubin or PTX, and what the compiler says.
It needs the library NVRTC (`pip install nvidia-cuda-nvrtc-cu12`), and neither a GPU nor CuPy. No
header is used: the source brings its own prelude.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FLAGS = ("-std=c++17", "--ptxas-options=-v", "-diag-suppress=177")  # 177: an unused name
INSTALL = "pip install nvidia-cuda-nvrtc-cu12"


class NvrtcNotFound(Exception):
    """The library is not there, or cannot be loaded."""


class CompilationError(Exception):
    """NVRTC does not accept a source: a mistake of ours. The message is its log."""


@dataclass(frozen=True)
class Usage:
    """What one kernel needs of a thread (registers, bytes on the stack, bytes spilled to it) and of
    a block (bytes of shared memory known at compile time)."""

    registers: int
    stack: int
    spilled: int
    shared: int


@dataclass(frozen=True)
class Compiled:
    code: bytes  # a cubin
    log: str

    @property
    def usage(self) -> dict[str, Usage]:
        """By kernel."""
        return dict(_usage(self.log))


class Nvrtc:
    """The library at a path. NvrtcNotFound if it cannot be loaded."""

    def __init__(self, path: Path):
        self.path = path
        try:
            # loading says whether the library fits this system at all
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise NvrtcNotFound(f"{path} cannot be loaded: {error}") from None
        # else ctypes would take the pointer for an int
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p

    @property
    def version(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def cubin(self, source: str, architecture: str) -> Compiled:
        """Machine code for one architecture (`sm_80`). CompilationError if the source is wrong."""
        # a real architecture gives machine code, `sm_90`
        with _Program(self, source, architecture) as program:
            return Compiled(program.result("CUBIN") + b"\0", program.log)

    def ptx(self, source: str, architecture: str) -> str:
        """The portable assembly. CompilationError if the source is wrong."""
        # a virtual one gives assembly, `compute_90`
        with _Program(self, source, architecture.replace("sm_", "compute_")) as program:
            return program.result("PTX").rstrip(b"\0").decode()

    def _call(self, name: str, *arguments) -> None:
        # every function of NVRTC returns 0 or the number of an error
        status = self._library[name](*arguments)
        if status:
            raise RuntimeError(f"{name}: {self._library.nvrtcGetErrorString(status).decode()}")


class _Program:
    """One compilation; what it holds is freed at the end."""

    def __init__(self, nvrtc: Nvrtc, source: str, architecture: str):
        # the source goes in with no headers: its prelude brings all it needs
        self._nvrtc, self._handle = nvrtc, ctypes.c_void_p()
        nvrtc._call(
            "nvrtcCreateProgram",
            ctypes.byref(self._handle),
            source.encode(),
            b"nnc.cu",
            0,
            None,
            None,
        )
        flags = [f.encode() for f in (f"--gpu-architecture={architecture}", *FLAGS)]
        array = (ctypes.c_char_p * len(flags))(*flags)
        status = nvrtc._library.nvrtcCompileProgram(self._handle, len(flags), array)
        # read in any case: with `--ptxas-options=-v` it says what each kernel uses
        self.log = self.result("ProgramLog").rstrip(b"\0").decode(errors="replace")
        if status:
            # `with` has not begun yet, so nobody else would free it
            self.__exit__()
            raise CompilationError(self.log)

    def __enter__(self) -> _Program:
        return self

    def __exit__(self, *about) -> None:
        self._nvrtc._call("nvrtcDestroyProgram", ctypes.byref(self._handle))

    def result(self, what: str) -> bytes:
        # two calls for each result: how long it is, then the bytes
        size = ctypes.c_size_t()
        self._nvrtc._call(f"nvrtcGet{what}Size", self._handle, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._nvrtc._call(f"nvrtcGet{what}", self._handle, buffer)
        return buffer.raw[: size.value]


# --- finding it -----------------------------------------------------------------------------------


@cache
def nvrtc() -> Nvrtc:
    """The library that is installed and fits the driver; `NNC_NVRTC` may name another.
    NvrtcNotFound if there is none."""
    # a path given by hand is not questioned
    chosen = os.environ.get("NNC_NVRTC")
    paths = [Path(chosen)] if chosen else list(candidates())
    if not paths:
        raise NvrtcNotFound(f"NVRTC, the compiler for GPUs, is not installed: {INSTALL}")
    return Nvrtc(fitting(paths, driver_version()))


def fitting(paths: list[Path], driver: int) -> Path:
    """The newest whose machine code the driver takes (that of its own CUDA, 12090 for 12.9, and
    older ones); the first if there is no driver, or none fits. PyTorch and CuPy bring their own."""
    # `libnvrtc.so.12` → 12
    ages = {
        path: int(found[1])
        for path in paths
        if (found := re.search(r"(?:\.so\.|nvrtc64_)(\d\d)", path.name))
    }
    # newer than the driver means machine code that the driver cannot load
    return max(
        (p for p in ages if ages[p] <= driver // 1000), key=ages.__getitem__, default=paths[0]
    )


def driver_version() -> int:
    """The newest CUDA that the driver can run, as 12090 for 12.9; 0 without a driver."""
    # Linux, then Windows; the library belongs to the driver and not to CUDA
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        version = ctypes.c_int()
        if library.cuDriverGetVersion(ctypes.byref(version)) == 0:
            return version.value
    return 0


def candidates() -> Iterator[Path]:
    """Where the library is: in the packages of this Python, then in a CUDA toolkit."""
    # wheels of NVIDIA's put the library into site-packages/nvidia/*/lib
    folders = [Path(p) / "nvidia" for p in sys.path if p]
    for folder in folders:
        if folder.is_dir():
            # libnvrtc.alt.so and the like are variants of the same library
            yield from sorted(p for p in folder.glob("*/lib/libnvrtc.so.*") if "alt" not in p.name)
            yield from sorted(folder.glob("*/bin/nvrtc64_*_0.dll"))
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    yield from sorted(Path(home).glob("lib64/libnvrtc.so.*"))


# --- what the log says ----------------------------------------------------------------------------

_FUNCTION = re.compile(r"(?:Compiling entry function|Function properties for) '?(\w+)'?")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


def _usage(log: str) -> Iterator[tuple[str, Usage]]:
    # ptxas names a kernel first, then its stack, then its registers: three lines of one kernel
    name, stack, spilled = "", 0, 0
    for line in log.splitlines():
        if found := _FUNCTION.search(line):
            name = found[1]
        if found := _STACK.search(line):
            # stores and loads together
            stack, spilled = int(found[1]), int(found[2]) + int(found[3])
        if found := _USED.search(line):
            shared = _SHARED.search(line)
            yield name, Usage(int(found[1]), stack, spilled, int(shared[1]) if shared else 0)
