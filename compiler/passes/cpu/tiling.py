"""The choice of vectors and register tiles, by a closed-form cost.

In: what one kernel touches (`Work`) and the machine (`CpuTarget`). Out: a `Tiling` and, for the
reader, the candidates that lost. The model counts, for one step of the innermost loop over a tile,
the arithmetic and the distinct loads, takes the larger (they overlap), and divides by the useful
results. There is no timing and no search beyond a few dozen candidates.

    outer   vectors over an output index: what does not depend on it is broadcast
    dot     vectors over a reduced index: the lanes are added up at the end
    scalar  no vectors
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from math import ceil, prod

from ...ir.affine import Affine
from ...ir.dtypes import BYTES
from ...ir.equation import Index
from ...ir.expr import Idx, index_names
from ...targets import CpuTarget
from .loop_bounds import executed_share
from .loop_ir import Access

# cycles, with everything in cache
UNIT = 1.0  # neighbouring elements
SAME = 0.5  # one element for all lanes
NEAR, FAR = 1.0, 4.0  # each lane of a gather, from the same lines of cache or from one of its own
TURNED = 6.0  # a vector of a block that is turned in registers: its load and its shuffles
CHECK = 0.5
STEP = 1.0  # the loop itself
ACROSS = 8.0  # cycles to add up the lanes of one vector
ALONE = 4  # rows that share no read
PARTS = 4  # steps of an index that threads may share
UNEVEN = 1.03  # the price of a second copy of the code for what is left over
SPREAD = (
    1.04  # the price of rows of the outermost index: they lie far apart, and threads, which are
)
# best off with what they have made themselves, would share another index than before and after


@dataclass(frozen=True)
class Work:
    """One kernel as the choice sees it."""

    outputs: tuple[Index, ...]
    over: tuple[Index, ...]
    reduce: str | None
    accesses: tuple[Access, ...]
    stores: tuple[Affine, ...]
    operations: int  # per point
    bytes: int  # of one value
    footprints: Mapping[str, int]  # bytes of the tensors read
    vanishing: tuple[tuple[Affine, int], ...] = ()  # checks that, failing, leave nothing to add
    ends: tuple[Affine, ...] = ()  # where one of these is 0 or more, there is nothing to add
    vectorised: str | None = None  # an accumulation's only choice ("" for none)
    into: Affine | None = None  # where an accumulation adds
    bodies: int = 1  # values that are reduced side by side

    @cached_property
    def clips(self) -> list[Clip]:
        return [Clip.of(form, size, self) for form, size in self.vanishing]

    @property
    def rows(self) -> list[Index]:
        """The output indices that a tile may have rows of. An accumulation's rows add to elements
        of their own, and none of its vectors is the same for two of them."""
        if self.into is None:
            return list(self.outputs) if self.reduce else []
        terms, wide = self.into.coefficients, self.across(self.vectorised or "")
        return [i for i in self.outputs if Idx(i.name) in terms and all(i.name in d for d in wide)]

    def across(self, vector: str) -> list[frozenset[str]]:
        """What each operand that has a vector of its own depends on, the target included."""
        operands = [d for _, d in self.depends]
        if self.into is not None:
            operands.append(frozenset().union(*map(index_names, self.into.coefficients)))
        return [d for d in operands if vector in d]

    @cached_property
    def depends(self) -> list[tuple[Access, frozenset[str]]]:
        return [(a, frozenset().union(*map(index_names, a.atoms))) for a in self.accesses]


@dataclass(frozen=True)
class Clip:
    """A check that can shorten the loop over the reduced `index`, if `others` are known outside
    it; `share` of the points pass."""

    form: Affine
    size: int
    index: str
    others: frozenset[str]
    share: float

    @staticmethod
    def of(form: Affine, size: int, work: Work) -> Clip:
        names = {a.name: c for a, c in form.coefficients.items() if isinstance(a, Idx)}
        inner = [i.name for i in work.over if abs(names.get(i.name, 0)) == 1]
        if not inner or len(names) != len(form.coefficients):
            return Clip(form, size, "", frozenset(), 1.0)
        sizes = {i.name: i.size for i in (*work.outputs, *work.over)}
        index = min(inner, key=lambda name: sizes[name])  # the window, not the image
        points, most = [form.constant], round(4096 ** (1 / len(names)))
        for name, factor in names.items():
            steps = _sample(sizes.get(name, 1), most)
            points = [p + factor * k for p in points for k in steps]
        share = sum(0 <= p < size for p in points) / len(points)
        return Clip(form, size, index, frozenset(names) - {index}, share)

    def applies(self, tile: Iterable[str], vector: str) -> bool:
        return bool(self.index) and vector != self.index and self.others.isdisjoint(tile)


def _sample(size: int, most: int) -> range:
    """At most that many values of an index, evenly spread."""
    return range(0, size, -(-size // most))


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


def choose(work: Work, target: CpuTarget) -> Tiling:
    """The cheapest tiling; the best of every other vector index is kept as `rejected`."""
    best: dict[tuple[str, str], Tiling] = {}
    for tiling in candidates(work, target):
        key = (tiling.form, tiling.vector)
        if key not in best or tiling.score < best[key].score:
            best[key] = tiling
    winner, *others = sorted(best.values(), key=lambda t: t.score)
    return Tiling(
        winner.form,
        winner.vector,
        winner.vectors,
        winner.rows,
        winner.lanes,
        winner.score,
        tuple(map(str, others)),
    )


def candidates(work: Work, target: CpuTarget) -> Iterator[Tiling]:
    for index in work.outputs:
        if work.vectorised is not None and index.name != work.vectorised:
            continue
        if all(_stride(store, index.name) == 1 for store in work.stores):
            yield from _outer(work, target, index)
    if work.reduce and work.vectorised is None:
        for index in work.over:
            if any(_pattern(a, d, index.name) == "unit" for a, d in work.depends):
                yield from _dot(work, target, index)
    yield _scalar(work, target)


def _outer(work: Work, target: CpuTarget, index: Index) -> Iterator[Tiling]:
    lanes = target.lanes
    blocks = -(-index.size // lanes)
    useful = index.size / (blocks * lanes)
    others = [i for i in work.outputs if i.name != index.name]
    rowed = [i for i in work.rows if i.name != index.name]
    usual = 4 if work.into is None else 8
    square = not work.reduce and work.into is None
    # a vector times a matrix reads all of it once: the longer its stretches of memory, the better
    alone = work.reduce and work.into is None and len(work.accesses) > 1
    wider = [vectors for vectors in (8, 16) if alone and vectors <= blocks]
    for vectors in (*range(1, min(usual, blocks) + 1), *wider):
        limit = (target.registers - 1) // _registers(work, target) // vectors - 1
        for rows in _blocks(index, work, lanes) if square else _boxes(rowed, limit, work):
            if work.reduce and not _fits(work, target, index.name, {index.name: vectors, **rows}):
                continue
            if rows and vectors > (1 if square else usual):  # one block that is turned is enough
                continue
            tile = {
                index.name: _average(blocks, vectors),
                **{n: _average(_size(others, n), t) for n, t in rows.items()},
            }
            cost = _cycles(work, target, tile, index.name) / (prod(tile.values()) * lanes * useful)
            cost *= UNEVEN ** _uneven({**rows, "": vectors}, others, blocks) * _spread(rows, work)
            yield Tiling("outer", index.name, vectors, rows, lanes, cost)


def _fits(work: Work, target: CpuTarget, vector: str, tile: Mapping[str, int]) -> bool:
    """Whether the tile's totals, the vectors that several of its rows read, and an operand that is
    the same for all lanes, are in registers together."""
    totals = prod(tile.values()) * _registers(work, target)
    read = (d for _, d in work.depends if vector in d and any(n not in d for n in tile))
    return totals + max((_within(tile, d) for d in read), default=0) < target.registers


def _within(tile: Mapping[str, int], depends: frozenset[str]) -> int:
    return prod(size for name, size in tile.items() if name in depends)


def _dot(work: Work, target: CpuTarget, index: Index) -> Iterator[Tiling]:
    lanes = target.lanes
    blocks = -(-index.size // lanes)
    points = prod(i.size for i in work.over)
    limit = (target.registers - 6) // _registers(work, target)
    for rows in _boxes(list(work.outputs), limit, work):
        tile = {n: _average(_size(work.outputs, n), t) for n, t in rows.items()}
        copies = prod(tile.values())
        steps = blocks * points / index.size
        cost = steps * _cycles(work, target, tile, index.name) + ACROSS * copies
        cost *= UNEVEN ** _uneven(rows, work.outputs, 0) * _spread(rows, work)
        yield Tiling("dot", index.name, 1, rows, lanes, cost / copies / points)


def _scalar(work: Work, target: CpuTarget) -> Tiling:
    return Tiling("scalar", "", 1, {}, 1, _cycles(work, target, {}, ""))


# --- the model ---------------------------------------------------------------------------------


def _cycles(work: Work, target: CpuTarget, tile: Mapping[str, float], vector: str) -> float:
    """Cycles for one step over a tile."""
    copies = prod(tile.values())
    wide = max(1.0, work.bytes * target.lanes / 64) if vector else 1.0
    loads, part = 0.0, _part(work, target, tile, vector)
    clips = [c for c in work.clips if c.applies((*tile, vector), vector)]
    clipped = [(c.form, c.size) for c in clips]
    for clip in clips:
        part *= clip.share
    for access, depends in work.depends:
        across = turned(access, vector, tile, target.lanes)
        price = TURNED if across else _price(access, depends, vector, target, wide)
        price += CHECK * sum(check not in clipped for check in access.checks)
        loads += price * prod(size for name, size in tile.items() if name in depends)
    arithmetic = work.operations * copies * wide
    apart = copies * work.bodies
    chained = min(target.add_latency, 8.0) / max(1.0, 8 / apart) if work.reduce else 0.0
    return (max(arithmetic, loads, chained) + 0.1 * loads + STEP) * part


def _part(work: Work, target: CpuTarget, tile: Mapping[str, float], vector: str) -> float:
    """The part of the points that loops with ends go over."""
    if not work.ends:
        return 1.0
    lanes = {vector: target.lanes}
    extents = {name: ceil(size) * lanes.get(name, 1) for name, size in tile.items()}
    return executed_share(work.ends, work.outputs, work.over, extents)


def _price(access: Access, depends, vector: str, target: CpuTarget, wide: float) -> float:
    match _pattern(access, depends, vector) if vector else "same":
        case "same":
            return SAME
        case "unit":
            return UNIT * wide
    if every_second(access, depends, vector):
        return 2 * UNIT * wide + 1
    far = abs(_stride(access.offset, vector)) * BYTES[access.dtype] >= 64
    return (FAR if far else NEAR) * target.lanes


def _pattern(access: Access, depends: frozenset[str], vector: str) -> str:
    """How the lanes of a vector over this index read: all the same element, neighbours, or any."""
    if vector not in depends:
        return "same"
    atoms = [a for a in access.offset.coefficients if not isinstance(a, Idx)]
    if any(vector in index_names(a) for a in atoms):
        return "gather"
    return "unit" if _stride(access.offset, vector) == 1 else "gather"


def every_second(access: Access, depends: frozenset[str], vector: str) -> bool:
    """Whether a vector is every second of the elements that two loads give."""
    plain = all(isinstance(a, Idx) for a in access.offset.coefficients) and not access.checks
    return plain and vector in depends and _stride(access.offset, vector) == 2


def turned(access: Access, vector: str, tile: Mapping[str, float], lanes: int) -> str:
    """The index of the tile along which an access that vectors run across has its neighbours."""
    plain = all(isinstance(a, Idx) for a in access.offset.coefficients)
    if not plain or access.checks or BYTES[access.dtype] < 4 or _stride(access.offset, vector) < 2:
        return ""
    return next(
        (
            name
            for name, size in tile.items()
            if ALONE <= size <= lanes and _stride(access.offset, name) == 1
        ),
        "",
    )


def _blocks(index: Index, work: Work, lanes: int) -> Iterator[dict[str, int]]:
    """The rows of a map: none, or those of a block in which an access can be turned."""
    yield {}
    for row in work.outputs:
        tile = {row.name: next(_even(row.size, lanes), 1)}
        if any(turned(a, index.name, tile, lanes) == row.name for a in work.accesses):
            yield tile


def _stride(form: Affine, name: str) -> int:
    return form.coefficients.get(_index(name), 0)


_index = lru_cache(Idx)  # asked for again and again, for every candidate


def _registers(work: Work, target: CpuTarget) -> int:
    """Vector registers per copy; argmax also keeps a position."""
    registers = max(1, work.bytes * target.lanes // 64)
    return (registers + (work.reduce in ("argmax", "argmin"))) * work.bodies


# --- tiles -------------------------------------------------------------------------------------


def _boxes(indices: list[Index], limit: int, work: Work) -> Iterator[dict[str, int]]:
    """Boxes of at most `limit` rows over one or two indices, each of an evenly dividing size. Rows
    between which no read is shared only hide latency: a few are enough."""
    sharing = {i.name for i in indices if any(i.name not in d for _, d in work.depends)}

    def most(index: Index, left: int) -> int:
        return left if index.name in sharing else min(left, ALONE * left // max(limit, 1))

    yield {}
    for position, first in enumerate(indices):
        for tile in _even(first.size, most(first, limit)):
            yield {first.name: tile}
            for second in indices[position + 1 :]:
                for other in _even(second.size, most(second, limit // tile)):
                    yield {first.name: tile, second.name: other}


def _even(size: int, limit: int) -> Iterator[int]:
    """Tile sizes above 1 that divide `size` into parts as equal as can be, largest first."""
    before = 0
    for most in range(min(size, limit), 1, -1):
        parts = -(-size // most)
        tile = -(-size // parts)
        if tile != before:
            yield tile
        before = tile


def _spread(rows: Mapping[str, int], work: Work) -> float:
    """The price of the rows' distance."""
    outermost = next((i.name for i in work.outputs[:1] if i.size >= PARTS), "")
    return SPREAD if work.into is None and rows.get(outermost, 1) > 1 else 1.0


def _average(size: int, tile: int) -> float:
    return size / -(-size // tile)


def _size(indices: list[Index] | tuple[Index, ...], name: str) -> int:
    return next(i.size for i in indices if i.name == name)


def _uneven(rows: Mapping[str, int], indices, blocks: int) -> int:
    """How many of the tile's sides do not divide their index."""
    return sum((_size(indices, n) if n else blocks) % tile != 0 for n, tile in rows.items())
