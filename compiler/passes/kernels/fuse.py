"""Fusion: equations into kernels, and kernels into an order.

In: a simplified system. Out: kernels (and scans, for recurrences) in the order in which they run.
An equation rides on the kernel that makes the last of its inputs, if it has the same indices and
reads that input element by element: biases and activations on their products, the optimizer on the
gradient. One small index may differ: if it is unrolled, the gates of a recurrent cell are at hand
where the state is computed from them, and so is the state where the gates' gradients are. Kernels
that are `ready` are left as they are. What updates a parameter in place runs after everything that
reads the old value.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...ir.affine import affine
from ...ir.build import substitute
from ...ir.equation import Equation, Index, System, free_name, is_recurrent
from ...ir.expr import Apply, Const, Expr, Idx, Read, walk
from ...ir.recurrence import Loop, plan_recurrence
from ...ir.work import cost
from ...targets import Target
from ..equations.views import views
from .kernel import Kernel, Plan, Scan
from .kernel_order import ordered

LONGEST_ALONE = 24  # the same where results come one at a time
MAX_EPILOGUE = 160  # operations in an epilogue beyond which registers would spill
AHEAD = 4  # kernels that one may overtake
SMALL = 4  # values of an index that may be unrolled
WIDE = 16  # elements along the last index for which that is worth it


@dataclass
class _Group:
    """A kernel being built; `members` are its equations in order, the anchor first. `extra` is the
    position of the index that is unrolled, for each member that has one. A loop or a kernel that is
    `ready` takes nothing more."""

    number: int
    members: list[Equation] = field(default_factory=list)
    scan: Loop | None = None
    ready: Kernel | None = None
    extra: dict[str, int] = field(default_factory=dict)

    @property
    def anchor(self) -> Equation:
        return self.members[0]

    @property
    def box(self) -> tuple[int, ...]:
        """The sizes of the indices that all members have."""
        sizes = tuple(i.size for i in self.anchor.indices)
        return _without(sizes, self.extra.get(self.anchor.target))

    @property
    def price(self) -> int:
        """Operations in the epilogue at one place."""
        return sum(cost(m.body) for m in self.members[1:])

    @property
    def reads(self) -> set[str]:
        return {s for eq in self.members for s in eq.sources}

    @property
    def writes(self) -> set[str]:
        return set(self.ready.stored) if self.ready else {eq.target for eq in self.members}


def fuse(plan: Plan, target: Target) -> Plan:
    """Groups equations into kernels, orders these, and finds the updates that can happen in place.
    Kernels that the plan has already stay as they are."""
    system, ready = plan.system, tuple(plan.kernels)
    hidden = {t for kernel in ready for t in kernel.local}
    aliases = {name: source for name, source in views(system).items() if name not in hidden}
    groups = _groups(_in_order(system, ready), system, aliases)
    edges = _dependences(groups, system, aliases)
    readers = _readers(groups)
    writer = {target: g for g in groups for target in g.writes}
    in_place = frozenset(
        name
        for name, following in system.updates.items()
        if following in writer
        and following not in system.outputs
        and _overwritable(writer[following], readers.get(name, set()), edges, name, following)
    )
    in_order = _order(groups, edges)
    outside = set(system.roots)
    kept = outside | set(aliases.values())
    elsewhere = {
        g.number: {t for t in g.writes if readers.get(t, set()) - {g.number}} for g in groups
    }
    alone = target.single_result_epilogue
    items = tuple(
        _item(g, elsewhere[g.number] | kept, system, aliases, alone, plan.notes) for g in in_order
    )
    return replace(plan, items=items, views=aliases, in_place=in_place)


# --- grouping ----------------------------------------------------------------------------------


def _groups(
    items: Iterable[Equation | Loop | Kernel],
    system: System,
    aliases: Mapping[str, str],
    alone: int = LONGEST_ALONE,
) -> list[_Group]:
    """Equations and loops, in order of computation, gathered into kernels. No more than `alone`
    operations ride on a result that comes one at a time."""
    groups: list[_Group] = []
    maker: dict[str, _Group] = {}
    for item in items:
        if isinstance(item, Loop | Kernel):
            group = _whole(len(groups), item)
            groups.append(group)
            maker.update(dict.fromkeys(group.writes, group))
            continue
        if item.target in aliases:
            makers = [maker[s] for s in item.sources if s in maker]
            if makers:
                maker[item.target] = max(makers, key=lambda g: g.number)
            continue
        makers = [maker[s] for s in item.sources if s in maker]
        last = max(makers, key=lambda g: g.number, default=None)
        extra = None if last is None else _rides(item, last, aliases, alone)
        if last is None or extra is None:
            last = _Group(len(groups))
            extra = _compared(item)
            groups.append(last)
        last.members.append(item)
        last.extra.update(extra)
        maker[item.target] = last
    return groups


def _whole(number: int, item: Loop | Kernel) -> _Group:
    if isinstance(item, Kernel):
        return _Group(number, list(item.equations), ready=item)
    return _Group(number, _equations_of(item), item)


def _in_order(system: System, ready: Sequence[Kernel]) -> Iterator[Equation | Loop | Kernel]:
    for item in ordered(system, ready):
        if isinstance(item, Kernel):
            yield item
        else:
            yield plan_recurrence(item) if is_recurrent(item) else item[0]


def _equations_of(loop: Loop) -> list[Equation]:
    found: list[Equation] = []
    for item in loop.body:
        found += _equations_of(item) if isinstance(item, Loop) else [item]
    return found


def _rides(
    eq: Equation, group: _Group, aliases: Mapping[str, str], alone: int
) -> dict[str, int] | None:
    """The positions of unrolled indices, the equation's own and those that others get, if the
    equation can be computed where the group's results are at hand; None if it cannot."""
    anchor = group.anchor
    if group.scan or group.ready or eq.reduce or eq.at is not None or anchor.at is not None:
        return None
    if anchor.reduce in ("argmax", "argmin"):
        return None
    if _one_by_one(anchor) and cost(eq.body) > alone:
        return None
    if group.price + cost(eq.body) > MAX_EPILOGUE:
        return None
    made = group.writes | {v for v, source in aliases.items() if source in group.writes}
    if any(r.tensor in made and (r.tensor in aliases or r.other is not None) for r in eq.reads):
        return None
    for extra in _alignments(eq, group):
        positions = {**group.extra, **extra}
        if all(_at_hand(r, eq, positions) for r in eq.reads if r.tensor in made):
            return extra
    return None


def _alignments(eq: Equation, group: _Group) -> Iterator[dict[str, int]]:
    """The ways in which the equation's indices may be those of the group, one of either apart."""
    own, theirs = (tuple(i.size for i in e.indices) for e in (eq, group.anchor))
    position = group.extra.get(group.anchor.target)
    if own == theirs:
        yield {} if position is None else {eq.target: position}
    if own == group.box and position is not None:
        yield {}
    if position is None and len(own) == len(theirs) - 1 and _may_unroll(theirs):
        for place in range(len(theirs) - 1):
            if theirs[place] <= SMALL and _without(theirs, place) == own and not group.extra:
                yield {m.target: place for m in group.members}
    if len(own) == len(group.box) + 1 and _may_unroll(own):
        for place in range(len(own) - 1):
            if own[place] <= SMALL and _without(own, place) == group.box:
                yield {eq.target: place}


def _may_unroll(sizes: tuple[int, ...]) -> bool:
    """Whether vectors are left to run over the last index."""
    return sizes[-1] >= WIDE


def _at_hand(read: Read, eq: Equation, extra: Mapping[str, int]) -> bool:
    """Whether the element has been computed at the same place of the box: it is read at the
    equation's own indices, and at a number or at the own one where an index is unrolled."""
    own = extra.get(eq.target)
    theirs = extra.get(read.tensor)
    names = tuple(Idx(i.name) for i in eq.indices)
    if _without(read.index, theirs) != _without(names, own):
        return False
    if theirs is None:
        return True
    at = read.index[theirs]
    return isinstance(at, Const) or (own is not None and at is names[own])


def _compared(eq: Equation) -> dict[str, int]:
    """The position of a small index of a map whose values decide what is computed: unrolled, each
    value has its own part of the expression."""
    sizes = tuple(i.size for i in eq.indices)
    if eq.reduce or eq.at is not None or len(sizes) < 2 or not _may_unroll(sizes):
        return {}
    for place, index in enumerate(eq.indices[:-1]):
        if index.size <= SMALL and _decides(Idx(index.name), eq.body):
            return {eq.target: place}
    return {}


def _decides(index: Idx, body: Expr) -> bool:
    return any(
        isinstance(n, Apply)
        and n.fn in ("eq", "ne")
        and index in n.args
        and any(isinstance(a, Const) for a in n.args)
        for n in walk(body)
    )


def _without(items: tuple, place: int | None) -> tuple:
    return items if place is None else (*items[:place], *items[place + 1 :])


def _one_by_one(anchor: Equation) -> bool:
    """Whether the results of a sum come one at a time, because its vectors run over what is summed
    (no factor lies in memory along the last index of the result): what rides on it is then computed
    without vectors."""
    if anchor.reduce is None or not anchor.indices:
        return False
    last = Idx(anchor.indices[-1].name)
    return not any(
        r.index and affine(r.index[-1]).coefficients.get(last) == 1 for r in anchor.reads
    )


# --- order -------------------------------------------------------------------------------------


def _dependences(
    groups: list[_Group], system: System, aliases: Mapping[str, str]
) -> dict[int, set[int]]:
    """For each group, those that must run before it. Who reads a view waits for all that the view
    is made of, and for what it comes after."""
    makers = {target: {g.number} for g in groups for target in g.writes}
    for target in aliases:
        sources = system.definition[target].sources
        makers[target] = set().union(*(makers.get(s, set()) for s in sources))
    return {
        g.number: set().union(*(makers.get(s, set()) for s in g.reads)) - {g.number} for g in groups
    }


def _overwritable(
    writer: _Group, readers: set[int], edges: dict[int, set[int]], name: str, following: str
) -> bool:
    """Whether all readers of the old value can run before the group that writes the new one; if
    so, they will. The writer itself may read the old value only where it overwrites it."""
    if writer.scan or writer.ready or not _reads_in_step(writer, name, following):
        return False
    others = readers - {writer.number}
    if _reaches(edges, others, writer.number):
        return False
    edges[writer.number] = edges[writer.number] | others
    return True


def _reads_in_step(writer: _Group, name: str, following: str) -> bool:
    own = next(eq for eq in writer.members if eq.target == following)
    box = tuple(i.size for i in own.indices)
    for eq in writer.members:
        identity = tuple(Idx(i.name) for i in eq.indices)
        for read in eq.reads:
            if read.tensor != name:
                continue
            same_box = tuple(i.size for i in eq.indices) == box
            if eq.reduce or not same_box or read.index != identity or read.other is not None:
                return False
    return True


def _reaches(edges: Mapping[int, set[int]], starts: set[int], goal: int) -> bool:
    """Whether `goal` must run before one of `starts`."""
    seen, stack = set(starts), [*starts]
    while stack and goal not in seen:
        fresh = edges[stack.pop()] - seen
        seen |= fresh
        stack += fresh
    return goal in seen


def _order(groups: list[_Group], edges: Mapping[int, set[int]]) -> list[_Group]:
    """Every group after those it depends on; otherwise in the order of the equations, except that
    one of the next few comes first if it need not wait for those since the last wait."""
    waiting = {number: set(before) for number, before in edges.items()}
    ready = sorted(number for number, before in waiting.items() if not before)
    after: dict[int, list[int]] = {g.number: [] for g in groups}
    for number, before in edges.items():
        for other in before:
            after[other].append(number)
    ordered: list[_Group] = []
    phase: set[int] = set()
    while ready:
        near = [n for n in ready if n <= ready[0] + AHEAD and not edges[n] & phase]
        number = near[0] if near else ready[0]
        phase = {*phase, number} if near else {number}
        ready.remove(number)
        ordered.append(groups[number])
        for follower in after[number]:
            waiting[follower].discard(number)
            if not waiting[follower]:
                insort(ready, follower)
    assert len(ordered) == len(groups)
    return ordered


# --- kernels -----------------------------------------------------------------------------------


def _readers(groups: list[_Group]) -> dict[str, set[int]]:
    """The groups that read each tensor."""
    found: dict[str, set[int]] = {}
    for group in groups:
        for name in group.reads:
            found.setdefault(name, set()).add(group.number)
    return found


def _item(
    group: _Group,
    stored: set[str],
    system: System,
    aliases: Mapping[str, str],
    alone: int,
    notes: Mapping[str, str] | None = None,
) -> Kernel | Scan:
    """The group as a kernel; what nobody in `stored` asks for stays in registers."""
    if group.ready is not None:
        return group.ready
    if group.scan is not None:
        return _scan(group.scan, (), stored, system, aliases, alone)
    anchor, *epilogue = group.members
    fresh = tuple(_renamed(eq, group) for eq in epilogue)
    extra = group.extra
    unrolled = frozenset(
        eq.indices[extra[eq.target]].name for eq in (anchor, *fresh) if eq.target in extra
    )
    local = frozenset(group.writes - stored)
    more = [notes[m.target] for m in group.members if m.target in notes] if notes else []
    reason = "; ".join([_reason(group), *more])
    return Kernel(anchor.target, anchor, fresh, local, (), reason, unrolled)


def _reason(group: _Group) -> str:
    anchor, *epilogue = group.members
    what = {None: "a map", "sum": "a sum"}.get(anchor.reduce, f"a {anchor.reduce}")
    if anchor.at is not None:
        what = "an accumulation"
    if epilogue:
        riders = ", ".join(eq.target for eq in epilogue)
        what += f"; {riders} {'rides' if len(epilogue) == 1 else 'ride'} on it, element by element"
    unrolled = [
        f"{eq.indices[group.extra[eq.target]].name} of {eq.target}"
        for eq in group.members
        if eq.target in group.extra
    ]
    return f"{what}; unrolled: {', '.join(unrolled)}" if unrolled else what


def _renamed(eq: Equation, group: _Group) -> Equation:
    """The equation with the anchor's index names; an unrolled index has a name of its own."""
    anchor, place = group.anchor, group.extra.get(eq.target)
    names = [i.name for i in _without(anchor.indices, group.extra.get(anchor.target))]
    if len(eq.indices) == len(anchor.indices):
        names = [i.name for i in anchor.indices]
    elif place is not None:
        names.insert(place, free_name(eq.indices[place].name, {*anchor.sizes, *names}))
    indices = tuple(Index(n, i.size) for n, i in zip(names, eq.indices, strict=True))
    swap = {o.name: Idx(n.name) for o, n in zip(eq.indices, indices, strict=True)}
    return replace(eq, indices=indices, body=substitute(eq.body, swap))


def _scan(
    loop: Loop,
    fixed: tuple[str, ...],
    stored: set[str],
    system: System,
    aliases: Mapping[str, str],
    alone: int,
) -> Scan:
    """The loop over one common index name, its equations grouped into kernels as outside."""
    step = next(iter(loop.indices.values()))
    body = [
        item if isinstance(item, Loop) else _with_index(item, loop.indices[item.target], step)
        for item in loop.body
    ]
    groups = _groups(body, system, aliases, alone)
    past = {r.tensor for eq in _equations_of(loop) for r in eq.reads}
    items: list[Kernel | Scan] = []
    for group in groups:
        if group.scan is not None:
            inner = _scan(group.scan, (*fixed, step), stored | past, system, aliases, alone)
            items.append(inner)
            continue
        within = {r.tensor for g in groups if g is not group for eq in g.members for r in eq.reads}
        earlier = {
            r.tensor
            for eq in group.members
            for r in eq.reads
            if r.other is not None or not _at_hand(r, eq, group.extra)
        }
        kernel = _item(group, stored | within | earlier, system, aliases, alone)
        assert isinstance(kernel, Kernel)
        items.append(replace(kernel, fixed=(*fixed, step)))
    direction = "last to first" if loop.reverse else "first to last"
    return Scan(Index(step, loop.size), loop.reverse, tuple(items), f"a recurrence, {direction}")


def _with_index(eq: Equation, old: str, new: str) -> Equation:
    if old == new:
        return eq
    swap = {old: Idx(new)}
    if new in eq.sizes:  # the common name is taken by another index: they change places
        swap[new] = Idx(old)
    rename = {k: v.name for k, v in swap.items()}
    indices = tuple(Index(rename.get(i.name, i.name), i.size) for i in eq.indices)
    over = tuple(Index(rename.get(i.name, i.name), i.size) for i in eq.over)
    return replace(eq, indices=indices, over=over, body=substitute(eq.body, swap))
