"""Phases: before which kernels must all threads have finished what they did?

In: a `Plan`. Out: the names of the kernels that wait. Between two waits stand kernels none of which
reads or writes a byte that another of them writes, such as the weight gradients of a layer: a
thread that is done with its share of one goes on to the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from .kernel import Kernel, Plan, Scan

Bytes = tuple[int, int]  # from, and up to


@dataclass
class _Phase:
    """What has been read and written since the last wait."""

    reads: set[Bytes] = field(default_factory=set)
    writes: set[Bytes] = field(default_factory=set)

    def add(self, other: _Phase) -> None:
        self.reads |= other.reads
        self.writes |= other.writes

    def conflicts(self, other: _Phase) -> bool:
        """Whether one of the two writes what the other reads or writes."""
        return (
            _overlap(self.writes, other.writes)
            or _overlap(self.writes, other.reads)
            or _overlap(self.reads, other.writes)
        )


def place_barriers(plan: Plan) -> Plan:
    """The plan with the kernels that begin when all kernels before them have ended."""
    return replace(plan, barriers=frozenset(_waiting(plan.items, plan, _Phase())))


def _waiting(items: tuple[Kernel | Scan, ...], plan: Plan, now: _Phase) -> Iterator[str]:
    """The waiting kernels among the items; `now` becomes what is open after them. A scan waits
    before every step: what the step before it did is not kept track of."""
    for item in items:
        if isinstance(item, Kernel):
            own = _accesses(item, plan)
            if now.conflicts(own):
                yield item.name
                now.reads, now.writes = set(), set()
            now.add(own)
            continue
        first = _first(item)
        now.reads, now.writes = set(), set()
        yield first.name
        for name in _waiting(item.kernels, plan, now):
            if name != first.name:
                yield name
        for kernel in item.every:
            now.add(_accesses(kernel, plan))


def _first(scan: Scan) -> Kernel:
    item = scan.kernels[0]
    return item if isinstance(item, Kernel) else _first(item)


def _accesses(kernel: Kernel, plan: Plan) -> _Phase:
    def places(names) -> set[Bytes]:
        tensors = plan.system.tensors
        return {
            (plan.offsets[n], plan.offsets[n] + tensors[n].bytes)
            for n in names
            if n in plan.offsets
        }

    sources = {s for eq in kernel.equations for s in eq.sources} - kernel.local
    return _Phase(places(sources), places(kernel.stored))


def _overlap(some: set[Bytes], others: set[Bytes]) -> bool:
    return any(a < d and c < b for a, b in some for c, d in others)
