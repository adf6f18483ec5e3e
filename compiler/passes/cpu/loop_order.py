"""The order of a nest's loops, their tiles, and which of them threads share.

    tile i by 6, j by 2 vectors of 16   →   parallel for i by 6; for j by 32; reduce for k by 4

Loops outside the register tile come first, then its rows and vectors (loop interchange: the operand
that vectors run over stays in cache), then those of the reduction, unrolled into independent
accumulators. The tile is chosen in `tiling.py`, bounds in `loop_bounds.py`. Tests:
tests/backends/test_cpu.py, tests/passes/.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from math import prod

from ...ir.affine import Affine
from ...ir.equation import Index
from ...ir.expr import Idx, Read, index_names
from ...ir.terms import multiplicands
from ...targets import CpuTarget
from ..kernels.kernel import Kernel, Plan
from ..lowering.access import Access
from ..lowering.coalesce_indices import CoalescedKernel
from .loop_bounds import UNBOUNDED, Bounds, loop_bounds
from .loop_ir import Loop, Segment
from .packed_panels import Panels
from .tile_cost import Clip, Work
from .tiling import Tiling

Checks = tuple[tuple[Affine, int], ...]


def _reduction_order(work: Work, tiling: Tiling) -> list[Index]:
    """The reduced indices, innermost the vector index, or that of a window that slides over the
    tile's rows."""
    # A stable sort: the others keep their order.
    innermost = tiling.vector, tiling.sliding.window if tiling.sliding else ""
    return sorted(work.over, key=lambda i: i.name in innermost)


def clips_of(work: Work, tiling: Tiling) -> list[Clip]:
    """The checks that clip a reduction loop: all else in them is constant inside that loop."""
    order = [i.name for i in _reduction_order(work, tiling)]
    # All copies of a tile share one loop, so its range must not differ between them; nor may it
    # depend on a loop that is inside it.
    tile = [name for name, size in tiling.rows.items() if size > 1] + [tiling.vector]
    found = []
    for clip in work.clips:
        inner = order[order.index(clip.index) :] if clip.index else []
        if clip.applies((*tile, *inner[1:]), tiling.vector):
            found.append(clip)
    return found


# --- output loops and reductions ----------------------------------------------------------------


def unrolling(work: Work, tiling: Tiling, clips: list[Clip]) -> tuple[int, dict[str, int]]:
    """The number of accumulators, and the unrolling of reduction loops from the innermost
    outwards."""
    if not work.reduce:
        return 1, {}
    limits, order = work.target.tiling, _reduction_order(work, tiling)
    clipped = {c.index for c in clips}

    def lanes(index: Index) -> int:
        return tiling.lanes if index.name == tiling.vector else 1

    def steps(index: Index) -> int:
        return -(-index.size // lanes(index))

    def reaches(index: Index, count: int) -> bool:
        # A sum of a block may read so far beyond the values that it needs, in whole steps.
        return work.column is None or count * lanes(index) <= work.target.row_blocks.slack

    innermost = order[-1]
    accumulators, copies = 1, tiling.copies * work.bodies
    # One accumulator would add once per latency. Independent ones overlap, as copies of the tile
    # do; each doubling keeps the number a power of two, so that they can be joined pairwise. A
    # clipped loop may start anywhere, and so cannot take several steps at a time.
    while (
        accumulators * copies < limits.accumulators
        and limits.accumulator_steps * accumulators <= steps(innermost)
        and innermost.name not in clipped
        and reaches(innermost, 2 * accumulators)
    ):
        accumulators *= 2
    if accumulators > 1:
        return accumulators, {innermost.name: accumulators}
    unrolled = {}
    # Full unrolling from the innermost loop outwards, as far as the copies of the code stay few; an
    # outer loop cannot be unrolled around one that is not.
    for index in reversed(order):
        count = steps(index)
        slides = tiling.sliding is not None and index.name == tiling.sliding.window
        few = slides or count <= limits.unrolled_steps
        fits = few and copies * count <= limits.unrolled_copies
        if not fits or index.name in clipped or not reaches(index, count):
            break
        unrolled[index.name] = count
        copies *= count
    return 1, unrolled


def tiled_loops(
    work: Work,
    tiling: Tiling,
    clips: list[Clip],
    unrolled: Mapping[str, int],
    panels: Panels | None = None,
) -> tuple[Loop, ...]:
    """Output loops: those outside the tile, then rows and vectors; then reduction loops. If the
    operand that vectors run over stays in cache, the loop over rows is outside that over vectors,
    and stores run through memory in order; else it is inside, as are all others that read the same
    panel of the operand, which stays in cache."""
    target = work.target
    # The operands that vectors run over are read again at every step of the loop over rows.
    panel = sum(work.footprints[a.tensor] for a, d in work.depends if tiling.vector in d)
    vector_first = panels is not None or panel > target.tiling.cached_panel * target.l2.bytes

    # What of the loops outside the tile leaves a panel as it is.
    wide = [d for _, d in work.depends if tiling.vector in d]
    reusing = {i.name for i in work.outputs if vector_first and not any(i.name in d for d in wide)}
    if panels is not None:
        reusing -= panels.stretch.outside

    def rank(index: Index) -> int:
        if index.name == work.outermost:
            return -2
        if index.name == tiling.vector:
            # Loops outside the tile (-1) first; then vectors, rows (0, 2) or rows, vectors (2, 3).
            return 0 if vector_first else 3
        if tiling.rows.get(index.name, 1) > 1:
            return 2
        return 1 if index.name in reusing else -1

    outer = [_output_loop(index, tiling) for index in sorted(work.outputs, key=rank)]
    if work.unread_where:
        outer = _read_part(outer, work)
    order = _reduction_order(work, tiling)
    bounds = loop_bounds(work.zero_where, order, tiling.extents)
    inner = [
        _loop(
            index,
            "reduce",
            unrolled.get(index.name, 1),
            tiling.lanes if index.name == tiling.vector else 1,
            tuple((c.form, c.size) for c in clips if c.index == index.name),
            bounds.get(index.name, UNBOUNDED),
        )
        for index in order
    ]
    if _pays_to_share(work, tiling):
        # Each thread keeps to its part of the panels, for all examples.
        shared = loop_for_threads([x for x in outer if x.index.name != work.outermost], target)
        outer = [replace(x, kind="parallel") if x is shared else x for x in outer]
    return (*outer, *inner)


def is_by_example(kernel: Kernel, plan: Plan, target: CpuTarget) -> bool:
    """Whether a sum runs through all panels of a weight for one example after the other, and not
    through all examples for each panel: then the weight is read again for every example, else the
    rows of all examples for every panel, from beyond the caches."""
    anchor, tensors, limits = kernel.anchor, plan.system.tensors, target.tiling
    alone = kernel.window is None and not kernel.fixed and anchor.at is None
    factors = [f for f in multiplicands(anchor.body) if isinstance(f, Read)]
    if not kernel.examples or anchor.reduce != "sum" or not alone or len(factors) != 2:
        return False
    weight, rows = sorted(factors, key=lambda f: kernel.examples in index_names(f))
    columns = index_names(weight)
    if kernel.examples in columns or kernel.examples not in index_names(rows):
        return False
    near, panel = limits.cached_panel * target.l2.bytes, limits.vectors * target.lanes
    panels = prod(i.size for i in anchor.indices if i.name in columns) / panel
    read, given = tensors[weight.tensor].bytes, tensors[rows.tensor].bytes
    far = read > near and given > target.l2.bytes
    return far and anchor.sizes[kernel.examples] * read < panels * given


def _read_part(loops: list[Loop], work: Work) -> list[Loop]:
    """The output loops within what other kernels read."""
    if work.column is None:
        read = loop_bounds(work.unread_where, work.outputs, {})
        return [replace(x, upper_bounds=read.get(x.index.name, UNBOUNDED).upper) for x in loops]
    columns = [i for i in work.outputs if i.name == work.column]
    extents = {i.name: i.size for i in work.outputs if i.name != work.column}
    bounds = loop_bounds(work.unread_where, columns, extents) if columns else {}
    # Sums begin and end at whole steps of their loops, and so a little further out.
    slack = Affine({}, work.target.row_blocks.slack)
    found = []
    for loop in loops:
        own = bounds.get(loop.index.name, UNBOUNDED)
        lower, upper = (
            tuple(_at_zero(f, extents) for f in part) for part in (own.lower, own.upper)
        )
        lower = tuple(form + slack.scaled(-1) for form in lower)
        upper = tuple(form + slack for form in upper)
        found.append(replace(loop, lower_bounds=lower, upper_bounds=upper))
    return found


def over_examples(
    loops: Iterable[Loop], form: CoalescedKernel, target: CpuTarget
) -> Iterator[Loop]:
    """The loops, the one over examples marked: it may end before its last one. What is left over of
    its tiles goes into smaller ones."""
    for loop in loops:
        if loop.index.name != form.batch or not loop.is_whole:
            yield loop
            continue
        segments, most = list(loop.segments), max(s.tile for s in loop.segments)
        if loop.lanes == 1 and most > 1:
            whole, left = divmod(loop.index.size, most)
            segments = [Segment(0, whole, most, 1)] if whole else []
            smaller = max(2, most // target.tiling.examples_tile_ratio)
            for tile in dict.fromkeys((smaller, 1)):
                start = loop.index.size - left
                segments.append(Segment(start, left // tile, tile, 1))
                left %= tile
        yield replace(loop, segments=tuple(segments), per_example=form.per_example)


def _at_zero(form: Affine, names: Iterable[str]) -> Affine:
    """The form where these indices are 0."""
    for name in names:
        form = form.without(Idx(name))
    return form


# --- accumulations ------------------------------------------------------------------------------


def accumulation_loops(
    work: Work, tiling: Tiling, into: Access, own_rows: str
) -> tuple[tuple[Loop, ...], int]:
    """The loops of an accumulation in their given order, the tile's before those that an operand of
    it does not depend on; and the number of these through which the target's elements stay in
    registers. Threads share the index `own_rows`."""
    tile = [i for i in work.outputs if tiling.rows.get(i.name, 1) > 1 or i.name == tiling.vector]
    tile.sort(key=lambda i: i.name == tiling.vector)
    order = [i for i in work.outputs if i not in tile]
    # Loops move inside the tile as long as they leave some vector operand, or the target,
    # unchanged: that stays in registers through them.
    wide, outside = work.vector_operands(tiling.vector), len(order)
    while outside and any(not d & {i.name for i in order[outside - 1 :]} for d in wide):
        outside -= 1
    inside = {i.name for i in order[outside:]}
    # Two elements in registers that were the same in memory would lose one of the sums.
    promotes = inside and _is_injective(into, work) and not inside & into.offset.indices
    loops = [_output_loop(i, tiling) for i in (*order[:outside], *tile, *order[outside:])]
    if _pays_to_share(work, tiling):
        # Threads on any other index could add to one element at the same time.
        parallel = [i.name for i in order[:outside] if i.name == own_rows]
        loops = [replace(x, kind="parallel") if x.index.name in parallel else x for x in loops]
    return tuple(loops), len(inside) if promotes else 0


def _is_injective(into: Access, work: Work) -> bool:
    """Whether different points of the indices that the target depends on are different elements."""
    sizes = {i.name: i.size for i in work.outputs}
    reach = 0
    # Mixed radix: by rising stride, each one must exceed all that the smaller ones can reach
    # together.
    # Example: 64*i + j is injective for j < 64, but not for j < 65.
    for atom, factor in sorted(into.offset.coefficients.items(), key=lambda term: term[1]):
        if not isinstance(atom, Idx) or factor <= reach:
            return False
        reach += factor * (sizes[atom.name] - 1)
    return not into.checks


# --- threads ------------------------------------------------------------------------------------


def _pays_to_share(work: Work, tiling: Tiling) -> bool:
    """Whether the nest has enough work to wake threads for it."""
    # The score is in cycles per point.
    points = prod(i.size for i in (*work.outputs, *work.over))
    return work.shared and points * tiling.score >= work.target.tiling.parallel_cycles


def loop_for_threads(loops: list[Loop], target: CpuTarget) -> Loop | None:
    """The loop to divide among threads: the outermost with steps to spare, or with few that divide
    evenly, since each thread then keeps to a part of what it reads; else the longest."""
    limits = target.tiling
    for loop in loops:
        # With 16 steps or more no thread has much more to do than another; with a multiple of 4
        # that holds for teams of 2 or 4 threads.
        even = loop.steps >= limits.even_parallel_steps
        if loop.steps >= limits.parallel_steps or (
            even and loop.steps % limits.even_parallel_steps == 0
        ):
            return loop
    longest = max(loops, key=lambda loop: loop.steps, default=None)
    return longest if longest is not None and longest.steps > 1 else None


# --- one loop -----------------------------------------------------------------------------------


def _output_loop(index: Index, tiling: Tiling) -> Loop:
    if index.name == tiling.vector:
        return _loop(index, "serial", tiling.vectors, tiling.lanes)
    return _loop(index, "serial", tiling.rows.get(index.name, 1))


def _loop(
    index: Index,
    kind: str,
    tile: int,
    lanes: int = 1,
    clip: Checks = (),
    bounds: Bounds = UNBOUNDED,
) -> Loop:
    """The index in tiles of `tile` (vectors of `lanes`), as equal as can be: 11 by 4 is 4+4+3.
    Reductions have full tiles and a remainder, so that accumulators stay aligned. A masked vector
    is peeled into a step of its own."""
    blocks = -(-index.size // lanes)
    # Example: 100 elements in vectors of 16: 7 blocks, of which the last has 4 valid lanes.
    valid = index.size - (blocks - 1) * lanes
    if kind == "reduce" or lanes > 1:
        sizes = [(blocks // tile, tile), (1, blocks % tile)]
    else:
        # 11 by 4: 3 parts, `small` 3 and `more` 2, hence 2 steps of 4 and 1 of 3.
        parts = -(-blocks // tile)
        small, more = divmod(blocks, parts)
        sizes = [(more, small + 1), (parts - more, small)]
    sizes = [(count, size) for count, size in sizes if count and size]
    if valid != lanes:
        # The last step of all has the masked vector: it gets a segment of its own, and the steps
        # before it need no mask.
        count, size = sizes.pop()
        sizes += [(count - 1, size), (1, size)]
    segments, start = [], 0
    for count, size in sizes:
        if count:
            segments.append(Segment(start, count, size, lanes))
            start += count * size * lanes
    segments[-1] = replace(segments[-1], valid=valid)
    if len(segments) == 1 and segments[0].count == 1:  # one step, which is always taken
        bounds = UNBOUNDED
    return Loop(index, kind, tuple(segments), lanes, clip, bounds.lower, bounds.upper)
