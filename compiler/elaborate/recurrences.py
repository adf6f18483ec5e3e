"""Equations that are read before they are reached: a recurrence reads its own result.

In: the equations of a body that are still to come. Out: their tensors, declared when first read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ...dsl import syntax as s
from ...dsl.names import walk
from ..ir import Index
from .builder import Abort, Scope
from .declarations import Declarations
from .values import (
    Array,
    Poison,
    Value,
)

Later = dict[str, tuple[s.Equation, Mapping[str, s.Type]]]


class Recurrences(Declarations):
    """Adds what is computed further down to names."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.pending: list[tuple[dict[str, Value], Later]] = []
        self.inferring: list[str] = []
        # the scope of the model, and those of its results that no `repeat` computes anew
        self.outermost: Scope | None = None
        self.results: frozenset[str] = frozenset()

    def lookup(self, name: str, scope: Scope) -> Value | None:
        """A name; one that an equation further down computes is declared when first read."""
        found = scope.names.get(name)
        later = self.later(scope)
        if found is not None or name not in later or name in self.inferring:
            return found
        node, declared = later[name]
        mistakes = len(self.report.diagnostics)
        try:
            indices, _ = self.left_side(node, scope, declared)
        except Abort:  # its sizes follow from something that is not known yet
            del self.report.diagnostics[mistakes:]
            return None
        self.foresee(name, node, scope, declared, indices, needed=True)
        return scope.names[name]

    def later(self, scope: Scope) -> Later:
        """The equations of this body that have not been reached yet, by what they compute."""
        if self.pending and self.pending[-1][0] is scope.names:
            return self.pending[-1][1]
        return {}

    @contextmanager
    def awaiting(self, scope: Scope, later: Later) -> Iterator[None]:
        self.pending.append((scope.names, later))
        try:
            yield
        finally:
            self.pending.pop()

    def foresee(
        self, name: str, node: s.Equation, scope: Scope, declared: Mapping[str, s.Type],
        indices: tuple[Index, ...], needed: bool = False,
    ) -> None:  # fmt: skip
        """Declare a tensor before its equation, if the equation reads it, or reads what is only
        computed further down (a recurrence)."""
        self.later(scope).pop(name, None)
        recurrent = {name, *self.later(scope)}
        reads_itself = any(
            isinstance(n, s.Index) and n.tensor.id + "'" * n.tensor.primed in recurrent
            for n in walk(node.value)
        )
        known = scope.names.get(name)
        foreseen = isinstance(known, Array) and known.tensor and known.tensor.kind == "foreseen"
        if foreseen or node.targets[0].primed or not (needed or reads_itself):
            return
        if known is not None and not needed and not isinstance(known, Poison):
            return  # a new value computed from an older one of the same name
        type = declared.get(name)
        dtype = self.float_for(type.dtype if type else None)
        scope.names[name] = self.declare(
            self.full_name(node.targets[0], scope), tuple(i.size for i in indices), dtype,
            "foreseen", node.span, tuple(i.name for i in indices),
        )  # fmt: skip

    def full_name(self, target: s.Name, scope: Scope) -> str:
        """The tensor's name: its own with the layer's before it; a next value is named after the
        state or parameter that it will become."""
        if target.primed:
            state = scope.names[target.id]
            assert isinstance(state, Array) and state.tensor
            return self.unique(state.tensor.name + "'")
        name = scope.prefix + target.id
        if scope is self.outermost and name in self.results and name not in self.tensors:
            return name
        return self.unique(name)

    # --- the left side -------------------------------------------------------------------------

    def left_side(
        self, node: s.Equation, scope: Scope, declared: Mapping[str, s.Type]
    ) -> tuple[tuple[Index, ...], tuple[str, ...] | None]:
        """The indices on the left, each with its size, and what `...` stands for."""
        target = node.targets[0]
        self.inferring.append(target.id + "'" * target.primed)
        try:
            return self.left_indices(node, scope, declared)
        finally:
            self.inferring.pop()

    def left_indices(
        self, node: s.Equation, scope: Scope, declared: Mapping[str, s.Type]
    ) -> tuple[tuple[Index, ...], tuple[str, ...] | None]:
        items = node.indices or ()
        type = declared.get(node.targets[0].id) if not node.targets[0].primed else None
        dots: tuple[str, ...] | None = None
        indices: list[Index] = []
        sizes = self.declared_sizes(items, type, scope)
        for item, size in zip(items, sizes, strict=True):
            if not isinstance(item, s.Axis):
                raise self.error("E0106", "on the left stand plain indices", item.span,
                                 help="only `+=` can compute the place it adds to")  # fmt: skip
            if item.name == "...":
                dots, extents = self.ellipsis_range(node.value, scope, item.span)
                indices += map(Index, dots, extents)
                continue
            if any(i.name == item.name for i in indices):
                raise self.error("E0215", f"index `{item.name}` stands twice on the left",
                                 item.span)  # fmt: skip
            extent = self.range_of(item, node.value, scope, size)
            if not extent:
                raise self.error("E0309", f"`{item.name}` would run over nothing", item.span,
                                 label="its size here is 0")  # fmt: skip
            indices.append(Index(item.name, extent))
        return tuple(indices), dots

    def declared_sizes(
        self, items: tuple[s.Axis | s.Expr, ...], type: s.Type | None, scope: Scope
    ) -> list[int | None]:
        """The size that the declared result has for each index on the left, if it says."""
        nothing: list[int | None] = [None] * len(items)
        if type is None or type.shape is None or len(type.shape) != len(items):
            return nothing
        result: list[int | None] = []
        for item in type.shape:
            known = all(n.id in scope.names for n in walk(item) if isinstance(n, s.Name))
            dots = isinstance(item, s.Ellipsis_)
            what = f"the size `{item.span.text}` of the result"
            result.append(self.size(item, scope, what) if known and not dots else None)
        return result
