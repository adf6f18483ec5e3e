"""Built-in functions: `exp`, `max`, `sum` of a whole tensor, `rank`, `random`, `grad`.

`dsl/check/names.py` lists them for the checks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ...dsl.check.names import JOINING
from ...dsl.diagnostics.diagnostic import did_you_mean
from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from ..ir.build import call, cast, literal
from ..ir.expr import Const, Expr, Idx
from ..ir.functions import CASTS
from .broadcasting import pointwise
from .context import Abort, Context
from .dispatch import value
from .gradients import gradient
from .joining import joined
from .reductions import reduce_array
from .scopes import BodyScope
from .values import Array, Numbers, Shape, Static, is_static, lift

_POINTWISE = CASTS | {
    "exp", "log", "expm1", "log1p", "sqrt", "tanh", "sin", "cos", "erf", "erfc", "sigmoid", "abs",
    "sign", "floor", "ceil", "round", "is_finite", "stop", "f16", "bf16",
}  # fmt: skip
_NOT_FOLDED = (
    "stop",
    "f64",
    "i64",
    "i8",
    "u8",
)  # of a number: has a type that a plain number lacks
# of a tensor's shape: compile-time constants
_SHAPE_FUNCTIONS: dict[str, Callable[[Shape], int]] = {"rank": len, "count": math.prod}


def builtin(
    ctx: Context,
    name: s.Name,
    arguments: tuple[s.Argument, ...],
    piped: list[Static | Array],
    span: Span,
    scope: BodyScope,
) -> Static | Array | tuple[Array, ...]:
    """A built-in function of `piped` values and arguments. E0203 if there is none of this name,
    E0204 if it does not take these arguments."""
    fn = name.id
    # One that names a file has been replaced by its numbers.
    if fn == "table" and len(arguments) == 1 and not piped:
        raise ctx.error(
            "E0312",
            "`table` takes the name of a file",
            arguments[0].span,
            label="expected a string",
            help='like `let w = table("weights.csv")`',
        )
    if fn in JOINING and (piped or arguments):
        return joined(ctx, name, arguments, piped, span, scope)
    for argument in arguments:
        if argument.name is not None:
            raise ctx.error(
                "E0204", f"`{fn}` has no argument called `{argument.name}`", argument.span
            )
    if fn == "grad" and len(piped) + len(arguments) == 2 and arguments:
        return gradient(ctx, arguments, piped, span, scope)
    # Evaluated before it is known whether the function exists: mistakes in arguments come first.
    values = [*piped, *(value(ctx, a.value, scope) for a in arguments)]
    places = [*(span for _ in piped), *(a.span for a in arguments)]
    if fn in _SHAPE_FUNCTIONS and len(values) == 1 and not isinstance(values[0], Array):
        shape = values[0].shape if isinstance(values[0], Numbers) else ()
        return _SHAPE_FUNCTIONS[fn](shape)
    for given, place in zip(values, places, strict=True):
        if isinstance(given, str):
            raise ctx.error("E0312", "a word cannot be computed with", place)
    found = _applied(ctx, fn, values, span, scope)
    if found is None:
        raise _does_not_apply(ctx, name, len(values), span)
    return found


def _applied(
    ctx: Context, fn: str, values: list[Static | Array], span: Span, scope: BodyScope
) -> Static | Array | None:
    """The function of values that are no words; None if there is none for so many of them."""
    # Of constants the result must be one, too, so that it can be a size: `max(n, 4)`.
    constant = all(is_static(v) and not isinstance(v, Numbers) for v in values)
    arrays = [lift(v, ctx.float_type) for v in values]
    if fn in _POINTWISE and len(arrays) == 1:
        result = pointwise(ctx, fn, arrays, span)
        return _folded(result) if constant and fn not in _NOT_FOLDED else result
    if fn == "after" and len(arrays) == 2:
        return pointwise(ctx, fn, arrays, span)
    # several arguments: elementwise; one (below): a reduction over the whole tensor
    if fn in ("max", "min") and len(arrays) > 1:
        result = arrays[0]
        for other in arrays[1:]:
            result = pointwise(ctx, fn, [result, other], span)
        return _folded(result) if constant else result
    if fn in s.REDUCTIONS and len(arrays) == 1:
        return reduce_array(ctx, fn, arrays[0], span, scope)
    if fn in _SHAPE_FUNCTIONS and len(arrays) == 1:
        return _SHAPE_FUNCTIONS[fn](arrays[0].shape)
    # seed, step, stream and place spelled out, as programs print them
    if fn == "random" and len(arrays) == 4:
        return pointwise(ctx, "f32", [pointwise(ctx, "random", arrays, span)], span)
    return _random(ctx, scope) if fn == "random" and not arrays else None


def _does_not_apply(ctx: Context, name: s.Name, count: int, span: Span) -> Abort:
    """E0204 for a known function of `count` arguments, E0203 for an unknown one."""
    own = ("random", "after", "grad", "table", *JOINING)
    known = [*_POINTWISE, *s.REDUCTIONS, *_SHAPE_FUNCTIONS, *own, *ctx.definitions]
    if name.id in known:
        return ctx.error("E0204", f"`{name.id}` does not take {count} arguments", span)
    return ctx.error(
        "E0203",
        f"unknown layer or function `{name.id}`",
        name.span,
        label="not defined here or in the library",
        help=did_you_mean(name.id, known),
    )


def _folded(array: Array) -> Static | Array:
    expr = array.scalar()
    return expr.value if isinstance(expr, Const) else array


def _key(ctx: Context) -> Expr:
    """The number that the draws of a run depend on: the step; of a step of several batches that of
    the batch, counted back from the last one."""
    step = ctx.scalar_input("step").scalar()
    if ctx.accumulate == 1:
        return step
    ctx.phased = True
    left = ctx.scalar_input("microbatches_left").scalar()
    return call("sub", call("mul", step, literal(ctx.accumulate)), left)


def _random(ctx: Context, scope: BodyScope) -> Array:
    """A uniform draw for every element of whatever it is used in: a function of the seed, the step,
    the place in the program and the index alone."""
    # A counter-based generator: without state, so a draw can be computed anywhere, again, and in
    # any order. Every `random()` in the program has a stream of its own.
    stream = literal(ctx.streams)
    ctx.streams += 1
    seed, step = ctx.scalar_input("seed").scalar(), _key(ctx)
    # The row-major number of the element among all that are drawn here: first the indices of the
    # equation around it, then those of the array that it is broadcast to.
    own = [(Idx(n), size) for n, size in scope.indices.items()]

    def element(indices, shape: Shape):
        flat: Expr = literal(0)
        for index, size in [*own, *zip(indices, shape, strict=True)]:
            flat = call("add", call("mul", flat, literal(size)), index)
        return cast(call("random", seed, step, stream, flat), ctx.float_type)

    # Without dimensions, it fits any shape, and is a new draw at each element of it.
    return Array((), element, (), hint="random")
