"""This computer's processor, detected without LLVM.

`target` is its record in the table of targets; `flags` are the processor's features as the
operating system lists them; `description` differs where machine code may differ. `NNC_ISA=avx2`
takes the processor for one without AVX-512, `NNC_TARGET` names another record.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache
from pathlib import Path

from ....compiler.targets import CPU_TARGETS, CpuTarget
from ....dsl.diagnostics.diagnostic import did_you_mean, fail

# the lines of /proc/cpuinfo that say what the processor is; others change from core to core
TELLING = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features",
           "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision",
           "isa", "cpu", "machine", "features", "processor type")  # fmt: skip

# vendor, family, models, name in CPU_TARGETS
MICROARCHITECTURES = (
    ("AuthenticAMD", 25, {*range(0x00, 0x10), *range(0x20, 0x60)}, "zen3"),
    ("AuthenticAMD", 25, {*range(0x10, 0x20), *range(0x60, 0xB0)}, "zen4"),
    ("AuthenticAMD", 26, range(0x00, 0x100), "zen5"),
    ("GenuineIntel", 6, {0x55}, "skylake-server"),
    ("GenuineIntel", 6, {0x6A, 0x6C}, "icelake-server"),
    ("GenuineIntel", 6, {0x8F}, "sapphire-rapids"),
    ("GenuineIntel", 6, {0xCF}, "emerald-rapids"),
    ("GenuineIntel", 6, {0xAD, 0xAE}, "granite-rapids"),
)  # fmt: skip


@cache
def description() -> str:
    """Operating system and processor with all its features."""
    lines = [sys.platform, platform.machine(), str(sys.maxsize), str(vectors())]
    if sys.platform == "darwin":
        return "\n".join([*lines, platform.release(), _apple("machdep.cpu.brand_string")])
    found = [f"{name}: {value}" for name, value in _first_core().items() if name in TELLING]
    return "\n".join([*lines, *(found or [platform.processor()])])


def flags() -> frozenset[str]:
    """The processor's features in Linux's spelling; empty where they are not listed."""
    found = _first_core().get("flags", "").split()
    without = "avx512" if os.environ.get("NNC_ISA") == "avx2" else " "
    return frozenset(flag for flag in found if not flag.startswith(without))


def vectors() -> tuple[int, int]:
    """How many 4-byte elements a vector register holds, and how many such registers there are."""
    if platform.machine() in ("aarch64", "arm64"):
        return 4, 32  # NEON
    if "avx512f" in flags():
        return 16, 32
    # Where no flags are listed (Windows, macOS on Intel), AVX2 is taken for granted.
    known = bool(flags())
    return (8, 16) if "avx2" in flags() or not known else (4, 16)


def bf16_instructions() -> bool:
    """Whether the processor rounds and pairs bf16 numbers (AVX512_BF16)."""
    return "avx512_bf16" in flags() and vectors()[0] == 16


def target() -> CpuTarget:
    """The record of this processor in `CPU_TARGETS`, or the one that `NNC_TARGET` names. UserError
    E0721 if that one is not in the table."""
    wanted = os.environ.get("NNC_TARGET", "")
    if wanted:
        if wanted not in CPU_TARGETS:
            raise fail(
                "E0721",
                f"`NNC_TARGET` names no processor: `{wanted}`",
                help=did_you_mean(wanted, CPU_TARGETS) or f"there are {', '.join(CPU_TARGETS)}",
            )
        return CPU_TARGETS[wanted]
    named = CPU_TARGETS.get(_microarchitecture())
    # A record is used only if the processor really has its vectors: a hypervisor, or `NNC_ISA`, may
    # have taken AVX-512 away.
    if (
        named
        and (named.lanes, named.registers) == vectors()
        and named.bf16_instructions == bf16_instructions()
    ):
        return named
    return CPU_TARGETS[_generic()]


def _generic() -> str:
    """The record for a processor of which nothing is known but its instructions."""
    if platform.machine() in ("aarch64", "arm64"):
        return "generic-neon"
    names = {16: "generic-avx512", 8: "generic-avx2", 4: "generic-sse"}
    return names[vectors()[0]] + ("-bf16" if bf16_instructions() else "")


def _microarchitecture() -> str:
    """The name of this processor's design by the family and model that x86 processors report."""
    core = _first_core()
    family, model = (int(core.get(key) or 0) for key in ("cpu family", "model"))
    for vendor, number, models, name in MICROARCHITECTURES:
        if (vendor, number) == (core.get("vendor_id"), family) and model in models:
            return name
    return ""


@cache
def _first_core() -> dict[str, str]:
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
