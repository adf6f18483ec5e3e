"""Fusion groups: which equations become one kernel.

    z[b, o] = sum(i) x[b, i] * w[i, o]
    y[b, o] = max(z[b, o] + c[o], 0)     →   a group: z the anchor, y its epilogue

An equation joins the group that computes the last of its inputs, if it has the same indices and
reads that input element by element. One small index may differ: if it is unrolled, the gates of a
recurrent cell are in registers where the state is computed from them, and so is the state where
the gates' gradients are. What a prologue may compute once (`prologue.py`) does not join what every
run computes.

Tests: tests/passes/test_passes.py, tests/passes/test_recurrence_kernels.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ...ir.affine import affine
from ...ir.equation import Equation, System
from ...ir.expr import Apply, Const, Expr, Idx, Read, walk
from ...ir.recurrence import SequentialLoop
from ...ir.work import cost
from ...targets import FusionLimits
from .kernel import Blocks, Kernel

Unfused = Equation | SequentialLoop | Kernel | Blocks


@dataclass
class Group:
    """A kernel being built; `members` are its equations in order, the anchor first. `unrolled` is
    the position of the unrolled index, for each member that has one. A recurrence (`scan`) or a
    kernel of an earlier pass (`kernel`), or several in blocks of rows, takes no more equations."""

    number: int
    members: list[Equation] = field(default_factory=list)
    scan: SequentialLoop | None = None
    kernel: Kernel | Blocks | None = None
    unrolled: dict[str, int] = field(default_factory=dict)

    @property
    def anchor(self) -> Equation:
        return self.members[0]

    @property
    def iteration_space(self) -> tuple[int, ...]:
        """The sizes of the indices that all members have."""
        return without(sizes_of(self.anchor), self.unrolled.get(self.anchor.target))

    @property
    def epilogue_cost(self) -> int:
        """Operations of the epilogue at one point."""
        return sum(cost(m.body) for m in self.members[1:])

    @property
    def reads(self) -> set[str]:
        return {s for eq in self.members for s in eq.sources}

    @property
    def writes(self) -> set[str]:
        return set(self.kernel.stored) if self.kernel else {eq.target for eq in self.members}


def sizes_of(eq: Equation) -> tuple[int, ...]:
    return tuple(i.size for i in eq.indices)


def without(items: tuple, position: int | None) -> tuple:
    return items if position is None else (*items[:position], *items[position + 1 :])


def equations_of(loop: SequentialLoop) -> list[Equation]:
    found: list[Equation] = []
    for item in loop.body:
        found += equations_of(item) if isinstance(item, SequentialLoop) else [item]
    return found


@dataclass(frozen=True)
class Fusion:
    """Grouping with what it looks up: `aliases` are views with their sources, `once` the targets
    that a prologue may compute."""

    system: System
    aliases: Mapping[str, str]
    limits: FusionLimits
    notes: Mapping[str, str]
    once: frozenset[str]

    @cached_property
    def _views(self) -> Mapping[str, list[str]]:
        """The views of each tensor that has some."""
        found: dict[str, list[str]] = {}
        for view, source in self.aliases.items():
            found.setdefault(source, []).append(view)
        return found

    def groups(self, items: Iterable[Unfused], single_result_epilogue: int) -> list[Group]:
        """The items, in order of dependence, grouped into kernels."""
        groups: list[Group] = []
        maker: dict[str, Group] = {}

        def append(group: Group) -> Group:
            groups.append(group)
            maker.update(dict.fromkeys(group.writes, group))
            return group

        for item in items:
            if isinstance(item, Kernel | Blocks):
                append(Group(len(groups), list(item.equations), kernel=item))
                continue
            if isinstance(item, SequentialLoop):
                append(Group(len(groups), equations_of(item), item))
                continue
            # Only the group that computes the last input can take the equation: any other one runs
            # before some input exists.
            # What a prologue computes is there before all others, wherever it stands.
            early = frozenset() if item.target in self.once else self.once
            makers = [maker[s] for s in item.sources if s in maker and s not in early]
            last = max(makers, key=lambda g: g.number, default=None)
            if item.target in self.aliases:
                # A view is no computation. Its readers depend on what its source depends on.
                if last is not None:
                    maker[item.target] = last
                continue
            unrolled = None if last is None else self.fuses(item, last, single_result_epilogue)
            if last is None or unrolled is None:
                append(Group(len(groups), [item], unrolled=self.compared(item)))
            else:
                last.members.append(item)
                last.unrolled.update(unrolled)
                maker[item.target] = last
        return groups

    def fuses(
        self, eq: Equation, group: Group, single_result_epilogue: int
    ) -> dict[str, int] | None:
        """The positions of unrolled indices, the equation's own and those that other members get,
        if the equation can be computed where the group's results are in registers; else None."""
        # Reductions need loops of their own, and so do scatter-adds (`at`): their elements are
        # complete only after all loops.
        anchor = group.anchor
        if group.scan or group.kernel or eq.reduce or eq.at is not None or anchor.at is not None:
            return None
        if (eq.target in self.once) != (anchor.target in self.once):
            return None
        # Their accumulator also carries a position; no epilogue is written for it.
        if anchor.reduce in ("argmax", "argmin"):
            return None
        # The epilogue would run in scalars, once for each result.
        if _is_reduced_by_lanes(anchor) and cost(eq.body) > single_result_epilogue:
            return None
        # Beyond this its intermediate values would spill registers.
        if group.epilogue_cost + cost(eq.body) > self.limits.max_epilogue:
            return None
        aliases, writes = self.aliases, group.writes
        # A view of the group's result has other indices, and a guarded read may leave its point:
        # neither finds its element in registers.
        made = writes.union(*(self._views[target] for target in writes if target in self._views))
        if any(r.tensor in made and (r.tensor in aliases or r.other is not None) for r in eq.reads):
            return None
        for unrolled in self.alignments(eq, group):
            positions = {**group.unrolled, **unrolled}
            if all(in_registers(r, eq, positions) for r in eq.reads if r.tensor in made):
                return unrolled
        return None

    def alignments(self, eq: Equation, group: Group) -> Iterator[dict[str, int]]:
        """The ways in which the equation's indices may match the group's, except for one of either
        that is unrolled."""
        # Example: gates z[b, g, j] with g < 4 unrolled, state c[b, j]. The space is (b, j); c reads
        # z[b, 0, j] … z[b, 3, j], all of which are in registers at the point (b, j).
        own, theirs, space = sizes_of(eq), sizes_of(group.anchor), group.iteration_space
        position = group.unrolled.get(group.anchor.target)
        # The same indices, with the same one unrolled, if any.
        if own == theirs:
            yield {} if position is None else {eq.target: position}
        # The equation lacks the index that the group has unrolled.
        if own == space and position is not None:
            yield {}
        # It lacks one that the group has not unrolled yet: all members so far have it, so all
        # unroll it.
        if position is None and len(own) == len(theirs) - 1 and not group.unrolled:
            for place in self.unrollable(theirs):
                if without(theirs, place) == own:
                    yield {m.target: place for m in group.members}
        # It has one more index, which is unrolled for it alone.
        if len(own) == len(space) + 1:
            for place in self.unrollable(own):
                if without(own, place) == space:
                    yield {eq.target: place}

    def unrollable(self, sizes: tuple[int, ...]) -> Iterator[int]:
        """The positions of small indices, if vectors can run over the last one."""
        # Never the last index: vectors run along it.
        if sizes and sizes[-1] >= self.limits.unrolled_row:
            for place, size in enumerate(sizes[:-1]):
                if size <= self.limits.unrolled_values:
                    yield place

    def compared(self, eq: Equation) -> dict[str, int]:
        """The position of a small index of a map that is compared with constants: unrolled, each of
        its values keeps its part of the expression only."""
        if eq.reduce or eq.at is not None:
            return {}
        for place in self.unrollable(sizes_of(eq)):
            if _is_compared(Idx(eq.indices[place].name), eq.body):
                return {eq.target: place}
        return {}


def in_registers(read: Read, eq: Equation, unrolled: Mapping[str, int]) -> bool:
    """Whether the element was computed at the same point of the iteration space: it is read at the
    equation's own indices, and at a constant or the own one where an index is unrolled."""
    # All indices but the unrolled ones must agree, one by one.
    own, theirs = unrolled.get(eq.target), unrolled.get(read.tensor)
    names = tuple(Idx(i.name) for i in eq.indices)
    if without(read.index, theirs) != without(names, own):
        return False
    if theirs is None:
        return True
    at = read.index[theirs]
    return isinstance(at, Const) or (own is not None and at is names[own])


def _is_compared(index: Idx, body: Expr) -> bool:
    """Whether the index is compared with a constant."""
    return any(
        isinstance(n, Apply)
        and n.fn in ("eq", "ne")
        and index in n.args
        and any(isinstance(a, Const) for a in n.args)
        for n in walk(body)
    )


def _is_reduced_by_lanes(anchor: Equation) -> bool:
    """Whether the vectors of a sum run over what is summed (no factor is contiguous along the last
    index of the result): results come one at a time, and an epilogue has no vectors."""
    if anchor.reduce is None or not anchor.indices:
        return False
    # Predicts what `cpu/tiling.py` will choose: vectors over the last index, if a factor can be
    # loaded along it.
    last = Idx(anchor.indices[-1].name)
    return not any(
        r.index and affine(r.index[-1]).coefficients.get(last) == 1 for r in anchor.reads
    )
