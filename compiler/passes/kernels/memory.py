"""Memory planning: where every tensor lives in one arena.

    a = f(x); b = g(a); c = h(b)   →   a and c at the same offset; b in the place of a

Inputs, params, states and outputs have places of their own, and so has what a prologue computes
for later runs. Params and states may be in a second memory, at places that are given
(`Options.values`): programs that are exported share it. Temps share by liveness interval: the
largest first, each at the lowest offset where nothing that interferes lies (first fit decreasing).
Views are where their source is; an update in place is where the old value is. A temp that is
computed element by element from one that dies there reuses its place (in-place reuse): its cache
lines are still there.

Cf. Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020 (greedy by
size). Tests: tests/passes/test_memory.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from ...ir.dtypes import LINE
from ...ir.equation import System, copy_equation, is_identity
from ...options import Options
from ...targets import Target
from .kernel import Blocks, Item, Kernel, Plan, Scan

Interval = tuple[int, int]  # the first and the last time at which a tensor is touched
NEVER: Interval = (-1, -1)
Homes = dict[str, str]  # tensor → the tensor whose memory it uses


def plan_memory(plan: Plan, target: Target, options: Options) -> Plan:
    """Offsets for all tensors, and copies for updates that cannot happen in place. Without
    `options.share_memory` every temp has a place that nothing else ever has. Where a target runs
    independent kernels at once, neighbouring recurrences that do not depend on each other get
    memory of their own, and no kernel writes where it reads."""
    system, concurrent = plan.system, target.concurrent_kernels
    copies = [
        update_kernel(system, name, following)
        for name, following in system.updates.items()
        if name not in plan.in_place
    ]
    # Copies come last: until then every kernel reads the old values.
    items = tuple(
        _with_held(item, plan, options) if isinstance(item, Blocks) else item
        for item in (*plan.items, *copies)
    )
    homes = _homes(plan)
    # A tensor lives from the first time to the last at which it is touched; times are positions of
    # kernels, unless some run at once.
    times = _times(items, homes) if concurrent else range(len(items))
    permanent = _permanent(plan, homes)
    values = dict(options.values)
    live = _liveness(items, times, homes, permanent)
    if not options.share_memory:
        # Alive all the time, so nothing can share with it.
        live = {name: (0, len(items)) for name in live}
    # Where kernels run at once, a kernel in another stream may still read what is dying here.
    elif not concurrent:
        _reuse_in_place(system, items, homes, live)
    offsets: dict[str, int] = {}
    total = 0
    for name, tensor in system.tensors.items():
        # Permanent tensors one after the other at the start of the arena; temps share what follows.
        if homes.get(name, name) == name and name in permanent and name not in values:
            offsets[name] = total
            total += aligned(tensor.bytes)
    total = _first_fit(system, live, offsets, total)
    offsets |= {name: total + place for name, place in values.items() if name in system.tensors}
    for name in system.tensors:
        home = homes.get(name, name)
        if home in offsets:
            offsets[name] = offsets[home]
    apart = frozenset(name for name in system.tensors if homes.get(name, name) in values)
    return replace(plan, items=items, offsets=offsets, arena_bytes=total, apart=apart)


@dataclass(frozen=True)
class Lifetime:
    """A tensor at its offset, from the first to the last of the plan's items that touch it; to be
    looked at."""

    tensor: str
    offset: int
    bytes: int
    first: int
    last: int


def lifetimes(plan: Plan) -> list[Lifetime]:
    """Of all tensors that are stored in the arena, by their offsets: those with a place of their
    own live from the first item to the last. Views and updates in place are where others are."""
    homes, end = _homes(plan), max(len(plan.items) - 1, 0)
    permanent = _permanent(plan, homes)
    live = _liveness(plan.items, range(len(plan.items)), homes, permanent)
    found = [
        Lifetime(
            name, plan.offsets[name], plan.system.tensors[name].bytes, *live.get(name, (0, end))
        )
        for name in plan.offsets
        if name in live or (name in permanent and name not in homes)
    ]
    return sorted(found, key=lambda each: (each.offset, each.first, each.tensor))


def aligned(size: int) -> int:
    """Bytes of the arena that a tensor of that many takes: whole cache lines."""
    return -(-max(size, 1) // LINE) * LINE


def update_kernel(system: System, old: str, new: str) -> Kernel:
    """The kernel that copies the next value of a param or state into its place."""
    equation = copy_equation(system.tensors[old], new, old)
    return Kernel(f"{old}'", equation, reason="the next value becomes the value")


def _permanent(plan: Plan, homes: Homes) -> set[str]:
    """The tensors whose memory nothing else uses."""
    system = plan.system
    found = {n for n, t in system.tensors.items() if t.kind != "temp" or n in system.outputs}
    # What the prologue computes and later items read, under whatever name.
    made = {n for item in plan.items[: plan.prologue] for n in _touched(item)[1]}
    read = {homes.get(n, n) for item in plan.items[plan.prologue :] for n in _touched(item)[0]}
    return found | made & read


def _homes(plan: Plan) -> Homes:
    """The homes of views and of updates in place."""
    # Chains are followed to their end: a view of a view, or a view of an updated param.
    homes = dict(plan.views)
    for name in plan.in_place:
        homes[plan.system.updates[name]] = name
    for name in list(homes):
        home = homes[name]
        while home in homes:
            home = homes[home]
        homes[name] = home
    return homes


def _with_held(blocks: Blocks, plan: Plan, options: Options) -> Blocks:
    """The blocks with a place for everything that a thread holds of one."""
    system = plan.system
    stored = {n for k in blocks.kernels for n in k.stored}
    homes = {name: home for name, home in _homes(plan).items() if home in stored}
    held = {n for n in stored | homes.keys() if system.tensors[n].held}
    live = _liveness(blocks.kernels, range(len(blocks.kernels)), homes, set())
    live = {name: times for name, times in live.items() if name in held}
    if not options.share_memory:
        live = {name: (0, len(blocks.kernels)) for name in live}
    else:
        _reuse_in_place(system, blocks.kernels, homes, live)
    offsets: dict[str, int] = {}
    total = _first_fit(system, live, offsets, 0)
    offsets |= {name: offsets[homes[name]] for name in held - offsets.keys()}
    return replace(blocks, held=offsets, held_bytes=total)


def _touched(item: Item) -> tuple[set[str], set[str]]:
    """What an item reads and what it stores."""
    if isinstance(item, Blocks):
        inner = [_touched(k) for k in item.kernels]
        reads, writes = (set[str]().union(*sets) for sets in zip(*inner, strict=True))
        return reads - item.held.keys(), writes - item.held.keys()
    if isinstance(item, Scan):
        inner = [_touched(k) for k in item.kernels]
        return set().union(*(r for r, _ in inner)), set().union(*(w for _, w in inner))
    return {s for eq in item.equations for s in eq.sources}, set(item.stored)


def _times(items: tuple[Item, ...], homes: Homes) -> list[int]:
    """When each item runs: one after the other, except recurrences that may run at once."""
    times: list[int] = []
    running: list[tuple[set[str], set[str]]] = []  # what recurrences of this time read and store
    # By homes, as two names may be the same memory.
    for item in items:
        reads, writes = ({homes.get(n, n) for n in names} for names in _touched(item))
        # For a recurrence: a true, anti or output dependence on one of those that run now.
        alone = isinstance(item, Kernel) or any(
            reads & others_write or writes & (others_read | others_write)
            for others_read, others_write in running
        )
        # A new time begins: the recurrences of the time before have ended.
        if alone or not running:
            times.append(times[-1] + 1 if times else 0)
            running = []
        else:
            times.append(times[-1])
        if isinstance(item, Scan):
            running.append((reads, writes))
    return times


def _liveness(
    items: tuple[Item, ...], times: Sequence[int], homes: Homes, permanent: Set[str]
) -> dict[str, Interval]:
    """The liveness interval of each temp that shares memory."""
    # Locals are never stored and views are never written, but a view's home must live while it is
    # read.
    touched = [_touched(item) for item in items]
    stored = {t for _, writes in touched for t in writes}
    live: dict[str, Interval] = {}
    for time, (reads, writes) in zip(times, touched, strict=True):
        for name in reads | writes:
            home = homes.get(name, name)
            if (name in stored or name in homes) and home not in permanent:
                first, _ = live.get(home, (time, time))
                live[home] = (first, time)
    return live


def _reuse_in_place(
    system: System, items: tuple[Item, ...], homes: Homes, live: dict[str, Interval]
) -> None:
    """Stores temps in the place of others that die where they are computed; updates `homes` and
    `live` accordingly."""
    guests: dict[str, set[str]] = {}  # the names whose home is a tensor
    for name, home in homes.items():
        guests.setdefault(home, set()).add(name)
    for time, item in enumerate(items):
        # With an unrolled index all its values are computed at one point, so a store may come
        # before another value's read; an accumulation clears its target first.
        if not isinstance(item, Kernel) or item.unrolled or item.anchor.at is not None:
            continue
        # A reduction reads its operands until the last term: only its epilogue can overwrite.
        for eq in item.equations if item.anchor.reduce is None else item.epilogue:
            name = eq.target
            # Not a temp with memory of its own, or one that shares some already.
            if live.get(name, NEVER)[0] != time:
                continue
            dying = (s for s in eq.sources if live.get(homes.get(s, s), NEVER)[1] == time)
            source = next((s for s in dying if _can_replace(name, s, item, system, homes)), None)
            if source is None:
                continue
            home = homes.get(source, source)
            # Whatever had `name` as its home, views of it, moves along.
            moved = {name, *guests.pop(name, ())}
            homes |= dict.fromkeys(moved, home)
            guests.setdefault(home, set()).update(moved)
            # The two lives become one, from the birth of the source to the death of its successor.
            live[home] = live[home][0], live.pop(name)[1]


def _can_replace(name: str, source: str, kernel: Kernel, system: System, homes: Homes) -> bool:
    """Whether the tensor can be stored where the source is: the kernel computes each of its
    elements after the last read of the one in its place."""
    home = homes.get(source, source)
    new, old, place = (system.tensors[n] for n in (name, source, home))
    # Equal layouts put equal indices at equal addresses.
    layouts = [(t.shape, t.storage_dtype, t.pad_after) for t in (new, old)]
    if layouts[0] != layouts[1]:
        return False
    # Two results of one kernel must not go to the same place.
    if place.bytes != new.bytes or home in (homes.get(t, t) for t in kernel.stored):
        return False
    here = [
        (eq, read)
        for eq in kernel.equations
        for read in eq.reads
        if homes.get(read.tensor, read.tensor) == home
    ]
    # Everything that reads this memory, under whatever name, reads just the element that is
    # overwritten.
    return all(r.tensor == source and not eq.over and is_identity(r, eq) for eq, r in here)


def _first_fit(
    system: System, live: Mapping[str, Interval], offsets: dict[str, int], base: int
) -> int:
    """Gives every temp the lowest offset above `base` at which no temp lies that is alive at the
    same time; returns the size of the arena."""
    # The name breaks ties, so that the layout is the same on every run.
    names = sorted(live, key=lambda n: (-system.tensors[n].bytes, n))
    # Of what is placed already: the interval, and where it begins and ends, in order of addresses.
    # Arrays, as all pairs would be slow in Python for thousands of temps.
    placed = np.zeros((4, 0), np.int64)
    total = base
    for name in names:
        (first, last), size = live[name], aligned(system.tensors[name].bytes)
        # Intervals overlap if each begins before the other ends; ends count as inside, since a
        # kernel's inputs must outlive its outputs' first store.
        begin, end = placed[2:, (placed[0] <= last) & (first <= placed[1])]
        # The first gap between the places taken that is large enough, or the end of the last one.
        gap_begin = np.maximum.accumulate(np.append(base, end))
        gap_end = np.append(begin, np.iinfo(np.int64).max)
        place = int(gap_begin[np.argmax(gap_end - gap_begin >= size)])
        offsets[name] = place
        position = np.searchsorted(placed[2], place)
        placed = np.insert(placed, position, (first, last, place, place + size), axis=1)
        total = max(total, place + size)
    return total
