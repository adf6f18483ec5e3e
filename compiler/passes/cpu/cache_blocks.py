"""Cache blocks: a product's sum in parts that stay in cache, one factor packed into panels.

    for i, j: y[i, j] = sum(k) a[i, k] * b[k, j]
    →   for 48 columns j0, 200 terms k0:
            panel[k, j] = b[k0 + k, j0 + j]                                     # 38 KB
            for i by 8: y[i, j0 + j] += sum(k) a[i, k0 + k] * panel[k, j]

Every tile of rows reads the same columns of b. In b they are as far apart as b has rows, often a
power of two: they fall on a few sets of the caches, evict each other, and each is in another page.
The panel is contiguous and stays in the first-level cache while the rows pass; the rows' part of a
stays in the second, through several panels where a comes from memory. It is packed, too, if a has
the rows of the result side by side and its own are far apart, as in the gradient of a weight:

    y[i, j] = sum(k) a[k, i] * b[k, j]   →   rows[i0, k, r] = a[k0 + k, 8*i0 + r] for a block

Between blocks the sums are kept in memory, in f64 if a sum is long. What is packed next is
prefetched while products are computed (`next_blocks.py`).

A factor that is rounded to bf16 is rounded on its way into the panel, once for all rows:

    y[i, j] = sum(k) a[i, k] * bf16(b[k, j])   →   panel[k, j] = bf16(b[k0 + k, j0 + j])

The choice is by a closed-form cost beside that of the nest without blocks. It applies to sums of
products of two f32 factors, one of which depends on the vector index and not on the tile's rows.
Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008; Low et al.,
"Analytical modeling is enough for high-performance BLIS", 2016.
Tests: tests/passes/test_cache_blocks.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd, prod

from ...ir.affine import Affine
from ...ir.dtypes import BYTES
from ...ir.expr import Idx, Read
from ...targets import MAX_LANES, Cache, CpuTarget
from ..lowering.access import Access
from .next_blocks import bytes_read, is_near
from .packed_panels import F32, Cut, Panels, Stretch, partial_sums
from .tile_cost import Work, executed, outermost_rows_factor
from .tiling import Rows, Tiling, outer_tilings


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
    for read, other, wide, narrow in ((first, second, a, b), (second, first, b, a)):
        plain = all(isinstance(atom, Idx) for atom in wide.offset.coefficients)
        if wide.dtype == "f32" and not wide.checks and plain:
            product = _Product(work, read, other, wide, narrow)
            if all(i.name in product.names for i in work.over) and product.rows > 1:
                yield product


@dataclass(frozen=True)
class _Product:
    """The cost of a sum of products with and without blocks, in cycles. `wide` is the factor that
    is read by vectors, and packed, `narrow` the other."""

    work: Work
    packed: Read
    other: Read
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

    @property
    def rounds(self) -> bool:
        """Whether what is packed is rounded to bf16."""
        return self.wide in self.work.rounded

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
        # Loops over rows are outside of those over vectors if all of the factor stays in the
        # second-level cache, and a sum along memory reads whole rows.
        whole = self._is_near or tiling.form == "dot"
        run = footprint if whole else tiling.vectors * tiling.lanes * F32
        panel = footprint if whole else self.terms * run
        if not whole:
            cycles += self._rereading(tiling, 1, 1)
        # At first all of the factor comes from beyond that cache, as what blocks pack does.
        first = 0.0 if self._is_near else footprint / line * costs.memory_line
        if self._fits(self.target.l1, panel, run):
            return cycles + first
        if self._fits(self.target.l2, panel, run):
            row = self._row_bytes() <= tiling.vectors * tiling.lanes * F32
            return cycles + first + lines * (costs.l2_next_line if row else costs.l2_line)
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
        packs_rows = self._row_cycles(tiling, cut, stretch)[1]
        factors = self.packed, self.wide, self.rounds, self.other, packs_rows
        return Panels(self.work, tiling, *factors, cut, stretch, along, most, share)

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
        limits, partial = self.target.tiling, partial_sums(self.work, cut)
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
            rounded = tuple(a for a in self.work.rounded if a is not self.wide)
            work = replace(self.work, accesses=tuple(accesses), rounded=rounded)
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
        along = along or self._packable(tiling)
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
        return points * score * target.fma_cycles

    def _row_cycles(self, tiling: Tiling, cut: Cut, stretch: Stretch) -> tuple[float, bool]:
        """Cycles for the lines of the narrow factor, which come from the second-level cache, and
        whether they are fewer if it is packed."""
        costs, line = self.target.costs, self.target.l1.line
        points = self.results * self.terms
        rows = prod(n for name, n in tiling.rows.items() if name in self.narrow_names)
        steps = points / (tiling.copies * tiling.lanes)
        lines = steps * rows * F32 / line
        if not self._packable(tiling):
            return lines * costs.row_line, False
        each = costs.far_row_line if self._scattered(cut) else costs.row_line
        # It is packed once for all panels of a group.
        packing = steps / stretch.panels * costs.pack_rows
        packed = lines * costs.packed_row_line + packing
        return min((lines * each, False), (packed, True))

    def _packable(self, tiling: Tiling) -> bool:
        """Whether the rows of tiles may be packed: those of one index that are neighbours in the
        narrow factor, so that a load and a store pack a term of them, and that do not stay in the
        cache anyway."""
        names = [name for name, size in tiling.rows.items() if size > 1]
        beside = len(names) == 1 and self.narrow.offset.coefficients.get(Idx(*names)) == 1
        wanted = self.target.tiling.packed_rows > 0 and not is_near(self.work, self.narrow)
        return beside and wanted

    def _scattered(self, cut: Cut) -> bool:
        """Whether the narrow factor's rows are too far apart for the processor to prefetch them, or
        share so few sets of the first-level cache that those of a block evict each other."""
        steps = (self.narrow.offset.coefficients.get(Idx(i.name), 0) for i in self.work.over)
        apart = min((abs(s) * F32 for s in steps if s), default=0)
        if apart <= F32:
            return False
        l1 = self.target.l1
        sets = l1.sets // gcd(max(1, apart // l1.line), l1.sets)
        return apart >= self.target.prefetch.far_stride or cut.terms > sets * l1.usable_ways

    def _cycles(
        self, tiles: float, tiling: Tiling, cut: Cut, stretch: Stretch, along: str
    ) -> float:
        """Cycles of the nest in blocks, whose tiles take so many."""
        target, costs = self.target, self.target.costs
        cycles = tiles + self._row_cycles(tiling, cut, stretch)[0]
        stretches = -(-self.rows // stretch.rows)
        points, near = self.results * self.terms, target.tiling.cached_panel * target.l2.bytes
        # Packing: all of the wide factor for every stretch of rows.
        vectors = stretches * points / self.rows / target.lanes
        wait = costs.pack_near if self._is_near else costs.pack_far
        if self.rounds:
            cycles += vectors * target.rounding * target.fma_cycles
        if along:
            transposing = costs.register_transpose * target.fma_cycles
            cycles += vectors * (transposing + costs.pack_across * wait)
        else:
            cycles += vectors * (costs.pack_vector + wait / tiling.vectors)
        # Partial sums, after every block.
        partial = partial_sums(self.work, cut)
        if partial:
            sums = -(-self.terms // cut.terms) * self.results / target.lanes
            # Between two blocks the next one's part of the narrow factor is read.
            own = stretch.rows * stretch.panels * tiling.vectors * tiling.lanes * BYTES[partial]
            far = own + stretch.rows * cut.terms * F32 > near
            each = costs.partial_sum + (costs.partial_far if far else 0.0)
            cycles += sums * each * BYTES[partial] / F32
        return cycles + self._rereading(tiling, stretch.panels, stretches)

    def _rereading(self, tiling: Tiling, panels: int, stretches: int) -> float:
        """Cycles to read the narrow factor again for every group of so many panels, if by then its
        rows have left the cache."""
        target, costs = self.target, self.target.costs
        # Each product of a batch reads its own part of both factors.
        shared = prod(i.size for i in self.work.outputs if i.name in self.names & self.narrow_names)
        columns = tiling.vectors * tiling.lanes * panels
        times = self.results / self.rows / shared / columns
        part = self._narrow_bytes / shared / stretches
        near = target.tiling.cached_panel * target.l2.bytes
        if times <= 1 or part <= near:
            return 0.0
        lost = 1 - near / part  # the share that has left
        return times * lost * self._narrow_bytes / target.l1.line * costs.memory_line

    @property
    def _is_near(self) -> bool:
        """Whether the wide factor stays in the second-level cache."""
        return self._wide_bytes <= self.target.tiling.cached_panel * self.target.l2.bytes

    @cached_property
    def _wide_bytes(self) -> int:
        return bytes_read(self.work, self.wide)

    @cached_property
    def _narrow_bytes(self) -> int:
        return bytes_read(self.work, self.narrow)
