"""Arithmetic of whole arrays: scalar functions of them, broadcast from the right.

In: `Array`s. Out: `Array`s, and equations for those that need a name. No syntax is looked at here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ...dsl.diagnostics.diagnostic import Note
from ...dsl.syntax.source import Span
from ..ir.build import call, cast
from ..ir.dtypes import is_float
from ..ir.equation import Index
from ..ir.expr import Expr, Idx
from ..ir.functions import TABLE
from .builder import Abort, Builder, Scope
from .values import Array, Shape


class Arrays(Builder):
    """Adds arithmetic to a system under construction."""

    def combine(self, fn: str, args: Sequence[Expr]) -> Expr:
        """A scalar function of expressions; what must be a float becomes the program's float."""
        floats = any(is_float(a.dtype) for a in args)
        if not floats and TABLE[fn].type is TABLE["div"].type:
            args = [cast(args[0], self.float_type), *args[1:]]
        if fn == "f32":
            fn = self.float_type
        return call(fn, *args)

    def pointwise(self, fn: str, arrays: Sequence[Array], span: Span, advice: str = "") -> Array:
        """A scalar function of arrays, broadcast from the right. `advice`: what may be meant where
        their shapes do not fit."""
        shape = self.broadcast(arrays, span, advice)
        memo: dict = {}

        def element(indices: Sequence[Expr], outer: Shape) -> Expr:
            key = (tuple(indices), outer)
            if key not in memo:
                memo[key] = self.combine(fn, [a.element(indices, outer) for a in arrays])
            return memo[key]

        widest = max(arrays, key=lambda a: (a.rank, math.prod(a.shape), bool(a.tensor)))
        return Array(shape, element, widest.axes, hint=fn)

    def broadcast(self, arrays: Sequence[Array], span: Span, advice: str = "") -> Shape:
        rank = max(a.rank for a in arrays)
        shape = []
        for axis in range(rank):
            sizes: dict[int, Array] = {}
            for a in arrays:
                place = axis - (rank - a.rank)
                if place >= 0 and a.shape[place] != 1:
                    sizes.setdefault(a.shape[place], a)
            if len(sizes) > 1:
                (m, first), (n, second) = list(sizes.items())[:2]
                swapped = first.rank == second.rank == 2 and first.shape == second.shape[::-1]
                raise self.error(
                    "E0303",
                    f"shapes {list(first.shape)} and {list(second.shape)} do not fit",
                    span,
                    label=_meeting(first, m, second, n),
                    help=advice
                    or _fitting(first, second)
                    or (
                        "one is the transpose of the other: `transpose(x)` exchanges dimensions"
                        if swapped
                        else "shapes are lined up at their last dimensions; "
                        "sizes must be equal or 1"
                    ),
                )
            shape.append(next(iter(sizes), 1))
        return tuple(shape)

    def broadcast_to(self, array: Array, like: Array, span: Span) -> Array:
        """The array in the shape and type of another (a next value must be like its state)."""
        shape = self.broadcast([array, like], span)
        if shape != like.shape:
            raise self.misfit(shape, like, span)
        dtype = like.tensor.dtype if like.tensor else self.float_type

        def element(indices, outer):
            return cast(array.element(indices, outer), dtype)

        return Array(like.shape, element, like.axes, None, array.hint)

    def misfit(self, shape: Shape, state: Array, span: Span) -> Abort:
        kept = state.tensor.span if state.tensor else None
        return self.error(
            "E0303",
            f"the next value has shape {list(shape)}",
            span,
            label=f"the state has shape {list(state.shape)}",
            notes=(Note(kept, "declared here"),) if kept else (),
            help="is a `mean(...)` over the batch missing?" if len(shape) > state.rank else "",
        )

    def as_float(self, array: Array, span: Span) -> Array:
        return self.pointwise("f32", [array], span)

    def as_declared(self, array: Array, dtype: str, span: Span, what: str = "the result") -> Array:
        """A result in its declared type."""
        if array.tensor is not None and array.tensor.dtype == dtype:
            return array
        found = array.element([Idx(f"#{n}") for n in range(array.rank)], array.shape).dtype
        self.keeps_values(found, dtype, span, what)
        return replace(self.pointwise(dtype, [array], span), hint=array.hint)

    def keeps_values(self, found: str, dtype: str, span: Span, what: str = "the result") -> None:
        """Refuse to round real numbers in passing."""
        if is_float(found) and not is_float(dtype):
            raise self.error(
                "E0307",
                f"{what} is declared {dtype}, and this is {found}",
                span,
                label=f"this is {found}",
                help=f"convert it where that is meant: `{dtype}(…)`",
            )

    def materialise(self, name: str, array: Array, span: Span, scope: Scope | None) -> Array:
        """An equation that computes the array."""
        if scope is not None and scope.indices and array.is_local:
            raise self.error(
                "E0313",
                "a whole tensor is needed here, not one element of it",
                span,
                label="this depends on an index of the equation",
                help="compute it in an equation of its own, without indices",
            )
        names = self.distinct(array.axes or self.fresh_axes(array.shape))
        names = names if len(names) == array.rank else self.fresh_axes(array.shape)
        indices = tuple(map(Index, names, array.shape))
        body = array.element([Idx(n) for n in names], array.shape)
        return self.add(name, indices, body, span)

    def distinct(self, names: Sequence[str], taken: Sequence[str] = ()) -> tuple[str, ...]:
        """The names, changed where needed so that no two are equal."""
        result: list[str] = []
        for name in names:
            fresh, number = name, 1
            while fresh in result or fresh in taken:
                number += 1
                fresh = f"{name}{number}"
            result.append(fresh)
        return tuple(result)


def _meeting(first: Array, m: int, second: Array, n: int) -> str:
    """`576 (x) meets 512 (w)`."""
    named = [f" (`{a.tensor.name}`)" if a.tensor else "" for a in (first, second)]
    return f"{m}{named[0]} meets {n}{named[1]}, counting from the right"


def _fitting(first: Array, second: Array) -> str:
    """Where the shape of one begins as the other's does: indices line them up from the left."""
    short, long = sorted((first, second), key=lambda a: a.rank)
    if not (short.tensor and long.tensor) or not 0 < short.rank < long.rank:
        return ""
    if short.shape != long.shape[: short.rank] or len(long.axes) != long.rank:
        return ""
    own, all_ = ", ".join(long.axes[: short.rank]), ", ".join(long.axes)
    return (
        f"by their first dimensions they fit: `{long.tensor.name}[{all_}]` with "
        f"`{short.tensor.name}[{own}]`"
    )
