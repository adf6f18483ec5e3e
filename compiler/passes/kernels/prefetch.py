"""Foresight: what lies far away is asked for while a product before it is computed.

In: a plan. Out: which tensors a kernel asks for: those that the next kernels, up to one that asks
itself, read from far, because too much was touched since for any cache to have kept them. A product
waits for arithmetic, so memory has time; a map waits for memory. Asking changes no value.

What statements read after a sum is left out: the product itself asks for that (`Nest.early`). So is
what is written: measured, a processor hides that well.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import replace
from itertools import accumulate
from math import prod

from .kernel import Kernel, Plan, Scan

NEAR = 4 << 20  # bytes: what was touched before so many others is far
LEAST = 64 << 10  # bytes that are worth asking for
MOST = 1 << 21  # bytes that one kernel asks for: more would push out what it has brought
STREAMS = 4  # tensors that one kernel asks for
LONG = 16  # terms of a sum beside which memory has time …
BUSY = 8  # … and products for each byte that is read, and for each that is asked for


def plan_prefetch(plan: Plan) -> Plan:
    """The plan with the tensors that each kernel prefetches."""
    busy = {item for item in plan.items if isinstance(item, Kernel) and _is_busy(item, plan)}
    far = _far(plan, busy)
    asked: dict[Kernel, tuple[str, ...]] = {}
    wanted: list[str] = []
    for item in reversed((*plan.items, *plan.items)):  # another step follows, with the same kernels
        if isinstance(item, Kernel) and item in busy:
            asked[item] = tuple(_chosen(wanted, plan, item))
            wanted = _soon([name for name in wanted if name not in asked[item]], plan)
        wanted = list(dict.fromkeys([*far[item], *wanted]))
    return replace(plan, prefetch={kernel: names for kernel, names in asked.items() if names})


def _is_busy(kernel: Kernel, plan: Plan) -> bool:
    """Whether it waits for arithmetic, all the time, and not for memory itself."""
    anchor = kernel.anchor
    if anchor.reduce != "sum" or anchor.at is not None:
        return False
    whole = all(read.other is None for read in anchor.reads)
    read = sum(plan.system.tensors[name].bytes for name in anchor.sources)
    return whole and prod(i.size for i in anchor.over) >= LONG and _products(kernel) >= BUSY * read


def _products(kernel: Kernel) -> int:
    return prod(i.size for i in kernel.anchor.domain)


def _soon(wanted: list[str], plan: Plan) -> list[str]:
    """Those of the tensors that are needed soon."""
    sizes = accumulate(plan.system.tensors[name].bytes for name in wanted)
    return [name for name, size in zip(wanted, sizes, strict=True) if size <= MOST]


def _chosen(wanted: list[str], plan: Plan, kernel: Kernel) -> Iterator[str]:
    """As many of the tensors, the first needed first, as the kernel can ask for."""
    left, streams = MOST, STREAMS
    for name in wanted:
        size = plan.system.tensors[name].bytes
        if streams and size <= left and BUSY * size <= _products(kernel):
            yield name
            left, streams = left - size, streams - 1


def _far(plan: Plan, busy: Set[Kernel]) -> dict[Kernel | Scan, list[str]]:
    """Which of the tensors that it reads come to each item from far, in a step that follows
    another. What a recurrence reads it reads often."""
    sizes = {name: plan.system.tensors[name].bytes for name in plan.offsets}
    touches = [_touched(item, busy, sizes.keys()) for item in plan.items]
    before: dict[int, int] = {}  # offset → what had been touched when the tensor there was
    touched = 0  # bytes, so far
    far: dict[Kernel | Scan, list[str]] = {}
    for item, (awaited, names) in zip((*plan.items, *plan.items), touches * 2, strict=True):
        far[item] = [
            name
            for name in awaited
            if sizes[name] >= LEAST and touched - before.get(plan.offsets[name], touched) > NEAR
        ]
        here = {plan.offsets[name]: sizes[name] for name in names}
        touched += sum(here.values())
        before |= dict.fromkeys(here, touched)
    return far


def _touched(
    item: Kernel | Scan, busy: Set[Kernel], stored: Set[str]
) -> tuple[list[str], list[str]]:
    """What an item reads without asking for it itself, and all that it reads and writes."""
    if isinstance(item, Scan):
        parts = [_touched(kernel, busy, stored)[1] for kernel in item.every]
        return [], list(dict.fromkeys(name for names in parts for name in names))
    sources = [name for eq in item.equations for name in eq.sources]
    names = list(dict.fromkeys(n for n in (*sources, *item.stored) if n in stored))
    awaited = set(item.anchor.sources if item in busy else sources)
    return [name for name in names if name in awaited], names
