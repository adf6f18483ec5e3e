"""Foresight: what lies far away is asked for while a product before it is computed.

In: a plan and the loops of its kernels. Out: which tensors a kernel asks for: those that the next
kernels, up to one that can ask itself, read from far, because too much was touched since for any
cache to have kept them. A product waits for arithmetic, so memory has time; a map waits for memory.
Asking changes no value.

What statements read after a sum is left out: the product itself asks for that (`Nest.early`). So is
what is written: measured, a processor hides that well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import prod

from ..kernels import Kernel, Plan, Scan
from ..loops import Nest

NEAR = 4 << 20  # bytes: what was touched before so many others is far
LINE = 64  # bytes
LEAST = 64 << 10  # bytes that are worth asking for
MOST = 1 << 21  # bytes that one kernel asks for: more would push out what it has brought
STREAMS = 4  # tensors that one kernel asks for
LONG = 16  # turns of a loop beside which memory has time …
BUSY = 8  # … and multiplications for each byte that its kernel reads


@dataclass(frozen=True)
class Asked:
    """A tensor, asked for from its beginning, so many bytes further at every point."""

    tensor: str
    step: int


def foresight(plan: Plan, nests: Mapping[Kernel, Nest]) -> dict[Kernel, tuple[Asked, ...]]:
    """What kernels ask for."""
    points = {item: count for item in plan.items if isinstance(item, Kernel)
              and (count := _points(nests[item])) and _is_busy(item, plan)}  # fmt: skip
    far = _far(plan, points)
    asked: dict[Kernel, tuple[Asked, ...]] = {}
    wanted: list[str] = []
    for item in reversed((*plan.items, *plan.items)):  # another step follows, with the same kernels
        if isinstance(item, Kernel) and item in points:
            asked[item] = tuple(_chosen(wanted, plan, points[item]))
            taken = {a.tensor for a in asked[item]}
            wanted = _next([name for name in wanted if name not in taken], plan)
        wanted = list(dict.fromkeys([*far[item], *wanted]))
    return {kernel: found for kernel, found in asked.items() if found}


def _points(nest: Nest) -> int:
    """How often the innermost loop turns, if it is a long reduction that turns as often wherever it
    is; otherwise 0, and the kernel cannot ask."""
    long = any(loop.kind == "reduce" for loop in nest.loops) and nest.loops[-1].steps >= LONG
    steady = nest.accumulate is None and not any(loop.clip for loop in nest.loops)
    shared = any(loop.kind == "parallel" for loop in nest.loops)
    return prod(loop.steps for loop in nest.loops) if long and steady and shared else 0


def _is_busy(kernel: Kernel, plan: Plan) -> bool:
    """Whether it waits for arithmetic, and not for memory itself."""
    read = sum(plan.system.tensors[name].bytes for name in kernel.anchor.sources)
    return prod(i.size for i in kernel.anchor.domain) >= BUSY * read


def _next(wanted: list[str], plan: Plan) -> list[str]:
    """Those of the tensors that are needed soon."""
    sizes = accumulate(plan.system.tensors[name].bytes for name in wanted)
    return [name for name, size in zip(wanted, sizes, strict=True) if size <= MOST]


def _chosen(wanted: list[str], plan: Plan, points: int) -> Iterator[Asked]:
    """As many of the tensors, the first needed first, as a kernel of so many points can ask for."""
    left, streams = MOST, STREAMS
    for name in wanted:
        size = plan.system.tensors[name].bytes
        if streams and size <= min(left, points * LINE):
            yield Asked(name, -(-size // points))
            left, streams = left - size, streams - 1


def _far(plan: Plan, points: Mapping[Kernel, int]) -> dict[Kernel | Scan, list[str]]:
    """Which of the tensors that it reads come to each item from far, in a step that follows
    another. What a recurrence reads it reads often."""
    tensors = plan.system.tensors
    touched = 0  # bytes, so far
    before: dict[int, int] = {}  # offset → what had been touched when the tensor there was
    far: dict[Kernel | Scan, list[str]] = {}
    for item in (*plan.items, *plan.items):
        kernels = [item] if isinstance(item, Kernel) else list(item.every)
        far[item] = [
            name for name in _awaited(item, points)
            if name in plan.offsets and tensors[name].bytes >= LEAST
            and touched - before.get(plan.offsets[name], touched) > NEAR
        ] if isinstance(item, Kernel) else []  # fmt: skip
        names = {n for k in kernels for n in (*k.stored, *_sources(k))} & plan.offsets.keys()
        here = {plan.offsets[n]: tensors[n].bytes for n in names}
        touched += sum(here.values())
        before |= dict.fromkeys(here, touched)
    return far


def _awaited(kernel: Kernel, points: Mapping[Kernel, int]) -> Iterable[str]:
    """What is read without having been asked for."""
    return kernel.anchor.sources if kernel in points else _sources(kernel)


def _sources(kernel: Kernel) -> Iterable[str]:
    return dict.fromkeys(s for eq in kernel.equations for s in eq.sources)
