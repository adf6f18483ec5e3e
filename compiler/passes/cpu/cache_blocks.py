"""Cache blocks: a product's sum in parts that stay in cache, one factor packed into panels.

    for i, j: y[i, j] = sum(k) a[i, k] * b[k, j]
    →   for 48 columns j0, 200 terms k0:
            panel[k, j] = b[k0 + k, j0 + j]                                     # 38 KB
            for i by 8: y[i, j0 + j] += sum(k) a[i, k0 + k] * panel[k, j]

Every tile of rows reads the same columns of b. In b they are as far apart as b has rows, often a
power of two: they fall on a few sets of the caches, evict each other, and each is in another page.
The panel is contiguous and stays in the first-level cache while the rows pass; the rows' part of a
stays in the second, through several panels where a comes from memory. Between blocks the sums are
kept in memory, in f64 if a sum is long.

The choice is by a closed-form cost beside that of the nest without blocks. It applies to sums of
products of two f32 factors, one of which depends on the vector index and not on the tile's rows.
Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008; Low et al.,
"Analytical modeling is enough for high-performance BLIS", 2016.
Tests: tests/passes/test_cache_blocks.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd, prod

from ...ir.affine import Affine
from ...ir.dtypes import BYTES
from ...ir.expr import Expr, Idx, Read
from ...targets import MAX_LANES, Cache, CpuTarget
from ..lowering.access import Access
from .loop_ir import PANEL, CacheBlocks, Loop
from .tile_cost import Work, executed, outermost_rows_factor
from .tiling import Rows, Tiling, outer_tilings

F32 = BYTES["f32"]


@dataclass(frozen=True)
class Stretch:
    """Rows that share a panel: so many `steps` of the outermost loop over rows, once for every step
    of the loops over the indices `outside`. A block of the sum stays for so many `panels`."""

    outside: frozenset[str]
    steps: int
    rows: int
    panels: int = 1


@dataclass(frozen=True)
class Cut:
    """The loop over the sum that is cut, by its number, and the steps of a block; of the loops
    inside of it a block has all steps. `terms` are those of a block."""

    loop: int
    steps: int
    terms: int


@dataclass(frozen=True)
class Panels:
    """A nest in cache blocks: the tiling of its rows, the factor that is packed and where it is,
    the blocks of the sum, and the stretches of rows. `cycles` are those of the whole nest."""

    work: Work
    tiling: Tiling
    packed: Read
    source: Access
    cut: Cut
    stretch: Stretch
    along: str  # the summed index that the packed factor is contiguous along, if it is transposed
    cycles: float
    share: float  # of the most multiply-adds that the core can do

    def __str__(self) -> str:
        columns = self.tiling.vectors * self.tiling.lanes
        size = self.cut.terms * columns * F32
        return (
            f"cache blocks: {self.cut.terms} terms, panels of {columns} of {self.tiling.vector} "
            f"({size:,} bytes), {self.stretch.rows} rows; {self.share:.0%} of peak predicted"
        )

    def blocks(self, loops: Sequence[Loop]) -> tuple[CacheBlocks, Access]:
        """The blocks of these loops, and the access to the panel."""
        outer = [x for x in loops if x.kind != "reduce"]
        inner = [x for x in loops if x.kind == "reduce"]
        outside = next(n for n, x in enumerate(outer) if x.index.name == self.tiling.vector)
        blocks = CacheBlocks(
            self.packed,
            self.source,
            outside,
            self.stretch.steps,
            self.stretch.panels,
            self.cut.loop,
            self.cut.steps,
            _partial(self.work, self.cut),
            self.along,
            None if self.along else self._ahead(),
            str(self),
        )
        strides: dict[Expr, int] = {}
        stride = self.tiling.vectors * self.tiling.lanes
        for loop in reversed(inner[self.cut.loop :]):
            strides[Idx(loop.index.name)] = stride
            stride *= loop.index.size
        offset = Affine({**strides, Idx(self.tiling.vector): 1}, 0)
        return blocks, replace(self.source, tensor=PANEL, offset=offset)

    def _ahead(self) -> Access:
        """What is packed some steps of the innermost loop later."""
        inner = Idx(self.work.over[-1].name)
        distance = self.work.target.prefetch.distance * self.source.offset.coefficients[inner]
        return replace(self.source, offset=self.source.offset + Affine({}, distance))


def cache_blocks(work: Work, operands: Mapping[Read, Access], tiling: Tiling) -> Panels | None:
    """How the nest is computed in cache blocks, if that takes fewer cycles than with the tiling."""
    worth = work.target.costs.worth_packing
    best = None
    for product in _products(work, operands):
        most = worth * product.without(tiling)
        best = product.panels(best.cycles if best else most) or best
    return best


def _products(work: Work, operands: Mapping[Read, Access]) -> Iterator[_Product]:
    """The product, once for each factor whose panels can be packed."""
    if work.reduce != "sum" or work.bodies != 1 or work.operations != 1 or len(operands) != 2:
        return
    masked = work.column is not None or work.unread_where or work.zero_where
    # Of a batch of any size there is no telling how many rows share a panel.
    if masked or work.batch or work.registers_per_vector != 1:
        return
    (first, a), (second, b) = operands.items()
    for read, wide, narrow in ((first, a, b), (second, b, a)):
        plain = all(isinstance(atom, Idx) for atom in wide.offset.coefficients)
        if wide.dtype == "f32" and not wide.checks and plain:
            product = _Product(work, read, wide, narrow)
            if all(i.name in product.names for i in work.over) and product.rows > 1:
                yield product


@dataclass(frozen=True)
class _Product:
    """The cost of a sum of products with and without blocks, in cycles. `wide` is the factor that
    is read by vectors, and packed, `narrow` the other."""

    work: Work
    packed: Read
    wide: Access
    narrow: Access

    @property
    def target(self) -> CpuTarget:
        return self.work.target

    @cached_property
    def names(self) -> set[str]:
        return {a.name for a in self.wide.offset.coefficients if isinstance(a, Idx)}

    @cached_property
    def narrow_names(self) -> frozenset[str]:
        return self.narrow.offset.indices

    @cached_property
    def terms(self) -> int:
        return prod(i.size for i in self.work.over)

    @cached_property
    def rows(self) -> int:
        """The results that one element of the wide factor is multiplied for."""
        return prod(i.size for i in self.work.outputs if i.name not in self.names)

    @cached_property
    def results(self) -> int:
        return prod(i.size for i in self.work.outputs)

    # --- without blocks --------------------------------------------------------------------------

    def without(self, tiling: Tiling) -> float:
        """Cycles of the nest without blocks."""
        cycles = self.results * self.terms * tiling.score * self.target.fma_cycles
        costs, footprint, line = self.target.costs, self._wide_bytes, self.target.l1.line
        if tiling.form == "scalar" or tiling.vector not in self.names:
            return cycles
        read = prod(n for name, n in tiling.extents.items() if name in self.names)
        lines = self.results * self.terms / (tiling.copies * tiling.lanes) * read * F32 / line
        whole = footprint <= self.target.tiling.cached_panel * self.target.l2.bytes
        # Loops over rows are outside of those over vectors if all of the factor stays in cache, and
        # a sum along memory reads whole rows.
        whole = whole or tiling.form == "dot"
        run = footprint if whole else tiling.vectors * tiling.lanes * F32
        panel = footprint if whole else self.terms * run
        if self._fits(self.target.l1, panel, run):
            return cycles
        if self._fits(self.target.l2, panel, run):
            row = self._row_bytes() <= tiling.vectors * tiling.lanes * F32
            return cycles + lines * (costs.l2_next_line if row else costs.l2_line)
        return cycles + lines * costs.memory_line

    def _fits(self, cache: Cache, bytes: int, run: int) -> bool:
        """Whether so many bytes stay in a cache if they are runs of contiguous ones, each in a row
        of the wide factor."""
        # Example: rows of 2048 bytes are 32 lines apart and fall on 2 of 64 sets, or on so many
        # times the lines that are read of each.
        apart = max(1, self._row_bytes() // cache.line)
        sets = min(cache.sets, cache.sets // gcd(apart, cache.sets) * max(1, run // cache.line))
        share = self.target.tiling.panel_share
        return bytes <= share * sets * cache.ways * cache.line

    def _row_bytes(self) -> int:
        """How far apart the wide factor's rows are."""
        steps = (self.wide.offset.coefficients.get(Idx(i.name), 0) for i in self.work.over)
        return min((abs(s) * F32 for s in steps if s), default=0)

    # --- in blocks -------------------------------------------------------------------------------

    def panels(self, most: float) -> Panels | None:
        """The tiling and the stretches of rows that take the fewest cycles, below so many."""
        best, order = None, [i.name for i in self.work.over]
        for tiling in self._tilings():
            # Whatever the stretches are, they add to what the tiles take.
            tiles = self._tile_cycles(tiling)
            along, cut = self._along(tiling.vector), self._cut(tiling)
            if tiles >= most or along is None or (along and order.index(along) < cut.loop):
                continue
            for stretch in self._stretches(tiling, cut):
                cycles = self._cycles(tiles, tiling, cut, stretch, along)
                if cycles < most:
                    best, most = (tiling, cut, stretch, along), cycles
        if best is None:
            return None
        tiling, cut, stretch, along = best
        tile = {**tiling.rows, tiling.vector: tiling.vectors}
        share = self._multiplications * executed(self.work, tile, tiling.vector) / most
        return Panels(self.work, tiling, self.packed, self.wide, cut, stretch, along, most, share)

    def _in_panels(self, vectors: int, rows: Rows) -> bool:
        """Whether a tile reads the same panel for all its rows, and has enough accumulators."""
        limits = self.target.tiling
        return (
            limits.panel_vectors <= vectors <= limits.vectors
            and prod(rows.values()) * vectors >= limits.accumulators
            and self.names.isdisjoint(n for n, size in rows.items() if size > 1)
        )

    def _stretches(self, tiling: Tiling, cut: Cut) -> Iterator[Stretch]:
        """The candidates, of one panel and of several."""
        limits, partial = self.target.tiling, _partial(self.work, cut)
        sums = tiling.vectors * tiling.lanes * BYTES[partial or "f32"]
        most = min(self.rows, limits.partial_bytes // sums)
        panels = -(-self.work.size[tiling.vector] // (tiling.vectors * tiling.lanes))
        for part in (1, 2, 4, 8):
            stretch = self._stretch(tiling, most // part)
            if stretch is None:
                continue
            yield stretch
            fitting = min(panels, limits.partial_bytes // (sums * stretch.rows))
            if partial and fitting > 1:
                # of equal length
                yield replace(stretch, panels=-(-panels // -(-panels // fitting)))

    def _stretch(self, tiling: Tiling, rows: int) -> Stretch | None:
        """At most so many rows; None if a step over the innermost index has more."""
        order = [i for i in self.work.outputs if i.name not in self.names]
        order.sort(key=lambda i: tiling.rows.get(i.name, 1) > 1)
        outside: list[str] = []
        while order:
            first, *inside = order
            each = tiling.rows.get(first.name, 1) * prod(i.size for i in inside)
            if each <= rows:
                whole = rows >= first.size * prod(i.size for i in inside)
                steps = -(-first.size // tiling.rows.get(first.name, 1))
                if not whole:
                    # of equal length
                    steps = -(-steps // -(-steps // (rows // each)))
                return Stretch(frozenset(outside), steps, min(steps * each, self.rows))
            if tiling.rows.get(first.name, 1) > 1:
                return None
            # Panels are packed again for every step of it.
            outside.append(first.name)
            order = inside
        return None

    def _tilings(self) -> Iterator[Tiling]:
        """The candidates if the wide factor is contiguous along vectors, as its panel is."""
        for index in self.work.outputs:
            if index.name not in self.names or self._along(index.name) is None:
                continue
            # Strides that are no vector's, but that of the index.
            strides = {a: MAX_LANES for a in self.wide.offset.coefficients} | {Idx(index.name): 1}
            panel = replace(self.wide, offset=Affine(strides, 0))
            accesses = (panel if a is self.wide else a for a in self.work.accesses)
            work = replace(self.work, accesses=tuple(accesses))
            yield from outer_tilings(work, index, windows=False, wanted=self._in_panels)

    def _along(self, vector: str) -> str | None:
        """The summed index that the wide factor is contiguous along, so that it can be transposed;
        empty if it is contiguous along vectors, None if neither."""
        strides = self.wide.offset.coefficients
        if strides.get(Idx(vector)) == 1:
            return ""
        return next(
            (
                i.name
                for i in self.work.over
                if strides.get(Idx(i.name)) == 1 and i.size >= self.target.lanes
            ),
            None,
        )

    @property
    def _multiplications(self) -> float:
        return self.results * self.terms / self.target.lanes * self.target.fma_cycles

    def _cut(self, tiling: Tiling) -> Cut:
        """Blocks of equal length, short enough that the panel stays in the first-level cache with
        what a tile of rows reads beside it."""
        l1 = self.target.l1
        along = any(
            abs(self.narrow.offset.coefficients.get(Idx(i.name), 0)) == 1 for i in self.work.over
        )
        rows = prod(tiling.rows.values()) * F32
        each = tiling.vectors * tiling.lanes * F32 + (rows if along else rows + l1.line)
        most = int(self.target.tiling.panel_share * l1.bytes / each)
        most = min(most, self.target.tiling.long_block)
        over, depth = self.work.over, 1
        loop = len(over) - 1
        while loop and depth * over[loop].size * 2 <= most:
            depth *= over[loop].size
            loop -= 1
        size = over[loop].size
        parts = -(-size // max(1, min(size, most // depth)))
        steps = -(-size // parts)
        return Cut(loop, steps, steps * depth)

    def _tile_cycles(self, tiling: Tiling) -> float:
        """Cycles of the tiles alone, for operands that are as near as in blocks."""
        target, costs, points = self.target, self.target.costs, self.results * self.terms
        # Panels are shared by threads, not rows; and what a step takes was measured.
        step, own = costs.loop_step - costs.panel_step, tiling.copies * tiling.lanes
        score = tiling.score / outermost_rows_factor(tiling.rows, self.work) - step / own
        cycles = points * score * target.fma_cycles
        # Lines of the narrow factor come from the second-level cache, one for each row.
        rows = prod(n for name, n in tiling.rows.items() if name in self.narrow_names)
        lines = points / (tiling.copies * tiling.lanes) * rows * F32 / target.l1.line
        return cycles + lines * costs.row_line

    def _cycles(
        self, tiles: float, tiling: Tiling, cut: Cut, stretch: Stretch, along: str
    ) -> float:
        """Cycles of the nest in blocks, whose tiles take so many."""
        target, costs, cycles = self.target, self.target.costs, tiles
        stretches = -(-self.rows // stretch.rows)
        points, near = self.results * self.terms, target.tiling.cached_panel * target.l2.bytes
        # Packing: all of the wide factor for every stretch of rows.
        vectors = stretches * points / self.rows / target.lanes
        wait = costs.pack_near if self._wide_bytes <= near else costs.pack_far
        if along:
            transposing = costs.register_transpose * target.fma_cycles
            cycles += vectors * (transposing + costs.pack_across * wait)
        else:
            cycles += vectors * (costs.pack_vector + wait / tiling.vectors)
        # Partial sums, after every block.
        partial = _partial(self.work, cut)
        if partial:
            sums = -(-self.terms // cut.terms) * self.results / target.lanes
            # Between two blocks the next one's part of the narrow factor is read.
            own = stretch.rows * stretch.panels * tiling.vectors * tiling.lanes * BYTES[partial]
            far = own + stretch.rows * cut.terms * F32 > near
            each = costs.partial_sum + (costs.partial_far if far else 0.0)
            cycles += sums * each * BYTES[partial] / F32
        # The narrow factor is read again for every group of panels; by then its rows may have left
        # the cache.
        panels = self.results / self.rows / (tiling.vectors * tiling.lanes) / stretch.panels
        if panels > 1 and self._narrow_bytes / stretches > near:
            cycles += panels * self._narrow_bytes / target.l1.line * costs.memory_line
        return cycles

    @cached_property
    def _wide_bytes(self) -> int:
        return self._bytes(self.wide)

    @cached_property
    def _narrow_bytes(self) -> int:
        return self._bytes(self.narrow)

    def _bytes(self, factor: Access) -> int:
        """What the nest reads of a factor: all of it, or one element for each of its indices."""
        names = factor.offset.indices
        indices = (*self.work.outputs, *self.work.over)
        elements = prod(i.size for i in indices if i.name in names)
        return min(self.work.footprints[factor.tensor], elements * F32)


def _partial(work: Work, cut: Cut) -> str:
    """The type of the sums between blocks; empty for one block. Long sums are added up in f64, as
    by `blocked_sums.py`."""
    limits, total = work.target.tiling, prod(i.size for i in work.over)
    if cut.terms >= total:
        return ""
    return "f64" if total > limits.whole_blocks * limits.long_block else "f32"
