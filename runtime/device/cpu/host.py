"""The record of this computer's processor in the table of targets, found without LLVM.

`NNC_TARGET` names another record; the features that decide are in `features.py`.
"""

from __future__ import annotations

import os
import platform
from dataclasses import replace

from ....compiler.targets import CPU_TARGETS, CpuTarget
from ....dsl.diagnostics.diagnostic import did_you_mean, fail
from . import features

X86 = ("x86_64", "AMD64")  # what operating systems call it

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
        return _runnable(CPU_TARGETS[wanted])
    named = CPU_TARGETS.get(_microarchitecture())
    # A record is used only if the processor really has its vectors: a hypervisor, or `NNC_ISA`, may
    # have taken AVX-512 away.
    if (
        named
        and (named.lanes, named.registers) == features.vectors()
        and named.bf16_instructions == features.bf16_instructions()
        and named.vnni == features.vnni()
    ):
        return _runnable(CPU_TARGETS.get(f"{named.name}-amx", named))
    return _runnable(CPU_TARGETS[_generic()])


def processor() -> str:
    """What this computer's processor is called."""
    name = features.first_core().get("model name")
    return str(name or platform.processor() or platform.machine())


def lines() -> list[str]:
    """What code for this processor uses of it, for `nnc doctor`."""
    from .amx import obstacle  # not needed where there is no AMX

    found = target()
    tiled = CPU_TARGETS.get(f"{found.name.removesuffix('-amx')}-amx")
    why = "this processor has none" if tiled is None else obstacle(tiled)
    fast = found.amx_cycles or found.saved_by_pairs > 0
    rows = {
        "CPU": processor(),
        "compiled for": found.name,
        "AMX": f"not used: {why}" if why else "used for products of bf16 numbers",
        "bf16": "faster than f32" if fast else "at most as fast as f32",
    }
    return [f"{name:19} {text}" for name, text in rows.items()]


def _runnable(wanted: CpuTarget) -> CpuTarget:
    """The record, or the one without AMX where that cannot be used; of a processor that is no x86
    without its control register."""
    if platform.machine() not in X86:
        return replace(wanted, mxcsr=False)
    if not wanted.amx_cycles:
        return wanted
    from .amx import obstacle  # not needed where there is no AMX

    return CPU_TARGETS[wanted.name.removesuffix("-amx")] if obstacle(wanted) else wanted


def _generic() -> str:
    """The record for a processor of which nothing is known but its instructions."""
    if platform.machine() in ("aarch64", "arm64"):
        return "generic-neon"
    names = {16: "generic-avx512", 8: "generic-avx2", 4: "generic-sse"}
    return names[features.vectors()[0]] + ("-bf16" if features.bf16_instructions() else "")


def _microarchitecture() -> str:
    """The name of this processor's design by the family and model that x86 processors report."""
    core = features.first_core()
    family, model = (int(core.get(key) or 0) for key in ("cpu family", "model"))
    for vendor, number, models, name in MICROARCHITECTURES:
        if (vendor, number) == (core.get("vendor_id"), family) and model in models:
            return name
    return ""
