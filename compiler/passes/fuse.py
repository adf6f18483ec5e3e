"""Fusion: equations into kernels, and kernels into an order.

In: a simplified system. Out: kernels (and scans, for recurrences) in the order in which they run.
An equation rides on the kernel that makes the last of its inputs, if it has the same indices and
reads that input element by element: biases and activations on their products, the optimizer on the
gradient. What updates a parameter in place runs after everything that reads the old value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush

from ..affine import affine
from ..ir import Equation, Idx, Index, System, components, is_recurrent, substitute
from ..kernels import Kernel, Scan
from ..recurrence import Loop, plan_recurrence
from .inline import cost, is_identity
from .views import views

LONGEST_ALONE = 24  # the same where results come one at a time
LONGEST = 160  # operations in an epilogue beyond which registers would spill


@dataclass
class _Group:
    """A kernel being built; `members` are its equations in order, the anchor first."""

    number: int
    members: list[Equation] = field(default_factory=list)
    scan: Loop | None = None

    @property
    def anchor(self) -> Equation:
        return self.members[0]

    @property
    def reads(self) -> set[str]:
        return {s for eq in self.members for s in eq.sources}

    @property
    def writes(self) -> set[str]:
        return {eq.target for eq in self.members}


@dataclass(frozen=True)
class Fused:
    """Kernels in order; `in_place` are the updates whose next value may overwrite the old one."""

    items: tuple[Kernel | Scan, ...]
    views: Mapping[str, str]
    in_place: frozenset[str]


def fuse(system: System) -> Fused:
    """Groups, their order, and which updates can happen in place."""
    aliases = views(system)
    groups = _groups(_in_order(system), system, aliases)
    edges = _dependences(groups, aliases)
    readers = _readers(groups)
    writer = {target: g for g in groups for target in g.writes}
    in_place = frozenset(
        name for name, following in system.updates.items()
        if following in writer and following not in system.outputs
        and _overwritable(writer[following], readers.get(name, set()), edges, name, following)
    )  # fmt: skip
    ordered = _order(groups, edges)
    outside = set(system.roots)
    kept = outside | set(aliases.values())
    elsewhere = {g.number: {t for t in g.writes if readers.get(t, set()) - {g.number}}
                 for g in groups}  # fmt: skip
    items = [_item(g, elsewhere[g.number] | kept, system, aliases) for g in ordered]
    return Fused(tuple(items), aliases, in_place)


# --- grouping ----------------------------------------------------------------------------------


def _groups(
    items: Iterable[Equation | Loop], system: System, aliases: Mapping[str, str]
) -> list[_Group]:
    """Equations and loops, in order of computation, gathered into kernels."""
    groups: list[_Group] = []
    maker: dict[str, _Group] = {}
    for item in items:
        if isinstance(item, Loop):
            group = _Group(len(groups), _equations_of(item), item)
            groups.append(group)
            maker.update({eq.target: group for eq in group.members})
            continue
        if item.target in aliases:
            if aliases[item.target] in maker:
                maker[item.target] = maker[aliases[item.target]]
            continue
        makers = [maker[s] for s in item.sources if s in maker]
        last = max(makers, key=lambda g: g.number, default=None)
        if last is None or not _rides(item, last, aliases):
            last = _Group(len(groups))
            groups.append(last)
        last.members.append(item)
        maker[item.target] = last
    return groups


def _in_order(system: System) -> Iterator[Equation | Loop]:
    for component in components(system.equations):
        yield plan_recurrence(component) if is_recurrent(component) else component[0]


def _equations_of(loop: Loop) -> list[Equation]:
    found: list[Equation] = []
    for item in loop.body:
        found += _equations_of(item) if isinstance(item, Loop) else [item]
    return found


def _rides(eq: Equation, group: _Group, aliases: Mapping[str, str]) -> bool:
    """Whether the equation can be computed where the group's results are at hand."""
    anchor = group.anchor
    if group.scan or eq.reduce or eq.at is not None or anchor.at is not None:
        return False
    shape = tuple(i.size for i in anchor.indices)
    if tuple(i.size for i in eq.indices) != shape or anchor.reduce in ("argmax", "argmin"):
        return False
    own = tuple(Idx(i.name) for i in eq.indices)
    made = group.writes | {v for v, source in aliases.items() if source in group.writes}
    for read in eq.reads:
        if read.tensor in made and (
            read.tensor in aliases or read.index != own or read.other is not None
        ):
            return False
    if _one_by_one(anchor) and cost(eq.body) > LONGEST_ALONE:
        return False
    return sum(cost(m.body) for m in group.members[1:]) + cost(eq.body) <= LONGEST


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


def _dependences(groups: list[_Group], aliases: Mapping[str, str]) -> dict[int, set[int]]:
    """For each group, those that must run before it."""
    maker = {target: g.number for g in groups for target in g.writes}
    for target, source in aliases.items():
        while source in aliases:
            source = aliases[source]
        if source in maker:
            maker[target] = maker[source]
    return {
        g.number: {maker[s] for s in g.reads if s in maker and maker[s] != g.number} for g in groups
    }


def _overwritable(
    writer: _Group, readers: set[int], edges: dict[int, set[int]], name: str, following: str
) -> bool:
    """Whether all readers of the old value can run before the group that writes the new one; if
    so, they will. The writer itself may read the old value only where it overwrites it."""
    if writer.scan or not _reads_in_step(writer, name, following):
        return False
    others = readers - {writer.number}
    if any(_reaches(edges, reader, writer.number) for reader in others):
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


def _reaches(edges: Mapping[int, set[int]], start: int, goal: int) -> bool:
    """Whether `goal` must run before `start`."""
    seen, stack = set(), [start]
    while stack:
        number = stack.pop()
        if number == goal:
            return True
        if number not in seen:
            seen.add(number)
            stack += edges[number]
    return False


def _order(groups: list[_Group], edges: Mapping[int, set[int]]) -> list[_Group]:
    """Every group after those it depends on; otherwise in the order of the equations."""
    waiting = {number: set(before) for number, before in edges.items()}
    ready = [number for number, before in waiting.items() if not before]
    heapify(ready)
    after: dict[int, list[int]] = {g.number: [] for g in groups}
    for number, before in edges.items():
        for other in before:
            after[other].append(number)
    ordered = []
    while ready:
        number = heappop(ready)
        ordered.append(groups[number])
        for follower in after[number]:
            waiting[follower].discard(number)
            if not waiting[follower]:
                heappush(ready, follower)
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
    group: _Group, stored: set[str], system: System, aliases: Mapping[str, str]
) -> Kernel | Scan:
    """The group as a kernel; what nobody in `stored` asks for stays in registers."""
    if group.scan is not None:
        return _scan(group.scan, (), stored, system, aliases)
    anchor, *epilogue = group.members
    fresh = tuple(_renamed(eq, anchor.indices) for eq in epilogue)
    local = frozenset(group.writes - stored)
    return Kernel(anchor.target, anchor, fresh, local, (), _reason(anchor, epilogue))


def _reason(anchor: Equation, epilogue: list[Equation]) -> str:
    what = {None: "a map", "sum": "a sum"}.get(anchor.reduce, f"a {anchor.reduce}")
    if anchor.at is not None:
        what = "an accumulation"
    if not epilogue:
        return what
    return f"{what}; {', '.join(eq.target for eq in epilogue)} ride on it, element by element"


def _renamed(eq: Equation, indices: tuple[Index, ...]) -> Equation:
    """The equation with the anchor's index names."""
    names = {o.name: Idx(n.name) for o, n in zip(eq.indices, indices, strict=True)}
    return replace(eq, indices=indices, body=substitute(eq.body, names))


def _scan(
    loop: Loop, fixed: tuple[str, ...], stored: set[str], system: System,
    aliases: Mapping[str, str],
) -> Scan:  # fmt: skip
    """The loop over one common index name, its equations grouped into kernels as outside."""
    step = next(iter(loop.indices.values()))
    body = [item if isinstance(item, Loop) else _with_index(item, loop.indices[item.target], step)
            for item in loop.body]  # fmt: skip
    groups = _groups(body, system, aliases)
    past = {r.tensor for eq in _equations_of(loop) for r in eq.reads}
    items: list[Kernel | Scan] = []
    for group in groups:
        if group.scan is not None:
            items.append(_scan(group.scan, (*fixed, step), stored | past, system, aliases))
            continue
        within = {r.tensor for g in groups if g is not group for eq in g.members for r in eq.reads}
        earlier = {r.tensor for eq in group.members for r in eq.reads if not is_identity(r, eq)}
        kernel = _item(group, stored | within | earlier, system, aliases)
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
