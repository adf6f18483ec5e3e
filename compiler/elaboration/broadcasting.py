"""Broadcasting: scalar functions of whole arrays, type conversions, and materialization.

    y = x + b   →   y[i, j] = x[i, j] + b[j]        x: [n, m], b: [m]

Shapes are aligned at their last dimensions; extents must be equal or 1 (NumPy's rule). The result
is an `Array`; an equation computes it once it needs a name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

from ...dsl.diagnostics.diagnostic import Note
from ...dsl.syntax.source import Span
from ..ir.build import call, cast
from ..ir.dtypes import HALVES, is_float
from ..ir.equation import Index
from ..ir.expr import Expr, Idx
from ..ir.functions import TABLE
from .context import LETTERS, Abort, Context
from .scopes import BodyScope
from .values import Array, Shape


def apply_scalar(ctx: Context, fn: str, args: Sequence[Expr]) -> Expr:
    """A scalar function of expressions; what must be a float becomes the program's float type."""
    # Of integers alone, exp or a division would be f32 by the function's own type rule, also in a
    # program that computes in f64. One float operand is enough: `call` promotes the others.
    if TABLE[fn].type is TABLE["div"].type and not any(is_float(a.dtype) for a in args):
        args = [cast(args[0], ctx.float_type), *args[1:]]
    if fn in HALVES:
        return cast(args[0], fn)
    # The conversion `f32(x)` as well means the program's float type.
    return call(ctx.float_type if fn == "f32" else fn, *args)


def pointwise(
    ctx: Context, fn: str, arrays: Sequence[Array], span: Span, advice: str = ""
) -> Array:
    """A scalar function of arrays; `advice` is the help if their shapes do not fit (E0303)."""
    # Value numbering (Cocke and Schwartz 1970): equal operations on equal operands are one array,
    # or functions that apply a function twice would take 2^n steps for n levels.
    key = (fn, *(a.identity for a in arrays))
    known = ctx.pointwise.get(key)
    if known is not None:
        return known
    shape = broadcast(ctx, arrays, span, advice)
    if not span.source.library:
        _warn_of_columns(ctx, arrays, shape, span)
    # Expressions are DAGs: `x*x` asks for x's element twice and must get the same node, or a chain
    # of n squares would take 2^n steps.
    memo: dict = {}

    def element(indices: Sequence[Expr], outer: Shape) -> Expr:
        key = (tuple(indices), outer)
        if key not in memo:
            memo[key] = apply_scalar(ctx, fn, [a.element(indices, outer) for a in arrays])
        return memo[key]

    # The result's dimensions are called as those of the largest operand, tensors preferred.
    widest = max(arrays, key=lambda a: (a.rank, math.prod(a.shape), bool(a.tensor)))
    result = ctx.pointwise[key] = Array(shape, element, widest.axes, hint=fn)
    return result


def broadcast(ctx: Context, arrays: Sequence[Array], span: Span, advice: str = "") -> Shape:
    """The common shape of arrays; E0303 if there is none."""
    rank = max(a.rank for a in arrays)
    shape = []
    # aligned from the right: axis -1 is the last dimension of every array
    for axis in range(-rank, 0):
        sizes: dict[int, Array] = {}
        for a in arrays:
            # An extent of 1 fits any other; of several arrays with one size the first is named.
            if a.rank >= -axis and a.shape[axis] != 1:
                sizes.setdefault(a.shape[axis], a)
        if len(sizes) > 1:
            (m, first), (n, second) = list(sizes.items())[:2]
            named = [f" (`{a.tensor.name}`)" if a.tensor else "" for a in (first, second)]
            raise ctx.error(
                "E0303",
                f"shapes {list(first.shape)} and {list(second.shape)} do not fit",
                span,
                label=f"{m}{named[0]} meets {n}{named[1]}, counting from the right",
                help=advice or _broadcasting_advice(first, second),
            )
        shape.append(next(iter(sizes), 1))
    return tuple(shape)


def _warn_of_columns(ctx: Context, arrays: Sequence[Array], shape: Shape, span: Span) -> None:
    """W0308 for `y - target` of y: [B, 1] and target: [B], which makes B * B numbers."""
    for short, long in permutations(arrays, 2):
        rest = long.shape[short.rank :]
        column = 0 < short.rank < long.rank and short.shape == long.shape[: short.rank]
        if not column or set(rest) != {1} or short.shape[-1] == 1:
            continue
        a, b = (x.tensor.name if x.tensor else "" for x in (long, short))
        names = long.axes[: short.rank] if len(long.axes) == long.rank else LETTERS[: short.rank]
        index = ", ".join(names)
        fitting = ", ".join((*names, *("0" for _ in rest)))
        help = f"read the column by indices, as `y[{fitting}]`"
        if a and b:
            help = f"`{a}[{fitting}]` is one number for each `{b}[{index}]`: write the indices"
        ctx.report.add(
            "W0308",
            f"shapes {list(long.shape)} and {list(short.shape)} make {list(shape)}",
            span,
            label="every number of one meets every number of the other",
            help=help,
        )
        return


def _broadcasting_advice(first: Array, second: Array) -> str:
    """What may be meant where shapes do not fit: indices that align them from the left, or a
    transpose."""
    short, long = sorted((first, second), key=lambda a: a.rank)
    # x: [B, n] with label: [B], which would have to be lined up at the first dimension
    aligned_left = 0 < short.rank < long.rank and short.shape == long.shape[: short.rank]
    if aligned_left and short.tensor and long.tensor and len(long.axes) == long.rank:
        own, every = ", ".join(long.axes[: short.rank]), ", ".join(long.axes)
        return (
            f"by their first dimensions they fit: `{long.tensor.name}[{every}]` with "
            f"`{short.tensor.name}[{own}]`"
        )
    if first.rank == second.rank == 2 and first.shape == second.shape[::-1]:
        return "one is the transpose of the other: `transpose(x)` exchanges dimensions"
    return "shapes are lined up at their last dimensions; sizes must be equal or 1"


def like_state(ctx: Context, array: Array, state: Array, span: Span) -> Array:
    """A next value in the shape and type of its state."""
    shape = broadcast(ctx, [array, state], span)
    # A smaller value is broadcast to the state's shape, a larger one would change the state's
    # shape.
    if shape != state.shape:
        raise state_mismatch(ctx, shape, state, span)
    dtype = state.tensor.storage_dtype if state.tensor else ctx.float_type

    def element(indices, outer):
        return cast(array.element(indices, outer), dtype)

    return Array(state.shape, element, state.axes, None, array.hint)


def state_mismatch(ctx: Context, shape: Shape, state: Array, span: Span) -> Abort:
    declared = state.tensor.span if state.tensor else None
    return ctx.error(
        "E0303",
        f"the next value has shape {list(shape)}",
        span,
        label=f"the state has shape {list(state.shape)}",
        notes=(Note(declared, "declared here"),) if declared else (),
        help="is a `mean(...)` over the batch missing?" if len(shape) > state.rank else "",
    )


def as_declared(
    ctx: Context, array: Array, dtype: str, span: Span, what: str = "the result"
) -> Array:
    """A result in its declared type."""
    if array.tensor is not None and array.tensor.storage_dtype == dtype:
        return array
    # The type does not depend on the index: it is read off the element at made-up indices; `#`
    # begins no name of a program.
    found = array.element([Idx(f"#{n}") for n in range(array.rank)], array.shape).dtype
    check_conversion(ctx, found, dtype, span, what)
    return replace(pointwise(ctx, dtype, [array], span), hint=array.hint)


def check_conversion(
    ctx: Context, found: str, dtype: str, span: Span, what: str = "the result"
) -> None:
    """E0307 where floats would become integers without an explicit conversion."""
    if is_float(found) and not is_float(dtype):
        raise ctx.error(
            "E0307",
            f"{what} is declared {dtype}, and this is {found}",
            span,
            label=f"this is {found}",
            help=f"convert it where that is meant: `{dtype}(…)`",
        )


def materialize(
    ctx: Context, name: str, array: Array, span: Span, scope: BodyScope | None, dtype: str = ""
) -> Array:
    """An equation that computes the array, of its type or one that is declared; E0313 if it depends
    on an index of `scope`."""
    # A new equation has indices of its own; the caller's `i` means nothing in it.
    if scope is not None and scope.indices and array.is_local:
        raise ctx.error(
            "E0313",
            "a whole tensor is needed here, not one element of it",
            span,
            label="this depends on an index of the equation",
            help="compute it in an equation of its own, without indices",
        )
    # An array of equal dimensions may suggest one name twice: n, n → n, n2.
    names = distinct(array.axes or LETTERS[: array.rank])
    names = names if len(names) == array.rank else LETTERS[: array.rank]
    body = array.element([Idx(n) for n in names], array.shape)
    return ctx.add(name, tuple(map(Index, names, array.shape)), body, span, dtype=dtype)


def distinct(names: Sequence[str], taken: Sequence[str] = ()) -> tuple[str, ...]:
    """The names, numbered where needed so that no two are equal and none is taken."""
    result: list[str] = []
    for name in names:
        fresh, number = name, 1
        while fresh in result or fresh in taken:
            number += 1
            fresh = f"{name}{number}"
        result.append(fresh)
    return tuple(result)
