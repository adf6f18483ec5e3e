"""The cost model of register tiles: a closed form, in cycles.

    6 rows of i, 2 vectors of j   →   max(12 fma, 2 loads + 6 broadcasts, latency) + 1 for the loop

For one step of the innermost loop over a tile the model counts the arithmetic and the distinct
loads, takes the larger (an out-of-order core overlaps them), and adds what cannot be hidden. Cf.
Low et al., "Analytical modeling is enough for high-performance BLIS", 2016. The candidates are
those of `tiling.py`. Tests: tests/passes/test_passes.py.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
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
from .loop_ir import Sliding

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
    operations: int  # per point, without the rounding of what is read
    bytes: int  # of one value
    footprints: Mapping[str, int]  # bytes of the tensors read
    zero_checks: tuple[tuple[Affine, int], ...] = ()  # where one of these fails, a term is 0
    zero_where: tuple[Affine, ...] = ()  # where one of these is 0 or more, a term is 0
    unread_where: tuple[Affine, ...] = ()  # what is there nothing reads
    fixed: tuple[Index, ...] = ()  # given from outside
    shared: bool = True  # whether threads may share it: not if they share the blocks around it
    column: str | None = None  # of one block of rows: the index that it runs along
    only_vector: str | None = None  # the only vector index of an accumulation ("" for none)
    accumulated: Affine | None = None  # where an accumulation adds
    bodies: int = 1  # values that are reduced side by side
    rounded: tuple[Access, ...] = ()  # those of the accesses that are rounded to bf16 as they come
    outermost: str = ""  # an output index whose loop surrounds all others
    batch: str = ""  # counts examples, of which a run may have fewer; each has …
    per_example: int = 1  # … so many values of that index

    @cached_property
    def clips(self) -> list[Clip]:
        return [Clip.of(form, size, self) for form, size in self.zero_checks]

    @property
    def row_indices(self) -> list[Index]:
        """The output indices that a tile may have rows of. An accumulation's rows add to elements
        of their own, and no vector operand is the same for two of them."""
        if self.accumulated is None:
            inside = [i for i in self.outputs if i.name != self.outermost]
            return inside if self.reduce else []
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

    def loads(self, vector: str) -> tuple[Load, ...]:
        """What is read in one step of a nest with vectors along this index."""
        found = self._loads.get(vector)
        if found is None:
            made = (Load.of(access, depends, vector, self) for access, depends in self.depends)
            found = self._loads[vector] = tuple(made)
        return found

    def sliding(self, tile: Tile, vector: str) -> Sliding | None:
        """A window that slides over the tile's rows: a row reads at one step what its neighbour
        reads at the next. Its steps, unrolled, share these loads."""
        limits, copies = self.target.tiling, prod(tile.values())
        plain = self.reduce == "sum" and self.column is None and not self.zero_where
        if not plain or copies < limits.accumulators:
            return None
        sizes = {i.name: i.size for i in self.over if i.name != vector}
        for load in self.loads(vector):
            for found in load.slides:
                steps = sizes.get(found.window, 1)
                few = steps <= limits.window_steps and steps * copies <= limits.unrolled_copies
                if tile.get(found.row, 1) > 1 and steps > 1 and few:
                    return found._replace(steps=steps)
        return None

    @cached_property
    def _loads(self) -> dict[str, tuple[Load, ...]]:
        return {}

    @property
    def registers_per_vector(self) -> int:
        return max(1, self.bytes * self.target.lanes // self.target.vector_bytes)

    def registers(self, vector: str) -> float:
        """Of a value. An f64 vector takes two, and each of its operations two instructions."""
        return (
            max(1.0, self.bytes * self.target.lanes / self.target.vector_bytes) if vector else 1.0
        )

    @property
    def registers_per_copy(self) -> int:
        """Accumulators of one copy of the tile; argmax also has a position."""
        # A position is an i32 and takes one register.
        positions = self.reduce in ("argmax", "argmin")
        return (self.registers_per_vector + positions) * self.bodies

    @cached_property
    def size(self) -> Mapping[str, int]:
        """The extents of the output indices."""
        return {i.name: i.size for i in self.outputs}


@dataclass(frozen=True)
class Load:
    """A read by vectors along one index, for any tile: `price` in cycles, but where the tile has as
    many rows of an index of `across` as a block that is transposed in registers."""

    depends: frozenset[str]
    price: float
    across: frozenset[str]
    checks: tuple[tuple[Affine, int], ...]
    slides: tuple[Sliding, ...]  # pairs of indices by whose sum or difference it is addressed

    @staticmethod
    def of(access: Access, depends: frozenset[str], vector: str, work: Work) -> Load:
        price = _load_cost(access, depends, vector, work.target, work.registers(vector))
        across = _contiguous_across(access, vector)
        return Load(depends, price, across, access.checks, _sliding(access, vector))

    def cycles(
        self,
        tile: Tile,
        clipped: Container[tuple[Affine, int]],
        target: CpuTarget,
        sliding: Sliding | None = None,
    ) -> float:
        """Of one step over the tile. Copies that differ only in indices which the address does not
        depend on share one load; so do the steps of a window that slides over rows."""
        costs = target.costs
        block = next((tile[n] for n in self.across if _is_block(tile.get(n, 0), target)), 0)
        # A block takes as long whatever part of its rows is wanted.
        price = costs.register_transpose * target.lanes / block if block else self.price
        if self.checks:
            price += costs.bounds_check * sum(check not in clipped for check in self.checks)
        if sliding is not None and any(s[:3] == sliding[:3] for s in self.slides):
            # Example: 4 rows and 3 steps of a window read 6 elements, 2 for each step.
            read = (tile.get(sliding.row, 1) + sliding.steps - 1) / sliding.steps
            tile = {**tile, sliding.row: read}
        return price * prod([size for name, size in tile.items() if name in self.depends])


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


# --- cycles --------------------------------------------------------------------------------------


def cycles_per_copy(work: Work, tile: Tile, vector: str, sliding: Sliding | None = None) -> float:
    """Cycles for one step over a copy of the tile. Where a run may have fewer examples, the mean of
    a run whose rows are all in whole tiles and of one example, whose tiles may leave rows over."""
    cost = cycles(work, tile, vector, sliding=sliding) / prod(tile.values())
    rows = tile.get(work.batch, 1)
    left = work.per_example % rows / work.per_example
    if not left:
        return cost
    one = {**tile, work.batch: 1}
    single = cycles(work, one, vector, prod(tile.values()), sliding) / prod(one.values())
    return cost + (single - cost) * left / 2


def cycles(
    work: Work, tile: Tile, vector: str, most: float = 0, sliding: Sliding | None = None
) -> float:
    """Cycles for one step over a tile, in a nest whose largest has so many copies."""
    target, costs, limits = work.target, work.target.costs, work.target.tiling
    copies = prod(tile.values())
    registers = work.registers(vector)
    clips = [c for c in work.clips if c.applies((*tile, vector), vector)]
    clipped = [(c.form, c.size) for c in clips]
    loads = sum(load.cycles(tile, clipped, target, sliding) for load in work.loads(vector))
    loads += _panel_lines(work, tile, vector) * costs.l2_next_line / target.fma_cycles
    arithmetic = work.operations * copies * registers
    # What several copies read is rounded once for all of them.
    for access, names in work.depends if work.rounded else ():
        if access in work.rounded:
            read = prod([size for name, size in tile.items() if name in names])
            arithmetic += target.rounding * read * registers
    # The chain of dependent additions: lowering fills up with accumulators where the tile has too
    # few copies, so the latency is divided by as many as it adds.
    latency = min(target.add_latency, limits.max_latency)
    added = max(1.0, limits.accumulators / (max(most, copies) * work.bodies))
    dependent = latency / added if work.reduce else 0.0
    # An out-of-order core overlaps the three; a share of the loads remains visible.
    busy = max(arithmetic, loads, dependent)
    step = costs.loop_step / (sliding.steps if sliding else 1)
    return (busy + costs.load_overlap * loads + step) * executed(work, tile, vector)


def _panel_lines(work: Work, tile: Tile, vector: str) -> float:
    """The cache lines that a step takes from the second-level cache, as a tile's columns are too
    many for the first. Of predictions: `cache_blocks.py` has a cost of its own for the others."""
    l1, lines = work.target.l1, 0.0
    for _, names in work.depends if work.batch else ():
        read = prod(n for name, n in tile.items() if name in names) * work.target.vector_bytes
        whole = read * prod(i.size for i in work.over if i.name in names)
        if vector in names and whole > work.target.tiling.panel_share * l1.bytes:
            lines += read / l1.line
    return lines


def executed(work: Work, tile: Tile, vector: str) -> float:
    """The share of the points that loops with bounds, or clipped ones, run over."""
    share = prod(c.share for c in work.clips if c.applies((*tile, vector), vector))
    if not work.zero_where:
        return share
    lanes = {vector: work.target.lanes}
    extents = {name: ceil(size) * lanes.get(name, 1) for name, size in tile.items()}
    samples = work.target.tiling.sampled_tiles
    outputs = (*work.outputs, *work.fixed)
    return share * executed_share(work.zero_where, outputs, work.over, extents, samples)


def _load_cost(
    access: Access, depends: frozenset[str], vector: str, target: CpuTarget, registers: float
) -> float:
    costs = target.costs
    match load_pattern(access, depends, vector) if vector else "same":
        case "same":
            return costs.broadcast
        case "unit":
            return costs.unit_stride * registers
    if _is_every_second(access, depends, vector):  # two loads and a shuffle
        return 2 * costs.unit_stride * registers + 1
    # Lanes a cache line or more apart each bring in a line of their own.
    far = abs(stride(access.offset, vector)) * BYTES[access.dtype] >= target.l1.line
    return (costs.gather_far if far else costs.gather_same_line) * target.lanes


def load_pattern(access: Access, depends: frozenset[str], vector: str) -> str:
    """How the lanes of a vector over this index read: all the same element, neighbours, or any."""
    if vector not in depends:
        # The address may still be gathered by other indices: it is one address for all lanes.
        return "same"
    atoms = [a for a in access.offset.coefficients if not isinstance(a, Idx)]
    if any(vector in index_names(a) for a in atoms):
        return "gather"
    return "unit" if stride(access.offset, vector) == 1 else "gather"


def _is_every_second(access: Access, depends: frozenset[str], vector: str) -> bool:
    """Whether a vector is every second of the elements that two loads give."""
    plain = all(isinstance(a, Idx) for a in access.offset.coefficients) and not access.checks
    return plain and vector in depends and stride(access.offset, vector) == 2


def transposed_along(access: Access, vector: str, tile: Tile, target: CpuTarget) -> str:
    """The index of the tile along which an access that vectors run across is contiguous, so that a
    block of it is loaded along memory and transposed in registers; empty if there is none."""
    across = _contiguous_across(access, vector)
    return next((name for name in tile if name in across and _is_block(tile[name], target)), "")


def _is_block(rows: float, target: CpuTarget) -> bool:
    """Whether a tile has as many rows as a block that is transposed in registers."""
    return target.tiling.rows_without_reuse <= rows <= target.lanes


def _contiguous_across(access: Access, vector: str) -> frozenset[str]:
    """The indices that an access which vectors run across is contiguous along."""
    coefficients = access.offset.coefficients
    plain = all(isinstance(a, Idx) for a in coefficients) and not access.checks
    # No transpose is written for elements of fewer than 4 bytes; with a stride of 1 there is
    # nothing to transpose.
    if not plain or BYTES[access.dtype] < BYTES["f32"] or stride(access.offset, vector) < 2:
        return frozenset()
    return frozenset(a.name for a, step in coefficients.items() if isinstance(a, Idx) and step == 1)


def stride(form: Affine, name: str) -> int:
    return form.coefficients.get(_index(name), 0)


def _sliding(access: Access, vector: str) -> tuple[Sliding, ...]:
    """The pairs of indices, other than that of vectors, by whose sum or difference an access is
    addressed."""
    strides = [
        (a.name, step)
        for a, step in access.offset.coefficients.items()
        if isinstance(a, Idx) and a.name != vector
    ]
    return tuple(
        Sliding(window, row, 1 if along == step else -1, 1)
        for row, step in strides
        for window, along in strides
        if row != window and abs(along) == abs(step)
    )


_index = lru_cache(Idx)  # nodes are interned; the cache skips that for every candidate


def outermost_rows_factor(rows: Mapping[str, int], work: Work) -> float:
    """The price of rows of the outermost index. They lie far apart, and threads, which are best off
    with what they have written themselves, would share another index than before and after."""
    if work.accumulated is not None or not work.outputs:
        return 1.0
    outermost = work.outputs[0]
    shared = outermost.size >= work.target.tiling.even_parallel_steps
    tiled = shared and rows.get(outermost.name, 1) > 1
    return work.target.costs.outermost_rows_factor if tiled else 1.0


def far_rows_factor(rows: Mapping[str, int], work: Work) -> float:
    """The price of rows of which each has a page of its own, as the rows of an image have: they
    share a few sets of the first-level cache, and evict each other before the next terms are read
    (conflict misses). The columns of an image lie side by side."""
    far = work.target.tiling.far_rows
    apart = any(
        abs(stride(a.offset, name)) * BYTES[a.dtype] >= far
        for a in work.accesses
        for name, size in rows.items()
        if size > 1
    )
    return work.target.costs.far_rows_factor if apart and work.accumulated is None else 1.0
