"""Register tiling: the choice of vectors and tiles, by a closed-form cost.

    for i, j: sum(k) a[i, k] * b[k, j]   →   rows 6 of i, 2 vectors of 16 of j: 12 accumulators

The cheapest of a few dozen candidates is taken, by cycles per useful result (`tile_cost.py`); there
is no timing and no further search:

    outer   vectors over an output index: what does not depend on it is broadcast (outer product)
    dot     vectors over a reduced index: the lanes are added up at the end (inner product)
    scalar  no vectors

A `Tiling` records, for the reader, the best candidates that lost. Tests:
tests/passes/test_passes.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from ...ir.dtypes import BYTES
from ...ir.equation import Index
from .loop_ir import Sliding
from .tile_cost import (
    Work,
    cycles,
    cycles_per_copy,
    far_rows_factor,
    load_pattern,
    outermost_rows_factor,
    stride,
    transposed_along,
)

Rows = Mapping[str, int]  # how many elements a tile has of output indices


@dataclass(frozen=True)
class Tiling:
    """`form` as above; `vectors` of index `vector`, and `rows` elements of output indices."""

    form: str
    vector: str
    vectors: int
    rows: Rows
    lanes: int
    score: float  # cycles per result and per point reduced over
    sliding: Sliding | None = None
    rejected: tuple[str, ...] = field(default=(), compare=False)

    @property
    def copies(self) -> int:
        return prod(self.rows.values()) * self.vectors

    @property
    def extents(self) -> dict[str, int]:
        """How many elements the tile has of each index."""
        return {**self.rows, self.vector: self.vectors * self.lanes}

    def __str__(self) -> str:
        rows = " ".join(f"{name} by {size}" for name, size in self.rows.items() if size > 1)
        vectors = f"{self.vectors} x {self.lanes} of {self.vector}" if self.vector else "no vectors"
        window = f", with the window of {self.sliding.window}" if self.sliding else ""
        return (
            f"{self.form}: {vectors}{', ' if rows else ''}{rows}{window}, {self.score:.3f} cycles"
        )


def choose(work: Work) -> Tiling:
    """The cheapest tiling; the best of every other vector index is recorded as `rejected`."""
    best: dict[tuple[str, str], Tiling] = {}
    for tiling in tilings(work):
        # Rejected tiles over the same index are mere variants and not worth a note.
        key = (tiling.form, tiling.vector)
        if key not in best or tiling.score < best[key].score:
            best[key] = tiling
    winner, *others = sorted(best.values(), key=lambda t: t.score)
    return replace(winner, rejected=tuple(map(str, others)))


def tilings(work: Work) -> Iterator[Tiling]:
    """The candidates."""
    for index in work.outputs:
        if work.only_vector is not None and index.name != work.only_vector:
            continue
        yield from outer_tilings(work, index)
    if work.reduce and work.only_vector is None:
        for index in work.over:
            # Without a contiguous operand every load of a dot product would be a gather.
            if any(load_pattern(a, d, index.name) == "unit" for a, d in work.depends):
                yield from _dot(work, index)
    # Always possible, so there is always a candidate.
    yield Tiling("scalar", "", 1, {}, 1, cycles(work, {}, ""))


def outer_tilings(
    work: Work,
    index: Index,
    windows: bool = True,
    wanted: Callable[[int, Rows], bool] | None = None,
) -> Iterator[Tiling]:
    """The candidates with vectors along an output index; of `windows`, too, that slide over rows.
    Only the costs of those are worked out whose vectors and rows are `wanted`."""
    # Vectors are stored to neighbouring elements, never scattered.
    if any(stride(store, index.name) != 1 for store in work.stores):
        return
    target, limits, lanes = work.target, work.target.tiling, work.target.lanes
    blocks = -(-index.size // lanes)
    # The last vector may have lanes that nobody wants: 100 elements use 100 of 112 lanes.
    useful = index.size / (blocks * lanes)
    row_indices = [i for i in work.row_indices if i.name != index.name]
    row_indices = [i for i in row_indices if not _reads_other_panels(i, index, work)]
    accumulates = work.accumulated is not None
    is_map = not work.reduce and not accumulates
    usual = limits.accumulation_vectors if accumulates else limits.vectors
    # a vector times a matrix reads all of it once: the longer its runs of memory, the better
    streams = work.reduce and not accumulates and len(work.accesses) > 1
    wider = [vectors for vectors in limits.row_vectors if streams and vectors <= blocks]
    for vectors in (*range(1, min(usual, blocks) + 1), *wider):
        # Rows times vectors are accumulators, one more row of vectors holds what is loaded, and one
        # register a broadcast: (rows + 1) * vectors + 1 registers. `_fits` counts precisely.
        limit = (target.registers - 1) // work.registers_per_copy // vectors - 1
        tiles = _transposable_rows(index, work) if is_map else _row_tiles(row_indices, limit, work)
        for rows in tiles:
            if rows and vectors > (1 if is_map else usual):  # one transposed block is enough
                continue
            if wanted is not None and not wanted(vectors, rows):
                continue
            if work.reduce and not _fits(work, index.name, {index.name: vectors, **rows}):
                continue
            tile = {
                # Balanced tiles are smaller than the largest: the cost is that of the average one.
                index.name: _average(blocks, vectors),
                **{n: _average(work.size[n], t) for n, t in rows.items()},
            }
            sliding = work.sliding(tile, index.name) if windows else None
            if sliding and not _fits(work, index.name, {index.name: vectors, **rows}, sliding):
                sliding = None
            cost = cycles_per_copy(work, tile, index.name, sliding) / (lanes * useful)
            # Sides that do not divide their index need a second copy of the code.
            remainders = (blocks % vectors != 0) + _remainders(rows, work)
            cost *= target.costs.remainder_factor**remainders * outermost_rows_factor(rows, work)
            cost *= far_rows_factor(rows, work)
            yield Tiling("outer", index.name, vectors, rows, lanes, cost, sliding)


def _reads_other_panels(row: Index, vector: Index, work: Work) -> bool:
    """Whether rows of a sum have nothing in common but what is broadcast, while what vectors run
    over is far apart for them: a row of vectors in one panel has the same for less."""
    if work.reduce is None or work.accumulated is not None:
        return False
    wide = [(a, d) for a, d in work.depends if vector.name in d]
    return bool(wide) and all(
        row.name in d
        and abs(stride(a.offset, row.name)) * BYTES[a.dtype] >= work.target.tiling.far_rows
        for a, d in wide
    )


def _fits(work: Work, vector: str, tile: Mapping[str, int], sliding: Sliding | None = None) -> bool:
    """Whether the tile's accumulators, the vectors that several of its rows read, and an operand
    that is the same for all lanes, are in registers together."""
    accumulators = prod(tile.values()) * work.registers_per_copy
    # A vector that each row loads for itself can be an operand in memory; one that several rows
    # read must stay in a register, for each step of a window.
    shared = [d for _, d in work.depends if vector in d and any(n not in d for n in tile)]
    loaded = [prod([size for name, size in tile.items() if name in d]) for d in shared]
    steps = sliding.steps if sliding else 1
    return accumulators + steps * max(loaded, default=0) < work.target.registers


def _dot(work: Work, index: Index) -> Iterator[Tiling]:
    target, lanes = work.target, work.target.lanes
    blocks = -(-index.size // lanes)
    points = prod(i.size for i in work.over)
    # Besides accumulators, a dot product needs registers for both operands of several rows.
    limit = (target.registers - target.tiling.dot_registers) // work.registers_per_copy
    for rows in _row_tiles(work.outputs, limit, work):
        tile = {n: _average(work.size[n], t) for n, t in rows.items()}
        copies = prod(tile.values())
        # Vector steps of one result; the horizontal sum is paid once for each result, at their end.
        steps = blocks * points / index.size
        cost = steps * cycles_per_copy(work, tile, index.name) * copies
        cost += target.costs.horizontal_sum * copies
        remainders = target.costs.remainder_factor ** _remainders(rows, work)
        cost *= remainders * outermost_rows_factor(rows, work)
        yield Tiling("dot", index.name, 1, rows, lanes, cost / copies / points)


# --- tiles --------------------------------------------------------------------------------------


def _transposable_rows(index: Index, work: Work) -> Iterator[dict[str, int]]:
    """The rows of a map: none, or those of a block of which an access can be transposed."""
    yield {}
    # A map shares no loads between rows: only a transposed block makes use of several.
    for row in work.outputs:
        tile = {row.name: next(_balanced(row.size, work.target.lanes), 1)}
        accesses = (transposed_along(a, index.name, tile, work.target) for a in work.accesses)
        if row.name in accesses:
            yield tile


def _row_tiles(indices: Sequence[Index], limit: int, work: Work) -> Iterator[dict[str, int]]:
    """Tiles of at most `limit` rows over one or two indices, each of an evenly dividing size. Rows
    between which no load is shared only hide latency: a few are enough."""
    # Rows of such an index have an operand in common, which is loaded once for all of them.
    sharing = {i.name for i in indices if any(i.name not in d for _, d in work.depends)}
    unshared = work.target.tiling.rows_without_reuse

    def most(index: Index, left: int) -> int:
        return left if index.name in sharing else min(left, unshared * left // max(limit, 1))

    yield {}
    for position, first in enumerate(indices):
        for tile in _balanced(first.size, most(first, limit)):
            yield {first.name: tile}
            for second in indices[position + 1 :]:
                for other in _balanced(second.size, most(second, limit // tile)):
                    yield {first.name: tile, second.name: other}


def _balanced(size: int, limit: int) -> Iterator[int]:
    """Tile sizes above 1 that divide `size` into parts as equal as can be, largest first."""
    # Example: 11 by at most 4 gives 4 (4+4+3), 3 (3+3+3+2) and 2.
    before = 0
    for most in range(min(size, limit), 1, -1):
        parts = -(-size // most)
        tile = -(-size // parts)
        if tile != before:
            yield tile
        before = tile


def _average(size: int, tile: int) -> float:
    # 11 in tiles of 4: 3 tiles, 3.67 on average.
    return size / -(-size // tile)


def _remainders(rows: Mapping[str, int], work: Work) -> int:
    """How many of the tile's sides do not divide their index."""
    return sum(work.size[name] % tile != 0 for name, tile in rows.items())
