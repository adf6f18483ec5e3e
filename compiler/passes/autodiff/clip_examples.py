"""Per-example gradient clipping: each example's share of the gradients has a bounded norm (DP-SGD).

    d_w[i, o]  = sum(b) d[b, o] * x[b, i]
    →
    norm[b]    = (sum(o) d[b, o]^2) * (sum(i) x[b, i]^2) + …      + the same for other parameters
    clip[b]    = if b < drawn then scale * limit / max(sqrt(norm[b]), limit) else 0
    d_w[i, o]  = sum(b) clip[b] * d[b, o] * x[b, i]

The gradient of one example is the equation of the gradient with the index of examples taken out of
its sum. All adjoints are there for every example, so no second backward pass is needed
(book-keeping): sums over examples are weighted, and what follows from them is linear in them.

The square of the norm of sum(t) d[b, t, o] * x[b, t, i], in which t stands for all other indices of
the sum, is found in one of two ways, chosen by the sizes alone:

    each[b, i, o] = sum(t) d[b, t, o] * x[b, t, i]           the gradient itself, of which d_w is
    norm[b]       = sum(i, o) each[b, i, o]^2                then sum(b) clip[b] * each[b, i, o]

    left[b, t, u]  = sum(o) d[b, t, o] * d[b, u, o]          a ghost norm, where 2*T^2 < I*O
    right[b, t, u] = sum(i) x[b, t, i] * x[b, u, i]
    norm[b]        = sum(t, u) left[b, t, u] * right[b, t, u]

A convolution is such a sum, t being a place in its result; so is the gradient of a table, whose x
is [token[b, t] = i]. Of a parameter in several equations the gradients are added up for each
example.

Source: Abadi et al. 2016, "Deep learning with differential privacy"; Goodfellow 2015, "Efficient
per-example gradient computations"; Bu et al. 2022, "Scalable and efficient training of large
convolutional neural networks with differential privacy" (the mixed norm) and "Differentially
private optimization on large model at small cost" (book-keeping).
Tests: tests/gradients/test_clipped_examples.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from ...ir.affine import inside
from ...ir.batch_axis import BatchAxis, batch_axis, degree
from ...ir.build import call, literal, rewrite, substitute
from ...ir.edit import SystemEdit
from ...ir.equation import Clipping, Equation, Index, System, free_name
from ...ir.expr import Expr, Idx, Read, index_names
from ...ir.terms import terms, total
from ..lowering.contraction import MatrixFactors, matrix_factors


def clip_examples(system: System) -> System:
    """The system with the share of each example in the gradients clipped.

    Raises ValueError if an equation joins examples, which elaboration reports."""
    clipping = system.clipping
    if clipping is None:
        return system
    axis = batch_axis(system, clipping.batch, clipping.gradients)
    if axis.joined:
        raise ValueError(f"`{axis.joined[0].eq.target}` joins examples")
    return _Clipping(system, clipping, axis).result()


class _Clipping:
    """The rewrite of one system. `each` are the temps with the gradients of single examples, by the
    temps that are their sums; `weighted` the sums over examples that the gradients are made of."""

    def __init__(self, system: System, clipping: Clipping, axis: BatchAxis):
        self.system, self.clipping, self.axis = system, clipping, axis
        self.edit = SystemEdit(system)
        self.each: dict[str, str] = {}
        self.batch = Index("b", clipping.batch)

    def result(self) -> System:
        edit, before = self.edit, self.system.equations
        squares = [square for g in self.clipping.gradients for square in self.squares(g)]
        clip = self.factors(squares)
        sums = self.axis.sums & self.axis.index.keys()
        for name in sorted(sums & self.system.ancestors(self.clipping.gradients)):
            edit.replace(self.weighted(name, clip))
        found = edit.result()
        added = {eq.target for eq in found.equations} - {eq.target for eq in before}
        return found.replace(clipping=None, backward=found.backward | added)

    def add(self, name: str, eq: Equation, dtype: str) -> str:
        shape = _shape(eq, self.system, self.clipping.batch)
        return self.edit.add(replace(eq, target=name), shape, dtype)

    # --- the norm -----------------------------------------------------------------------------

    def factors(self, squares: Sequence[str]) -> str:
        """The temp with the factor of each example."""
        b, span = Idx(self.batch.name), self.clipping.span
        dtype = self.system.tensors[self.clipping.gradients[0]].dtype
        # rounding may leave a ghost norm below 0, where what is added up cancels
        parts = [call("max", Read(name, (b,), None, dtype), 0.0) for name in squares]
        norm = Equation("", (self.batch,), total(parts or [literal(0.0, dtype)]), span=span)
        squared = self.add("squared_norm", norm, dtype)
        limit = literal(self.clipping.limit, dtype)
        size = call("sqrt", Read(squared, (b,), None, dtype))
        factor = literal(self.clipping.scale, dtype) * (limit / call("max", size, limit))
        drawn = call("lt", b, Read(self.clipping.drawn, (), None, "i32"))
        clip = Equation("", (self.batch,), call("select", drawn, factor, 0.0), span=span)
        return self.add("clip", clip, dtype)

    def squares(self, gradient: str) -> list[str]:
        """The temps whose sum is the square of each example's norm of a gradient."""
        source = self.alias(gradient)
        if source is None:
            return []
        eq = self.system.definition[source]
        if source in self.axis.index:
            ghost = self.ghost(eq)
            if ghost is not None:
                return [ghost]
            if eq.at is None and not self.others(eq):  # nothing is added up for one example
                return [self.square_of(source, self.apart(eq).body, eq.indices, eq)]
        each = self.gradient_of_each(source)
        indices = _indices(self.edit.tensors[each].shape[1:])
        place = (Idx(self.batch.name), *(Idx(i.name) for i in indices))
        return [self.square_of(source, Read(each, place, None, eq.body.dtype), indices, eq)]

    def alias(self, name: str) -> str | None:
        """The sum over examples that a gradient is, but for what does not depend on examples; None
        if there is none."""
        while name not in self.axis.index:
            if self.axis.is_public(name):
                return None
            eq = self.system.definition[name]
            own = [t for t in terms(eq.body) if degree(t, self.axis.sums)]
            same = tuple(Idx(i.name) for i in eq.indices)
            if len(own) != 1 or eq.reduce or not isinstance(own[0], Read) or own[0].index != same:
                return name
            name = own[0].tensor
        return name

    def square_of(self, name: str, body: Expr, indices: Sequence[Index], eq: Equation) -> str:
        square = Equation("", (self.batch,), body * body, "sum", tuple(indices), span=eq.span)
        if not indices:
            square = replace(square, reduce=None)
        return self.add(f"{name}_squared", square, body.dtype)

    # --- the gradient of one example ----------------------------------------------------------

    def others(self, eq: Equation) -> tuple[Index, ...]:
        """What an equation sums over besides examples."""
        return tuple(i for i in eq.over if i.name != self.axis.index[eq.target])

    def apart(self, eq: Equation) -> Equation:
        """A sum over examples without that sum: its value for the example b."""
        name = self.axis.index[eq.target]
        names: dict[str, Expr] = {name: Idx(self.batch.name)}
        # `b` itself may be what the equation calls another index
        if name != self.batch.name and self.batch.name in eq.sizes:
            names[self.batch.name] = Idx(free_name(self.batch.name, eq.sizes))
        renamed = {old: new.name for old, new in names.items() if isinstance(new, Idx)}

        def own(indices: Sequence[Index]) -> tuple[Index, ...]:
            return tuple(
                Index(renamed.get(i.name, i.name), i.size) for i in indices if i.name != name
            )

        at = None
        if eq.at is not None:
            at = (Idx(self.batch.name), *(substitute(e, names) for e in eq.at))
        over = own(eq.over)
        return replace(
            eq,
            indices=() if at else (self.batch, *own(eq.indices)),
            over=(self.batch, *over) if at else over,
            reduce="sum" if over or at else None,
            body=substitute(eq.body, names),
            at=at,
        )

    def gradient_of_each(self, name: str) -> str:
        """The temp [B, …] with each example's share of a sum over examples."""
        if name not in self.each:
            eq = self.system.definition[name]
            own = self.apart(eq) if name in self.axis.index else self.passed_on(eq)
            self.each[name] = self.add(f"{name}_each", own, eq.body.dtype)
        return self.each[name]

    def passed_on(self, eq: Equation) -> Equation:
        """What follows linearly from sums over examples, for each example."""
        b = free_name(self.batch.name, eq.sizes)
        sums = [r for r in eq.reads if r.tensor in self.axis.sums]
        own = total([t for t in terms(eq.body) if degree(t, self.axis.sums)])
        for read in sums:
            each = self.gradient_of_each(read.tensor)
            own = _replaced(own, read, Read(each, (Idx(b), *read.index), read.other, read.dtype))
        index = Index(b, self.clipping.batch)
        if eq.at is not None:
            return replace(eq, body=own, over=(index, *eq.over), at=(Idx(b), *eq.at))
        return replace(eq, body=own, indices=(index, *eq.indices))

    # --- ghost norms --------------------------------------------------------------------------

    def ghost(self, eq: Equation) -> str | None:
        """The temp with the squares of norms that are found without the gradients themselves; None
        where those are computed in less time."""
        own = self.apart(eq)
        if eq.at is not None:
            return self.ghost_of_table(own)
        found = matrix_factors(own.body, own.indices[1:])
        if found is None:
            return None
        both = {i.name for i in (*found.rows, *found.columns)}
        shared = tuple(i for i in own.indices[1:] if i.name not in both)
        if not self.is_cheaper(own.over, prod(i.size for i in (*found.rows, *found.columns))):
            return None
        return self.ghost_of_product(own, found, shared)

    def is_cheaper(self, over: Sequence[Index], elements: int) -> bool:
        """Bu et al. 2022: 2 T^2 < p d."""
        return 2 * prod(i.size for i in over) ** 2 < elements

    def ghost_of_product(
        self, own: Equation, found: MatrixFactors, shared: tuple[Index, ...]
    ) -> str:
        twice, names = _again(own.over, own)
        outer = (self.batch, *shared, *own.over, *twice)
        grams: list[Expr] = []
        for factor, free in ((found.left, found.rows), (found.right, found.columns)):
            body = factor * substitute(factor, names)
            gram = Equation("", outer, body, "sum", free, span=own.span)
            name = self.add(f"{own.target}_gram", gram, body.dtype)
            grams.append(Read(name, tuple(Idx(i.name) for i in outer), None, body.dtype))
        rest = outer[1:]
        square = Equation("", outer[:1], grams[0] * grams[1], "sum", rest, span=own.span)
        square = square if rest else replace(square, reduce=None)
        return self.add(f"{own.target}_squared", square, own.body.dtype)

    def ghost_of_table(self, own: Equation) -> str | None:
        """d[b, token[b, t], j] += sum(b, t, j) body: rows that are the same place meet."""
        at = own.at
        assert at is not None
        columns = {e.name for e in at[1:] if isinstance(e, Idx)}
        along = tuple(i for i in own.over if i.name not in columns and i.name != self.batch.name)
        shape = self.system.tensors[own.target].shape
        places = [(e, n) for e, n in zip(at[1:], shape, strict=True) if not isinstance(e, Idx)]
        if any(index_names(e) & columns for e, _ in places):
            return None
        if not self.is_cheaper(along, prod(shape)):
            return None
        twice, names = _again(along, own)
        meet: Expr = literal(True)
        for place, size in places:
            meet = call("and", meet, call("eq", place, substitute(place, names)))
            if not inside(place, size, own.sizes):  # what is added outside is dropped
                inner = call("and", call("ge", place, 0), call("lt", place, size))
                meet = call("and", meet, inner)
        body = call("select", meet, own.body * substitute(own.body, names), 0.0)
        over = (*(i for i in own.over if i.name != self.batch.name), *twice)
        square = Equation("", (self.batch,), body, "sum", over, span=own.span)
        return self.add(f"{own.target}_squared", square, own.body.dtype)

    # --- the weighted sums --------------------------------------------------------------------

    def weighted(self, name: str, clip: str) -> Equation:
        """A sum over examples in which each has its factor."""
        eq = self.system.definition[name]
        if name in self.each:
            each = self.each[name]
            indices = eq.indices or _indices(self.system.tensors[name].shape)
            b = Index(free_name(self.batch.name, {i.name for i in indices}), self.batch.size)
            place = (Idx(b.name), *(Idx(i.name) for i in indices))
            factor = Read(clip, (Idx(b.name),), None, eq.body.dtype)
            body = factor * Read(each, place, None, eq.body.dtype)
            return Equation(name, indices, body, "sum", (b,), None, eq.span)
        factor = Read(clip, (Idx(self.axis.index[name]),), None, eq.body.dtype)
        return eq.with_body(factor * eq.body)


def _again(indices: Sequence[Index], eq: Equation) -> tuple[tuple[Index, ...], dict[str, Expr]]:
    """Indices a second time, under names that are new to the equation, and these by the old."""
    taken, names = {*eq.sizes}, dict[str, Expr]()
    for index in indices:
        names[index.name] = again = Idx(free_name(f"{index.name}_", taken))
        taken.add(again.name)
    return tuple(Index(str(names[i.name]), i.size) for i in indices), names


def _indices(shape: Sequence[int]) -> tuple[Index, ...]:
    return tuple(Index(f"p{axis}", size) for axis, size in enumerate(shape))


def _shape(eq: Equation, system: System, batch: int) -> tuple[int, ...]:
    """The shape of what an equation of the pass computes."""
    if eq.at is None:
        return tuple(i.size for i in eq.indices)
    return (batch, *system.tensors[eq.target].shape)


def _replaced(expr: Expr, old: Read, new: Read) -> Expr:
    return rewrite(expr, lambda node: new if node is old else None)
