"""Barrier placement: before which kernels must all threads have finished the kernels before?

    k1 writes a; k2 writes b; k3 reads a and b   →   k1; k2; barrier; k3

Between two barriers stand kernels none of which reads or writes a byte that another of them writes,
such as the weight gradients of a layer: a thread that has finished its share of one goes on to the
next. Dependences are those of memory, so tensors that share a place are ordered, too. After the
prologue all threads wait for each other where it runs (`codegen/llvm/module.py`).
Tests: tests/passes/test_barriers.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from .kernel import Blocks, Item, Kernel, Plan

Interval = tuple[int, int]  # of bytes: from, and up to


@dataclass
class _Accesses:
    """What has been read and written since the last barrier."""

    reads: set[Interval] = field(default_factory=set)
    writes: set[Interval] = field(default_factory=set)

    def add(self, other: _Accesses) -> None:
        self.reads |= other.reads
        self.writes |= other.writes

    def clear(self) -> None:
        self.reads, self.writes = set(), set()

    def conflicts(self, other: _Accesses) -> bool:
        """Whether one of the two writes what the other reads or writes."""
        return (
            _overlap(self.writes, other.writes)
            or _overlap(self.writes, other.reads)
            or _overlap(self.reads, other.writes)
        )


def place_barriers(plan: Plan) -> Plan:
    """The plan with the kernels that have a barrier before them."""
    parts = plan.items[: plan.prologue], plan.items[plan.prologue :]
    found = {name for items in parts for name in _with_barrier(items, plan, _Accesses())}
    return replace(plan, barriers=frozenset(found))


def _with_barrier(items: tuple[Item, ...], plan: Plan, pending: _Accesses) -> Iterator[str]:
    """The items' kernels with a barrier before them; updates `pending`, the accesses since the last
    one. A scan has one before every step: the accesses of the step before are not tracked."""
    for item in items:
        if isinstance(item, Kernel | Blocks):
            own = _accesses(item, plan)
            # After the barrier everything before it is complete, and nothing can conflict with
            # that.
            if pending.conflicts(own):
                # Inside of a block a thread goes on with what it has made itself.
                yield item.name if isinstance(item, Kernel) else item.kernels[0].name
                pending.clear()
            pending.add(own)
            continue
        # A barrier before the first kernel of every step orders this step after the one before, on
        # which it depends, and after what comes before the scan.
        first = next(item.every)
        pending.clear()
        yield first.name
        for name in _with_barrier(item.kernels, plan, pending):
            # It already has one. Conflicts found inside refer to the same step alone.
            if name != first.name:
                yield name
        # The last step's accesses are pending when the scan ends. Which of them the last barrier
        # inside covers is not worked out: all of them count.
        for kernel in item.every:
            pending.add(_accesses(kernel, plan))


def _accesses(kernel: Kernel | Blocks, plan: Plan) -> _Accesses:
    def intervals(names: Iterable[str]) -> set[Interval]:
        tensors = plan.system.tensors
        return {
            (plan.offsets[n], plan.offsets[n] + tensors[n].bytes)
            for n in names
            if n in plan.offsets
        }

    # Locals are values in registers and have no bytes. Views have offsets of their own, equal to
    # their source's, so a read of a view is seen as a read of the source. Neither has what a thread
    # holds for itself.
    sources = {s for eq in kernel.equations for s in eq.sources}
    if isinstance(kernel, Kernel):
        sources -= kernel.local
    return _Accesses(intervals(sources), intervals(kernel.stored))


def _overlap(some: set[Interval], others: set[Interval]) -> bool:
    # Half-open intervals [a, b) and [c, d) overlap exactly if each begins before the other ends.
    return any(a < d and c < b for a, b in some for c, d in others)
