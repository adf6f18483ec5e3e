"""Lowering to loops: coalesced indices, a register tile, the order of the loops.

    kernel y: sum(k) x[i, k] * w[k, j]
    →   parallel for i by 6; for j by 2 vectors of 16; acc = 0; reduce for k: acc = fma(…); y = acc

The result is a `Nest`, in which nothing is left to decide; the code generator only writes it down.
Vectors and tile are chosen in `tiling.py`, cache blocks in `cache_blocks.py`, the order of loops,
their unrolling and what threads share in `loop_order.py`, bounds in `loop_bounds.py`, blocks of
long sums in `blocked_sums.py`, prefetches in `software_prefetch.py`, offsets in
`lowering/addressing.py`. Tests: tests/backends/test_cpu.py, tests/passes/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from operator import is_
from typing import TypeGuard

from ...ir.affine import Affine
from ...ir.build import rewrite
from ...ir.dtypes import BYTES
from ...ir.equation import Equation, Index, Tensor
from ...ir.expr import Apply, Expr, Idx, Read, is_size, reads, walk
from ...ir.sparsity_analysis import vanishes
from ...ir.terms import is_rounded, is_zero
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
from .cache_blocks import cache_blocks
from .loop_ir import PACKED_ROWS, PANEL, Accumulate, Nest
from .loop_order import (
    accumulation_loops,
    clips_of,
    is_by_example,
    loop_for_threads,
    over_examples,
    tiled_loops,
    unrolling,
)
from .pack_bf16_pairs import why_not_packed
from .packed_panels import Panels
from .software_prefetch import epilogue_prefetch, operand_prefetch
from .tile_cost import Clip, Work, transposed_along
from .tiling import Tiling, choose

Checks = tuple[tuple[Affine, int], ...]


def lower(kernel: Kernel, plan: Plan, target: CpuTarget) -> Nest:
    """The nest of loops for a kernel."""
    by_example = is_by_example(kernel, plan, target)
    form = coalesce_indices(kernel, plan, split=True, keep_examples=by_example)
    found = accesses_of(form, plan)
    stored, tensors = store_offsets(form, kernel, plan), plan.system.tensors
    nest = partial(
        Nest,
        name=kernel.name,
        bodies=tuple(b.value for b in form.bodies),
        statements=tuple(
            Statement(r.element, r.value, stored[r.element], tensors[r.element.tensor].storage)
            for r in form.results
        ),
        sizes=form.sizes,
        bf16_instructions=target.bf16_instructions,
        f16_instructions=target.f16_instructions,
        i16_pairs=target.i16_pairs,
        vnni=target.vnni,
        doubles=target.doubles,
        fixed=kernel.fixed,
        flushes=target.mxcsr and kernel.updates(plan.system),
        source=_source(kernel.anchor),
    )
    tiles = amx_tiles(form, found, target)
    if tiles is not None:
        outer, inner = amx_loops(form, tiles)
        shared = loop_for_threads(outer, target)
        outer = [replace(x, kind="parallel") if x is shared else x for x in outer]
        return nest(
            loops=(*over_examples(outer, form, target), *inner),
            reduce=kernel.anchor.reduce,
            accesses=found,
            lanes=target.lanes,
            tiles=tiles,
            notes=(kernel.reason, f"AMX: tiles along {tiles.rows} and {tiles.columns}"),
        )
    into = None if form.at is None else accumulated_access(form, kernel, plan)
    # What the loops over `over` read at every point; the epilogue reads once per result.
    body_reads = dict.fromkeys(r for b in form.bodies for r in reads(b.value) if r in found)
    offsets = [into.offset] if into else [o for o in stored.values() if o is not None]
    work = _work(kernel, plan, target, form, found, body_reads, offsets, into)
    work = replace(work, outermost=form.batch) if by_example else work
    tiling = choose(work)
    panels = cache_blocks(work, {r: found[r] for r in body_reads}, tiling) if not into else None
    if panels is not None:
        tiling = panels.tiling
    # Which checks clip a loop depends on the tile, and which checks are left depends on the clips.
    clips = clips_of(work, tiling)
    accumulate, accumulators = None, 1
    if into is not None:
        written = plan.system.tensors[kernel.anchor.target]
        loops, promoted = accumulation_loops(work, tiling, into, _separate_rows(form, written))
        accumulate = Accumulate(into, written.bytes, promoted)
    else:
        accumulators, unrolled = unrolling(work, tiling, clips)
        for index in work.over[: panels.cut.loop + 1] if panels else ():
            unrolled.pop(index.name, None)  # blocks end at any step of these
        loops = tiled_loops(work, tiling, clips, unrolled, panels)
        loops = tuple(over_examples(loops, form, target))
    accesses = _transposed(_without_checks(found, clips), work, tiling)
    blocks = None
    if panels is not None:
        blocks, packed = panels.blocks(loops, accesses)
        accesses |= packed
        if blocks.rounds:
            nest = partial(nest, bodies=tuple(_in_panel(b.value, panels) for b in form.bodies))
    # Of what is packed the blocks prefetch what comes next.
    operands = [a for r in body_reads if (a := accesses[r]).tensor not in (PANEL, PACKED_ROWS)]
    others = [accesses[r] for r in found if r not in body_reads]
    notes = [kernel.reason, why_not_packed(kernel.anchor, plan.system, target), str(tiling)]
    notes += [] if blocks is None else [blocks.note]
    whole = nest(
        loops=loops,
        reduce=work.reduce,
        accesses=accesses,
        lanes=tiling.lanes,
        accumulators=accumulators,
        position=linearize(form.position, form.sizes),
        sliding=tiling.sliding,
        accumulate=accumulate,
        operand_prefetch=() if into else operand_prefetch(operands, loops, work, tiling),
        epilogue_prefetch=epilogue_prefetch(others, work, tiling),
        row_loop=_row_loop(form, others, work, tiling),
        blocks=blocks,
        notes=(*filter(None, notes), *(f"not {text}" for text in tiling.rejected)),
    )
    return whole if blocks is not None else blocked_sums(whole, target)


def _work(
    kernel: Kernel,
    plan: Plan,
    target: CpuTarget,
    form: CoalescedKernel,
    found: Mapping[Read, Access],
    body_reads: Iterable[Read],
    stores: Iterable[Affine],
    into: Access | None,
) -> Work:
    """What the cost model of tilings is told of a kernel."""
    anchor = kernel.anchor
    return Work(
        target=target,
        # An accumulation loops over the elements that are added, not over those of its target.
        outputs=form.over if into else form.outputs,
        over=() if into else form.over,
        reduce=None if into else anchor.reduce,
        # Of a sum the model counts the inner loop alone: that is where the time goes.
        accesses=tuple(found[r] for r in (body_reads if anchor.reduce else found)),
        stores=tuple(stores),
        operations=_operations(form, anchor),
        rounded=tuple(found[r] for r in body_reads if r in _rounded_reads(form, anchor)),
        bytes=BYTES[form.bodies[0].value.dtype],
        bodies=len(form.bodies),
        footprints={
            name: plan.system.tensors[name].bytes for eq in kernel.equations for name in eq.sources
        },
        zero_checks=_zero_checks(form, anchor, found),
        zero_where=_affine_conditions(form.zero_where, form),
        unread_where=_affine_conditions(form.unread_where, form),
        fixed=tuple(Index(n, form.sizes[n]) for n in kernel.fixed if n in form.sizes),
        shared=kernel.window is None and kernel.examples not in kernel.fixed,
        column=kernel.window.column if kernel.window else None,
        only_vector=_accumulation_vector(form, into) if into else None,
        accumulated=into.offset if into else None,
        batch=form.batch,
        per_example=form.per_example,
    )


def _source(equation: Equation) -> str:
    span = equation.span
    return f"{span}: {span.source.line(span.line).strip()}" if span is not None else ""


# --- what the kernel does ------------------------------------------------------------------------


def _operations(form: CoalescedKernel, anchor: Equation) -> int:
    """Vector operations per point; a product that is summed is one. Rounding what a sum reads is
    counted apart, as often as it is read."""
    if not anchor.reduce:
        nodes = set().union(*(outside_addresses(r.value) for r in form.results))
        return max(1, sum(isinstance(e, Apply) for e in nodes))
    total = 0
    # A product and its addition are one fused multiply-add; any other body costs its own operations
    # and one to add.
    for body in (b.value for b in form.bodies):
        nodes = outside_addresses(body)
        count = sum(isinstance(e, Apply) and not _is_rounded_read(e) for e in nodes)
        fused = isinstance(body, Apply) and body.fn in ("mul", "bf16_dot", "int8_dot")
        total += max(count, 1) if fused else count + 1
    return total


def _is_rounded_read(expr: Expr) -> TypeGuard[Apply]:
    return is_rounded(expr) and isinstance(expr.args[0], Read)


def _rounded_reads(form: CoalescedKernel, anchor: Equation) -> set[Expr]:
    """What the terms of a sum read and round."""
    nodes = (e for b in form.bodies for e in outside_addresses(b.value)) if anchor.reduce else ()
    return {e.args[0] for e in nodes if _is_rounded_read(e)}


def _in_panel(body: Expr, panels: Panels) -> Expr:
    """A body that reads the panel, whose elements are rounded."""

    def change(node: Expr) -> Expr | None:
        return panels.packed if is_rounded(node) and node.args[0] is panels.packed else None

    return rewrite(body, change)


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
        names = check[0].indices
        return not names.isdisjoint(inner) or (names <= outer and check not in asked_later)

    found = (check for read in sorted(zeroing, key=str) for check in accesses[read].checks)
    return tuple(filter(is_inner, found))


def _affine_conditions(conditions: tuple[Expr, ...], form: CoalescedKernel) -> tuple[Affine, ...]:
    """Of some conditions those that are affine in coalesced indices and sizes."""
    forms = (linearize(e, form.sizes) for e in conditions)
    # Coalescing may have put quotients into a form; no bound can be solved for these.
    return tuple(
        f for f in forms if all(isinstance(atom, Idx) or is_size(atom) for atom in f.coefficients)
    )


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
