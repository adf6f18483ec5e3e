"""Strongly connected components of a graph of names, by Tarjan's algorithm (1972)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator


def strong_components(
    names: Iterable[str], sources: Callable[[str], Iterable[str]]
) -> list[list[str]]:
    """The components in an order in which each comes after those that it depends on.

    `sources` gives the names that a name depends on; others than `names` among them do not count.
    The order, and that of the members of a component, is the given one wherever dependencies leave
    a choice.
    """
    # Tarjan's `number` is the order of discovery, `low` the least number that is known to be
    # reachable; a component is complete at the node whose two are equal. An explicit stack in place
    # of recursion: chains of equations are longer than Python's stack.
    place = {name: n for n, name in enumerate(names)}
    waiting = set(place)  # those that are in no component yet
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    found: list[list[str]] = []
    for root in place:
        if root not in waiting:
            continue
        if waiting.isdisjoint(sources(root)):  # as nearly all are, once in order
            waiting.discard(root)
            found.append([root])
            continue
        # `work` is the call stack of the depth-first search: a name, and the sources still to
        # visit.
        work: list[tuple[str, Iterator[str]]] = []

        def enter(name: str) -> None:
            number[name] = low[name] = len(number)
            stack.append(name)
            on_stack.add(name)  # noqa: B023
            # Components found before are done and cannot lead back here: only `waiting` counts.
            nexts = [s for s in sources(name) if s in waiting]  # noqa: B023
            work.append((name, iter(nexts)))  # noqa: B023

        enter(root)
        while work:
            name, nexts = work[-1]
            for source in nexts:
                if source not in number:
                    enter(source)
                    # Descend; the iterator keeps the place at which this node goes on afterwards.
                    break
                if source in on_stack:
                    low[name] = min(low[name], number[source])
            else:
                # All sources visited: hand `low` to the caller, and close the component if this is
                # its root.
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[name])
                if low[name] == number[name]:
                    members = set()
                    while name not in members:
                        members.add(stack.pop())
                    on_stack -= members
                    waiting -= members
                    # Tarjan pops members in the order of the search; they stand in the given order
                    # instead.
                    found.append(sorted(members, key=place.__getitem__))
    return found
