"""The memory plan: where every tensor lives, decided once.

In: fused kernels. Out: a `Plan` with offsets into one arena. Inputs, params, states and outputs
have places of their own; temps share by lifetime (the largest first, each in the lowest gap that is
free while it lives); views are where their source is; an update in place is where the old value is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..ir import System
from ..kernels import Kernel, Plan, Scan
from .fuse import Fused
from .schedule import ALIGNMENT, copy

Lifetime = tuple[int, int]


def memory(system: System, fused: Fused, shared: bool = True) -> Plan:
    """Offsets for all tensors, and copies for updates that could not happen in place. Without
    `shared` every temp has a place that nothing else ever has."""
    copies = [
        copy(system, name, following)
        for name, following in system.updates.items()
        if name not in fused.in_place
    ]
    items = (*fused.items, *copies)
    homes = _homes(system, fused)
    stored = {t for item in items for t in _touched(item)[1]}
    lives = _lifetimes(system, items, homes, stored)
    if not shared:
        lives = {name: (0, len(items)) for name in lives}
    offsets: dict[str, int] = {}
    total = 0
    for name, tensor in system.tensors.items():
        if homes.get(name, name) == name and _is_permanent(name, tensor.kind, system):
            offsets[name] = total
            total += _padded(tensor.bytes)
    total = _share(system, lives, offsets, total)
    for name in system.tensors:
        home = homes.get(name, name)
        if home in offsets:
            offsets[name] = offsets[home]
    return Plan(system, items, offsets, total)


def _padded(size: int) -> int:
    return -(-max(size, 1) // ALIGNMENT) * ALIGNMENT


def _is_permanent(name: str, kind: str, system: System) -> bool:
    return kind != "temp" or name in system.outputs


def _homes(system: System, fused: Fused) -> dict[str, str]:
    """Tensor → the tensor whose memory it uses."""
    homes = dict(fused.views)
    for name in fused.in_place:
        homes[system.updates[name]] = name
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


def _lifetimes(
    system: System, items: tuple[Kernel | Scan, ...], homes: Mapping[str, str], stored: set[str]
) -> dict[str, Lifetime]:
    """The first and the last item that touches each temp."""
    lives: dict[str, Lifetime] = {}
    for number, item in enumerate(items):
        reads, writes = _touched(item)
        for name in (reads | writes) & (stored | homes.keys()):
            home = homes.get(name, name)
            if not _is_permanent(home, system.tensors[home].kind, system):
                first, _ = lives.get(home, (number, number))
                lives[home] = (first, number)
    return lives


def _share(
    system: System, lives: Mapping[str, Lifetime], offsets: dict[str, int], base: int
) -> int:
    """Give every temp the lowest place above `base` that nothing alive at the same time has."""
    names = sorted(lives, key=lambda n: (-system.tensors[n].bytes, n))
    first, last, start, end = np.zeros((4, len(names)), np.int64)
    total = base
    for n, name in enumerate(names):
        (first[n], last[n]), size = lives[name], _padded(system.tensors[name].bytes)
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
