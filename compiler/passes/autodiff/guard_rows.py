"""Guards by rows: what stops 0 times infinity in a product of matrices is found once for a row.

    d_w[j, k] = sum(b) d[b, j] * (if d[b, j] == 0 and not is_finite(h[b, k]) then 0 else h[b, k])
    →
    d_nonzero[b]   = sum(j) i32(d[b, j] != 0)
    h_masked[b, k] = if d_nonzero[b] == 0 and not is_finite(h[b, k]) then 0 else h[b, k]
    d_w[j, k]      = sum(b) d[b, j] * h_masked[b, k]

`differentiate` guards the products of an adjoint that may be 0 because something is masked and of
a value that may have overflowed (`zero_products.py`). For each pair of them that is a dozen times
the work of the product, which is no product of tensors any more. All the adjoints that meet an
infinite value are compared here before: if one of them is not 0, the sum is infinite or NaN with
either guard, in more of its elements with this one; if all are 0, both sums are finite and equal.

Applies to sums of products in which each factor lacks an index of the other, outside of
recurrences. Under the elements of a convolution's windows, h[b, i + u, k], the adjoints that meet
h[b, p, k] are d[b, p - u, j]. Tests: tests/gradients/test_guard_rows.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from math import prod

from ...ir.affine import Affine, affine, inside, is_static
from ...ir.build import call, cast, literal, rewrite, substitute
from ...ir.equation import Equation, Index, System, Tensor, unused_name
from ...ir.expr import Apply, Expr, Idx, Read, index_names, reads
from ...ir.terms import is_zero
from ...ir.value_ranges import Ranges


def guard_rows(system: System) -> System:
    """The system with the guards of its products of matrices in tensors of their own."""
    guards = _Guards(system)
    equations: list[Equation] = []
    for eq in system.equations:
        if eq.reduce == "sum" and eq.at is None and eq.target not in system.recurrent:
            eq = guards.by_rows(eq)
        equations += [*guards.new, eq]
        guards.new.clear()
    added = guards.tensors.keys() - system.tensors.keys()
    if not added:
        return system
    return system.replace(
        tensors=guards.tensors,
        equations=tuple(equations),
        backward=system.backward | added,
    )


class _Guards:
    """The system's `tensors` with those of the guards, and the `new` equations of these."""

    def __init__(self, system: System):
        self.system = system
        self.tensors = dict(system.tensors)
        self.new: list[Equation] = []
        self.known: dict[tuple, str] = {}  # the guards' tensors by what they are

    @cached_property
    def ranges(self) -> Ranges:
        return Ranges(self.system)

    def by_rows(self, eq: Equation) -> Equation:
        """A sum without guards for pairs; what it reads instead is in `new`."""

        condition = _condition(eq.body)

        def change(node: Expr) -> Expr | None:
            guard = _guard(node)
            if guard is None:
                return None
            own, value = guard
            # where the whole term is 0, the adjoint meets nothing
            return self.masked(call("select", condition, own, 0.0), value, eq)

        return eq.with_body(rewrite(eq.body, change))

    def masked(self, own: Expr, value: Expr, eq: Equation) -> Expr | None:
        """The value, 0 where it is infinite and every adjoint `own` that it meets is 0. None if no
        product of matrices is to be had by that, or if it took more room than what it is of."""
        kept, others = index_names(own), index_names(value)
        if kept <= others or others <= kept or not reads(value):
            return None
        source = value if isinstance(value, Read) else reads(value)[0]
        place = self._place(value)
        if place is None:
            indices = [i for i in eq.domain if i.name in others]
            place, shape = tuple(Idx(i.name) for i in indices), tuple(i.size for i in indices)
        else:
            shape = self.tensors[source.tensor].shape
        points = self._points(shape, eq)
        inner = _at(value, place, points)
        room = max(prod(self.tensors[r.tensor].shape) for r in reads(value))
        nonzero = self._nonzero(own, place, points, eq) if prod(shape) <= room else None
        if inner is None or nonzero is None:
            return None
        void = call("and", call("eq", nonzero, 0), call("not", call("is_finite", inner)))
        body = call("select", void, literal(0.0, value.dtype), inner)
        stored = self._stored(Equation(f"{source.tensor}_masked", points, body, span=eq.span))
        other = value.other if isinstance(value, Read) and place == value.index else None
        return Read(stored, place, other, value.dtype)

    def _place(self, value: Expr) -> tuple[Expr, ...] | None:
        """Where all that the value is made of stands in its tensors, if that is the same place."""
        if isinstance(value, Read) and value.other is not None:
            return value.index if self.ranges.of(value.other).finite else None
        places = {read.index for read in reads(value)}
        return places.pop() if len(places) == 1 and not any(r.other for r in reads(value)) else None

    def _points(self, shape: tuple[int, ...], eq: Equation) -> tuple[Index, ...]:
        """Indices for a tensor of this shape that the equation does not have."""
        taken = {i.name for i in eq.domain}
        names = (unused_name(f"p{axis}", taken) for axis in range(len(shape)))
        return tuple(Index(name, size) for name, size in zip(names, shape, strict=True))

    def _nonzero(
        self, own: Expr, place: tuple[Expr, ...], points: tuple[Index, ...], eq: Equation
    ) -> Expr | None:
        """How many of the adjoints `own` that meet the value at `place` are not 0, by the points
        that a place may be; None if that cannot be told."""
        names = index_names(own)
        solved: dict[str, Expr] = {}
        axes: list[Index] = []
        windows: set[str] = set()  # the indices u of i + u
        divides: Expr = literal(True)
        for expr, point in zip(place, points, strict=True):
            form = affine(expr)
            if names.isdisjoint(form.indices):
                continue
            atoms = [a for a in form.coefficients if isinstance(a, Idx) and a.name in names]
            atoms = [a for a in atoms if _stands_once(a.name, place)]
            if not atoms or not is_static(expr):
                return None
            atom = atoms[0]
            rest = form.without(atom)
            # c*i + rest = p
            c = form.coefficients[atom]
            multiple = (Affine({Idx(point.name): 1}, 0) - rest).scaled(1 if c > 0 else -1).expr()
            if abs(c) > 1:
                divides = call("and", divides, call("eq", call("mod", multiple, abs(c)), 0))
                multiple = call("floordiv", multiple, abs(c))
            solved[atom.name] = multiple
            axes.append(point)
            windows |= rest.indices
        summed = (names - solved.keys()) | windows
        over = tuple(i for i in eq.domain if i.name in summed)
        sizes = {i.name: i.size for i in (*axes, *over)}
        met = self._inside(substitute(own, solved), sizes)
        count = cast(call("and", divides, call("ne", met, 0)), "i32")
        source = reads(own)[0].tensor if reads(own) else eq.target
        reduce = "sum" if over else None
        name = f"{source}_nonzero"
        stored = self._stored(Equation(name, tuple(axes), count, reduce, over, span=eq.span))
        return Read(stored, tuple(Idx(i.name) for i in axes), None, "i32")

    def _inside(self, expr: Expr, sizes: Mapping[str, int]) -> Expr:
        """The expression with 0 for what it would read outside of tensors."""

        def change(node: Expr) -> Expr | None:
            if not isinstance(node, Read) or node.other is not None:
                return None
            places = zip(node.index, self.tensors[node.tensor].shape, strict=True)
            if all(is_static(place) and inside(place, n, sizes) for place, n in places):
                return None
            return Read(node.tensor, node.index, literal(0, node.dtype), node.dtype)

        return rewrite(expr, change)

    def _stored(self, eq: Equation) -> str:
        """The tensor that such an equation computes, which is new unless it is known."""
        if eq.canonical not in self.known:
            name = unused_name(eq.target, self.tensors)
            shape = tuple(i.size for i in eq.indices)
            self.tensors[name] = Tensor(name, shape, eq.dtype, "temp", "", eq.span)
            self.new.append(replace(eq, target=name))
            self.known[eq.canonical] = name
        return self.known[eq.canonical]


def _condition(body: Expr) -> Expr:
    """Where a term of the sum may be other than 0."""
    if isinstance(body, Apply) and body.fn == "select" and _guard(body) is None:
        if is_zero(body.args[2]):
            return body.args[0]
        if is_zero(body.args[1]):
            return call("not", body.args[0])
    return literal(True)


def _guard(expr: Expr) -> tuple[Expr, Expr] | None:
    """An adjoint and the value that it is multiplied by, if the expression is the value, or 0 where
    the adjoint is 0 and the value infinite."""
    match expr:
        case Apply(
            fn="select",
            args=(
                Apply(
                    fn="and",
                    args=(
                        Apply(fn="eq", args=(own, zero)),
                        Apply(fn="not", args=(Apply(fn="is_finite", args=(tested,)),)),
                    ),
                ),
                instead,
                value,
            ),
        ) if is_zero(zero) and is_zero(instead) and tested is value:
            return own, value
    return None


def _stands_once(name: str, place: tuple[Expr, ...]) -> bool:
    """Whether an index stands once in a place, so that the place says what it is."""
    atoms = (atom for expr in place for atom in affine(expr).coefficients)
    return sum(name in index_names(atom) for atom in atoms) == 1


def _at(value: Expr, place: tuple[Expr, ...], points: tuple[Index, ...]) -> Expr | None:
    """The value at the points instead of the place; None if it depends on more than that."""
    there = tuple(Idx(p.name) for p in points)

    def change(node: Expr) -> Expr | None:
        if isinstance(node, Read) and node.index == place:
            return Read(node.tensor, there, None, node.dtype)
        return None

    moved = rewrite(value, change)
    if all(isinstance(e, Idx) for e in place):
        moved = substitute(
            moved, {e.name: p for e, p in zip(place, there, strict=True) if isinstance(e, Idx)}
        )
    return moved if index_names(moved) <= {p.name for p in points} else None
