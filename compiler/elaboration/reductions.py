"""Reductions: `sum(i) …` and its kin as equations of their own, and those of whole tensors.

In: syntax or arrays. Out: the read of the equation that reduces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from ..ir.build import call, cast, literal, substitute
from ..ir.dtypes import is_float
from ..ir.equation import Index
from ..ir.expr import Expr, Idx, index_names
from .builder import Scope
from .reads import Reads
from .values import Array, Shape, align, of_scalar


class Reductions(Reads):
    """Adds reductions to reads."""

    def reduction(self, node: s.Reduce, scope: Scope) -> Array:
        """A nested reduction: an equation of its own over the indices that it depends on."""
        op, over, body = self.reduced(node, scope)
        return self.reduced_array(node.op, op, over, body, node.span, scope)

    def reduced(self, node: s.Reduce, scope: Scope) -> tuple[str, tuple[Index, ...], Expr]:
        """What is reduced: the operation (mean is a sum), the indices and the body."""
        inner, over = self.introduce(node.axes, node.body, scope, node.span)
        body = self.scalar(node.body, inner)
        return self.reducible(node.op, body, over, node.span)

    def reducible(
        self, op: str, body: Expr, over: tuple[Index, ...], span: Span
    ) -> tuple[str, tuple[Index, ...], Expr]:
        if op == "mean":
            return "sum", over, body if is_float(body.dtype) else cast(body, self.float_type)
        empty = [i for i in over if i.size == 0]
        if empty and op not in ("sum", "prod"):
            raise self.error("E0309", f"`{op}` over nothing: `{empty[0].name}` has size 0", span)
        if op in ("sum", "prod") and body.dtype in ("bool", "u8"):
            body = cast(body, "i32")
        return op, over, body

    def reduced_array(
        self, written: str, op: str, over: tuple[Index, ...], body: Expr, span: Span, scope: Scope
    ) -> Array:
        """The reduction as an equation over the indices that its body depends on, and the read of
        that equation's result."""
        own = {i.name for i in over}
        free = index_names(body) - own
        indices = tuple(Index(n, size) for n, size in scope.indices.items() if n in free)
        name = self.unique(f"{scope.prefix}{scope.target}_{written}")
        array = self.add(name, indices, body, span, op, over)
        result: Expr = array.element([Idx(i.name) for i in indices], array.shape)
        if written == "mean":
            result = self.mean_of(result, over, span)
        return of_scalar(result, name)

    def mean_of(self, total: Expr, over: tuple[Index, ...], span: Span) -> Expr:
        count = math.prod(i.size for i in over)
        if not count:
            raise self.error("E0309", "the mean of nothing", span)
        return call("div", total, literal(float(count), total.dtype))

    def whole(self, op: str, array: Array, span: Span, scope: Scope) -> Array:
        """`sum(x)`: over all elements; `argmax(x)`: over the last dimension."""
        if not array.rank and span.source.library and op not in ("argmax", "argmin"):
            return array  # a loss of two numbers: the mean of one is itself
        if not array.rank:
            raise self.error(
                "E0314",
                f"`{op}` of a single number",
                span,
                help=f"to reduce over an index, put it in parentheses: `{op}(i) x[i]`",
            )
        kept = array.rank - 1 if op in ("argmax", "argmin") else 0
        names = array.axes if len(array.axes) == array.rank else self.fresh_axes(array.shape)
        names = self.distinct(names, tuple(scope.indices))
        body = array.element([Idx(n) for n in names], array.shape)
        indices = tuple(map(Index, names, array.shape))
        operation, over, body = self.reducible(op, body, indices[kept:], span)
        outer = scope.inner({i.name: i.size for i in indices[:kept]})
        result = self.reduced_array(op, operation, over, body, span, outer)
        if not kept:
            return result
        shape, value = array.shape[:kept], result.scalar()

        def element(places: Sequence[Expr], outer_shape: Shape) -> Expr:
            own = align(places, outer_shape, shape)
            return substitute(value, dict(zip(names, own, strict=False)))

        return Array(shape, element, names[:kept], hint=result.hint)
