"""What the compiler knows of the machines that it compiles for: one record per machine, by name.

In: nothing. Out: `CPU_TARGETS` and `GPU_TARGETS`, named records that every target-dependent pass
takes. Machine figures (vector lanes, registers, caches) and the constants of the cost models stand
here and nowhere else, each with its unit; passes and code generators have none of their own.

Whatever may change the order in which a sum is added up comes from the named record alone, never
from what an operating system or a hypervisor reports: runs on two machines of one name agree to
the bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Cache:
    """A cache that one core has for itself; sizes in bytes."""

    bytes: int
    ways: int
    line: int = 64

    @property
    def sets(self) -> int:
        return self.bytes // (self.ways * self.line)


@dataclass(frozen=True)
class TilingCosts:
    """The closed-form cost of a register tile: cycles with every operand in the first-level cache,
    unless another unit is given."""

    unit_stride: float = 1.0  # a vector of neighbouring elements
    broadcast: float = 0.5  # one element for all lanes
    gather_same_line: float = 1.0  # a lane of a gather whose lanes share cache lines
    gather_far: float = 4.0  # a lane of a gather that has a line of its own
    register_transpose: float = 6.0  # a vector of a block that is transposed in registers
    bounds_check: float = 0.5
    loop_step: float = 1.0
    horizontal_sum: float = 8.0  # adding up the lanes of one vector
    rows_without_reuse: int = 4  # rows of a tile that share no load
    parallel_steps: int = 4  # steps of an index that threads may share
    remainder_factor: float = 1.03  # a second copy of the code for what is left over
    outermost_rows_factor: float = 1.04  # rows of the outermost index: other threads wrote them


@dataclass(frozen=True)
class CpuTarget:
    """A CPU core. Registers are vectors of `lanes` 4-byte elements."""

    name: str = "generic-avx512"
    lanes: int = 16
    registers: int = 32
    add_latency: float = 4.0  # cycles from one accumulation to the next that depends on it
    l1: Cache = Cache(48 << 10, 12)
    l2: Cache = Cache(1 << 20, 16)
    single_result_epilogue: int = 24  # operations that may follow a result that comes alone
    concurrent_kernels: bool = False  # whether independent kernels run at once
    bf16_dot: bool = False  # whether one instruction multiplies and adds two bf16 numbers
    tiling: TilingCosts = field(default_factory=TilingCosts)


@dataclass(frozen=True)
class GpuTarget:
    """A GPU; the defaults are an H100's."""

    name: str = "h100"
    processors: int = 132  # streaming multiprocessors
    threads: int = 2048  # resident threads of a multiprocessor
    shared: int = 227 << 10  # bytes of shared memory that one block can have
    max_arguments: int = 500  # of one launch, of 8 bytes each: older drivers take 4 KB
    split_points: int = 256  # points that a part of a split reduction has at least
    single_result_epilogue: int = 160  # operations that may follow a result that comes alone
    concurrent_kernels: bool = True  # whether independent kernels run at once


Target = CpuTarget | GpuTarget

_AVX512 = CpuTarget()
_AVX2 = CpuTarget("generic-avx2", lanes=8, registers=16)

# A name is that of a microarchitecture; `generic-…` is for processors that are not in the table.
CPU_TARGETS = {
    target.name: target
    for target in (
        _AVX512,
        replace(_AVX512, name="generic-avx512-bf16", bf16_dot=True),
        _AVX2,
        CpuTarget("generic-sse", lanes=4, registers=16),
        CpuTarget("generic-neon", lanes=4, registers=32),
        replace(_AVX512, name="zen5", bf16_dot=True),
        replace(_AVX512, name="zen4", l1=Cache(32 << 10, 8), l2=Cache(1 << 20, 8), bf16_dot=True),
        replace(_AVX2, name="zen3", l1=Cache(32 << 10, 8), l2=Cache(512 << 10, 8)),
        replace(_AVX512, name="skylake-server", l1=Cache(32 << 10, 8)),
        replace(_AVX512, name="icelake-server", l2=Cache(1280 << 10, 20)),
        replace(_AVX512, name="sapphire-rapids", l2=Cache(2 << 20, 16), bf16_dot=True),
        replace(_AVX512, name="emerald-rapids", l2=Cache(2 << 20, 16), bf16_dot=True),
        replace(_AVX512, name="granite-rapids", l2=Cache(2 << 20, 16), bf16_dot=True),
    )
}

GPU_TARGETS = {target.name: target for target in (GpuTarget(),)}
