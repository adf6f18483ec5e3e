"""The features of this computer's processor, without LLVM.

`flags` are those that the operating system lists; `description` differs where machine code may
differ. `NNC_ISA=avx2` takes the processor for one without AVX-512, `NNC_ISA=avx512` for one
without AMX.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache
from pathlib import Path

# the lines of /proc/cpuinfo that say what the processor is; others change from core to core
TELLING = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features",
           "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision",
           "isa", "cpu", "machine", "features", "processor type")  # fmt: skip

# what the processor is taken not to have, by `NNC_ISA`
WITHOUT = {"avx2": ("avx512", "amx"), "avx512": ("amx",)}


@cache
def description() -> str:
    """Operating system and processor with all its features."""
    lines = [sys.platform, platform.machine(), str(sys.maxsize), str(vectors())]
    if sys.platform == "darwin":
        return "\n".join([*lines, platform.release(), _apple("machdep.cpu.brand_string")])
    found = [f"{name}: {value}" for name, value in first_core().items() if name in TELLING]
    return "\n".join([*lines, *(found or [platform.processor()])])


def flags() -> frozenset[str]:
    """The processor's features in Linux's spelling; empty where they are not listed."""
    found = first_core().get("flags", "").split()
    without = WITHOUT.get(os.environ.get("NNC_ISA", ""), ())
    return frozenset(flag for flag in found if not flag.startswith(without))


def vectors() -> tuple[int, int]:
    """How many 4-byte elements a vector register holds, and how many such registers there are."""
    if platform.machine() in ("aarch64", "arm64"):
        return 4, 32  # NEON
    if {"avx512f", "avx512bw"} <= flags():
        return 16, 32
    # Where no flags are listed (Windows, macOS on Intel), AVX2 is taken for granted.
    known = bool(flags())
    return (8, 16) if {"avx2", "f16c"} <= flags() or not known else (4, 16)


def vnni() -> bool:
    """Whether the processor multiplies quads of 8 bits in vectors of all sizes (AVX512_VNNI)."""
    return {"avx512_vnni", "avx512vl"} <= flags() and vectors()[0] == 16


def bf16_instructions() -> bool:
    """Whether the processor rounds and pairs bf16 numbers (AVX512_BF16)."""
    return "avx512_bf16" in flags() and vectors()[0] == 16


@cache
def first_core() -> dict[str, str]:
    """What /proc/cpuinfo says of the first core; nothing where there is no such file."""
    found = {}
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            for line in file:
                name, colon, value = line.partition(":")
                # An empty line ends the first core.
                if not colon:
                    break
                found[name.strip()] = value.strip()
    except OSError:
        return {}
    return found


def _apple(name: str) -> str:
    """A setting of macOS's kernel, as text."""
    size = ctypes.c_size_t(256)
    text = ctypes.create_string_buffer(size.value)
    library = ctypes.CDLL(None)
    failed = library.sysctlbyname(name.encode(), text, ctypes.byref(size), None, ctypes.c_size_t(0))
    return "" if failed else text.value.decode(errors="replace")
