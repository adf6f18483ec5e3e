"""Software prefetch across kernels: a product brings into the cache what later kernels read.

    product; map reads x   →   product, prefetching x; map reads x

A product waits for arithmetic, so memory has time; a map waits for memory. Prefetched is what the
next kernels, up to one that prefetches itself, read from memory: tensors last touched so long ago
that no cache can have kept them. A prefetch changes no value. What the epilogue of a sum reads is
left out: the sum itself prefetches that (`Nest.epilogue_prefetch`). So is what is written:
measured, a processor hides that well. Tests: tests/passes/test_prefetch.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from itertools import accumulate
from math import prod

from ...targets import CpuTarget, PrefetchLimits
from .kernel import Blocks, Item, Kernel, Plan, Scan


def plan_prefetch(plan: Plan, target: CpuTarget) -> Plan:
    """The plan with the tensors that each kernel prefetches."""
    limits, repeated = target.prefetch, plan.items[plan.prologue :]
    # Kernels of a recurrence are left out: what it reads it reads at every step and keeps near.
    prefetching = {
        item for item in repeated if isinstance(item, Kernel) and _has_time(item, plan, limits)
    }
    far = _read_from_memory(plan, repeated, prefetching, limits)
    found: dict[Kernel, tuple[str, ...]] = {}
    needed: list[str] = []  # by later kernels, the first needed first
    # Backwards, so that `needed` is what comes after the item. Twice around, since the last kernels
    # of a step prefetch for the first ones of the next; the second round overwrites what the first
    # one found.
    for item in reversed((*repeated, *repeated)):  # another step follows, with the same kernels
        if isinstance(item, Kernel) and item in prefetching:
            found[item] = tuple(_chosen(needed, plan, item, limits))
            # Kernels before this one may still prefetch the rest, as far as it is needed soon.
            needed = _soon([name for name in needed if name not in found[item]], plan, limits)
        needed = list(dict.fromkeys([*far[item], *needed]))
    return replace(plan, prefetch={kernel: names for kernel, names in found.items() if names})


def _has_time(kernel: Kernel, plan: Plan, limits: PrefetchLimits) -> bool:
    """Whether the kernel waits for arithmetic, all the time, and not for memory itself."""
    anchor = kernel.anchor
    if anchor.reduce != "sum" or anchor.at is not None:
        return False
    # Guarded reads skip parts of the loops: such a kernel does not compute all the time. A long sum
    # with many products for each byte has a high arithmetic intensity: memory is idle meanwhile.
    unmasked = all(read.other is None for read in anchor.reads)
    read = sum(plan.system.tensors[name].bytes for name in anchor.sources)
    long = prod(i.size for i in anchor.over) >= limits.min_terms
    return unmasked and long and _products(kernel) >= limits.products_per_byte * read


def _products(kernel: Kernel) -> int:
    return prod(i.size for i in kernel.anchor.domain)


def _soon(names: list[str], plan: Plan, limits: PrefetchLimits) -> list[str]:
    """Those of the tensors that are needed soon."""
    # Running totals: the prefix of the list that fits into `max_bytes`.
    sizes = accumulate(plan.system.tensors[name].bytes for name in names)
    return [name for name, size in zip(names, sizes, strict=True) if size <= limits.max_bytes]


def _chosen(needed: list[str], plan: Plan, kernel: Kernel, limits: PrefetchLimits) -> Iterator[str]:
    """As many of the tensors, the first needed first, as the kernel has time for."""
    # Greedy: a tensor that does not fit is passed over, and a later, smaller one may be taken.
    left, streams = limits.max_bytes, limits.streams
    for name in needed:
        size = plan.system.tensors[name].bytes
        if streams and size <= left and limits.products_per_byte * size <= _products(kernel):
            yield name
            left, streams = left - size, streams - 1


def _read_from_memory(
    plan: Plan, items: Sequence[Item], prefetching: Set[Kernel], limits: PrefetchLimits
) -> dict[Item, list[str]]:
    """Which of the tensors that each item reads have left the caches, in a step that follows
    another. What a recurrence reads it reads often."""
    sizes = {name: plan.system.tensors[name].bytes for name in plan.offsets}
    # Two steps in a row, of which the second one's answers overwrite the first one's: in the first
    # step nothing has been touched yet.
    touches = [_touched(item, prefetching, sizes.keys()) for item in items]
    before: dict[int, int] = {}  # offset → bytes touched when the tensor there was, so far
    touched = 0
    far: dict[Item, list[str]] = {}
    for item, (awaited, names) in zip((*items, *items), touches * 2, strict=True):
        far[item] = [
            name
            for name in awaited
            # Reuse distance: how many bytes were touched since this place was. A place never
            # touched counts as near (distance 0), which concerns the first step alone.
            if sizes[name] >= limits.min_bytes
            and touched - before.get(plan.offsets[name], touched) > limits.near_bytes
        ]
        # By offset, not by name: tensors that share memory share cache lines, too.
        here = {plan.offsets[name]: sizes[name] for name in names}
        touched += sum(here.values())
        before |= dict.fromkeys(here, touched)
    return far


def _touched(item: Item, prefetching: Set[Kernel], stored: Set[str]) -> tuple[list[str], list[str]]:
    """What an item reads and does not prefetch itself, and all that it reads and writes."""
    # A recurrence awaits nothing, as it reads its operands at every step and keeps them near; so
    # do blocks of rows, at every block.
    if isinstance(item, Scan | Blocks):
        parts = [_touched(kernel, prefetching, stored)[1] for kernel in item.every]
        return [], list(dict.fromkeys(name for names in parts for name in names))
    sources = [name for eq in item.equations for name in eq.sources]
    names = list(dict.fromkeys(n for n in (*sources, *item.stored) if n in stored))
    # A sum prefetches what its epilogue reads by itself (`Nest.epilogue_prefetch`).
    awaited = set(item.anchor.sources if item in prefetching else sources)
    return [name for name in names if name in awaited], names
