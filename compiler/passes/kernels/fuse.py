"""Fusion: equations into kernels, and kernels into an order.

    z[b, o] = sum(i) x[b, i] * w[i, o]
    y[b, o] = max(z[b, o] + c[o], 0)     →   one kernel: z in registers, y its epilogue

Biases and activations are fused into their products, the optimizer into the gradient: it saves a
pass over memory and a barrier. Which equations may share a kernel is decided in `fusion_groups.py`,
the order of kernels and updates in place in `schedule.py`. Recurrences become scans of kernels
(loop distribution, `ir/recurrence.py`); kernels of earlier passes stay as they are.

Cf. XLA's instruction fusion; Halide's compute_at. Tests: tests/passes/test_passes.py,
tests/passes/test_recurrence_kernels.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ...ir.build import substitute
from ...ir.equation import Equation, Index, RowBlock, System, free_name, is_recurrent
from ...ir.expr import Idx
from ...ir.invariants import invariants
from ...ir.recurrence import SequentialLoop, plan_recurrence
from ...targets import CpuTarget, Target
from ..equations.views import views
from .fusion_groups import Fusion, Group, Unfused, equations_of, in_registers, without
from .kernel import Blocks, Item, Kernel, Plan, Scan, Window
from .kernel_order import dependence_order
from .schedule import Order, dependences, overwrites, readers_of, schedule


def fuse(plan: Plan, target: Target) -> Plan:
    """Groups equations into kernels, orders these, and finds the updates that can happen in place.
    Kernels that the plan already contains stay as they are."""
    system = plan.system
    made: list[Kernel | Blocks] = list(plan.kernels)
    made += [_unfused(block, system) for block in system.row_blocks]
    # A tensor that an earlier kernel keeps to itself is never stored, so it cannot be a view of
    # memory.
    hidden = {t for kernel in made for t in {eq.target for eq in kernel.equations}}
    hidden -= {t for kernel in made for t in kernel.stored}
    aliases = {name: source for name, source in views(system).items() if name not in hidden}
    once = invariants(system) if isinstance(target, CpuTarget) else frozenset()
    fusion = Fusion(system, aliases, target.fusion, plan.notes, once)
    groups = fusion.groups(_items(system, made), target.fusion.single_result_epilogue)
    # `overwrites` below adds to `order`: a decision for one update is seen by the next, so that
    # two updates cannot demand orders that contradict each other.
    order = Order(dependences(groups, system, aliases))
    readers = readers_of(groups)
    writer = {target: g for g in groups for target in g.writes}
    in_place = frozenset(
        name
        for name, following in system.updates.items()
        if following in writer
        # An output has memory of its own: the caller reads it after the run.
        and following not in system.outputs
        and overwrites(writer[following], readers.get(name, set()), order, name, following)
    )
    # What must be in memory: what is read from outside, what a view shows, and what another group
    # reads.
    needed = {*system.roots, *aliases.values()}
    items = tuple(
        _item(fusion, g, _needed(g, needed, readers))
        for g in schedule(groups, order.before, target.fusion.lookahead)
    )
    return replace(plan, items=items, views=aliases, in_place=in_place)


def _items(system: System, made: Sequence[Kernel | Blocks]) -> Iterator[Unfused]:
    """Equations, recurrences and kernels in order of dependence."""
    for item in dependence_order(system, made):
        if isinstance(item, Kernel | Blocks):
            yield item
        else:
            yield plan_recurrence(item) if is_recurrent(item) else item[0]


def _unfused(block: RowBlock, system: System) -> Blocks:
    """Blocks of rows with a kernel for each equation."""
    taken = {name for target in block.targets for name in system.definition[target].sizes}
    start = free_name(f"{block.row.name}0", taken)
    starts = block.row.size - block.rows + 1
    window = Window(block.row.name, start, starts, block.rows, block.column.name)
    inside = set(block.targets)
    kernels = tuple(
        Kernel(
            eq.target,
            eq,
            local=frozenset({eq.target} if system.tensors[eq.target].held else ()),
            window=window,
        )
        for eq in system.equations
        if eq.target in inside
    )
    reason = f"blocks of {block.rows} rows, along {block.column.size} of {block.column.name}"
    return Blocks(block.fixed, block.row, block.rows, kernels, reason)


def _needed(group: Group, needed: set[str], readers: Mapping[str, set[int]]) -> set[str]:
    """Of what the group computes, what is needed elsewhere: also by other groups. Only its own, as
    a deep model has thousands of groups."""
    own = needed.intersection(eq.target for eq in group.members)
    return own | {t for t in group.writes if readers.get(t, set()) - {group.number}}


# --- groups as kernels ---------------------------------------------------------------------------


def _item(fusion: Fusion, group: Group, needed: set[str]) -> Item:
    """The group as a kernel or several; of its targets, those `needed` elsewhere are stored."""
    if isinstance(group.kernel, Blocks):
        return _blocks(fusion, group.kernel, needed)
    if group.kernel is not None:
        return group.kernel
    if group.scan is not None:
        return _scan(fusion, group.scan, (), needed)
    return _kernel(fusion, group, needed)


def _kernel(fusion: Fusion, group: Group, needed: set[str]) -> Kernel:
    # Lowering relies on one set of index names for the whole kernel.
    anchor, *epilogue = group.members
    renamed = tuple(_with_anchor_indices(eq, group) for eq in epilogue)
    positions = group.unrolled
    unrolled = frozenset(
        eq.indices[positions[eq.target]].name for eq in (anchor, *renamed) if eq.target in positions
    )
    local = frozenset(group.writes - needed)
    notes = [fusion.notes[m.target] for m in group.members if m.target in fusion.notes]
    reason = "; ".join([_reason(group), *notes])
    return Kernel(anchor.target, anchor, renamed, local, (), reason, unrolled)


def _blocks(fusion: Fusion, blocks: Blocks, needed: set[str]) -> Blocks:
    """The blocks with their equations grouped into kernels as outside."""
    (window,) = {kernel.window for kernel in blocks.kernels}
    assert window is not None
    fixed = (*(i.name for i in blocks.fixed), window.start)
    groups = fusion.groups(blocks.equations, fusion.limits.single_result_epilogue)
    kernels = []
    for group in groups:
        others = {s for g in groups if g is not group for s in g.reads}
        kernel = _kernel(fusion, group, needed | others)
        kernels.append(replace(kernel, fixed=fixed, window=window))
    return replace(blocks, kernels=tuple(kernels))


def _scan(fusion: Fusion, loop: SequentialLoop, fixed: tuple[str, ...], needed: set[str]) -> Scan:
    """The loop over one common index name, its equations grouped into kernels as outside."""
    # Each equation may call its stepping index differently; the scan's loop has one name for
    # it.
    step = next(iter(loop.indices.values()))
    body = [
        item
        if isinstance(item, SequentialLoop)
        else _with_step(item, loop.indices[item.target], step)
        for item in loop.body
    ]
    groups = fusion.groups(body, fusion.limits.recurrent_epilogue)
    # Of an inner scan's results, all that the recurrence reads anywhere are stored: a step may
    # read them after the inner loop has ended. For kernels this is decided more finely below.
    past = {r.tensor for eq in equations_of(loop) for r in eq.reads}
    items: list[Kernel | Scan] = []
    for group in groups:
        if group.scan is not None:
            items.append(_scan(fusion, group.scan, (*fixed, step), needed | past))
            continue
        # A result stays in registers if only its own group reads it, and only at the same step:
        # what is read at an earlier step (`earlier`) has to be in memory by then.
        others = {s for g in groups if g is not group for s in g.reads}
        earlier = {
            r.tensor
            for eq in group.members
            for r in eq.reads
            if r.other is not None or not in_registers(r, eq, group.unrolled)
        }
        kernel = _kernel(fusion, group, needed | others | earlier)
        items.append(replace(kernel, fixed=(*fixed, step)))
    direction = "last to first" if loop.reverse else "first to last"
    return Scan(Index(step, loop.size), loop.reverse, tuple(items), f"a recurrence, {direction}")


def _reason(group: Group) -> str:
    anchor, *epilogue = group.members
    what = {None: "a map", "sum": "a sum"}.get(anchor.reduce, f"a {anchor.reduce}")
    if anchor.at is not None:
        what = "an accumulation"
    if epilogue:
        what += f"; fuses {', '.join(eq.target for eq in epilogue)}"
    unrolled = [
        f"{eq.indices[group.unrolled[eq.target]].name} of {eq.target}"
        for eq in group.members
        if eq.target in group.unrolled
    ]
    return f"{what}; unrolled: {', '.join(unrolled)}" if unrolled else what


def _with_anchor_indices(eq: Equation, group: Group) -> Equation:
    """The equation with the anchor's index names; an unrolled index has a name of its own."""
    # Three cases: the same indices as the anchor (all its names); one fewer (the names without the
    # anchor's unrolled one); one more, which is this equation's own (a fresh name at its place).
    anchor, place = group.anchor, group.unrolled.get(eq.target)
    names = [i.name for i in without(anchor.indices, group.unrolled.get(anchor.target))]
    if len(eq.indices) == len(anchor.indices):
        names = [i.name for i in anchor.indices]
    elif place is not None:
        names.insert(place, free_name(eq.indices[place].name, {*anchor.sizes, *names}))
    if names == [i.name for i in eq.indices]:
        return eq
    indices = tuple(Index(n, i.size) for n, i in zip(names, eq.indices, strict=True))
    swap = {o.name: Idx(n.name) for o, n in zip(eq.indices, indices, strict=True)}
    return replace(eq, indices=indices, body=substitute(eq.body, swap))


def _with_step(eq: Equation, old: str, new: str) -> Equation:
    """The equation with its stepping index renamed."""
    if old == new:
        return eq
    rename = {old: new}
    if new in eq.sizes:  # another index has the common name: they are exchanged
        rename[new] = old
    indices, over = (
        tuple(Index(rename.get(i.name, i.name), i.size) for i in group)
        for group in (eq.indices, eq.over)
    )
    body = substitute(eq.body, {name: Idx(other) for name, other in rename.items()})
    return replace(eq, indices=indices, over=over, body=body)
