"""Recurrences: an order for equations that read each other at earlier steps.

    h[t] = f(x[t], h[t - 1])   →   for t in 0, 1, …: h[t] = f(x[t], h[t - 1])

A strongly connected component of equations becomes sequential loops around equations in the order
in which they run within one step. This is the loop distribution of Allen and Kennedy (1987): choose
an index along which no equation reads ahead, make its loop sequential, drop the dependences that
the loop carries, and continue with the components that remain. Tests: tests/gradients,
tests/passes/test_recurrence_kernels.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ...dsl.records import record
from .affine import affine
from .equation import Equation, components
from .expr import Idx, Read


@record
class SequentialLoop:
    """`size` steps, up or down. `indices` names, for each target inside, its index that steps."""

    indices: Mapping[str, str]
    size: int
    reverse: bool
    body: tuple[Equation | SequentialLoop, ...]

    def steps(
        self, fixed: Mapping[str, Mapping[str, int]] | None = None
    ) -> Iterator[tuple[Equation, dict[str, int]]]:
        """Every equation with the values of its stepping indices, in the order of computation."""
        # The values of the indices of enclosing loops, by target.
        outer = fixed or {}
        for step in reversed(range(self.size)) if self.reverse else range(self.size):
            now = {t: {**outer.get(t, {}), name: step} for t, name in self.indices.items()}
            for item in self.body:
                if isinstance(item, SequentialLoop):
                    yield from item.steps(now)
                else:
                    yield item, now[item.target]


class NoOrder(ValueError):
    """The equations depend on each other with no order in which they can be computed."""

    def __init__(self, equations: list[Equation]):
        self.equations = equations
        super().__init__("no order for " + ", ".join(e.target for e in equations))


Inner = Mapping[str, list[Read]]  # the reads inside a component that no loop carries yet


def plan_recurrence(component: list[Equation]) -> SequentialLoop:
    """The loops for a recurrent component. Raises NoOrder if there are none."""
    targets = {e.target for e in component}
    inner = {e.target: [r for r in e.reads if r.tensor in targets] for e in component}
    # `used` are the indices that enclosing loops step: none yet.
    return _plan(component, inner, {target: frozenset() for target in targets})


def _plan(
    component: list[Equation], inner: Inner, used: Mapping[str, frozenset[str]]
) -> SequentialLoop:
    first = component[0]
    # Any index and direction without reads ahead will do; the first index, upwards, comes first.
    # Other equations may step by an index of another name, which `_stepping` finds.
    for index in first.indices:
        if index.name in used[first.target]:
            continue
        for reverse in (False, True):
            stepping = _stepping(component, inner, index.name, reverse)
            if stepping is None:
                continue
            rest = _not_carried(component, inner, stepping)
            # A loop that carries no read would leave the same cycle inside: no progress.
            if all(len(rest[t]) == len(inner[t]) for t in rest):
                continue
            now_used = {t: used[t] | {stepping[t]} for t in stepping}
            return SequentialLoop(stepping, index.size, reverse, _within(component, rest, now_used))
    raise NoOrder(component)


def _stepping(
    component: list[Equation], inner: Inner, start: str, reverse: bool
) -> dict[str, str] | None:
    """For each target the index that steps with `start` of the first, if no read looks ahead."""
    # Propagates along reads, from the first equation to all: in a strongly connected component each
    # is reached.
    by_target = {e.target: e for e in component}
    size = component[0].sizes[start]
    stepping = {component[0].target: start}
    todo = [component[0]]
    while todo:
        eq = todo.pop()
        # A scatter has no index of its own to step by.
        if eq.at is not None:
            return None
        own = Idx(stepping[eq.target])
        for read in inner[eq.target]:
            source = by_target.get(read.tensor)
            # Outside of this component, after an outer loop has carried the reads that closed the
            # cycle.
            if source is None:
                continue
            place = _place(read, source, own, stepping.get(source.target), reverse)
            # One loop steps all of them, so their indices must be of the same size.
            if place is None or source.sizes[place] != size:
                return None
            if source.target not in stepping:
                stepping[source.target] = place
                todo.append(source)
    return stepping


def _not_carried(component: list[Equation], inner: Inner, stepping: Mapping[str, str]) -> Inner:
    """The reads that are still of the same step."""
    by_target = {e.target: e for e in component}
    return {
        e.target: [
            r
            for r in inner[e.target]
            if r.tensor in by_target
            and not _is_carried(r, by_target[r.tensor], stepping[e.target], stepping[r.tensor])
        ]
        for e in component
    }


def _place(read: Read, source: Equation, own: Idx, known: str | None, reverse: bool) -> str | None:
    """The index of `source` that the read addresses with `own` plus an offset into the past."""
    for index, expr in zip(source.indices, read.index, strict=True):
        # `h[t - 1]` has the offset -1; `h[2*t]` and `h[token[t]]` have none, as coefficients
        # remain.
        offset = affine(expr) - affine(own)
        if offset.coefficients or (known is not None and index.name != known):
            continue
        # At the same step (0) or an earlier one; upwards earlier is -, downwards it is +.
        if offset.constant >= 0 if reverse else offset.constant <= 0:
            return index.name
    return None


def _is_carried(read: Read, source: Equation, own: str, place: str) -> bool:
    """Whether the read is of an earlier step (and so is no dependence within the step)."""
    position = [i.name for i in source.indices].index(place)
    return (affine(read.index[position]) - affine(Idx(own))).constant != 0


def _within(
    component: list[Equation], inner: Inner, used: Mapping[str, frozenset[str]]
) -> tuple[Equation | SequentialLoop, ...]:
    """The equations in an order for one step; those still in a cycle get a loop of their own."""

    def same_step(eq: Equation) -> list[str]:
        return [r.tensor for r in inner[eq.target]]

    body: list[Equation | SequentialLoop] = []
    # Without the carried reads, most cycles are gone; the order of the components is that of the
    # equations within one step.
    for part in components(tuple(component), same_step):
        if len(part) > 1 or part[0].target in same_step(part[0]):
            body.append(_plan(part, inner, used))
        else:
            body.append(part[0])
    return tuple(body)
