"""Reductions: each becomes an equation over the indices that its body depends on.

y[i] = 1 + sum(j) x[i, j]   →   y_sum[i] = sum(j) x[i, j];   y[i] = 1 + y_sum[i]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from ..ir.affine import bounds
from ..ir.build import call, cast, literal, substitute
from ..ir.dtypes import SMALL, is_float, neutral
from ..ir.equation import Index
from ..ir.expr import Expr, Idx, index_names
from .broadcasting import distinct
from .context import LETTERS, Context
from .dispatch import scalar
from .ranges import introduce
from .scopes import BodyScope
from .values import Array, Shape, align, of_scalar


def reduction(ctx: Context, node: s.Reduce, scope: BodyScope) -> Array:
    """`sum(i) body` inside an expression."""
    inner, over, counts = introduce(ctx, node.axes, node.body, scope)
    op, over, body = reducible(ctx, node.op, scalar(ctx, node.body, inner), over)
    if node.op != "mean" or counts == TRUE:
        body = counted(op, body, counts)
        return _read_of_reduction(ctx, node.op, op, over, body, node.span, scope)
    # mean(t < n) x[t]: the sum of n terms over their number, and 0 of none
    terms = counted("sum", literal(1.0, body.dtype), counts)
    total, number = (
        _read_of_reduction(ctx, "sum", "sum", over, b, node.span, scope).scalar()
        for b in (counted("sum", body, counts), terms)
    )
    return of_scalar(call("div", total, call("max", number, literal(1.0, body.dtype))), "mean")


def reduced(ctx: Context, node: s.Reduce, scope: BodyScope) -> tuple[str, tuple[Index, ...], Expr]:
    """What an equation reduces: the operation, the indices and the body."""
    assert node.op != "mean"
    inner, over, counts = introduce(ctx, node.axes, node.body, scope)
    op, over, body = reducible(ctx, node.op, scalar(ctx, node.body, inner), over)
    return op, over, counted(op, body, counts)


def counted(op: str, body: Expr, counts: Expr) -> Expr:
    """The body where it counts, elsewhere what does not change the reduction."""
    return call("select", counts, body, literal(neutral(op, body.dtype), body.dtype))


def reducible(
    ctx: Context, op: str, body: Expr, over: tuple[Index, ...]
) -> tuple[str, tuple[Index, ...], Expr]:
    """Convert the body to a type that can be reduced."""
    # The caller divides by the count.
    if op == "mean":
        return "sum", over, body if is_float(body.dtype) else cast(body, ctx.float_type)
    # counting: the sum of a comparison is a whole number
    if op in ("sum", "prod") and body.dtype in SMALL:
        body = cast(body, "i32")
    return op, over, body


# the operation, what it reduces over and what it reduces; None for an equation that does not reduce
Reduction = tuple[str | None, tuple[Index, ...], Expr]

TRUE = literal(True)
EXACT = 2**24  # f32 has every integer up to here


def inexact(body: Expr, over: tuple[Index, ...], sizes: Mapping[str, int]) -> bool:
    """Whether the sum of integers may be more than what floats add up exactly."""
    if is_float(body.dtype):
        return False
    low, high = bounds(body, {**sizes, **{i.name: i.size for i in over}})
    return max(-low, high) * math.prod(i.size for i in over) > EXACT


def sum_of_integers(
    ctx: Context, over: tuple[Index, ...], body: Expr, span: Span, scope: BodyScope
) -> Expr:
    """A read of the sum in 64 bits."""
    return reduced_apart(ctx, ("sum", over, cast(body, "i64")), span, scope)


def reduced_apart(ctx: Context, reduction: Reduction, span: Span, scope: BodyScope) -> Expr:
    """A read of the reduction in an equation of its own."""
    op, over, body = reduction
    assert op is not None
    return _read_of_reduction(ctx, op, op, over, body, span, scope).scalar()


def _read_of_reduction(
    ctx: Context,
    written: str,
    op: str,
    over: tuple[Index, ...],
    body: Expr,
    span: Span,
    scope: BodyScope,
) -> Array:
    """A read of a new equation that reduces with `op`, `written` so in the file."""
    # Only the indices that the body reads, so `x[b, i] / sum(k) w[k]` computes the sum once, not
    # for every b and i.
    free = index_names(body) - {i.name for i in over}
    indices = tuple(Index(n, size) for n, size in scope.indices.items() if n in free)
    name = ctx.unique(f"{scope.prefix}{scope.target}_{written}")
    array = ctx.add(name, indices, body, span, op, over)
    result: Expr = array.element([Idx(i.name) for i in indices], array.shape)
    # The division is outside the sum: one for each result.
    if written == "mean":
        count = math.prod(i.size for i in over)
        result = call("div", result, literal(float(count), result.dtype))
    return of_scalar(result, name)


def reduce_array(ctx: Context, op: str, array: Array, span: Span, scope: BodyScope) -> Array:
    """`sum(x)`: over all elements; `argmax(x)`: over the last dimension."""
    positional = op in ("argmax", "argmin")
    if not array.rank and span.source.library and not positional:
        return array  # a loss of two numbers: the mean of one is itself
    if not array.rank:
        raise ctx.error(
            "E0314",
            f"`{op}` of a single number",
            span,
            help=f"to reduce over an index, put it in parentheses: `{op}(i) x[i]`",
        )
    # argmax(logits): the class of each row; sum(x) and the others: one number
    outer = array.rank - 1 if positional else 0
    names = array.axes if len(array.axes) == array.rank else LETTERS[: array.rank]
    # The array may depend on indices of the equation around it; these must stay distinct.
    names = distinct(names, tuple(scope.indices))
    body = array.element([Idx(n) for n in names], array.shape)
    indices = tuple(map(Index, names, array.shape))
    operation, over, body = reducible(ctx, op, body, indices[outer:])
    # The leading dimensions become indices of the new equation, beside those around it.
    inner = scope.inner({i.name: i.size for i in indices[:outer]})
    result = _read_of_reduction(ctx, op, operation, over, body, span, inner)
    if not outer:
        return result
    shape, value = array.shape[:outer], result.scalar()

    def element(places: Sequence[Expr], outer_shape: Shape) -> Expr:
        # The result is used as an array again: its reads are moved to where it is read.
        own = align(places, outer_shape, shape)
        return substitute(value, dict(zip(names, own, strict=False)))

    return Array(shape, element, names[:outer], hint=result.hint)
