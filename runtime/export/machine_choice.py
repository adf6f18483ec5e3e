"""Which machine `--target` means: a preset, a triple, or the host.

Tests: tests/runtime/test_export.py.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace

from ...compiler.machines import BY_ARCHITECTURE, MACHINES, Machine, machine_of_triple
from ...compiler.targets import CPU_TARGETS
from ...dsl.diagnostics.diagnostic import did_you_mean, fail
from ..device.cpu import host

HOST = "host"
ELSEWHERE = {
    "wasm": "wasm32",
    "page": "wasm32",
    "dll": "windows-x64",
    "dylib": "apple-m1",
}  # kinds of one machine
X86 = ("x86_64", "AMD64")  # names of the architecture, as operating systems have it
# lanes of vectors on x86-64 → the level of the architecture that has them
LEVELS = {4: "x86-64-v2", 8: "x86-64-v3", 16: "x86-64-v4"}


def choice(target: str, kinds: Sequence[str]) -> tuple[Machine, tuple[str, ...]]:
    """The machine and the kinds of files. What is empty follows from the other: a module of
    WebAssembly is made for wasm32, and for that one a module. UserError as `machine_of`."""
    if not target:
        named = [ELSEWHERE[kind] for kind in kinds if kind in ELSEWHERE]
        target = next((n for n in named if {*kinds} <= {*MACHINES[n].kinds}), HOST)
    machine = machine_of(target)
    first = machine.kinds[:1]
    return machine, tuple(kinds) or (first if first[0] in ELSEWHERE else ("so",))


def machine_of(name: str) -> Machine:
    """The machine of a preset's name or a triple. UserError E0721 if there is none."""
    if name == HOST:
        return host_machine()
    found = MACHINES.get(name) or machine_of_triple(name)
    if found is None:
        known = [HOST, *MACHINES]
        triples = ", ".join(f"`{architecture}-linux-gnu`" for architecture in BY_ARCHITECTURE)
        hint = did_you_mean(name, known) or f"there are {', '.join(known)}, and triples: {triples}"
        raise fail("E0721", f"there is no target `{name}` to export for", help=hint)
    # The check of the processor is inline assembly, which this LLVM assembles for the host alone.
    return found if platform.machine() in X86 else replace(found, required=())


def host_machine() -> Machine:
    """This computer: the decisions of its own record, so that sums are added up in the order in
    which they are here, with the instructions of the level of the architecture that has these."""
    target = host.target()
    # Tile registers must be asked for of the system first, which a library does not do.
    target = CPU_TARGETS[target.name.removesuffix("-amx")]
    if platform.machine() in ("aarch64", "arm64"):
        return replace(MACHINES["aarch64-neon"], target=target)
    level = MACHINES[LEVELS[target.lanes]]
    more = ["avx512vnni"] * target.vnni + ["avx512bf16"] * target.bf16_instructions
    features = ",".join(f"+{name}" for name in more)
    return replace(level, target=target, features=features, required=(*level.required, *more))
