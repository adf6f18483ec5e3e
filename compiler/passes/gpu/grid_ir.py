"""Grid IR: a kernel as blocks of threads, in which every decision stands.

`lower_kernel` makes it, `codegen/cuda` writes it as CUDA C++. It is for a GPU what `loop_ir` is for
a CPU; statements and accesses are the same records. Persistent loops are made of grids
(`persistent_loop`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod

from ...ir.dtypes import BYTES
from ...ir.equation import Index
from ...ir.expr import Expr, Read, reads
from ...targets import WARP, GpuTarget
from ..lowering.access import Access, Statement, statement_text, value_text
from .attention.attention_tile import AttentionTile


@dataclass(frozen=True)
class ThreadPerElement:
    """One thread computes one element; it goes through a reduction in order."""

    def __str__(self) -> str:
        return "one thread per element"


@dataclass(frozen=True)
class TreeReduction:
    """`lanes` threads of a block share the reduction of one element and join in a tree. Adjacent
    threads take adjacent points (`along` "reduction") or adjacent elements ("outputs")."""

    lanes: int
    along: str

    def __str__(self) -> str:
        return f"{self.lanes} threads per element, adjacent threads along the {self.along}"


@dataclass(frozen=True)
class Operand:
    """A factor of a product: `value`, which depends on the output `indices`. With `along_points`
    memory is contiguous along the points of the sum, so adjacent threads load adjacent points
    rather than adjacent elements. An asynchronous copy moves `copy_width` elements to shared
    memory; with 0 threads compute the values, in registers."""

    value: Expr
    indices: tuple[Index, ...]
    along_points: bool
    copy_width: int

    @property
    def size(self) -> int:
        return prod(i.size for i in self.indices)


@dataclass(frozen=True)
class MatmulTile:
    """Sums of products `left * right`, one for each of `rights`, in tiles of `height` by `width`
    elements, `depth` points a step; a thread accumulates `rows` by `columns` of them in registers.
    Shared memory has room for `stages` steps: while one is multiplied, the next ones are loaded.

    Without tensor cores a thread loads up to `vector` adjacent elements of shared memory at once,
    and `unroll` points are unrolled. With `tensor_cores` operands lie in shared memory as bf16, in
    words of two: copied if memory has them so, or rounded when they are stored there. Then a warp
    accumulates `rows` by `columns` results.

    `left.indices` are output indices that `rights` do not depend on, and the other way round; both
    may depend on `batch`."""

    left: Operand
    rights: tuple[Operand, ...]
    batch: tuple[Index, ...]
    height: int
    width: int
    depth: int
    rows: int
    columns: int
    stages: int
    tensor_cores: bool
    vector: int
    unroll: int

    def row(self, side: int) -> int:
        """Elements of shared memory from one point of an operand to the next, without tensor cores:
        padded by a vector, so that rows stay aligned and begin in different banks."""
        # a bank is 4 bytes wide, 32 of them: equal strides of 128 bytes would meet in one bank
        return side + self.vector

    def stage_words(self, side: int) -> int:
        """Words of shared memory of one step of an operand; tensor cores need no padding, as their
        words are swizzled."""
        return self.depth * side // 2 if self.tensor_cores else self.depth * self.row(side)

    def word_bytes(self, dtype: str) -> int:
        return BYTES["i32"] if self.tensor_cores else BYTES[dtype]

    @property
    def shared_words(self) -> int:
        """Words of all steps of all operands."""
        right = len(self.rights) * self.stage_words(self.width)
        return self.stages * (self.stage_words(self.height) + right)

    def __str__(self) -> str:
        # of several products, which share the left tile, the first is shown
        names = [" ".join(i.name for i in o.indices) for o in (self.left, self.rights[0])]
        unit = "warp by mma.sync m16n8k16 of bf16" if self.tensor_cores else "thread"
        computed = "rounded as it is loaded" if self.tensor_cores else "computed"
        left, right = (
            f"copied by {o.copy_width}" if o.copy_width else computed
            for o in (self.left, self.rights[0])
        )
        return (
            f"tiles of {self.height} ({names[0]}) by {self.width} ({names[1]}), "
            f"{self.depth} deep, {self.stages} stages, {self.rows}x{self.columns} per {unit}, "
            f"left {left}, right {right}"
        )


@dataclass(frozen=True)
class Grid:
    """The blocks of one launch. `reduce` over `bodies` gives the first statements' values; without
    a reduction these values are the bodies. Elements are numbered by `outputs`, the last one
    fastest, points of the reduction by `over`. With `part` (split-K), the grid has `part.size`
    layers in its second dimension: each reduces `chunk` points, and its results are elements of
    their own. Registers are limited so that a multiprocessor has at least `resident` blocks. With a
    `block`, a thread adds the sums of so many terms up in f64 (cf. `cpu/blocked_sums.py`)."""

    name: str
    how: ThreadPerElement | TreeReduction | MatmulTile | AttentionTile
    threads: int
    blocks: int
    outputs: tuple[Index, ...]
    over: tuple[Index, ...]
    bodies: tuple[Expr, ...]
    reduce: str | None
    statements: tuple[Statement, ...]
    accesses: Mapping[Read, Access]
    sizes: Mapping[str, int]
    position: Expr | None = None
    part: Index | None = None
    chunk: int = 0
    block: int = 0
    resident: int = GpuTarget.min_blocks_per_sm
    fixed: tuple[str, ...] = ()
    source: str = ""
    why: tuple[str, ...] = field(default=(), compare=False)

    @property
    def elements(self) -> int:
        return prod(i.size for i in self.outputs)

    @property
    def points(self) -> int:
        return prod(i.size for i in self.over)

    @property
    def reads(self) -> list[Read]:
        """The reads of memory, each once, including those in the indices of other reads."""
        # the order of first appearance is that of a function's parameters
        values = (*self.bodies, *(s.value for s in self.statements))
        return list(dict.fromkeys(r for v in values for r in reads(v) if r in self.accesses))

    @property
    def stored(self) -> tuple[str, ...]:
        return tuple(s.target for s in self.statements if s.offset is not None)

    @property
    def dtype(self) -> str:
        """Of the values that are reduced, or of the first value."""
        return self.bodies[0].dtype

    @property
    def shared_bytes(self) -> int:
        """Of shared memory, for each block."""
        how = self.how
        if isinstance(how, AttentionTile):
            return how.shared_bytes
        if isinstance(how, MatmulTile):
            return how.shared_words * how.word_bytes(self.dtype)
        if isinstance(how, TreeReduction) and not self.by_shuffles:
            # along the reduction a warp joins first and leaves one result; else every thread one
            count = self.threads // WARP if how.along == "reduction" else self.threads
            return count * accumulator_bytes(self)
        return 0

    @property
    def by_shuffles(self) -> bool:
        """Whether the threads of an element are the lanes of one warp, which join by shuffles."""
        return (
            isinstance(self.how, TreeReduction)
            and self.how.along == "reduction"
            and self.how.lanes == WARP
        )

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def one_thread_per_element(grid: Grid, target: GpuTarget) -> Grid:
    threads = target.block_threads
    return replace(
        grid, how=ThreadPerElement(), threads=threads, blocks=-(-grid.elements // threads)
    )


def accumulator_bytes(grid: Grid) -> int:
    """Of one accumulator in shared memory; one of argmax or argmin has a position, too."""
    return 2 * BYTES["f64"] if grid.reduce in ("argmax", "argmin") else BYTES[grid.dtype]


def _lines(grid: Grid) -> Iterator[str]:
    fixed = f"({', '.join(grid.fixed)})" if grid.fixed else ""
    yield f"grid {grid.name}{fixed}" + (f"    # {grid.source}" if grid.source else "")
    yield from (f"    # {why}" for why in grid.why)
    layers = f" by {grid.part.size} parts" if grid.part else ""
    resident = f" ({grid.resident} per multiprocessor)" if isinstance(grid.how, MatmulTile) else ""
    yield f"    {grid.blocks} blocks{layers} of {grid.threads} threads{resident}, {grid.how}"
    # attention has statements of its own, between its two products
    lines = statement_lines(grid)
    if isinstance(grid.how, AttentionTile):
        lines = grid.how.lines(grid.statements, grid.accesses)
    yield from (f"    {line}" for line in lines)


def statement_lines(grid: Grid) -> Iterator[str]:
    """The statements at every element."""
    outputs = " ".join(f"{i.name} < {i.size}" for i in grid.outputs)
    over = " ".join(f"{i.name} < {i.size}" for i in grid.over)
    for number, statement in enumerate(grid.statements):
        value = value_text(statement.value, grid.accesses)
        if grid.reduce and number < len(grid.bodies):
            value = f"{grid.reduce}({over}) {value}"
        text = statement_text(statement, value)
        yield f"for {outputs}: {text}" if outputs else text
