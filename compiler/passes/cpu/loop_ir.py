"""The loop IR: one structured nest per kernel, in which every decision stands, and its text.

A nest is a list of loops, outermost first: output loops (one of them shared by threads, one over
vectors), then reduction loops. A loop steps by tiles, and the copies of a tile are unrolled in the
innermost loop, where they share loads (unroll-and-jam): rows times vectors make a register tile.
`lower.py` makes it; the code generator writes it down and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

from ...ir.affine import Affine
from ...ir.equation import Index
from ...ir.expr import Expr, Idx, Read
from ..lowering.access import Access, Statement, access_text, form_text, statement_text, value_text


@dataclass(frozen=True)
class Segment:
    """`count` steps from element `start`, each over `tile` copies (of one element or one vector).

    `valid` is how many lanes of the very last vector are used; the others are masked.
    """

    start: int
    count: int
    tile: int
    valid: int


@dataclass(frozen=True)
class Loop:
    """A loop over one index. `kind` is one of

    parallel   steps are divided among threads       serial   in order, by every thread
    reduce     accumulates into registers
    """

    index: Index
    kind: str
    segments: tuple[Segment, ...]
    lanes: int = 1
    clip: tuple[tuple[Affine, int], ...] = ()  # to 0 <= form < size: elsewhere terms are 0
    lower_bounds: tuple[Affine, ...] = ()  # from the greatest of these: before, terms are 0
    upper_bounds: tuple[Affine, ...] = ()  # to the least of these: from there on, terms are 0
    block: int = 0  # steps after which the partial sums are added to totals in f64, and start anew
    # Elements of each example, if the loop ends after those of a run: its segments begin where the
    # one before them ends, and their counts are those of a run of all examples. 0: takes all.
    per_example: int = 0

    @property
    def steps(self) -> int:
        return sum(s.count for s in self.segments)

    @property
    def is_whole(self) -> bool:
        """Whether it takes all its steps wherever it is."""
        return not (self.clip or self.lower_bounds or self.upper_bounds)


@dataclass(frozen=True)
class Accumulate:
    """Where an accumulation adds: like an access, but it drops what is out of bounds. Through the
    `promoted` innermost loops it adds to the same elements, which stay in registers meanwhile."""

    access: Access
    bytes: int  # of the whole target, which starts from zero
    promoted: int = 0


@dataclass(frozen=True)
class AmxTiles:
    """The sum of a nest is one of products of tiles (AMX): the output indices of a tile's `rows`
    and `columns`, the summed index of its `pairs`, and the elements from row to row of the left
    operand."""

    rows: str
    columns: str
    pairs: str
    row_stride: int


class Sliding(NamedTuple):
    """The summed index `window` slides over the tile's rows: what is read depends on the sum of
    both (`sign` 1) or on their difference (-1), as x[row + window]. Its `steps` are unrolled."""

    window: str
    row: str
    sign: int
    steps: int


@dataclass(frozen=True)
class Following:
    """What is prefetched of a factor for the block, or the panel, that comes next, while tiles are
    computed: of each term, which are `step` elements apart, so many `lines`. A tile prefetches one
    of the `parts` of the terms."""

    source: Access
    step: int
    lines: int
    parts: int


@dataclass(frozen=True)
class NextTile:
    """What is prefetched of a factor for the next tile of rows: every `terms` of a sum, of each row
    the line that is `step` elements after the current one."""

    source: Access
    step: int
    terms: int


@dataclass(frozen=True)
class CacheBlocks:
    """Blocks of a sum of products, of which one factor is packed: copied block by block into a
    panel that stays in the first-level cache while the rows of the result pass.

    The first `outside` output loops surround everything. Then come the loop over vectors, which
    takes one panel at a step, and those over rows; `rows` steps of the outermost of these share
    a panel. Through `panels` of them in turn the block stays the same, so that what it reads of the
    other factor stays in cache. Of the reduction loops those before number `cut` take one step in a
    block, that one `steps`, those after it all. `packed` is the factor and `source` its place in
    memory; where vectors run across that, it is contiguous along the summed index `along`, and
    transposed in registers; otherwise `ahead` is prefetched, what is packed some steps later.
    Where the block's part of the other factor is packed, too, `narrow` is its place in memory: what
    a tile of rows reads of it lies side by side, term by term. While tiles are computed, they
    prefetch `next_panel`, `next_rows` and `next_tile`. Between blocks the sums are in memory as
    `partial`; empty if there is one block only. What is packed is rounded to bf16 first if it
    `rounds`."""

    packed: Read
    source: Access
    outside: int
    rows: int
    panels: int
    cut: int
    steps: int
    partial: str
    along: str = ""
    rounds: bool = False
    ahead: Access | None = None
    narrow: Access | None = None
    next_panel: Following | None = None
    next_rows: Following | None = None
    next_tile: NextTile | None = None
    note: str = field(default="", compare=False)  # what the cost model expects, to be read


PANEL = "%panel"  # stands for a tensor where an access is to the packed panel …
PACKED_ROWS = "%rows"  # … or to what is packed of the other factor


@dataclass(frozen=True)
class Nest:
    """The loops of one kernel. `reduce` over `bodies` gives the first statements' values; without
    a reduction these values are the bodies. `position` is the number of the point among those that
    are reduced over (for argmax). The terms of a reduction go to so many independent `accumulators`
    in turn. With `bf16_instructions`, bf16 numbers are rounded and paired by the processor's own,
    with `f16_instructions` f16 numbers are rounded and converted; with `i16_pairs` one instruction
    multiplies and adds pairs of 16 bits, and with `vnni` quads of 8; without `doubles` f64 is
    software, and f32 does without it. `operand_prefetch` is what operands read some steps later,
    `epilogue_prefetch` what the statements read after the reduction. The statements run through the
    tile's rows of the index `row_loop` in a loop, with the totals on the stack; along all else they
    are unrolled. With `tiles`, the products are those of tiles and the statements run through all
    rows of a tile. With `blocks`, the sum is computed in cache blocks, and reads one factor from a
    packed panel. With `sliding`, a window's steps are written in the order of what they read. With
    `flushes`, subnormal numbers are 0 in the nest."""

    name: str
    loops: tuple[Loop, ...]
    bodies: tuple[Expr, ...]
    reduce: str | None
    statements: tuple[Statement, ...]
    accesses: Mapping[Read, Access]
    sizes: Mapping[str, int]
    lanes: int = 1
    accumulators: int = 1
    bf16_instructions: bool = False
    f16_instructions: bool = False
    i16_pairs: bool = False
    vnni: bool = False
    doubles: bool = True
    position: Affine | None = None
    accumulate: Accumulate | None = None
    fixed: tuple[str, ...] = ()
    operand_prefetch: tuple[Access, ...] = ()
    epilogue_prefetch: tuple[Access, ...] = ()
    row_loop: str = ""
    sliding: Sliding | None = None
    tiles: AmxTiles | None = None
    blocks: CacheBlocks | None = None
    flushes: bool = False
    source: str = ""
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def outer(self) -> tuple[Loop, ...]:
        return tuple(loop for loop in self.loops if loop.kind != "reduce")

    @property
    def inner(self) -> tuple[Loop, ...]:
        return tuple(loop for loop in self.loops if loop.kind == "reduce")

    @property
    def trip_count(self) -> int:
        """Iterations of the innermost loop, all threads together, if it is a reduction with the
        same bounds for every tile; otherwise 0."""
        # Prefetches for later kernels are spread over these iterations, so their number must be
        # known when the code is written.
        steady = self.accumulate is None and all(loop.is_whole for loop in self.loops)
        shared = any(loop.kind == "parallel" for loop in self.loops)
        steady = steady and self.tiles is None
        return prod(loop.steps for loop in self.loops) if self.inner and steady and shared else 0

    def __str__(self) -> str:
        return nest_text(self)

    @property
    def visits_in_order(self) -> bool:
        """Whether the loops of an argmax visit points in the order of their positions, so that an
        equal value is a later one. Not if they are interchanged for vectors along an outer
        index."""
        assert self.position is not None
        strides = [self.position.coefficients.get(Idx(i.index.name), 0) for i in self.inner]
        return strides == sorted(strides, reverse=True)


# --- text --------------------------------------------------------------------------------------


def nest_text(nest: Nest) -> str:
    """The nest as nested `for` lines."""
    return "\n".join(text for text, _ in nest_lines(nest))


def nest_lines(nest: Nest) -> Iterator[tuple[str, str]]:
    """The lines of `nest_text`, each with the tensor that it computes; "" for all of the nest."""
    arguments = f"({', '.join(nest.fixed)})" if nest.fixed else ""
    yield f"nest {nest.name}{arguments}" + (f"    # {nest.source}" if nest.source else ""), ""
    for note in nest.notes:
        yield f"    # {note}", ""
    if nest.flushes:
        yield "    # subnormal numbers are 0", ""
    target = nest.statements[0].target  # of the reduction, or of the accumulation
    if nest.accumulate is not None:
        # The target is cleared before all loops.
        yield f"    {target} = 0", target
    depth = 1
    for number, loop in enumerate(nest.outer):
        yield "    " * depth + _loop_text(loop), ""
        depth += 1
        if nest.blocks is not None and number == nest.blocks.outside:
            for line in _block_lines(nest, nest.blocks):
                yield "    " * depth + line, target
            depth += 1
    if nest.accumulate is not None:
        where = access_text(nest.accumulate.access)
        if nest.accumulate.promoted:
            where += f" (in registers through the last {nest.accumulate.promoted} loops)"
        value = value_text(nest.bodies[0], nest.accesses)
        yield "    " * depth + f"{where} += {value}", target
        return
    rest = nest.statements
    if nest.reduce is not None:
        # The first statements store the totals; the rest, the epilogue, read them.
        first, rest = rest[: len(nest.bodies)], rest[len(nest.bodies) :]
        names = ["acc"] if len(first) == 1 else [f"acc{n}" for n in range(len(first))]
        for line in _reduction_lines(nest, nest.reduce, names):
            yield "    " * depth + line, target
        if nest.row_loop:
            yield "    " * depth + f"for the tile's rows of {nest.row_loop}", ""
            depth += 1
        for name, statement in zip(names, first, strict=True):
            yield "    " * depth + statement_text(statement, name), statement.target
    for statement in rest:
        value = value_text(statement.value, nest.accesses)
        yield "    " * depth + statement_text(statement, value), statement.target


def _reduction_lines(nest: Nest, reduce: str, names: list[str]) -> Iterator[str]:
    """The loops over the terms, into the accumulators of these names."""
    for access in nest.epilogue_prefetch:
        yield f"prefetch {access_text(access)}"
    count = f"    # {nest.accumulators} accumulators" if nest.accumulators > 1 else ""
    yield f"{' = '.join(names)} = start of {reduce}{count}"
    for step, loop in enumerate(nest.inner):
        yield "    " * step + _loop_text(loop)
    inside = "    " * len(nest.inner)
    for access in nest.operand_prefetch:
        yield f"{inside}prefetch {access_text(access)}"
    for name, body in zip(names, nest.bodies, strict=True):
        yield f"{inside}{name} = {reduce}({name}, {value_text(body, nest.accesses)})"


def _block_lines(nest: Nest, blocks: CacheBlocks) -> list[str]:
    """The loop over cache blocks, inside of that over panels, and the packing in it."""
    rows, inner = nest.outer[blocks.outside + 1], nest.inner[: blocks.cut + 1]
    steps = [*[1] * blocks.cut, blocks.steps]
    cuts = [f"{x.index.name} by {s}" for x, s in zip(inner, steps, strict=True) if s < x.steps]
    marks = []
    if blocks.rows < rows.steps:
        marks.append(f"for every {blocks.rows} steps of {rows.index.name}")
    if blocks.panels > 1:
        marks.append(f"{blocks.panels} panels in turn")
    if blocks.partial:
        marks.append(f"sums between blocks in {blocks.partial}")
    following = {"panel": blocks.next_panel, "rows": blocks.next_rows, "tile": blocks.next_tile}
    prefetched = [name for name, found in following.items() if found is not None]
    source = access_text(blocks.source)
    packed = f"bf16({source})" if blocks.rounds else source
    if prefetched:
        marks.append(f"prefetching the next {' and '.join(prefetched)}")
    return [
        f"blocks {', '.join(cuts) or 'of all terms'}" + (f"    # {', '.join(marks)}" * bool(marks)),
        *([] if blocks.narrow is None else [f"    pack {access_text(blocks.narrow)} for all rows"]),
        f"    pack {packed}" + ", transposed" * bool(blocks.along),
    ]


def _loop_text(loop: Loop) -> str:
    index = loop.index
    words = [loop.kind] if loop.kind != "serial" else []
    marks = []
    tiles = [_segment_text(s) for s in loop.segments]
    if loop.lanes > 1:
        marks.append(f"vectors of {loop.lanes}: {' + '.join(tiles)}")
        if loop.segments[-1].valid != loop.lanes:
            marks.append(f"last {loop.segments[-1].valid} of {loop.lanes}")
    elif any(s.tile > 1 for s in loop.segments):
        marks.append(f"unroll {' + '.join(tiles)}")
    if loop.block:
        marks.append(f"added up in f64 every {loop.block} steps")
    text = " ".join([*words, "for", f"{index.name} < {index.size}"])
    text += "".join(f" where 0 <= {form_text(form)} < {size}" for form, size in loop.clip)
    text += "".join(f" from {form_text(form)}" for form in loop.lower_bounds)
    text += "".join(f" until {form_text(form)}" for form in loop.upper_bounds)
    if loop.per_example:
        text += f" until {loop.per_example} * examples"
    return text + (f"    # {', '.join(marks)}" if marks else "")


def _segment_text(segment: Segment) -> str:
    return f"{segment.count}x{segment.tile}" if segment.count > 1 else str(segment.tile)
