"""The memory plan: where every tensor lives, decided once.

In: fused kernels. Out: a `Plan` with offsets into one arena. Inputs, params, states and outputs
have places of their own; temps share by lifetime (the largest first, each in the lowest gap that is
free while it lives); views are where their source is; an update in place is where the old value is.
A temp that is computed element by element from one that nobody reads later may take its place: its
lines are in the cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...ir.equation import System, copy_equation, is_identity
from ...options import Options
from ...targets import Target
from .kernel import Kernel, Plan, Scan

ALIGNMENT = 64  # bytes, of every tensor in the arena

Lifetime = tuple[int, int]
NEVER: Lifetime = (-1, -1)


def plan_memory(plan: Plan, target: Target, options: Options) -> Plan:
    """Offsets for all tensors, and copies for updates that could not happen in place. Without
    `options.share_memory` every temp has a place that nothing else ever has. Where a target runs
    independent kernels at once, neighbouring recurrences that need nothing of each other get
    memory of their own, and no kernel writes where it reads."""
    system, shared, at_once = plan.system, options.share_memory, target.concurrent_kernels
    copies = [
        update_kernel(system, name, following)
        for name, following in system.updates.items()
        if name not in plan.in_place
    ]
    items = (*plan.items, *copies)
    homes = _homes(plan)
    stored = {t for item in items for t in _touched(item)[1]}
    times = _times(items, homes) if at_once else range(len(items))
    lives = _lifetimes(system, items, times, homes, stored)
    if shared and not at_once:
        _inherit(system, items, homes, lives)
    if not shared:
        lives = {name: (0, len(items)) for name in lives}
    offsets: dict[str, int] = {}
    total = 0
    for name, tensor in system.tensors.items():
        if homes.get(name, name) == name and _is_permanent(name, tensor.kind, system):
            offsets[name] = total
            total += aligned(tensor.bytes)
    total = _share(system, lives, offsets, total)
    for name in system.tensors:
        home = homes.get(name, name)
        if home in offsets:
            offsets[name] = offsets[home]
    return replace(plan, items=items, offsets=offsets, arena_bytes=total)


def aligned(size: int) -> int:
    """Bytes of the arena that a tensor of that many takes."""
    return -(-max(size, 1) // ALIGNMENT) * ALIGNMENT


def update_kernel(system: System, old: str, new: str) -> Kernel:
    """The kernel that copies the next value of a param or state into its place."""
    equation = copy_equation(system.tensors[old], new, old)
    return Kernel(f"{old}'", equation, reason="the next value becomes the value")


def _is_permanent(name: str, kind: str, system: System) -> bool:
    return kind != "temp" or name in system.outputs


def _homes(plan: Plan) -> dict[str, str]:
    """Tensor → the tensor whose memory it uses."""
    homes = dict(plan.views)
    for name in plan.in_place:
        homes[plan.system.updates[name]] = name
    for name in list(homes):
        home = homes[name]
        while home in homes:
            home = homes[home]
        homes[name] = home
    return homes


def _touched(item: Kernel | Scan) -> tuple[set[str], set[str]]:
    """What an item reads and what it stores."""
    if isinstance(item, Scan):
        inner = [_touched(k) for k in item.kernels]
        return set().union(*(r for r, _ in inner)), set().union(*(w for _, w in inner))
    return {s for eq in item.equations for s in eq.sources}, set(item.stored)


def _times(items: tuple[Kernel | Scan, ...], homes: Mapping[str, str]) -> list[int]:
    """When each item runs: one after the other, but for recurrences that may run at once."""
    times: list[int] = []
    now: list[tuple[set[str], set[str]]] = []  # what those that run now read and store
    for item in items:
        own_reads, own_writes = ({homes.get(n, n) for n in names} for names in _touched(item))
        apart = isinstance(item, Kernel) or any(
            own_reads & writes or own_writes & (reads | writes) for reads, writes in now
        )
        if apart or not now:
            times.append(times[-1] + 1 if times else 0)
            now = []
        else:
            times.append(times[-1])
        if isinstance(item, Scan):
            now.append((own_reads, own_writes))
    return times


def _lifetimes(
    system: System,
    items: tuple[Kernel | Scan, ...],
    times: Sequence[int],
    homes: Mapping[str, str],
    stored: set[str],
) -> dict[str, Lifetime]:
    """The first and the last time at which each temp is touched."""
    lives: dict[str, Lifetime] = {}
    for number, item in zip(times, items, strict=True):
        reads, writes = _touched(item)
        for name in (reads | writes) & (stored | homes.keys()):
            home = homes.get(name, name)
            if not _is_permanent(home, system.tensors[home].kind, system):
                first, _ = lives.get(home, (number, number))
                lives[home] = (first, number)
    return lives


def _inherit(
    system: System,
    items: tuple[Kernel | Scan, ...],
    homes: dict[str, str],
    lives: dict[str, Lifetime],
) -> None:
    """Temps in the place of others that die where they are computed: `homes` and `lives` are
    changed accordingly."""
    for number, item in enumerate(items):
        if not isinstance(item, Kernel) or item.unrolled or item.anchor.at is not None:
            continue
        for eq in item.equations if item.anchor.reduce is None else item.epilogue:
            heir = eq.target
            if lives.get(heir, NEVER)[0] != number:
                continue
            dying = (s for s in eq.sources if lives.get(homes.get(s, s), NEVER)[1] == number)
            source = next((s for s in dying if _may_inherit(heir, s, item, system, homes)), None)
            if source is None:
                continue
            home = homes.get(source, source)
            homes |= {name: home for name, old in homes.items() if old == heir} | {heir: home}
            lives[home] = lives[home][0], lives.pop(heir)[1]


def _may_inherit(
    heir: str, source: str, kernel: Kernel, system: System, homes: Mapping[str, str]
) -> bool:
    """Whether the heir can be stored where the source is: the kernel computes each of its elements
    after the last read of the one that stands there."""
    home = homes.get(source, source)
    new, old, place = (system.tensors[name] for name in (heir, source, home))
    if (new.shape, new.dtype, new.pad_after) != (old.shape, old.dtype, old.pad_after):
        return False
    if place.bytes != new.bytes or home in (homes.get(t, t) for t in kernel.stored):
        return False
    here = [
        (eq, read)
        for eq in kernel.equations
        for read in eq.reads
        if homes.get(read.tensor, read.tensor) == home
    ]
    return all(r.tensor == source and not eq.over and is_identity(r, eq) for eq, r in here)


def _share(
    system: System, lives: Mapping[str, Lifetime], offsets: dict[str, int], base: int
) -> int:
    """Give every temp the lowest place above `base` that nothing alive at the same time has."""
    names = sorted(lives, key=lambda n: (-system.tensors[n].bytes, n))
    first, last, start, end = np.zeros((4, len(names)), np.int64)
    total = base
    for n, name in enumerate(names):
        (first[n], last[n]), size = lives[name], aligned(system.tensors[name].bytes)
        alive = np.nonzero((first[:n] <= last[n]) & (first[n] <= last[:n]))[0]
        busy = sorted(zip(start[alive].tolist(), end[alive].tolist(), strict=True))
        place = base
        for begin, stop in busy:
            if begin - place >= size:
                break
            place = max(place, stop)
        offsets[name], start[n], end[n] = place, place, place + size
        total = max(total, place + size)
    return total
