"""Fusion: equations into kernels, and kernels into an order.

    z[b, o] = sum(i) x[b, i] * w[i, o]
    y[b, o] = max(z[b, o] + c[o], 0)     →   one kernel: z in registers, y its epilogue

An equation is fused into the kernel that computes the last of its inputs, if it has the same
indices and reads that input element by element: biases and activations into their products, the
optimizer into the gradient. It saves a pass over memory and a barrier. One small index may differ:
if it is unrolled, the gates of a recurrent cell are in registers where the state is computed from
them, and so is the state where the gates' gradients are. Recurrences become scans of kernels (loop
distribution, `ir/recurrence.py`); kernels of earlier passes stay as they are. What a prologue may
compute once (`prologue.py`) is not fused with what every run computes. An update in place is
ordered after everything that reads the old value.

Cf. XLA's instruction fusion; Halide's compute_at. Tests: tests/passes/test_passes.py,
tests/passes/test_recurrence_kernels.py.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...ir.affine import affine
from ...ir.build import substitute
from ...ir.equation import Equation, Index, RowBlock, System, free_name, is_recurrent
from ...ir.expr import Apply, Const, Expr, Idx, Read, walk
from ...ir.invariants import invariants
from ...ir.recurrence import SequentialLoop, plan_recurrence
from ...ir.work import cost
from ...targets import CpuTarget, FusionLimits, Target
from ..equations.views import views
from .kernel import Blocks, Item, Kernel, Plan, Scan, Window
from .kernel_order import dependence_order


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
    fusion = _Fusion(system, aliases, target.fusion, plan.notes, once)
    groups = fusion.groups(_items(system, made), target.fusion.single_result_epilogue)
    # `_overwrites` below adds to `before`: a decision for one update is seen by the next, so that
    # two updates cannot demand orders that contradict each other.
    before = _dependences(groups, system, aliases)
    readers = _readers(groups)
    writer = {target: g for g in groups for target in g.writes}
    in_place = frozenset(
        name
        for name, following in system.updates.items()
        if following in writer
        # An output has memory of its own: the caller reads it after the run.
        and following not in system.outputs
        and _overwrites(writer[following], readers.get(name, set()), before, name, following)
    )
    # What must be in memory: what is read from outside, what a view shows, and what another group
    # reads.
    needed = {*system.roots, *aliases.values()}
    items = tuple(
        fusion.item(g, needed | {t for t in g.writes if readers.get(t, set()) - {g.number}})
        for g in _order(groups, before, target.fusion.lookahead)
    )
    return replace(plan, items=items, views=aliases, in_place=in_place)


Unfused = Equation | SequentialLoop | Kernel | Blocks


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


# --- groups --------------------------------------------------------------------------------------


@dataclass
class _Group:
    """A kernel being built; `members` are its equations in order, the anchor first. `unrolled` is
    the position of the unrolled index, for each member that has one. A recurrence (`scan`) or a
    kernel of an earlier pass (`kernel`), or several in blocks of rows, takes no more equations."""

    number: int
    members: list[Equation] = field(default_factory=list)
    scan: SequentialLoop | None = None
    kernel: Kernel | Blocks | None = None
    unrolled: dict[str, int] = field(default_factory=dict)

    @property
    def anchor(self) -> Equation:
        return self.members[0]

    @property
    def iteration_space(self) -> tuple[int, ...]:
        """The sizes of the indices that all members have."""
        return _without(_sizes(self.anchor), self.unrolled.get(self.anchor.target))

    @property
    def epilogue_cost(self) -> int:
        """Operations of the epilogue at one point."""
        return sum(cost(m.body) for m in self.members[1:])

    @property
    def reads(self) -> set[str]:
        return {s for eq in self.members for s in eq.sources}

    @property
    def writes(self) -> set[str]:
        return set(self.kernel.stored) if self.kernel else {eq.target for eq in self.members}


def _sizes(eq: Equation) -> tuple[int, ...]:
    return tuple(i.size for i in eq.indices)


def _without(items: tuple, position: int | None) -> tuple:
    return items if position is None else (*items[:position], *items[position + 1 :])


def _equations(loop: SequentialLoop) -> list[Equation]:
    found: list[Equation] = []
    for item in loop.body:
        found += _equations(item) if isinstance(item, SequentialLoop) else [item]
    return found


@dataclass(frozen=True)
class _Fusion:
    """Grouping with what it looks up: `aliases` are views with their sources, `once` the targets
    that a prologue may compute."""

    system: System
    aliases: Mapping[str, str]
    limits: FusionLimits
    notes: Mapping[str, str]
    once: frozenset[str]

    def groups(self, items: Iterable[Unfused], single_result_epilogue: int) -> list[_Group]:
        """The items, in order of dependence, grouped into kernels."""
        groups: list[_Group] = []
        maker: dict[str, _Group] = {}

        def append(group: _Group) -> _Group:
            groups.append(group)
            maker.update(dict.fromkeys(group.writes, group))
            return group

        for item in items:
            if isinstance(item, Kernel | Blocks):
                append(_Group(len(groups), list(item.equations), kernel=item))
                continue
            if isinstance(item, SequentialLoop):
                append(_Group(len(groups), _equations(item), item))
                continue
            # Only the group that computes the last input can take the equation: any other one runs
            # before some input exists.
            # What a prologue computes is there before all others, wherever it stands.
            early = frozenset() if item.target in self.once else self.once
            makers = [maker[s] for s in item.sources if s in maker and s not in early]
            last = max(makers, key=lambda g: g.number, default=None)
            if item.target in self.aliases:
                # A view is no computation. Its readers depend on what its source depends on.
                if last is not None:
                    maker[item.target] = last
                continue
            unrolled = None if last is None else self.fuses(item, last, single_result_epilogue)
            if last is None or unrolled is None:
                append(_Group(len(groups), [item], unrolled=self.compared(item)))
            else:
                last.members.append(item)
                last.unrolled.update(unrolled)
                maker[item.target] = last
        return groups

    def fuses(
        self, eq: Equation, group: _Group, single_result_epilogue: int
    ) -> dict[str, int] | None:
        """The positions of unrolled indices, the equation's own and those that other members get,
        if the equation can be computed where the group's results are in registers; else None."""
        # Reductions need loops of their own, and so do scatter-adds (`at`): their elements are
        # complete only after all loops.
        anchor = group.anchor
        if group.scan or group.kernel or eq.reduce or eq.at is not None or anchor.at is not None:
            return None
        if (eq.target in self.once) != (anchor.target in self.once):
            return None
        # Their accumulator also carries a position; no epilogue is written for it.
        if anchor.reduce in ("argmax", "argmin"):
            return None
        # The epilogue would run in scalars, once for each result.
        if _is_reduced_by_lanes(anchor) and cost(eq.body) > single_result_epilogue:
            return None
        # Beyond this its intermediate values would spill registers.
        if group.epilogue_cost + cost(eq.body) > self.limits.max_epilogue:
            return None
        aliases = self.aliases
        # A view of the group's result has other indices, and a guarded read may leave its point:
        # neither finds its element in registers.
        made = group.writes | {v for v, source in aliases.items() if source in group.writes}
        if any(r.tensor in made and (r.tensor in aliases or r.other is not None) for r in eq.reads):
            return None
        for unrolled in self.alignments(eq, group):
            positions = {**group.unrolled, **unrolled}
            if all(_in_registers(r, eq, positions) for r in eq.reads if r.tensor in made):
                return unrolled
        return None

    def alignments(self, eq: Equation, group: _Group) -> Iterator[dict[str, int]]:
        """The ways in which the equation's indices may match the group's, except for one of either
        that is unrolled."""
        # Example: gates z[b, g, j] with g < 4 unrolled, state c[b, j]. The space is (b, j); c reads
        # z[b, 0, j] … z[b, 3, j], all of which are in registers at the point (b, j).
        own, theirs, space = _sizes(eq), _sizes(group.anchor), group.iteration_space
        position = group.unrolled.get(group.anchor.target)
        # The same indices, with the same one unrolled, if any.
        if own == theirs:
            yield {} if position is None else {eq.target: position}
        # The equation lacks the index that the group has unrolled.
        if own == space and position is not None:
            yield {}
        # It lacks one that the group has not unrolled yet: all members so far have it, so all
        # unroll it.
        if position is None and len(own) == len(theirs) - 1 and not group.unrolled:
            for place in self.unrollable(theirs):
                if _without(theirs, place) == own:
                    yield {m.target: place for m in group.members}
        # It has one more index, which is unrolled for it alone.
        if len(own) == len(space) + 1:
            for place in self.unrollable(own):
                if _without(own, place) == space:
                    yield {eq.target: place}

    def unrollable(self, sizes: tuple[int, ...]) -> Iterator[int]:
        """The positions of small indices, if vectors can run over the last one."""
        # Never the last index: vectors run along it.
        if sizes and sizes[-1] >= self.limits.unrolled_row:
            for place, size in enumerate(sizes[:-1]):
                if size <= self.limits.unrolled_values:
                    yield place

    def compared(self, eq: Equation) -> dict[str, int]:
        """The position of a small index of a map that is compared with constants: unrolled, each of
        its values keeps its part of the expression only."""
        if eq.reduce or eq.at is not None:
            return {}
        for place in self.unrollable(_sizes(eq)):
            if _is_compared(Idx(eq.indices[place].name), eq.body):
                return {eq.target: place}
        return {}

    # --- kernels ---------------------------------------------------------------------------------

    def item(self, group: _Group, needed: set[str]) -> Item:
        """The group as a kernel or several; of its targets, those `needed` elsewhere are stored."""
        if isinstance(group.kernel, Blocks):
            return self.blocks(group.kernel, needed)
        if group.kernel is not None:
            return group.kernel
        if group.scan is not None:
            return self.scan(group.scan, (), needed)
        return self.kernel(group, needed)

    def kernel(self, group: _Group, needed: set[str]) -> Kernel:
        # Lowering relies on one set of index names for the whole kernel.
        anchor, *epilogue = group.members
        renamed = tuple(_with_anchor_indices(eq, group) for eq in epilogue)
        positions = group.unrolled
        unrolled = frozenset(
            eq.indices[positions[eq.target]].name
            for eq in (anchor, *renamed)
            if eq.target in positions
        )
        local = frozenset(group.writes - needed)
        notes = [self.notes[m.target] for m in group.members if m.target in self.notes]
        reason = "; ".join([_reason(group), *notes])
        return Kernel(anchor.target, anchor, renamed, local, (), reason, unrolled)

    def blocks(self, blocks: Blocks, needed: set[str]) -> Blocks:
        """The blocks with their equations grouped into kernels as outside."""
        (window,) = {kernel.window for kernel in blocks.kernels}
        assert window is not None
        fixed = (*(i.name for i in blocks.fixed), window.start)
        groups = self.groups(blocks.equations, self.limits.single_result_epilogue)
        kernels = []
        for group in groups:
            others = {s for g in groups if g is not group for s in g.reads}
            kernel = self.kernel(group, needed | others)
            kernels.append(replace(kernel, fixed=fixed, window=window))
        return replace(blocks, kernels=tuple(kernels))

    def scan(self, loop: SequentialLoop, fixed: tuple[str, ...], needed: set[str]) -> Scan:
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
        groups = self.groups(body, self.limits.recurrent_epilogue)
        # Of an inner scan's results, all that the recurrence reads anywhere are stored: a step may
        # read them after the inner loop has ended. For kernels this is decided more finely below.
        past = {r.tensor for eq in _equations(loop) for r in eq.reads}
        items: list[Kernel | Scan] = []
        for group in groups:
            if group.scan is not None:
                items.append(self.scan(group.scan, (*fixed, step), needed | past))
                continue
            # A result stays in registers if only its own group reads it, and only at the same step:
            # what is read at an earlier step (`earlier`) has to be in memory by then.
            others = {s for g in groups if g is not group for s in g.reads}
            earlier = {
                r.tensor
                for eq in group.members
                for r in eq.reads
                if r.other is not None or not _in_registers(r, eq, group.unrolled)
            }
            kernel = self.kernel(group, needed | others | earlier)
            items.append(replace(kernel, fixed=(*fixed, step)))
        direction = "last to first" if loop.reverse else "first to last"
        return Scan(
            Index(step, loop.size), loop.reverse, tuple(items), f"a recurrence, {direction}"
        )


def _in_registers(read: Read, eq: Equation, unrolled: Mapping[str, int]) -> bool:
    """Whether the element was computed at the same point of the iteration space: it is read at the
    equation's own indices, and at a constant or the own one where an index is unrolled."""
    # All indices but the unrolled ones must agree, one by one.
    own, theirs = unrolled.get(eq.target), unrolled.get(read.tensor)
    names = tuple(Idx(i.name) for i in eq.indices)
    if _without(read.index, theirs) != _without(names, own):
        return False
    if theirs is None:
        return True
    at = read.index[theirs]
    return isinstance(at, Const) or (own is not None and at is names[own])


def _is_compared(index: Idx, body: Expr) -> bool:
    """Whether the index is compared with a constant."""
    return any(
        isinstance(n, Apply)
        and n.fn in ("eq", "ne")
        and index in n.args
        and any(isinstance(a, Const) for a in n.args)
        for n in walk(body)
    )


def _is_reduced_by_lanes(anchor: Equation) -> bool:
    """Whether the vectors of a sum run over what is summed (no factor is contiguous along the last
    index of the result): results come one at a time, and an epilogue has no vectors."""
    if anchor.reduce is None or not anchor.indices:
        return False
    # Predicts what `cpu/tiling.py` will choose: vectors over the last index, if a factor can be
    # loaded along it.
    last = Idx(anchor.indices[-1].name)
    return not any(
        r.index and affine(r.index[-1]).coefficients.get(last) == 1 for r in anchor.reads
    )


def _reason(group: _Group) -> str:
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


def _with_anchor_indices(eq: Equation, group: _Group) -> Equation:
    """The equation with the anchor's index names; an unrolled index has a name of its own."""
    # Three cases: the same indices as the anchor (all its names); one fewer (the names without the
    # anchor's unrolled one); one more, which is this equation's own (a fresh name at its place).
    anchor, place = group.anchor, group.unrolled.get(eq.target)
    names = [i.name for i in _without(anchor.indices, group.unrolled.get(anchor.target))]
    if len(eq.indices) == len(anchor.indices):
        names = [i.name for i in anchor.indices]
    elif place is not None:
        names.insert(place, free_name(eq.indices[place].name, {*anchor.sizes, *names}))
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


# --- order ---------------------------------------------------------------------------------------


def _dependences(
    groups: list[_Group], system: System, aliases: Mapping[str, str]
) -> dict[int, set[int]]:
    """For each group, those that must run before it. A reader of a view depends on all that the
    view is made of."""
    # Sources of views come before them in the order of the system: a view of a view finds its
    # makers.
    makers = {target: {g.number} for g in groups for target in g.writes}
    for target in aliases:
        sources = system.definition[target].sources
        makers[target] = set().union(*(makers.get(s, set()) for s in sources))
    return {
        g.number: set().union(*(makers.get(s, set()) for s in g.reads)) - {g.number} for g in groups
    }


def _readers(groups: list[_Group]) -> dict[str, set[int]]:
    """The groups that read each tensor."""
    found: dict[str, set[int]] = {}
    for group in groups:
        for name in group.reads:
            found.setdefault(name, set()).add(group.number)
    return found


def _overwrites(
    writer: _Group, readers: set[int], before: dict[int, set[int]], name: str, following: str
) -> bool:
    """Whether all readers of the old value can run before the group that writes the new one; if
    so, `before` demands it. The writer may read the old value only where it overwrites it."""
    # What a scan, or a kernel of an earlier pass, reads at which point is not examined here.
    if writer.scan or writer.kernel or not _reads_elementwise(writer, name, following):
        return False
    others = readers - {writer.number}
    # A reader that needs the new value cannot run before it is written: that would be a cycle.
    if _depends(before, others, writer.number):
        return False
    before[writer.number] = before[writer.number] | others
    return True


def _reads_elementwise(writer: _Group, name: str, following: str) -> bool:
    """Whether the group reads the old value only at the element that it writes."""
    sizes = next(_sizes(eq) for eq in writer.members if eq.target == following)
    for eq in writer.members:
        identity = tuple(Idx(i.name) for i in eq.indices)
        for read in eq.reads:
            if read.tensor != name:
                continue
            # An equation with other sizes (one with an unrolled index) may read the element at
            # another point than the one that writes it. A sum reads all along its loop: it is left
            # out.
            same = _sizes(eq) == sizes and not eq.reduce
            if not same or read.index != identity or read.other is not None:
                return False
    return True


def _depends(before: Mapping[int, set[int]], starts: set[int], goal: int) -> bool:
    """Whether `goal` must run before one of `starts`."""
    # Depth-first along `before`, from the readers back.
    seen, stack = set(starts), [*starts]
    while stack and goal not in seen:
        fresh = before[stack.pop()] - seen
        seen |= fresh
        stack += fresh
    return goal in seen


def _order(groups: list[_Group], before: Mapping[int, set[int]], lookahead: int) -> list[_Group]:
    """Topological order; otherwise that of the equations, except that one of the next few groups
    comes first if it does not depend on those since the last barrier."""
    # Kahn's algorithm; `ready` is kept sorted, so that ties go to the order of the equations.
    waiting = {number: set(others) for number, others in before.items()}
    ready = sorted(number for number, others in waiting.items() if not others)
    after: dict[int, list[int]] = {g.number: [] for g in groups}
    for number, others in before.items():
        for other in others:
            after[other].append(number)
    ordered: list[_Group] = []
    since_barrier: set[int] = set()
    while ready:
        # Candidates that need no barrier. Few steps ahead only: running a group much earlier than
        # written lengthens the lifetime of what it computes.
        near = [n for n in ready if n <= ready[0] + lookahead and not before[n] & since_barrier]
        number = near[0] if near else ready[0]
        since_barrier = {*since_barrier, number} if near else {number}
        ready.remove(number)
        ordered.append(groups[number])
        for follower in after[number]:
            # A group whose last predecessor has run becomes ready, at its place in the order.
            waiting[follower].discard(number)
            if not waiting[follower]:
                insort(ready, follower)
    assert len(ordered) == len(groups)
    return ordered
