"""Equations that are read before they are reached: a recurrence reads its own result.

In: the equations of a body that are still to come. Out: their tensors, declared when first read, or
what keeps them from being declared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ...dsl.diagnostics.diagnostic import Diagnostic, Note
from ...dsl.syntax import ast as s
from ...dsl.syntax.ast import walk
from ..ir.equation import Index
from .builder import Abort, Scope
from .declarations import Declarations
from .values import Array, Poison, Value

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
        indices, _ = self.early(node, scope, declared)
        if indices is None:
            return None
        self.foresee(name, node, scope, declared, indices, needed=True)
        return scope.names[name]

    def early(
        self, node: s.Equation, scope: Scope, declared: Mapping[str, s.Type]
    ) -> tuple[tuple[Index, ...] | None, list[Diagnostic]]:
        """The indices of an equation that is not reached yet, or what is wrong with them now."""
        mistakes = len(self.report.diagnostics)
        try:
            return self.left_side(node, scope, declared)[0], []
        except Abort:
            found = self.report.diagnostics[mistakes:]
            del self.report.diagnostics[mistakes:]
            return None, found

    def unknown(self, name: str, node: s.Name, scope: Scope) -> None:
        """A name without a value: one that is computed further down, or none at all."""
        if name not in scope.awaited:
            super().unknown(name, node, scope)
        elif wrong := self.wrong_ranges(name, scope):
            self.report.diagnostics += [d for d in wrong if d not in self.report.diagnostics]
        else:
            statement = scope.awaited[name]
            inside = _covers(statement, node)
            self.error(
                "E0218",
                f"`{name}` is read before it is computed",
                node.span,
                label="its own value is not known yet" if inside else "not known yet",
                notes=() if inside else (Note(statement.span, "computed here"),),
                help="a recurrence has indices and a start: `y[t] = … (y[t-1] else 0)`"
                if inside
                else _order(name, node, scope.awaited),
            )

    def wrong_ranges(self, name: str, scope: Scope) -> list[Diagnostic]:
        """What is wrong with the indices of an equation further down, and stays so when what it
        reads is known."""
        if name not in self.later(scope):
            return []
        node, declared = self.later(scope)[name]
        _, found = self.early(node, scope, declared)
        others = [
            n.tensor for n in walk(node.value) if isinstance(n, s.Index) and n.tensor.id != name
        ]
        waits = any(self.shape_of(tensor, scope) is None for tensor in others)
        return [d for d in found if d.code != "E0218" and not (waits and d.code == "E0305")]

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
        self,
        name: str,
        node: s.Equation,
        scope: Scope,
        declared: Mapping[str, s.Type],
        indices: tuple[Index, ...],
        needed: bool = False,
    ) -> None:
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
            self.full_name(node.targets[0], scope),
            tuple(i.size for i in indices),
            dtype,
            "foreseen",
            node.span,
            tuple(i.name for i in indices),
        )

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
                raise self.error(
                    "E0106",
                    "on the left stand plain indices",
                    item.span,
                    help="only `+=` can compute the place it adds to",
                )
            if item.name == "...":
                dots, extents = self.ellipsis_range(node.value, scope, item.span)
                indices += map(Index, dots, extents)
                continue
            if any(i.name == item.name for i in indices):
                raise self.error(
                    "E0215", f"index `{item.name}` stands twice on the left", item.span
                )
            extent = self.range_of(item, node.value, scope, size)
            if not extent:
                raise self.error(
                    "E0309",
                    f"`{item.name}` would run over nothing",
                    item.span,
                    label="its size here is 0",
                )
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


# --- what is read too early -----------------------------------------------------------------------


def _order(name: str, node: s.Name, awaited: Mapping[str, s.Statement]) -> str:
    """How a name can be read where its equation stands further down."""
    indexed = awaited[name].span.text.startswith(f"{name}[")
    reader = next((n for n, other in awaited.items() if _covers(other, node)), None)
    if reader is None or reader not in _needed(name, awaited):
        return "move its equation up" + (
            ", or, in a recurrence, say how far its indices go, as in `y[t < 9] = …`" * indexed
        )
    if indexed:
        return "in a recurrence, say how far its indices go, as in `y[t < 9] = …`"
    return (
        f"`{name}` needs `{reader}`, and so itself: in a recurrence every equation has indices, as "
        f"in `{name}[t] = … {reader}[t]`"
    )


def _needed(name: str, awaited: Mapping[str, s.Statement]) -> set[str]:
    """The names of this body that one is computed from, directly or not."""
    found: set[str] = set()
    fresh = {name}
    while fresh:
        read = {
            n.id + "'" * n.primed
            for one in fresh
            for n in walk(awaited[one])
            if isinstance(n, s.Name)
        } & awaited.keys()
        fresh = read - found - {name}
        found |= fresh
    return found


def _covers(statement: s.Statement, node: s.Name) -> bool:
    around, own = statement.span, node.span
    return around.source is own.source and around.start <= own.start and own.end <= around.end
