"""Register tiling: the choice of vectors and tiles, by a closed-form cost.

    for i, j: sum(k) a[i, k] * b[k, j]   →   rows 6 of i, 2 vectors of 16 of j: 12 accumulators

For one step of the innermost loop over a tile the model counts the arithmetic and the distinct
loads, takes the larger (they overlap), and divides by the useful results. There is no timing and no
search beyond a few dozen candidates:

    outer   vectors over an output index: what does not depend on it is broadcast (outer product)
    dot     vectors over a reduced index: the lanes are added up at the end (inner product)
    scalar  no vectors

A `Tiling` records, for the reader, the best candidates that lost. Cf. Low et al., "Analytical
modeling is enough for high-performance BLIS", 2016. Tests: tests/passes/test_passes.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from math import ceil, prod

import numpy as np

from ...ir.affine import Affine, affine
from ...ir.dtypes import BYTES
from ...ir.equation import Index
from ...ir.expr import Apply, Const, Expr, Idx, index_names
from ...targets import CpuTarget
from ..lowering.access import Access
from .loop_bounds import executed_share

Tile = Mapping[str, float]  # how many copies the tile has along each index


@dataclass(frozen=True)
class Work:
    """What the choice knows of one kernel, and the machine."""

    target: CpuTarget
    outputs: tuple[Index, ...]
    over: tuple[Index, ...]
    reduce: str | None
    accesses: tuple[Access, ...]
    stores: tuple[Affine, ...]
    operations: int  # per point
    bytes: int  # of one value
    footprints: Mapping[str, int]  # bytes of the tensors read
    zero_checks: tuple[tuple[Affine, int], ...] = ()  # where one of these fails, a term is 0
    zero_where: tuple[Affine, ...] = ()  # where one of these is 0 or more, a term is 0
    unread_where: tuple[Affine, ...] = ()  # what is there nothing reads
    fixed: tuple[Index, ...] = ()  # given from outside
    column: str | None = None  # of one block of rows: the index that it runs along
    only_vector: str | None = None  # the only vector index of an accumulation ("" for none)
    accumulated: Affine | None = None  # where an accumulation adds
    bodies: int = 1  # values that are reduced side by side
    batch: str = ""  # counts examples, of which a run may have fewer

    @cached_property
    def clips(self) -> list[Clip]:
        return [Clip.of(form, size, self) for form, size in self.zero_checks]

    @property
    def row_indices(self) -> list[Index]:
        """The output indices that a tile may have rows of. An accumulation's rows add to elements
        of their own, and no vector operand is the same for two of them."""
        if self.accumulated is None:
            return list(self.outputs) if self.reduce else []
        terms, wide = self.accumulated.coefficients, self.vector_operands(self.only_vector or "")
        return [i for i in self.outputs if Idx(i.name) in terms and all(i.name in d for d in wide)]

    def vector_operands(self, vector: str) -> list[frozenset[str]]:
        """The indices of each operand that depends on the vector index, the target included."""
        operands = [d for _, d in self.depends]
        if self.accumulated is not None:
            operands.append(self.accumulated.indices)
        return [d for d in operands if vector in d]

    @cached_property
    def depends(self) -> list[tuple[Access, frozenset[str]]]:
        """Each access with the indices that it depends on."""
        return [(a, frozenset().union(*map(index_names, a.atoms))) for a in self.accesses]

    @property
    def registers_per_vector(self) -> int:
        return max(1, self.bytes * self.target.lanes // self.target.vector_bytes)

    @property
    def registers_per_copy(self) -> int:
        """Accumulators of one copy of the tile; argmax also has a position."""
        # A position is an i32 and takes one register.
        positions = self.reduce in ("argmax", "argmin")
        return (self.registers_per_vector + positions) * self.bodies

    def size(self, name: str) -> int:
        return next(i.size for i in self.outputs if i.name == name)


@dataclass(frozen=True)
class Clip:
    """A check that can clip the loop over the reduced `index`, if `others` are constant inside it;
    `share` of the points pass."""

    form: Affine
    size: int
    index: str
    others: frozenset[str]
    share: float

    @staticmethod
    def of(form: Affine, size: int, work: Work) -> Clip:
        # A padded convolution has the check 0 <= i + u - 1 < I: i is an output index, u the
        # window's. The gradient of a strided one has 0 <= 2*w + (p + 1) % 2 < U; of w or of no
        # reduced index, as every second place of a window of 1 has no terms at all.
        sizes = {i.name: i.size for i in (*work.outputs, *work.over)}
        inner = {i.name for i in work.over}
        compound = [a for a in form.coefficients if not isinstance(a, Idx)]
        names = form.indices
        plain = [a.name for a in form.coefficients if isinstance(a, Idx) and a.name in inner]
        # No loop can be solved for an index inside of a quotient or of a read.
        if any(inner & index_names(a) or not _is_quotient(a) for a in compound) or not work.over:
            return Clip(form, size, "", frozenset(), 1.0)
        # The window, not the image; the outermost loop for a check that all terms share.
        index = min(plain, key=lambda name: sizes[name]) if plain else work.over[0].name
        # The form's values at a grid of points; the share of those inside is an estimate of how
        # much of the clipped loop is left.
        most = round(work.target.tiling.sampled_points ** (1 / max(1, len(names))))
        samples = {n: np.arange(0, sizes.get(n, 1), -(-sizes.get(n, 1) // most)) for n in names}
        grid = dict(zip(samples, np.meshgrid(*samples.values(), indexing="ij"), strict=True))
        points = _values(form, grid)
        share = float(np.mean((points >= 0) & (points < size)))
        return Clip(form, size, index, names - {index}, share)

    def applies(self, tile: Iterable[str], vector: str) -> bool:
        # A loop over vectors cannot begin or end at any element.
        return bool(self.index) and vector != self.index and self.others.isdisjoint(tile)


def _is_quotient(atom: Expr) -> bool:
    return (
        isinstance(atom, Apply)
        and atom.fn == "floordiv"
        and isinstance(atom.args[1], Const)
        and all(isinstance(a, Idx) for a in affine(atom.args[0]).coefficients)
    )


def _values(form: Affine, grid: Mapping[str, np.ndarray]) -> np.ndarray:
    """The form at points of its indices, which may be in quotients by constants."""
    total = np.array(form.constant)
    for atom, factor in form.coefficients.items():
        if isinstance(atom, Idx):
            total = total + factor * grid[atom.name]
        else:
            assert isinstance(atom, Apply) and isinstance(atom.args[1], Const)
            total = total + factor * (_values(affine(atom.args[0]), grid) // atom.args[1].value)
    return total


@dataclass(frozen=True)
class Tiling:
    """`form` as above; `vectors` of index `vector`, and `rows` elements of output indices."""

    form: str
    vector: str
    vectors: int
    rows: Mapping[str, int]
    lanes: int
    score: float  # cycles per result and per point reduced over
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
        return f"{self.form}: {vectors}{', ' if rows else ''}{rows}, {self.score:.3f} cycles"


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
        # Vectors are stored to neighbouring elements, never scattered.
        if all(_stride(store, index.name) == 1 for store in work.stores):
            yield from _outer(work, index)
    if work.reduce and work.only_vector is None:
        for index in work.over:
            # Without a contiguous operand every load of a dot product would be a gather.
            if any(_pattern(a, d, index.name) == "unit" for a, d in work.depends):
                yield from _dot(work, index)
    # Always possible, so there is always a candidate.
    yield Tiling("scalar", "", 1, {}, 1, _cycles(work, {}, ""))


def _outer(work: Work, index: Index) -> Iterator[Tiling]:
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
            if work.reduce and not _fits(work, index.name, {index.name: vectors, **rows}):
                continue
            if rows and vectors > (1 if is_map else usual):  # one transposed block is enough
                continue
            tile = {
                # Balanced tiles are smaller than the largest: the cost is that of the average one.
                index.name: _average(blocks, vectors),
                **{n: _average(work.size(n), t) for n, t in rows.items()},
            }
            cost = _cycles_per_copy(work, tile, index.name) / (lanes * useful)
            # Sides that do not divide their index need a second copy of the code.
            remainders = (blocks % vectors != 0) + _remainders(rows, work)
            cost *= target.costs.remainder_factor**remainders * outermost_rows_factor(rows, work)
            yield Tiling("outer", index.name, vectors, rows, lanes, cost)


def _reads_other_panels(row: Index, vector: Index, work: Work) -> bool:
    """Whether rows of a sum have nothing in common but what is broadcast, while what vectors run
    over is far apart for them: a row of vectors in one panel has the same for less."""
    if work.reduce is None or work.accumulated is not None:
        return False
    wide = [(a, d) for a, d in work.depends if vector.name in d]
    return bool(wide) and all(
        row.name in d
        and abs(_stride(a.offset, row.name)) * BYTES[a.dtype] >= work.target.tiling.far_rows
        for a, d in wide
    )


def _fits(work: Work, vector: str, tile: Mapping[str, int]) -> bool:
    """Whether the tile's accumulators, the vectors that several of its rows read, and an operand
    that is the same for all lanes, are in registers together."""
    accumulators = prod(tile.values()) * work.registers_per_copy
    # A vector that each row loads for itself can be an operand in memory; one that several rows
    # read must stay in a register.
    shared = (d for _, d in work.depends if vector in d and any(n not in d for n in tile))
    loaded = (prod(size for name, size in tile.items() if name in d) for d in shared)
    return accumulators + max(loaded, default=0) < work.target.registers


def _dot(work: Work, index: Index) -> Iterator[Tiling]:
    target, lanes = work.target, work.target.lanes
    blocks = -(-index.size // lanes)
    points = prod(i.size for i in work.over)
    # Besides accumulators, a dot product needs registers for both operands of several rows.
    limit = (target.registers - target.tiling.dot_registers) // work.registers_per_copy
    for rows in _row_tiles(work.outputs, limit, work):
        tile = {n: _average(work.size(n), t) for n, t in rows.items()}
        copies = prod(tile.values())
        # Vector steps of one result; the horizontal sum is paid once for each result, at their end.
        steps = blocks * points / index.size
        cost = steps * _cycles_per_copy(work, tile, index.name) * copies
        cost += target.costs.horizontal_sum * copies
        remainders = target.costs.remainder_factor ** _remainders(rows, work)
        cost *= remainders * outermost_rows_factor(rows, work)
        yield Tiling("dot", index.name, 1, rows, lanes, cost / copies / points)


# --- the cost model -----------------------------------------------------------------------------


def _cycles_per_copy(work: Work, tile: Tile, vector: str) -> float:
    """Cycles for one step over a copy of the tile. Where a run may have fewer examples, the mean of
    those in whole tiles and those of one that is left over."""
    cost = _cycles(work, tile, vector) / prod(tile.values())
    if tile.get(work.batch, 1) == 1:
        return cost
    one = {**tile, work.batch: 1}
    return (cost + _cycles(work, one, vector, prod(tile.values())) / prod(one.values())) / 2


def _cycles(work: Work, tile: Tile, vector: str, most: float = 0) -> float:
    """Cycles for one step over a tile, in a nest whose largest has so many copies."""
    target, costs, limits = work.target, work.target.costs, work.target.tiling
    copies = prod(tile.values())
    # An f64 vector takes two registers and each of its operations two instructions.
    registers = max(1.0, work.bytes * target.lanes / target.vector_bytes) if vector else 1.0
    clips = [c for c in work.clips if c.applies((*tile, vector), vector)]
    clipped = [(c.form, c.size) for c in clips]
    executed = _executed_share(work, tile, vector)
    for clip in clips:
        executed *= clip.share
    loads = 0.0
    for access, depends in work.depends:
        if transposed_along(access, vector, tile, target):
            price = costs.register_transpose
        else:
            price = _load_cost(access, depends, vector, target, registers)
        price += costs.bounds_check * sum(check not in clipped for check in access.checks)
        # Copies that differ only in indices which the access does not depend on share one load.
        loads += price * prod(size for name, size in tile.items() if name in depends)
    arithmetic = work.operations * copies * registers
    # The chain of dependent additions: lowering fills up with accumulators where the tile has too
    # few copies, so the latency is divided by as many as it adds.
    latency = min(target.add_latency, limits.max_latency)
    added = max(1.0, limits.accumulators / (max(most, copies) * work.bodies))
    dependent = latency / added if work.reduce else 0.0
    # An out-of-order core overlaps the three; a share of the loads remains visible.
    busy = max(arithmetic, loads, dependent)
    return (busy + costs.load_overlap * loads + costs.loop_step) * executed


def _executed_share(work: Work, tile: Tile, vector: str) -> float:
    """The share of the points that loops with bounds run over."""
    if not work.zero_where:
        return 1.0
    lanes = {vector: work.target.lanes}
    extents = {name: ceil(size) * lanes.get(name, 1) for name, size in tile.items()}
    samples = work.target.tiling.sampled_tiles
    outputs = (*work.outputs, *work.fixed)
    return executed_share(work.zero_where, outputs, work.over, extents, samples)


def _load_cost(
    access: Access, depends: frozenset[str], vector: str, target: CpuTarget, registers: float
) -> float:
    costs = target.costs
    match _pattern(access, depends, vector) if vector else "same":
        case "same":
            return costs.broadcast
        case "unit":
            return costs.unit_stride * registers
    if _is_every_second(access, depends, vector):  # two loads and a shuffle
        return 2 * costs.unit_stride * registers + 1
    # Lanes a cache line or more apart each bring in a line of their own.
    far = abs(_stride(access.offset, vector)) * BYTES[access.dtype] >= target.l1.line
    return (costs.gather_far if far else costs.gather_same_line) * target.lanes


def _pattern(access: Access, depends: frozenset[str], vector: str) -> str:
    """How the lanes of a vector over this index read: all the same element, neighbours, or any."""
    if vector not in depends:
        # The address may still be gathered by other indices: it is one address for all lanes.
        return "same"
    atoms = [a for a in access.offset.coefficients if not isinstance(a, Idx)]
    if any(vector in index_names(a) for a in atoms):
        return "gather"
    return "unit" if _stride(access.offset, vector) == 1 else "gather"


def _is_every_second(access: Access, depends: frozenset[str], vector: str) -> bool:
    """Whether a vector is every second of the elements that two loads give."""
    plain = all(isinstance(a, Idx) for a in access.offset.coefficients) and not access.checks
    return plain and vector in depends and _stride(access.offset, vector) == 2


def transposed_along(access: Access, vector: str, tile: Tile, target: CpuTarget) -> str:
    """The index of the tile along which an access that vectors run across is contiguous, so that a
    block of it is loaded along memory and transposed in registers; empty if there is none."""
    plain = all(isinstance(a, Idx) for a in access.offset.coefficients) and not access.checks
    # No transpose is written for elements of fewer than 4 bytes; with a stride of 1 there is
    # nothing to transpose.
    if not plain or BYTES[access.dtype] < BYTES["f32"] or _stride(access.offset, vector) < 2:
        return ""
    least, most = target.tiling.rows_without_reuse, target.lanes
    along = (
        name
        for name, size in tile.items()
        if least <= size <= most and _stride(access.offset, name) == 1
    )
    return next(along, "")


def _stride(form: Affine, name: str) -> int:
    return form.coefficients.get(_index(name), 0)


_index = lru_cache(Idx)  # nodes are interned; the cache skips that for every candidate


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


def outermost_rows_factor(rows: Mapping[str, int], work: Work) -> float:
    """The price of rows of the outermost index. They lie far apart, and threads, which are best off
    with what they have written themselves, would share another index than before and after."""
    shared = work.target.tiling.even_parallel_steps
    outermost = next((i.name for i in work.outputs[:1] if i.size >= shared), "")
    tiled = work.accumulated is None and rows.get(outermost, 1) > 1
    return work.target.costs.outermost_rows_factor if tiled else 1.0


def _average(size: int, tile: int) -> float:
    # 11 in tiles of 4: 3 tiles, 3.67 on average.
    return size / -(-size // tile)


def _remainders(rows: Mapping[str, int], work: Work) -> int:
    """How many of the tile's sides do not divide their index."""
    return sum(work.size(name) % tile != 0 for name, tile in rows.items())
