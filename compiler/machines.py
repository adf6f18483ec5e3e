"""The machines that code is exported for, by name: what LLVM has to know of them besides the record
of the processor in `targets.py`.

In: nothing. Out: `MACHINES`, and `machine_of_triple`. The target of an export need not be the
host, so nothing here asks the operating system.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .targets import CPU_TARGETS, CpuTarget


@dataclass(frozen=True)
class Machine:
    """A processor, its system and its conventions.

    `target` decides about loops and layouts, and with them about the order in which sums are added
    up. `triple`, `cpu` and `features` are LLVM's. Code that may meet an older processor looks for
    `required` instructions when it runs, the names of rows of the code generator's tables. A
    multiply-add of floats that are not among `fma` rounds twice.
    """

    name: str
    triple: str
    cpu: str
    target: CpuTarget
    features: str = ""
    required: tuple[str, ...] = ()
    fma: tuple[str, ...] = ("f32", "f64")
    alignment: int = 64  # bytes, of the memory that the caller gives
    kinds: tuple[str, ...] = ("so", "a", "o")  # of files that are made for it
    pointer_bits: int = 64
    position_independent: bool = True
    without: frozenset[str] = frozenset()  # passes that would take memory which it has not
    small: bool = False  # whether code is to be short rather than quick
    threads: int = 1  # of the caller, among which a call may be divided at most
    compiler: str = "cc"  # that links with the library, as the page says

    @property
    def architecture(self) -> str:
        """The first part of the triple."""
        return self.triple.partition("-")[0]

    @property
    def is_windows(self) -> bool:
        return "windows" in self.triple

    @property
    def is_wasm(self) -> bool:
        return self.architecture == "wasm32"


# Weights stay where they are, in flash: no copies of them in another order or already multiplied.
COPIES = frozenset({"fold-scales", "hoist-constants", "pack-constants", "prologue"})

LINUX_X86 = "x86_64-unknown-linux-gnu"
LINUX_ARM = "aarch64-unknown-linux-gnu"
LINUX_ARM32 = "armv7-unknown-linux-gnueabihf"
LINUX_RISCV, RV64GC = "riscv64-unknown-linux-gnu", "+m,+a,+f,+d,+c"

# Floats in integer registers where functions are called: only those of libgcc take any.
CORTEX, CORTEX_CC = "thumbv7em-none-eabi", "arm-none-eabi-gcc"
RISCV, RISCV64, RISCV_CC = "riscv32-unknown-elf", "riscv64-unknown-elf", "riscv64-unknown-elf-gcc"
# What browsers have had since 2021. A conversion to integers that does not fit is no trap.
WASM, WASM_FEATURES = "wasm32-unknown-unknown", "+bulk-memory,+sign-ext,+nontrapping-fptoint"

SCALAR, SINGLE = "generic-scalar", "generic-single"  # processors with and without f64

MACHINES = {
    machine.name: machine
    for machine in (
        Machine(
            "x86-64-v2", LINUX_X86, "x86-64-v2", CPU_TARGETS["generic-sse"],
            required=("x86-64-v2",), fma=(),
        ),
        Machine(
            "x86-64-v3", LINUX_X86, "x86-64-v3", CPU_TARGETS["generic-avx2"],
            required=("x86-64-v2", "x86-64-v3"),
        ),
        Machine(
            "x86-64-v4", LINUX_X86, "x86-64-v4", CPU_TARGETS["generic-avx512"],
            required=("x86-64-v2", "x86-64-v3", "x86-64-v4"),
        ),
        Machine("aarch64-neon", LINUX_ARM, "generic", CPU_TARGETS["generic-neon"], "+neon"),
        # Those with VFPv4, from the Cortex-A7 on. NEON takes denormal numbers for 0.
        Machine(
            "armv7-neon", LINUX_ARM32, "cortex-a7", CPU_TARGETS["generic-neon32"], "+neon,+vfp4",
            kinds=("a", "o"), pointer_bits=32, compiler="arm-linux-gnueabihf-gcc",
        ),
        Machine(
            "rv64gc-linux", LINUX_RISCV, "generic-rv64", CPU_TARGETS[SCALAR], RV64GC,
            kinds=("a", "o"), compiler="riscv64-linux-gnu-gcc",
        ),
        # `_fltused` and `__chkstk`, which the C library of Windows has elsewhere, are its own.
        Machine(
            "windows-x64", "x86_64-pc-windows-msvc", "x86-64-v2", CPU_TARGETS["generic-sse"],
            required=("x86-64-v2",), fma=(), kinds=("dll", "o"), compiler="cl /std:c11",
        ),
        Machine(
            "apple-m1", "arm64-apple-macosx11.0.0", "apple-m1", CPU_TARGETS["generic-neon"],
            kinds=("o", "dylib"),
        ),
        *(
            Machine(
                name, triple, cpu, CPU_TARGETS[target], features, fma=fma, alignment=8,
                kinds=("a", "o"), pointer_bits=bits, position_independent=False, without=COPIES,
                small=True, compiler=compiler,
            )
            for name, triple, cpu, target, features, fma, bits, compiler in (
                ("cortex-m4", CORTEX, "cortex-m4", SINGLE, "", ("f32",), 32, CORTEX_CC),
                # Many of them have no f64.
                ("cortex-m7", CORTEX, "cortex-m7", SINGLE, "-fp64", ("f32",), 32, CORTEX_CC),
                # no floating point: each operation is a call of libgcc
                ("rv32imc", RISCV, "generic-rv32", SINGLE, "+m,+c", (), 32, RISCV_CC),
                (
                    "rv64gc", RISCV64, "generic-rv64", SCALAR, RV64GC, ("f32", "f64"), 64,
                    RISCV_CC,
                ),
            )
        ),
        # Decisions and roundings of x86-64-v2, so that results are the same.
        Machine(
            "wasm32", WASM, "generic", replace(CPU_TARGETS["generic-sse"], mxcsr=False),
            f"{WASM_FEATURES},+simd128", fma=(), kinds=("wasm", "page"), pointer_bits=32,
            position_independent=False,
        ),
        Machine(
            "wasm32-plain", WASM, "generic", CPU_TARGETS["generic-scalar"], WASM_FEATURES,
            fma=(), kinds=("wasm", "page"), pointer_bits=32, position_independent=False,
        ),
    )
}  # fmt: skip

# the machine of each architecture of a triple, where the system is Linux
BY_ARCHITECTURE = {
    "x86_64": "x86-64-v2", "aarch64": "aarch64-neon", "arm64": "aarch64-neon",
    "armv7": "armv7-neon", "arm": "armv7-neon", "riscv64": "rv64gc-linux",
}  # fmt: skip


def machine_of_triple(triple: str) -> Machine | None:
    """The machine of a triple such as `aarch64-linux-gnu`: what every processor of that kind has.
    None if there is none."""
    architecture, *rest = triple.split("-")
    if "linux" in rest:
        return MACHINES.get(BY_ARCHITECTURE.get(architecture, ""))
    if architecture in ("arm64", "aarch64") and "apple" in rest:
        return MACHINES["apple-m1"]
    return MACHINES["wasm32"] if architecture == "wasm32" and rest else None
