"""Kernels to loops: merges indices, chooses the tile, orders the loops.

In: a `Kernel` and its `Plan`. Out: the `Nest`, in which nothing is left to decide. The choice of
vector and tile is `tile.py`, memory offsets are `access.py`; the backend spells the result.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from ..lowering.addressing import access_of, linearize
from ..lowering.coalesce_indices import (
    CoalescedKernel,
    accesses_of,
    coalesce_indices,
    outside_addresses,
    store_offsets,
)
from .loop_bounds import UNBOUNDED, Bounds, loop_bounds
from .loop_ir import Access, Accumulate, Loop, Nest, Segment, Statement
from .pack_bf16_pairs import why_not
from .tiling import Clip, Tiling, Work, choose, turned

UNROLLED = 4  # a reduction loop of at most this many steps is unrolled …
COPIES = 160  # … unless that makes more copies of the body than this
CHAINS = 8  # independent accumulators that keep the adders busy
CACHED = 0.5  # the part of a core's cache that operands may take
FETCH = 16  # steps of a reduction that its operands are asked for ahead …
APART = 1024  # … where rows are so many bytes apart, which processors do not foresee
WRITTEN_OUT = 128  # operations after a sum, at all copies; more would only take long to compile
SHARED = 4096  # cycles of work below which threads are not worth waking


Clips = tuple[tuple[Affine, int], ...]


def lower(kernel: Kernel, plan: Plan, target: CpuTarget) -> Nest:
    """The nest of loops for a kernel."""
    form = coalesce_indices(kernel, plan)
    found = accesses_of(form, plan)
    places = store_offsets(form, kernel, plan)
    anchor = kernel.anchor
    accumulate = None
    if form.at is not None:
        tensor = plan.system.tensors[anchor.target]
        into = access_of(Read(tensor.name, form.at, None, tensor.dtype), tensor, form.sizes)
        accumulate = Accumulate(into, tensor.bytes)
    body_reads = dict.fromkeys(r for b in form.bodies for r in reads(b.value) if r in found)
    work = Work(
        outputs=form.over if accumulate else form.outputs,
        over=() if accumulate else form.over,
        reduce=None if accumulate else anchor.reduce,
        accesses=tuple(found[r] for r in (body_reads if anchor.reduce else found)),
        stores=(accumulate.access.offset,)
        if accumulate
        else tuple(place for place in places.values() if place is not None),
        operations=_operations(form, anchor),
        bytes=BYTES[form.bodies[0].value.dtype],
        bodies=len(form.bodies),
        footprints={
            name: plan.system.tensors[name].bytes for eq in kernel.equations for name in eq.sources
        },
        vanishing=_vanishing(form, anchor, found),
        ends=_ends(form),
        vectorised=_accumulation_vector(form, accumulate.access) if accumulate else None,
        into=accumulate.access.offset if accumulate else None,
    )
    tiling = choose(work, target)
    clips = _clips(work, tiling)
    chains, unrolled = _unrolling(work, tiling, clips)
    if accumulate is not None:
        apart = _apart(form, plan.system.tensors[anchor.target])
        loops, held = _accumulating(work, tiling, accumulate, apart)
        accumulate = replace(accumulate, promoted=held)
    else:
        loops = _loops(work, tiling, target, clips, unrolled)
    left = _turned(_unchecked(found, clips), tiling)
    others = [left[r] for r in found if r not in body_reads]
    return Nest(
        name=kernel.name,
        loops=loops,
        bodies=tuple(b.value for b in form.bodies),
        reduce=work.reduce,
        statements=tuple(
            Statement(own, value, places[own])
            for own, value in ((r.element, r.value) for r in (*form.bodies, *form.values))
        ),
        accesses=left,
        sizes=form.sizes,
        lanes=tiling.lanes,
        bf16_dot=target.bf16_dot,
        accumulators=chains,
        position=linearize(form.position, form.sizes),
        accumulate=accumulate,
        fixed=kernel.fixed,
        operand_prefetch=()
        if accumulate
        else _fetched([left[r] for r in body_reads], loops, tiling),
        epilogue_prefetch=_early(others, work, tiling),
        row_loop=_rolled(form, others, work, tiling),
        source=_source(anchor),
        notes=(
            *filter(None, (kernel.reason, why_not(anchor, plan.system) if target.bf16_dot else "")),
            str(tiling),
            *(f"not {text}" for text in tiling.rejected),
        ),
    )


# --- sums that vanish outside ---------------------------------------------------------------------


def _vanishing(form: CoalescedKernel, anchor: Equation, accesses: Mapping[Read, Access]) -> Clips:
    """The checks that make the whole body zero, in a sum."""
    if anchor.reduce != "sum" or form.at is not None:
        return ()
    zeroing = [
        read
        for read in accesses
        if read.other is not None
        and is_zero(read.other)
        and all(vanishes(b.value, partial(is_, read)) for b in form.bodies)
    ]
    return tuple(c for read in sorted(zeroing, key=str) for c in accesses[read].checks)


def _ends(form: CoalescedKernel) -> tuple[Affine, ...]:
    """The forms that end loops, of those that are affine in merged indices."""
    forms = (linearize(e, form.sizes) for e in form.ends)
    return tuple(f for f in forms if all(isinstance(atom, Idx) for atom in f.coefficients))


def _unchecked(accesses: Mapping[Read, Access], clips: list[Clip]) -> dict[Read, Access]:
    """The accesses without the checks that clipped loops have made."""
    made = [(c.form, c.size) for c in clips]
    return {
        read: replace(a, checks=tuple(c for c in a.checks if c not in made))
        for read, a in accesses.items()
    }


def _fetched(operands: list[Access], loops: tuple[Loop, ...], tiling: Tiling) -> tuple[Access, ...]:
    """The operands of a sum that are read one element at a time, each from a row far away from
    that of the step before: what comes so many steps later."""
    if tiling.form != "outer" or loops[-1].kind != "reduce" or loops[-1].steps < 2 * FETCH:
        return ()
    inner, vector = Idx(loops[-1].index.name), Idx(tiling.vector)
    found = []
    for a in operands:
        terms = a.offset.coefficients
        step = terms.get(inner, 0)
        plain = all(isinstance(atom, Idx) for atom in terms) and not a.checks
        if plain and vector not in terms and abs(step) * BYTES[a.dtype] >= APART:
            found.append(replace(a, offset=a.offset + Affine({}, FETCH * step)))
    return tuple(found)


def _early(others: list[Access], work: Work, tiling: Tiling) -> tuple[Access, ...]:
    """What statements read after a sum that takes long enough to bring it from memory: a line for
    every vector."""
    vector = Idx(tiling.vector)
    if not work.reduce or tiling.form != "outer" or prod(i.size for i in work.over) < FETCH:
        return ()
    return tuple(
        a
        for a in others
        if a.offset.coefficients.get(vector) == 1
        and not a.checks
        and all(isinstance(atom, Idx) for atom in a.offset.coefficients)
        and any(tiling.rows.get(atom.name, 1) > 1 for atom in a.offset.coefficients)  # type: ignore[attr-defined]
    )


def _rolled(form: CoalescedKernel, others: list[Access], work: Work, tiling: Tiling) -> str:
    """The index with the most rows in the tile, if what follows a sum is long. A block that is
    turned in registers has all of its rows at once."""
    if tiling.form != "outer" or not work.reduce or not any(n > 1 for n in tiling.rows.values()):
        return ""
    after = set[Expr]().union(*(outside_addresses(v.value) for v in form.values))
    long = sum(isinstance(e, Apply) for e in after) * tiling.copies > WRITTEN_OUT
    blocks = any(a.transposed for a in others)
    return max(tiling.rows, key=lambda n: tiling.rows[n]) if long and not blocks else ""


def _turned(accesses: Mapping[Read, Access], tiling: Tiling) -> dict[Read, Access]:
    """The accesses, those marked that are turned in registers."""
    if not tiling.vector:
        return dict(accesses)
    return {
        read: replace(a, transposed=turned(a, tiling.vector, tiling.rows, tiling.lanes))
        for read, a in accesses.items()
    }


def _operations(form: CoalescedKernel, anchor: Equation) -> int:
    """Vector operations per point; a product that is summed is one."""
    if not anchor.reduce:
        values = (r.value for r in (*form.bodies, *form.values))
        nodes = set().union(*map(outside_addresses, values))
        return max(1, sum(isinstance(e, Apply) for e in nodes))
    total = 0
    for body in (b.value for b in form.bodies):
        count = sum(isinstance(e, Apply) for e in outside_addresses(body))
        fused = isinstance(body, Apply) and body.fn in ("mul", "bf16_dot")
        total += max(count, 1) if fused else count + 1
    return total


def _accumulation_vector(form: CoalescedKernel, into: Access) -> str:
    """The index that an accumulation may vectorise: the one along which its target lies, if that
    is addressed plainly and certainly inside, so that no two lanes meet."""
    forms = [into.offset, *(check for check, _ in into.checks)]
    for index in form.over:
        own = Idx(index.name)
        atoms = [a for f in forms for a in f.coefficients if a is not own]
        checked = any(own in check.coefficients for check, _ in into.checks)
        apart = own not in {e for a in atoms for e in walk(a)} and not checked
        if into.offset.coefficients.get(own) == 1 and apart:
            return index.name
    return ""


# --- loops -------------------------------------------------------------------------------------


def _unrolling(work: Work, tiling: Tiling, clips: list[Clip]) -> tuple[int, dict[str, int]]:
    """Accumulator chains, and the unrolling of reduction loops from the innermost outwards."""
    if not work.reduce:
        return 1, {}
    order = _inner_order(work, tiling)
    clipped = {c.index for c in clips}
    innermost = order[-1]
    steps = -(-innermost.size // (tiling.lanes if innermost.name == tiling.vector else 1))
    chains, copies = 1, tiling.copies * work.bodies
    while chains * copies < CHAINS and 4 * chains <= steps and innermost.name not in clipped:
        chains *= 2
    if chains > 1:
        return chains, {innermost.name: chains}
    unrolled = {}
    for index in reversed(order):
        steps = -(-index.size // (tiling.lanes if index.name == tiling.vector else 1))
        if steps > UNROLLED or copies * steps > COPIES or index.name in clipped:
            break
        unrolled[index.name] = steps
        copies *= steps
    return 1, unrolled


def _clips(work: Work, tiling: Tiling) -> list[Clip]:
    """The checks that shorten a reduction loop: all else in them stands outside that loop."""
    order = [i.name for i in _inner_order(work, tiling)]
    tile = [name for name, size in tiling.rows.items() if size > 1] + [tiling.vector]
    found = []
    for clip in work.clips:
        inner = order[order.index(clip.index) :] if clip.index else []
        if clip.applies((*tile, *inner[1:]), tiling.vector):
            found.append(clip)
    return found


def _inner_order(work: Work, tiling: Tiling) -> list[Index]:
    return sorted(work.over, key=lambda i: i.name == tiling.vector)


def _loops(
    work: Work,
    tiling: Tiling,
    target: CpuTarget,
    clips: list[Clip],
    unrolled: Mapping[str, int],
) -> tuple[Loop, ...]:
    """Output loops: those outside the tile, then rows and vectors; then reduction loops. If the
    operand that vectors run over stays in cache, rows go round vectors, and stores run through
    memory in order; else vectors go round rows, and a panel of it stays in cache."""
    panel = sum(work.footprints[a.tensor] for a, d in work.depends if tiling.vector in d)
    vector_first = panel > CACHED * target.l2.bytes

    def rank(index: Index) -> int:
        if index.name == tiling.vector:
            return 1 if vector_first else 3
        return 2 if tiling.rows.get(index.name, 1) > 1 else 0

    outer = []
    for index in sorted(work.outputs, key=rank):
        if index.name == tiling.vector:
            outer.append(_loop(index, "serial", tiling.vectors, tiling.lanes))
        else:
            outer.append(_loop(index, "serial", tiling.rows.get(index.name, 1)))
    ends = loop_bounds(work.ends, _inner_order(work, tiling), tiling.extents)
    inner = [
        _loop(
            index,
            "reduce",
            unrolled.get(index.name, 1),
            tiling.lanes if index.name == tiling.vector else 1,
            tuple((c.form, c.size) for c in clips if c.index == index.name),
            ends.get(index.name, UNBOUNDED),
        )
        for index in _inner_order(work, tiling)
    ]
    if _points(work) * tiling.score >= SHARED:
        shared = _shared(outer)
        outer = [replace(x, kind="parallel") if x is shared else x for x in outer]
    return (*outer, *inner)


def _points(work: Work) -> int:
    return prod(i.size for i in (*work.outputs, *work.over))


def _accumulating(
    work: Work, tiling: Tiling, accumulate: Accumulate, apart: str
) -> tuple[tuple[Loop, ...], int]:
    """The loops of an accumulation in their given order, the tile's before those through which an
    operand of it stays the same, and through how many of these the target does. Threads share the
    index `apart`."""
    tile = [i for i in work.outputs if tiling.rows.get(i.name, 1) > 1 or i.name == tiling.vector]
    tile.sort(key=lambda i: i.name == tiling.vector)
    order = [i for i in work.outputs if i not in tile]
    wide, same = work.across(tiling.vector), len(order)
    while same and any(not d & {i.name for i in order[same - 1 :]} for d in wide):
        same -= 1
    still = {i.name for i in order[same:]}
    into = accumulate.access
    held = len(still) if still and _separate(into, work) and not still & _names(into.offset) else 0
    loops = [
        _loop(i, "serial", tiling.rows.get(i.name, 1))
        if i.name != tiling.vector
        else _loop(i, "serial", tiling.vectors, tiling.lanes)
        for i in (*order[:same], *tile, *order[same:])
    ]
    if _points(work) * tiling.score >= SHARED:
        loops = [
            replace(x, kind="parallel") if x.index.name == apart and x.index in order[:same] else x
            for x in loops
        ]
    return tuple(loops), held


def _names(form: Affine) -> set[str]:
    return {name for atom in form.coefficients for name in index_names(atom)}


def _separate(into: Access, work: Work) -> bool:
    """Whether different points of the indices that the target depends on are different elements."""
    sizes = {i.name: i.size for i in work.outputs}
    reach = 0
    for atom, factor in sorted(into.offset.coefficients.items(), key=lambda term: term[1]):
        if not isinstance(atom, Idx) or factor <= reach:
            return False
        reach += factor * (sizes[atom.name] - 1)
    return not into.checks


def _apart(form: CoalescedKernel, tensor: Tensor) -> str:
    """The index of which each value adds to a row of the target of its own, so that threads can
    share them: it stands alone in the first dimension."""
    assert form.at is not None
    first = form.at[0] if form.at else None
    whole = isinstance(first, Idx) and form.sizes[first.name] == tensor.shape[0]
    return first.name if whole else ""  # type: ignore[union-attr]


def _shared(loops: list[Loop]) -> Loop | None:
    """The loop to divide among threads: the outermost with steps to spare, or with few that divide
    evenly, since each thread then keeps to a part of what it reads; else the longest."""
    for loop in loops:
        if loop.steps >= 16 or (loop.steps >= 4 and loop.steps % 4 == 0):
            return loop
    longest = max(loops, key=lambda loop: loop.steps, default=None)
    return longest if longest is not None and longest.steps > 1 else None


def _loop(
    index: Index, kind: str, tile: int, lanes: int = 1, clip: Clips = (), ends: Bounds = UNBOUNDED
) -> Loop:
    """The index in tiles of `tile` (vectors of `lanes`), as equal as can be: 11 by 4 is 4+4+3.
    Reductions keep full tiles and a rest, so that chains stay aligned."""
    blocks = -(-index.size // lanes)
    valid = index.size - (blocks - 1) * lanes
    if kind == "reduce" or lanes > 1:
        sizes = [(blocks // tile, tile), (1, blocks % tile)]
    else:
        parts = -(-blocks // tile)
        small, more = divmod(blocks, parts)
        sizes = [(more, small + 1), (parts - more, small)]
    if valid != lanes:  # the masked vector is in a step of its own kind
        sizes = _split_last(sizes)
    segments, start = [], 0
    for count, size in sizes:
        if count and size:
            segments.append(Segment(start, count, size, lanes))
            start += count * size * lanes
    segments[-1] = replace(segments[-1], valid=valid)
    if len(segments) == 1 and segments[0].count == 1:  # one step, which is taken
        ends = UNBOUNDED
    return Loop(index, kind, tuple(segments), lanes, clip, ends.lower, ends.upper)


def _split_last(sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The last step apart from the others of its size."""
    sizes = [(count, size) for count, size in sizes if count and size]
    count, size = sizes.pop()
    return [*sizes, (count - 1, size), (1, size)]


def _source(equation: Equation) -> str:
    span = equation.span
    if span is None:
        return ""
    line = span.source.line(span.line).strip()
    return f"{span}: {line}"
