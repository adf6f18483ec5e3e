"""What the compiler knows of the machines that it compiles for: one record per machine, by name.

In: nothing. Out: `CPU_TARGETS` and `GPU_TARGETS`, named records that every target-dependent pass
takes. Machine figures (vector lanes, registers, caches) and the constants of the cost models stand
here and nowhere else, each with its unit; passes and code generators have none of their own.

Whatever may change the order in which a sum is added up comes from the named record alone, never
from what an operating system or a hypervisor reports: runs on two machines of one name agree to
the bit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from ..dsl.records import record

SHUFFLE_LANES = 4  # elements among which one instruction shuffles freely (128 bits of f32)
TILE_SIDE = 16  # rows of an AMX tile, and pairs of bf16 numbers in each
MAX_LANES = 64  # more elements than any vector has
FAR = 1 << 32  # more than any index, or offset of a form that clips a loop
ZERO_PAGE = 16384  # bytes of zeros that stand for elements out of bounds


@record
class Cache:
    """A cache that one core has for itself; sizes in bytes."""

    bytes: int
    ways: int
    line: int = 64

    @property
    def usable_ways(self) -> int:
        """The ways that one operand may fill; the others are left to all else."""
        return self.ways // 2

    @property
    def sets(self) -> int:
        return self.bytes // (self.ways * self.line)


@record
class FusionLimits:
    """How much is fused into one kernel; operations are those of `ir/work.py`."""

    max_epilogue: int = 160  # operations in an epilogue, beyond which registers would spill
    single_result_epilogue: int = 24  # the same where the results of a sum come one at a time …
    recurrent_epilogue: int = 24  # … and where they do so in the step of a recurrence
    lookahead: int = 4  # kernels that one may overtake to save a barrier
    unrolled_values: int = 4  # values of an index that may be unrolled in a kernel …
    unrolled_row: int = 16  # … if the last index, for vectors, has at least so many


@record
class TilingCosts:
    """The closed-form cost of a register tile: cycles with every operand in the first-level cache,
    unless another unit is given."""

    unit_stride: float = 1.0  # a vector of neighbouring elements
    broadcast: float = 0.5  # one element for all lanes
    gather_same_line: float = 1.0  # a lane of a gather whose lanes share cache lines
    gather_far: float = 4.0  # a lane of a gather that has a line of its own
    register_transpose: float = 6.0  # a vector of a whole block that is transposed in registers
    bounds_check: float = 0.5
    loop_step: float = 1.0
    horizontal_sum: float = 8.0  # adding up the lanes of one vector
    load_overlap: float = 0.1  # the share of a load's cost that arithmetic cannot hide
    remainder_factor: float = 1.03  # a second copy of the code for what is left over
    outermost_rows_factor: float = 1.04  # rows of the outermost index: other threads wrote them
    far_rows_factor: float = 1.05  # rows that have a page each in what is read
    l2_line: float = 0.6  # a cache line from the second-level cache, most of it overlapped, …
    l2_next_line: float = 0.3  # … one that follows the line before …
    memory_line: float = 4.0  # … and one from beyond
    panel_step: float = 0.25  # a step over a panel, instead of `loop_step`
    row_line: float = 0.5  # a line of a row of the tile, from the second-level cache, …
    far_row_line: float = 8.0  # … one that no prefetcher follows, or that others evict, …
    packed_row_line: float = 0.25  # … and one of packed rows
    pack_rows: float = 1.5  # copying a term of a tile's rows
    worth_packing: float = 0.92  # the share of a nest's cycles that is worth cache blocks
    pack_vector: float = 2.0  # copying a vector into a panel …
    pack_near: float = 12.0  # … and waiting for each of its rows from the second-level cache, …
    pack_far: float = 24.0  # … or from beyond
    pack_across: float = 0.25  # of that, for each vector that is transposed
    rounded_vector: float = 7.0  # rounding a vector to bf16 by integer arithmetic …
    rounded_natively: float = 2.0  # … and by the instruction of AVX512_BF16
    partial_sum: float = 2.0  # adding a vector of f32 sums to those of the blocks before, …
    partial_far: float = 0.0  # … and what it takes more if they have left the second-level cache


@record
class TilingLimits:
    """Which tiles are candidates, and how loops around them are unrolled and shared."""

    vectors: int = 4  # vectors of a tile along its vector index
    accumulation_vectors: int = 8  # the same where an accumulation adds to memory
    row_vectors: tuple[int, ...] = (8, 16)  # of a vector times a matrix: long runs of memory
    examples_tile_ratio: int = 4  # of a tile of examples and the one for what is left over
    rows_without_reuse: int = 4  # rows of a tile that share no load
    dot_registers: int = 6  # registers that a dot product needs besides its accumulators
    accumulators: int = 8  # independent additions that keep the adders busy
    max_latency: float = 8.0  # cycles of a dependent addition that the cost model counts at most
    accumulator_steps: int = 4  # steps of a loop for each accumulator, at least
    short_block: int = 32  # additions to an accumulator between additions of its sum in f64 …
    long_block: int = 256  # … and where a tile has so many sums that each has one accumulator
    whole_blocks: int = 4  # blocks of a sum that is too short to be divided into them
    unrolled_steps: int = 4  # a reduction loop of at most so many steps is unrolled …
    window_steps: int = 7  # of a window that slides over the rows of a tile, and is unrolled
    unrolled_copies: int = 160  # … unless that makes more copies of the body than this
    inline_epilogue: int = 128  # operations of an epilogue at all copies; longer ones get a loop
    cached_panel: float = 0.5  # the share of a core's cache that operands may take
    parallel_cycles: int = 4096  # work of a nest below which threads are not worth waking
    parallel_steps: int = 16  # steps of a loop that threads share evenly enough, whatever their
    even_parallel_steps: int = 4  # number, and of one whose steps are a multiple of so many
    far_rows: int = 4096  # bytes between two rows: a page, beyond which nothing is prefetched
    packed_rows: int = 64  # of a result from which on a given factor is packed; 0: none is
    rounded_rows: int = 16  # the same of a factor that is rounded to bf16 on the way …
    most_rounded_rows: int = 1024  # … up to which a rounded copy takes longer than it is worth
    panel_vectors: int = 2  # of a panel at least: else there is a load for every multiply-add
    panel_share: float = 0.8  # of a cache that a packed panel may take with what is read beside it
    partial_bytes: int = 192 << 10  # of a thread's stack for sums between cache blocks
    sampled_tiles: int = 64  # tiles along an index that are evaluated to estimate a loop's length
    sampled_points: int = 4096  # points that are evaluated to estimate how often a check passes


@record
class PrefetchLimits:
    """Software prefetch: of operands some steps ahead, and of what later kernels read."""

    distance: int = 16  # steps of a reduction between a prefetch and the load
    far_stride: int = 1024  # bytes between rows that hardware prefetchers do not follow
    panel_tiles: int = 8  # of rows that share a panel, during which the next one is prefetched
    near_bytes: int = 4 << 20  # what was touched before so many others has left the caches
    min_bytes: int = 64 << 10  # of a tensor that is worth prefetching
    max_bytes: int = 2 << 20  # that one kernel prefetches: more would evict its own prefetches
    streams: int = 4  # tensors that one kernel prefetches
    min_terms: int = 16  # of a sum during which memory has time …
    products_per_byte: int = 8  # … and products for each byte that is read, or prefetched
    next_blocks: bool = True  # whether cache blocks prefetch what is packed next


@record
class LayoutCosts:
    """What copies in another layout cost and save."""

    dot_vector: float = 0.3  # cycles that a vector of terms takes more if lanes are added up
    unused_vector: float = 0.5  # cycles of a vector of terms that nobody wants
    transpose_element: float = 4.0  # cycles to transpose an element in memory, mostly waiting …
    transpose_near: float = 1.0  # … and one of a matrix of few columns
    pack_element: float = 0.25  # cycles to store an element in a bf16 pair
    packed_vectors: tuple[int, ...] = (4, 3, 2)  # of a panel of packed weights, best first
    narrow_terms: int = 4  # vectors of terms from which on a weight of few columns lies in rows
    start_kernel: float = 4000.0  # cycles to begin one more kernel
    rounded_reuse: int = 4  # products of an element from which on it is stored rounded
    max_tile_terms: int = 1 << 16  # of a sum that the f32 of a tile register holds well enough
    padded_reuse: int = 256  # multiplications by an element for which a padded copy pays
    recurrent_reuse: int = 16  # reads in a recurrence count so often: its steps are far apart
    max_padded_rows: int = 8192  # rows of which a column or two stay in the cache
    min_padded_lines: int = 8  # cache lines of a row, beside which one more is little


@record
class EquationCosts:
    """Thresholds of the passes over equations. Costs are in multiplications per element, as in
    `ir/functions.py`; the others are counts."""

    long_function: int = 10  # cost from which a function is read from memory, or stored, if it can
    recomputed: int = 2  # cost up to which each of several readers may compute a value again
    inlined_body: int = 60  # cost of a body beyond which nothing more is inlined into it
    min_pooling_window: int = 3  # elements; a sum by index costs up to twice as much per term
    vector_extent: int = 16  # elements of the last index that are worth a vector
    split_results: int = 512  # results of a sum that fill the registers; threads share more
    split_points: int = 1 << 18  # terms for which it pays to wake the threads for two kernels
    split_parts: tuple[int, ...] = (8, 7, 6, 5, 9, 10, 4, 11, 12, 13, 3, 2)  # best first
    panel_vectors: int = 2  # vectors of a tile: what it reads of a factor is a panel of terms …
    whole_panel: float = 0.5  # … that stays whole if it takes this share of a core's cache …
    part_panel: float = 0.25  # … and is otherwise cut into parts of this share
    part_bytes: float = 0.5  # of the parts of a sum, for each byte of its factors, at most


@record
class RowBlockLimits:
    """Which matrices are computed again rather than stored, and the blocks that threads hold."""

    least_bytes: int = 12 << 20  # of a matrix: a smaller one stays in the caches
    expansion: int = 4  # bytes of a matrix for each byte that it is computed from
    cache_share: float = 0.5  # the share of a core's second-level cache that a block may take
    least_rows: int = 8  # of a block, however long they are
    most_rows: int = 48  # beyond which reading the columns' operands again costs little
    slack: int = 64  # columns that are computed beyond a mask, since sums run in whole steps


@record
class ExampleBlockLimits:
    """Which kernels of a prediction run for one example after the other."""

    cache_share: float = 0.75  # the share of a core's second-level cache that stays for long
    least_examples: int = 8  # of a batch: fewer cannot be shared out evenly


@record
class CpuTarget:
    """A CPU core. Registers are vectors of `lanes` 4-byte elements."""

    name: str = "generic-avx512"
    lanes: int = 16
    registers: int = 32
    add_latency: float = 4.0  # cycles from one accumulation to the next that depends on it
    l1: Cache = Cache(48 << 10, 12)
    l2: Cache = Cache(1 << 20, 16)
    spin_iterations: int = 20_000  # of tens of nanoseconds, before a waiting thread sleeps
    concurrent_kernels: bool = False  # whether independent kernels run at once
    fma_cycles: float = 0.5  # from one multiply-add of vectors to the next, all ports busy
    vnni: bool = False  # whether it has AVX512_VNNI, which multiplies and adds quads of 8 bits
    bf16_instructions: bool = False  # whether it has AVX512_BF16, which rounds and pairs numbers
    doubles: bool = True  # whether it computes in f64, in vectors, too; else that is software
    i16_pairs: bool = True  # whether it multiplies and adds pairs of 16 bits: x86, from SSE2 on
    mxcsr: bool = True  # whether a register, MXCSR, says what becomes of subnormal numbers: x86
    amx_cycles: float = 0.0  # of a product of two tiles of bf16 numbers; 0: it has none
    bf16_dot_cycles: float = 0.0  # of a dot product of vectors of bf16 pairs; 0: unknown, not used
    fusion: FusionLimits = FusionLimits()
    costs: TilingCosts = TilingCosts()
    tiling: TilingLimits = TilingLimits()
    prefetch: PrefetchLimits = PrefetchLimits()
    layout: LayoutCosts = LayoutCosts()
    equations: EquationCosts = EquationCosts()
    row_blocks: RowBlockLimits = RowBlockLimits()
    example_blocks: ExampleBlockLimits = ExampleBlockLimits()

    @property
    def vector_bytes(self) -> int:
        return 4 * self.lanes

    @property
    def f16_instructions(self) -> bool:
        """Whether it converts between f16 and f32: what has AVX2 does (F16C), and what has NEON."""
        return self.lanes >= 8 or self.registers >= 32

    @property
    def int8_quads(self) -> bool:
        """Whether vectors multiply four numbers of 8 bits in a lane: by VNNI, or by two pairs."""
        return self.lanes > 1 and self.i16_pairs

    @property
    def rounding(self) -> float:
        """Cycles of arithmetic to round a vector to bf16."""
        native = self.bf16_instructions
        return self.costs.rounded_natively if native else self.costs.rounded_vector

    @property
    def saved_by_pairs(self) -> float:
        """Cycles saved for each product of a contraction if two bf16 numbers are multiplied at a
        time; not above 0 where that is no faster than two multiply-adds."""
        if not self.bf16_dot_cycles:
            return 0.0
        return (self.fma_cycles - self.bf16_dot_cycles / 2) / self.lanes


WARP = 32  # threads of a warp, on all GPUs of NVIDIA
COUNTER_STRIDE = 32  # words between the counters of two groups of blocks: a cache line each
SHARED_PADDING = 4  # words after a row of shared memory, so that rows begin in different banks
VECTOR_WORDS = 4  # 4-byte words that one load or store of a thread moves at most
SHARED_ALIGNMENT = 16  # bytes, for the widest loads and copies


class MatmulTileShape(NamedTuple):
    """Elements of a block's tile and points of a step, elements that a thread (or with tensor cores
    a warp) accumulates, threads of the block."""

    height: int
    width: int
    depth: int
    rows: int
    columns: int
    threads: int


@record
class MatmulTiling:
    """The tiles for products; `simt` and `mma` are tried in this order, the largest first."""

    simt: tuple[MatmulTileShape, ...] = (
        MatmulTileShape(128, 128, 16, 8, 8, 256),
        MatmulTileShape(64, 64, 16, 4, 4, 256),
        MatmulTileShape(32, 32, 16, 2, 2, 256),
        MatmulTileShape(16, 16, 16, 1, 1, 256),
    )
    mma: tuple[MatmulTileShape, ...] = (
        MatmulTileShape(128, 128, 32, 64, 32, 256),
        MatmulTileShape(64, 64, 32, 32, 16, 256),
        MatmulTileShape(32, 32, 32, 16, 16, 128),
    )
    min_side: int = 8  # elements on a side, and points, below which tiles do not pay
    mma_side: int = 16  # the same for tensor cores: what one instruction multiplies
    few_blocks_side: int = 32  # a side of tiles that are taken however few blocks there are
    max_waste: float = 1.5  # computed elements for each one that is needed
    accumulators: int = 64  # registers of results that a thread has at most
    copies_per_thread: int = 8  # asynchronous copies of a step, beside as many accumulators
    copied_stages: int = 3  # steps in shared memory if operands are copied asynchronously
    computed_stages: int = 2  # the same if threads compute them
    vector: int = 4  # adjacent elements of a load from shared memory, without tensor cores
    unroll: int = 4  # points of a step whose products are unrolled, without tensor cores


class AttentionTileShape(NamedTuple):
    """How attention is cut into tiles: rows and columns of a block's tile, those of a thread (with
    tensor cores of a warp), and the threads of a block."""

    height: int
    width: int
    rows: int
    columns: int
    threads: int


@record
class AttentionTiling:
    """What decides about fused attention. The shapes stand best first: the higher a tile, the less
    is loaded for a row."""

    min_side: int = 32  # queries, or keys, below which a tile would be mostly empty
    max_vector: int = 128  # elements of a query, key or value for which tiles fit
    max_vectors: int = 512  # elements of all queries, keys and values of one kernel
    max_vector_totals: int = 2  # results as wide as a value that fit into registers
    min_height: int = 32  # of a tile that is chosen only to have more blocks
    shared: int = 96 << 10  # bytes of shared memory of a block, so that two are resident
    stages: int = 2  # buffers of the tile that tensor cores multiply
    simt_registers: int = 80  # of a thread's 128, for products and totals
    mma_registers: int = 176  # of a thread's 255
    simt_shapes: tuple[AttentionTileShape, ...] = (
        AttentionTileShape(64, 64, 4, 4, 256),
        AttentionTileShape(32, 64, 2, 4, 256),
        AttentionTileShape(16, 64, 1, 4, 256),
    )
    mma_shapes: tuple[AttentionTileShape, ...] = (
        AttentionTileShape(128, 64, 32, 64, 128),
        AttentionTileShape(128, 32, 32, 32, 128),
        AttentionTileShape(64, 64, 16, 64, 128),
        AttentionTileShape(64, 32, 16, 32, 128),
        AttentionTileShape(32, 64, 16, 64, 64),
        AttentionTileShape(32, 32, 16, 32, 64),
        AttentionTileShape(64, 16, 16, 16, 128),
        AttentionTileShape(32, 16, 16, 16, 64),
        AttentionTileShape(16, 16, 16, 16, 32),
    )


@record
class RecurrenceCosts:
    """The estimate of a recurrence's step: µs unless another unit is given, by arithmetic about an
    H100 and not measured."""

    block_barrier: float = 0.05
    group_barrier: float = 1.5
    latency: float = 0.6  # of loads and arithmetic that depend on each other, in one kernel
    launch: float = 2.5  # one more node of a CUDA graph, from end to end
    scalar_operations: int = 50_000  # per µs and multiprocessor, each loading its operands
    tiled_operations: int = 100_000  # the same in launches of their own
    l2_bytes: int = 100_000  # per µs, from the second-level cache to one multiprocessor
    l1_bytes: int = 128 << 10  # that stay in the first-level cache from step to step
    reduction_bytes: int = 32 << 10  # of shared memory in which partial sums are joined, at most


@record
class GpuTarget:
    """A GPU; the defaults are an H100's."""

    name: str = "h100"
    processors: int = 132  # streaming multiprocessors
    threads: int = 2048  # resident threads of a multiprocessor
    shared: int = 227 << 10  # bytes of shared memory that one block can have
    shared_without_opt_in: int = 48 << 10  # bytes that it has without asking for more
    copy_bytes: tuple[int, ...] = (16, 8, 4)  # that one asynchronous copy can move
    coalesced_elements: int = 8  # elements of 4 bytes in one sector of memory
    max_arguments: int = 500  # of one launch, of 8 bytes each: older drivers take 4 KB
    block_threads: int = 256  # threads of a block where nothing else decides
    min_blocks_per_sm: int = 2  # one works while the other waits
    serial_points: int = 32  # of a shorter reduction one thread computes all
    short_block: int = 32  # terms of one thread between additions of their sum in f64
    whole_blocks: int = 4  # blocks of a sum that is too short to be divided into them
    split_points: int = 256  # points that a part of a split reduction has at least
    max_rows_at_once: int = 8  # rows of a recurrence that a thread reduces for at once
    row_accumulators: int = 32  # registers of results for them
    max_group_elements: int = 1 << 30  # elements of a recurrence's step numbered with 32 bits
    matmul: MatmulTiling = MatmulTiling()
    attention: AttentionTiling = AttentionTiling()
    recurrence: RecurrenceCosts = RecurrenceCosts()
    fusion: FusionLimits = FusionLimits(recurrent_epilogue=160)
    concurrent_kernels: bool = True  # whether independent kernels run at once
    equations: EquationCosts = EquationCosts()


Target = CpuTarget | GpuTarget

_AVX512 = CpuTarget()
_AVX2 = CpuTarget("generic-avx2", lanes=8, registers=16)

# AVX512_BF16 as it was measured: AMD's dot product takes as long as one multiply-add. Intel's does
# 82 GFLOP/s (0.78 ns, Emerald Rapids) where multiply-adds do 173 (0.185 ns).
# Products whose factors lie a power of two apart run at 70 to 97 % of the peak there.
_AMD_CACHES = TilingCosts(l2_line=0.3, l2_next_line=0.2, memory_line=1.5)
_AMD = replace(
    _AVX512,
    costs=_AMD_CACHES,
    tiling=TilingLimits(packed_rows=0),
    prefetch=PrefetchLimits(next_blocks=False),
)
_AMD_BF16 = replace(_AMD, vnni=True, bf16_instructions=True, bf16_dot_cycles=0.5)
_INTEL_BF16 = replace(
    _AVX512, vnni=True, bf16_instructions=True, bf16_dot_cycles=2.1, l2=Cache(2 << 20, 16)
)

# Measured on Ice Lake: a load, of a vector or for all lanes, takes as long as two multiply-adds.
# Tiles of 4 x 4 or 3 x 8 vectors run at 97 % of the peak from the first-level cache, of 2 x 14 at
# 91 %, of 2 x 8 at 83 %.
_ONE_LOAD = TilingCosts(
    unit_stride=1.9,
    broadcast=1.9,
    bounds_check=1.0,
    load_overlap=0.05,
    memory_line=16.0,
    pack_far=64.0,
    partial_far=4.0,
)

# No vectors, and little memory: nothing is packed into panels or fetched ahead.
_SCALAR = CpuTarget(
    "generic-scalar",
    lanes=1,
    registers=16,
    mxcsr=False,
    l1=Cache(16 << 10, 4),
    l2=Cache(64 << 10, 8),
    tiling=TilingLimits(packed_rows=0),
    prefetch=PrefetchLimits(streams=0, next_blocks=False),
)

# A name is that of a microarchitecture; `generic-…` is for processors that are not in the table.
CPU_TARGETS = {
    target.name: target
    for target in (
        _AVX512,
        replace(_AVX512, name="generic-avx512-bf16", vnni=True, bf16_instructions=True),
        _AVX2,
        CpuTarget("generic-sse", lanes=4, registers=16),
        CpuTarget("generic-neon", lanes=4, registers=32, i16_pairs=False, mxcsr=False),
        # of 32 bits; f64 is computed one number at a time
        CpuTarget(
            "generic-neon32",
            lanes=4,
            registers=16,
            doubles=False,
            i16_pairs=False,
            mxcsr=False,
        ),
        _SCALAR,
        replace(_SCALAR, name="generic-single", doubles=False),
        replace(_AMD_BF16, name="zen5"),
        # Its vectors of 512 bits take two passes.
        replace(
            _AMD_BF16,
            name="zen4",
            l1=Cache(32 << 10, 8),
            l2=Cache(1 << 20, 8),
            fma_cycles=1.0,
            bf16_dot_cycles=1.0,
        ),
        replace(
            _AMD, name="zen3", lanes=8, registers=16, l1=Cache(32 << 10, 8), l2=Cache(512 << 10, 8)
        ),
        replace(_AVX512, name="skylake-server", l1=Cache(32 << 10, 8)),
        replace(
            _AVX512,
            name="icelake-server",
            vnni=True,
            l2=Cache(1280 << 10, 20),
            costs=_ONE_LOAD,
            tiling=TilingLimits(partial_bytes=512 << 10),
        ),
        *(
            replace(_INTEL_BF16, name=name + suffix, amx_cycles=cycles)
            for name in ("sapphire-rapids", "emerald-rapids", "granite-rapids")
            # The second is taken where the operating system permits the tile registers.
            for suffix, cycles in (("", 0.0), ("-amx", 16.0))
        ),
    )
}

GPU_TARGETS = {target.name: target for target in (GpuTarget(),)}
