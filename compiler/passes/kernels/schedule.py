"""Scheduling: the order of kernels, and the updates that can happen in place.

    w' = w - r*d_w, which reads w only where it writes it
    y = sum(i) x*w          →   y first, then w' into the memory of w

Kernels run in a topological order of their dependences, by Kahn's algorithm, in which those that
need no barrier come first. An update in place adds dependences: all readers of the old value run
before it. Tests: tests/passes/test_passes.py.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping

from ...ir.equation import System
from ...ir.expr import Idx
from .fusion_groups import Group, sizes_of


def dependences(
    groups: list[Group], system: System, aliases: Mapping[str, str]
) -> dict[int, set[int]]:
    """For each group, those that must run before it. A reader of a view depends on all that the
    view is made of."""
    # Sources of views come before them in the order of the system: a view of a view finds its
    # makers.
    makers = {target: {g.number} for g in groups for target in g.writes}
    for target in aliases:
        sources = system.definition[target].sources
        makers[target] = set().union(*(makers.get(s, set()) for s in sources))
    return {
        g.number: set().union(*(makers.get(s, set()) for s in g.reads)) - {g.number} for g in groups
    }


class Order:
    """Which groups must run `before` each one, and the other way round."""

    def __init__(self, before: dict[int, set[int]]):
        self.before = before
        self._after: dict[int, set[int]] = {number: set() for number in before}
        for number, others in before.items():
            for other in others:
                self._after[other].add(number)

    def add(self, number: int, others: set[int]) -> None:
        """From now on these run before that one."""
        self.before[number] = self.before[number] | others
        for other in others:
            self._after[other].add(number)

    def leads(self, start: int, goals: set[int]) -> bool:
        """Whether a group must run before one of `goals`, or is one."""
        # Forwards: little depends on the next value of a parameter.
        seen, stack = {start}, [start]
        while stack and seen.isdisjoint(goals):
            fresh = self._after[stack.pop()] - seen
            seen |= fresh
            stack += fresh
        return not seen.isdisjoint(goals)


def readers_of(groups: list[Group]) -> dict[str, set[int]]:
    """The groups that read each tensor."""
    found: dict[str, set[int]] = {}
    for group in groups:
        for name in group.reads:
            found.setdefault(name, set()).add(group.number)
    return found


def overwrites(writer: Group, readers: set[int], order: Order, name: str, following: str) -> bool:
    """Whether all readers of the old value can run before the group that writes the new one; if
    so, `order` demands it. The writer may read the old value only where it overwrites it."""
    # What a scan, or a kernel of an earlier pass, reads at which point is not examined here.
    if writer.scan or writer.kernel or not _reads_elementwise(writer, name, following):
        return False
    others = readers - {writer.number}
    # A reader that needs the new value cannot run before it is written: that would be a cycle.
    if order.leads(writer.number, others):
        return False
    order.add(writer.number, others)
    return True


def _reads_elementwise(writer: Group, name: str, following: str) -> bool:
    """Whether the group reads the old value only at the element that it writes."""
    sizes = next(sizes_of(eq) for eq in writer.members if eq.target == following)
    for eq in writer.members:
        identity = tuple(Idx(i.name) for i in eq.indices)
        for read in eq.reads:
            if read.tensor != name:
                continue
            # An equation with other sizes (one with an unrolled index) may read the element at
            # another point than the one that writes it. A sum reads all along its loop: it is left
            # out.
            same = sizes_of(eq) == sizes and not eq.reduce
            if not same or read.index != identity or read.other is not None:
                return False
    return True


def schedule(groups: list[Group], before: Mapping[int, set[int]], lookahead: int) -> list[Group]:
    """Topological order; otherwise that of the equations, except that one of the next few groups
    comes first if it does not depend on those since the last barrier."""
    # Kahn's algorithm; `ready` is kept sorted, so that ties go to the order of the equations.
    waiting = {number: set(others) for number, others in before.items()}
    ready = sorted(number for number, others in waiting.items() if not others)
    after: dict[int, list[int]] = {g.number: [] for g in groups}
    for number, others in before.items():
        for other in others:
            after[other].append(number)
    ordered: list[Group] = []
    since_barrier: set[int] = set()
    while ready:
        # Candidates that need no barrier. Few steps ahead only: running a group much earlier than
        # written lengthens the lifetime of what it computes.
        near = [n for n in ready if n <= ready[0] + lookahead and not before[n] & since_barrier]
        number = near[0] if near else ready[0]
        since_barrier = {*since_barrier, number} if near else {number}
        ready.remove(number)
        ordered.append(groups[number])
        for follower in after[number]:
            # A group whose last predecessor has run becomes ready, at its place in the order.
            waiting[follower].discard(number)
            if not waiting[follower]:
                insort(ready, follower)
    assert len(ordered) == len(groups)
    return ordered
