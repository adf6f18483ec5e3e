"""The grid IR: one kernel of a plan as blocks of threads, in which every decision stands.

In: what `passes/blocks` decided. Out: records that `codegen/cuda` only has to spell, and their
text. It is for a GPU what `loops.py` is for a CPU; statements and accesses are the same records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

from .ir import BYTES, Expr, Index, Read, reads
from .loops import Access, Statement, form_text, own_text, value_text

BLOCK = 256  # threads, where nothing else decides
RESIDENT = 2  # blocks at least that a processor holds: one works while the other waits
GAP = 4  # elements after each row of a tile: rows stay aligned for vectors of 4


@dataclass(frozen=True)
class Each:
    """One thread computes one element; what it reduces over it takes in order."""

    def __str__(self) -> str:
        return "one thread per element"


@dataclass(frozen=True)
class Together:
    """`lanes` threads of a block share the reduction of one element and join in a tree.
    Neighbouring threads take neighbouring points (`along` "over") or elements ("outputs")."""

    lanes: int
    along: str

    def __str__(self) -> str:
        return f"{self.lanes} threads per element, neighbours along {self.along}"


@dataclass(frozen=True)
class Operand:
    """One side of a product: `part`, which depends on the output indices `own`. `deep`:
    neighbouring threads load neighbouring points rather than neighbouring elements. `copied` is how
    many elements an asynchronous copy moves to shared memory; with 0 threads compute the values, in
    registers."""

    part: Expr
    own: tuple[Index, ...]
    deep: bool
    copied: int

    @property
    def size(self) -> int:
        return prod(i.size for i in self.own)


@dataclass(frozen=True)
class Tile:
    """Sums of products `left * right`, one for each of `rights`, in tiles of `height` by `width`
    elements, `depth` points at a time through shared memory; a thread holds `rows` by `columns` of
    them in registers. Shared memory has room for `stages` such steps: while one is multiplied, the
    next ones are loaded.

    With `tensor_cores` operands are rounded to bf16 when they are stored in shared memory, in words
    of two, and a warp holds `rows` by `columns` results.

    `left.own` are output indices that `rights` do not depend on, and the other way round; both may
    depend on `batch`.
    """

    left: Operand
    rights: tuple[Operand, ...]
    batch: tuple[Index, ...]
    height: int
    width: int
    depth: int
    rows: int
    columns: int
    stages: int
    tensor_cores: bool = False

    def slot(self, side: int) -> int:
        """Words that one step of an operand takes in shared memory: of elements, a row of `side`
        for every point, and a gap, so that rows begin in different banks; of pairs, no gap."""
        return self.depth * side // 2 if self.tensor_cores else self.depth * (side + GAP)

    def word_bytes(self, dtype: str) -> int:
        return 4 if self.tensor_cores else BYTES[dtype]

    @property
    def words(self) -> int:
        """That all steps of all operands take."""
        return self.stages * (self.slot(self.height) + len(self.rights) * self.slot(self.width))

    def __str__(self) -> str:
        names = [" ".join(i.name for i in o.own) for o in (self.left, self.rights[0])]
        unit = "warp by mma.sync m16n8k16 of bf16" if self.tensor_cores else "thread"
        return (f"tiles of {self.height} ({names[0]}) by {self.width} ({names[1]}), "
                f"{self.depth} deep, {self.stages} stages, {self.rows}x{self.columns} per {unit}, "
                f"left {_loaded(self.left)}, right {_loaded(self.rights[0])}")  # fmt: skip


def _loaded(operand: Operand) -> str:
    return f"copied by {operand.copied}" if operand.copied else "computed"


@dataclass(frozen=True)
class Grid:
    """The blocks of one launch. `reduce` over `bodies` gives the first statements' values; without
    a reduction these values are the bodies. `outputs` are numbered as one, the last fastest; so are
    the points of `over`. With `part`, blocks come in `part.size` layers, each of which reduces over
    its own `chunk` of the points; the results of the layers are elements of their own. A processor
    has registers for `resident` blocks at least."""

    name: str
    how: Each | Together | Tile
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
    resident: int = RESIDENT
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
        """The reads of memory, each once, those of other reads' indices included."""
        values = (*self.bodies, *(s.value for s in self.statements))
        return list(dict.fromkeys(r for v in values for r in reads(v) if r in self.accesses))

    @property
    def stored(self) -> tuple[str, ...]:
        return tuple(s.target for s in self.statements if s.place is not None)

    @property
    def dtype(self) -> str:
        """Of the values that are reduced, or of the first."""
        return self.bodies[0].dtype

    @property
    def shared_bytes(self) -> int:
        """Of the memory that the threads of a block share."""
        how = self.how
        if isinstance(how, Tile):
            return how.words * how.word_bytes(self.dtype)
        if isinstance(how, Together) and not self.by_shuffles:
            count = self.threads // 32 if how.along == "over" else self.threads
            size = 16 if self.reduce in ("argmax", "argmin") else BYTES[self.dtype]
            return count * size
        return 0

    @property
    def by_shuffles(self) -> bool:
        """Whether the threads that join are the lanes of one warp."""
        return isinstance(self.how, Together) and self.how.along == "over" and self.how.lanes == 32

    def __str__(self) -> str:
        return "\n".join(_lines(self))


@dataclass(frozen=True)
class GpuTarget:
    """What the choice must know of a GPU; the defaults are an H100's."""

    processors: int = 132
    threads: int = 2048  # that a processor holds at once


def _lines(grid: Grid) -> Iterator[str]:
    fixed = f"({', '.join(grid.fixed)})" if grid.fixed else ""
    yield f"grid {grid.name}{fixed}" + (f"    # {grid.source}" if grid.source else "")
    yield from (f"    # {why}" for why in grid.why)
    layers = f" by {grid.part.size} layers" if grid.part else ""
    resident = f" ({grid.resident} on a processor)" if isinstance(grid.how, Tile) else ""
    yield f"    {grid.blocks} blocks{layers} of {grid.threads} threads{resident}, {grid.how}"
    outputs = " ".join(f"{i.name} < {i.size}" for i in grid.outputs)
    over = " ".join(f"{i.name} < {i.size}" for i in grid.over)
    for number, statement in enumerate(grid.statements):
        value = value_text(statement.value, grid.accesses)
        if grid.reduce and number < len(grid.bodies):
            value = f"{grid.reduce}({over}) {value}"
        place = statement.place
        left = own_text(statement.own)
        if place is not None:
            left = f"{statement.target}[{form_text(place)}]"
        yield f"    for {outputs}: {left} = {value}"
