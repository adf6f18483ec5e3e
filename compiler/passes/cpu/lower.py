"""Lowering to loops: coalesced indices, a register tile, the order of the loops.

    kernel y: sum(k) x[i, k] * w[k, j]
    →   parallel for i by 6; for j by 2 vectors of 16; acc = 0; reduce for k: acc = fma(…); y = acc

The result is a `Nest`, in which nothing is left to decide. Vectors and tile are chosen in
`tiling.py`, loop bounds in `loop_bounds.py`, blocks of long sums in `blocked_sums.py`, offsets in
`lowering/addressing.py`; the code generator only writes it down. Besides the tile, decided here are
accumulators and unrolling of reductions, the order of output loops, which loop threads share,
register promotion of accumulations, and software prefetch. Tests: tests/backends/test_cpu.py,
tests/passes/.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from math import prod
from operator import is_

from ...ir.affine import Affine
from ...ir.dtypes import BYTES
from ...ir.equation import Equation, Index, Tensor
from ...ir.expr import Apply, Expr, Idx, Read, index_names, reads, walk
from ...ir.sparsity_analysis import vanishes
from ...ir.terms import is_zero
from ...targets import CpuTarget
from ..kernels.kernel import Kernel, Plan
from ..lowering.access import Access, Statement
from ..lowering.addressing import linearize
from ..lowering.coalesce_indices import (
    CoalescedKernel,
    accesses_of,
    accumulated_access,
    coalesce_indices,
    outside_addresses,
    store_offsets,
)
from .amx_tiles import amx_loops, amx_tiles
from .blocked_sums import blocked_sums
from .cache_blocks import Panels, cache_blocks
from .loop_bounds import UNBOUNDED, Bounds, loop_bounds
from .loop_ir import Accumulate, Loop, Nest, Segment
from .pack_bf16_pairs import why_not_packed
from .tiling import Clip, Tiling, Work, choose, transposed_along

Checks = tuple[tuple[Affine, int], ...]


def lower(kernel: Kernel, plan: Plan, target: CpuTarget) -> Nest:
    """The nest of loops for a kernel."""
    form = coalesce_indices(kernel, plan, split=True)
    found = accesses_of(form, plan)
    stored = store_offsets(form, kernel, plan)
    anchor = kernel.anchor
    tiles = amx_tiles(form, found, target)
    if tiles is not None:
        outer, inner = amx_loops(form, tiles)
        shared = _shared(outer, target)
        outer = [replace(x, kind="parallel") if x is shared else x for x in outer]
        return Nest(
            name=kernel.name,
            loops=(*_over_examples(outer, form, target), *inner),
            bodies=tuple(b.value for b in form.bodies),
            reduce=anchor.reduce,
            statements=tuple(
                Statement(r.element, r.value, stored[r.element]) for r in form.results
            ),
            accesses=found,
            sizes=form.sizes,
            lanes=target.lanes,
            bf16_instructions=target.bf16_instructions,
            fixed=kernel.fixed,
            tiles=tiles,
            source=_source(anchor),
            notes=(kernel.reason, f"AMX: tiles along {tiles.rows} and {tiles.columns}"),
        )
    into = None if form.at is None else accumulated_access(form, kernel, plan)
    # What the loops over `over` read at every point; the epilogue reads once per result.
    body_reads = dict.fromkeys(r for b in form.bodies for r in reads(b.value) if r in found)
    fixed = tuple(Index(n, form.sizes[n]) for n in kernel.fixed if n in form.sizes)
    work = Work(
        target=target,
        # An accumulation loops over the elements that are added, not over those of its target.
        outputs=form.over if into else form.outputs,
        over=() if into else form.over,
        reduce=None if into else anchor.reduce,
        # Of a sum the model counts the inner loop alone: that is where the time goes.
        accesses=tuple(found[r] for r in (body_reads if anchor.reduce else found)),
        stores=(into.offset,) if into else tuple(o for o in stored.values() if o is not None),
        operations=_operations(form, anchor),
        bytes=BYTES[form.bodies[0].value.dtype],
        bodies=len(form.bodies),
        footprints={
            name: plan.system.tensors[name].bytes for eq in kernel.equations for name in eq.sources
        },
        zero_checks=_zero_checks(form, anchor, found),
        zero_where=_affine_conditions(form.zero_where, form),
        unread_where=_affine_conditions(form.unread_where, form),
        fixed=fixed,
        column=kernel.window.column if kernel.window else None,
        only_vector=_accumulation_vector(form, into) if into else None,
        accumulated=into.offset if into else None,
        batch=form.batch,
    )
    tiling = choose(work)
    panels = cache_blocks(work, {r: found[r] for r in body_reads}, tiling) if not into else None
    if panels is not None:
        tiling = panels.tiling
    # Which checks clip a loop depends on the tile, and which checks are left depends on the clips.
    clips = _clips(work, tiling)
    accumulate, accumulators = None, 1
    if into is not None:
        own_rows = _separate_rows(form, plan.system.tensors[anchor.target])
        loops, promoted = _accumulation_loops(work, tiling, into, own_rows)
        accumulate = Accumulate(into, plan.system.tensors[anchor.target].bytes, promoted)
    else:
        accumulators, unrolled = _unrolling(work, tiling, clips)
        for index in work.over[: panels.cut.loop + 1] if panels else ():
            unrolled.pop(index.name, None)  # blocks end at any step of these
        loops = _loops(work, tiling, clips, unrolled, panels)
        loops = tuple(_over_examples(loops, form, target))
    accesses = _transposed(_without_checks(found, clips), work, tiling)
    blocks = None
    if panels is not None:
        blocks, accesses[panels.packed] = panels.blocks(loops)
    operands = [accesses[r] for r in body_reads]
    others = [accesses[r] for r in found if r not in body_reads]
    notes = [kernel.reason, why_not_packed(anchor, plan.system, target), str(tiling)]
    notes += [] if blocks is None else [blocks.note]
    nest = Nest(
        name=kernel.name,
        loops=loops,
        bodies=tuple(b.value for b in form.bodies),
        reduce=work.reduce,
        statements=tuple(Statement(r.element, r.value, stored[r.element]) for r in form.results),
        accesses=accesses,
        sizes=form.sizes,
        lanes=tiling.lanes,
        bf16_instructions=target.bf16_instructions,
        accumulators=accumulators,
        position=linearize(form.position, form.sizes),
        accumulate=accumulate,
        fixed=kernel.fixed,
        operand_prefetch=() if into else _operand_prefetch(operands, loops, work, tiling),
        epilogue_prefetch=_epilogue_prefetch(others, work, tiling),
        row_loop=_row_loop(form, others, work, tiling),
        blocks=blocks,
        source=_source(anchor),
        notes=(*filter(None, notes), *(f"not {text}" for text in tiling.rejected)),
    )
    return nest if blocks is not None else blocked_sums(nest, target)


def _source(equation: Equation) -> str:
    span = equation.span
    return f"{span}: {span.source.line(span.line).strip()}" if span is not None else ""


# --- what the kernel does ------------------------------------------------------------------------


def _operations(form: CoalescedKernel, anchor: Equation) -> int:
    """Vector operations per point; a product that is summed is one."""
    if not anchor.reduce:
        nodes = set().union(*(outside_addresses(r.value) for r in form.results))
        return max(1, sum(isinstance(e, Apply) for e in nodes))
    total = 0
    # A product and its addition are one fused multiply-add; any other body costs its own operations
    # and one to add.
    for body in (b.value for b in form.bodies):
        count = sum(isinstance(e, Apply) for e in outside_addresses(body))
        fused = isinstance(body, Apply) and body.fn in ("mul", "bf16_dot")
        total += max(count, 1) if fused else count + 1
    return total


def _zero_checks(
    form: CoalescedKernel, anchor: Equation, accesses: Mapping[Read, Access]
) -> Checks:
    """The checks that make every term of a sum 0 where they fail."""
    if anchor.reduce != "sum" or form.at is not None:
        return ()
    # A guard of 0 on one factor is enough: the whole product vanishes. Every body must, since the
    # bodies share the loops.
    zeroing = [
        read
        for read, access in accesses.items()
        if access.checks
        and read.other is not None
        and is_zero(read.other)
        and all(vanishes(b.value, partial(is_, read)) for b in form.bodies)
    ]
    later = {r for v in form.values for r in reads(v.value) if r in accesses}
    asked_later = [check for read in later for check in accesses[read].checks]
    inner, outer = ({i.name for i in group} for group in (form.over, form.outputs))

    def is_inner(check: tuple[Affine, int]) -> bool:
        # A check on no reduced index skips the whole sum, but not the statements after it; nor is
        # it known how often one on the step of a recurrence passes.
        names = _names(check[0])
        return not names.isdisjoint(inner) or (names <= outer and check not in asked_later)

    found = (check for read in sorted(zeroing, key=str) for check in accesses[read].checks)
    return tuple(filter(is_inner, found))


def _affine_conditions(conditions: tuple[Expr, ...], form: CoalescedKernel) -> tuple[Affine, ...]:
    """Of some conditions those that are affine in coalesced indices."""
    forms = (linearize(e, form.sizes) for e in conditions)
    # Coalescing may have put quotients into a form; no bound can be solved for these.
    return tuple(f for f in forms if all(isinstance(atom, Idx) for atom in f.coefficients))


def _accumulation_vector(form: CoalescedKernel, into: Access) -> str:
    """The index that an accumulation may vectorise: the one along which its target is contiguous,
    if that is addressed by it alone and in bounds, so that no two lanes add to one element."""
    forms = [into.offset, *(check for check, _ in into.checks)]
    # A lane adds to the element beside that of the lane before. An index inside another atom, such
    # as a gathered row, might send two lanes to one element, and a check on it would differ between
    # lanes.
    for index in form.over:
        own = Idx(index.name)
        atoms = [a for f in forms for a in f.coefficients if a is not own]
        checked = any(own in check.coefficients for check, _ in into.checks)
        separate = own not in {e for a in atoms for e in walk(a)} and not checked
        if into.offset.coefficients.get(own) == 1 and separate:
            return index.name
    return ""


def _separate_rows(form: CoalescedKernel, tensor: Tensor) -> str:
    """The index each value of which adds to a row of the target of its own, so that threads can
    share it: it stands alone in the first dimension."""
    # Each thread clears and fills a stretch of whole rows of its own, so no two write the same
    # element.
    first = form.at[0] if form.at else None
    if isinstance(first, Idx) and form.sizes[first.name] == tensor.shape[0]:
        return first.name
    return ""


# --- accesses ------------------------------------------------------------------------------------


def _without_checks(accesses: Mapping[Read, Access], clips: list[Clip]) -> dict[Read, Access]:
    """The accesses without the checks that clipped loops ensure."""
    # A clipped loop runs only where the check holds.
    ensured = [(c.form, c.size) for c in clips]
    return {
        read: replace(a, checks=tuple(c for c in a.checks if c not in ensured))
        for read, a in accesses.items()
    }


def _transposed(accesses: Mapping[Read, Access], work: Work, tiling: Tiling) -> dict[Read, Access]:
    """The accesses, those marked that are transposed in registers."""
    if not tiling.vector:
        return dict(accesses)
    return {
        read: replace(a, transposed=transposed_along(a, tiling.vector, tiling.rows, work.target))
        for read, a in accesses.items()
    }


def _operand_prefetch(
    operands: list[Access], loops: tuple[Loop, ...], work: Work, tiling: Tiling
) -> tuple[Access, ...]:
    """The operands of a sum that are read one element at a time, each from a row far from that of
    the step before: what is read some steps later."""
    limits = work.target.prefetch
    if tiling.form != "outer" or loops[-1].kind != "reduce":
        return ()
    # In a short loop most prefetches would be of what comes after its end.
    if loops[-1].steps < 2 * limits.distance:
        return ()
    inner, vector = Idx(loops[-1].index.name), Idx(tiling.vector)
    found = []
    for a in operands:
        terms = a.offset.coefficients
        step = terms.get(inner, 0)
        # The address some steps ahead must be known without loading an index first. Neighbouring
        # steps are left to the hardware's own prefetchers; what vectors run over is read whole
        # lines at a time.
        plain = all(isinstance(atom, Idx) for atom in terms) and not a.checks
        if plain and vector not in terms and abs(step) * BYTES[a.dtype] >= limits.far_stride:
            ahead = a.offset + Affine({}, limits.distance * step)
            found.append(replace(a, offset=ahead))
    return tuple(found)


def _epilogue_prefetch(others: list[Access], work: Work, tiling: Tiling) -> tuple[Access, ...]:
    """What statements read after a sum that takes long enough to bring it from memory: a cache line
    for every vector."""
    long = prod(i.size for i in work.over) >= work.target.prefetch.distance
    if not work.reduce or tiling.form != "outer" or not long:
        return ()
    vector = Idx(tiling.vector)
    return tuple(
        a
        for a in others
        if a.offset.coefficients.get(vector) == 1
        and not a.checks
        and all(isinstance(atom, Idx) for atom in a.offset.coefficients)
        # What is the same for all rows, such as a bias, is soon in the cache anyway.
        and any(tiling.rows.get(name, 1) > 1 for name in _names(a.offset))
    )


def _row_loop(form: CoalescedKernel, others: list[Access], work: Work, tiling: Tiling) -> str:
    """The index with the most rows in the tile, if the statements after a sum are too long to be
    unrolled. A block that is transposed in registers has all of its rows at once."""
    if tiling.form != "outer" or not work.reduce or not any(n > 1 for n in tiling.rows.values()):
        return ""
    # Unrolled, the code would repeat these operations at every copy of the tile: long ones run in a
    # loop, which keeps the code short.
    after = set[Expr]().union(*(outside_addresses(v.value) for v in form.values))
    operations = sum(isinstance(e, Apply) for e in after) * tiling.copies
    if operations <= work.target.tiling.inline_epilogue or any(a.transposed for a in others):
        return ""
    return max(tiling.rows, key=lambda n: tiling.rows[n])


# --- loops -------------------------------------------------------------------------------------


def _reduction_order(work: Work, tiling: Tiling) -> list[Index]:
    """The reduced indices, the vector index innermost."""
    # A stable sort: the others keep their order.
    return sorted(work.over, key=lambda i: i.name == tiling.vector)


def _clips(work: Work, tiling: Tiling) -> list[Clip]:
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


def _unrolling(work: Work, tiling: Tiling, clips: list[Clip]) -> tuple[int, dict[str, int]]:
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
        fits = count <= limits.unrolled_steps and copies * count <= limits.unrolled_copies
        if not fits or index.name in clipped or not reaches(index, count):
            break
        unrolled[index.name] = count
        copies *= count
    return 1, unrolled


def _loops(
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
    if _pays_to_share(work, tiling) and work.column is None:  # threads share the blocks
        shared = _shared(outer, target)
        outer = [replace(x, kind="parallel") if x is shared else x for x in outer]
    return (*outer, *inner)


def _read_part(loops: list[Loop], work: Work) -> list[Loop]:
    """The output loops of a block, within what its other kernels read."""
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


def _over_examples(
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


def _output_loop(index: Index, tiling: Tiling) -> Loop:
    if index.name == tiling.vector:
        return _loop(index, "serial", tiling.vectors, tiling.lanes)
    return _loop(index, "serial", tiling.rows.get(index.name, 1))


def _pays_to_share(work: Work, tiling: Tiling) -> bool:
    """Whether the nest has enough work to wake threads for it."""
    # The score is in cycles per point.
    points = prod(i.size for i in (*work.outputs, *work.over))
    return points * tiling.score >= work.target.tiling.parallel_cycles


def _shared(loops: list[Loop], target: CpuTarget) -> Loop | None:
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


def _accumulation_loops(
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
    promotes = inside and _is_injective(into, work) and not inside & _names(into.offset)
    loops = [_output_loop(i, tiling) for i in (*order[:outside], *tile, *order[outside:])]
    if _pays_to_share(work, tiling):
        # Threads on any other index could add to one element at the same time.
        parallel = [i.name for i in order[:outside] if i.name == own_rows]
        loops = [replace(x, kind="parallel") if x.index.name in parallel else x for x in loops]
    return tuple(loops), len(inside) if promotes else 0


def _names(form: Affine) -> set[str]:
    return {name for atom in form.coefficients for name in index_names(atom)}


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
