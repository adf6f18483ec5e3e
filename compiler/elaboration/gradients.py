"""`grad(y, x)`: the derivative of a number with respect to every element of a tensor.

    g = grad(y, x)   →   a temp `d_x` of the shape of x, and the placeholder `d_x = grad(y, x)`

The pass `differentiate` expands the placeholder into equations; so the result can be computed with,
and differentiated, like any other tensor. `y` may also be a vector with a number for each example
of x[b, …]: the sum of these is differentiated, whose gradient has the derivative of y[b] in row b
if no example depends on another. Tests: tests/gradients/test_grad.py.
"""

from __future__ import annotations

from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from ..ir.dtypes import is_float
from ..ir.equation import Gradient, Tensor
from ..ir.expr import Read
from ..ir.gradients import active_tensors
from .broadcasting import materialize
from .context import Context
from .dispatch import array, as_array, value
from .ranges import is_ahead
from .reductions import reduce_array
from .scopes import BodyScope
from .values import Array, Static


def gradient(
    ctx: Context,
    arguments: tuple[s.Argument, ...],
    piped: list[Static | Array],
    span: Span,
    scope: BodyScope,
) -> Array:
    """The value of `grad(y, x)`, or of `y |> grad(x)`. E0321 where there is no such gradient."""
    *before, wrt = arguments
    x = _tensor(ctx, wrt.value, scope)
    written = before[0].value if before else None
    place = written.span if written else span
    y = array(ctx, written, scope) if written else as_array(ctx, piped[0], wrt.value)
    of = _number(ctx, y, x, place, scope)
    if x.name not in active_tensors(ctx.system("", (of,)), of, [x.name]):
        raise _independent(ctx, of, x, place, wrt.span)
    # As the body spells it, so that an equal body can be given the same equations.
    name = ctx.unique(f"{scope.prefix}d_{wrt.value.span.text.replace('.', '_')}")
    result = ctx.declare(name, x.shape, x.dtype, "temp", span, ctx.axes[x.name])
    ctx.gradients.append(Gradient(name, of, x.name, ctx.located(span)))
    return result


def _tensor(ctx: Context, node: s.Expr, scope: BodyScope) -> Tensor:
    """The tensor `x` in `grad(y, x)`: one that has a name, as `y` must have been computed from
    exactly this one."""
    found = value(ctx, node, scope)
    text = node.span.text
    tensor = found.tensor if isinstance(found, Array) else None
    if tensor is None:
        named = isinstance(node, s.Name)
        raise ctx.error(
            "E0321",
            f"`{text}` is not a tensor",
            node.span,
            label="a number that is known when compiling, or an index"
            if named
            else "an expression",
            help="`grad(y, x)` differentiates with respect to a tensor, such as a parameter"
            if named
            else f"name it, and compute what is differentiated from the name: `v = {text}`",
        )
    if isinstance(found, Array) and is_ahead(found):
        raise ctx.error(
            "E0321",
            f"`{text}` is not known yet",
            node.span,
            label="computed by this equation, or by a later one",
            help="a gradient is of all elements at once: no element of them can depend on it",
        )
    if not is_float(tensor.dtype):
        raise ctx.error(
            "E0321",
            f"nothing has a gradient with respect to `{text}`",
            node.span,
            label=f"its elements are {tensor.dtype}",
            help="a derivative is with respect to real numbers: an embedding has one, its token "
            "has none",
        )
    return tensor


def _number(ctx: Context, y: Array, x: Tensor, place: Span, scope: BodyScope) -> str:
    """The tensor without dimensions that is differentiated: y, or the sum of its elements."""
    text = place.text
    if y.is_local:
        raise ctx.error(
            "E0321",
            f"`{text}` is another number for every index of this equation",
            place,
            label="one number is differentiated",
            help="compute it, and its gradient, in equations of their own: "
            "`g = grad(y, x)`, then `g[…]`",
        )
    # The same number in `grad(u, x)` and `grad(u, t)` shares a reverse sweep. Within one body only:
    # equal bodies are elaborated once and repeated under other names.
    key = (scope.prefix, y.identity)
    known = ctx.numbers.get(key)
    if known is not None:
        return known
    if y.tensor is not None and not is_float(y.tensor.dtype):
        raise ctx.error(
            "E0321",
            f"`{text}` has no gradient",
            place,
            label=f"its type is {y.tensor.dtype}",
            help="only real numbers have one",
        )
    if not x.shape and y.tensor is not None and y.rank:
        raise ctx.error(
            "E0321",
            f"`{text}` is not one number",
            place,
            label=f"its shape is {list(y.shape)}, and `{x.name}` is a number",
            help=f"in the other order: `grad({x.name}, {text})`",
        )
    if y.rank > 1 or y.shape != x.shape[: y.rank]:
        raise ctx.error(
            "E0321",
            f"`{text}` is not one number",
            place,
            label=f"its shape is {list(y.shape)}, that of `{x.name}` {list(x.shape)}",
            help=f"differentiate one, such as `sum({text})`; or one for each element of the first "
            f"dimension of `{x.name}`, for its examples",
        )
    if y.tensor is not None and not y.rank:
        name = y.tensor.name
    elif y.rank:
        total = reduce_array(ctx, "sum", y, place, scope).scalar()
        assert isinstance(total, Read)
        name = total.tensor
    else:
        hint = y.hint if y.hint.isidentifier() else "value"
        made = materialize(ctx, ctx.unique(scope.prefix + hint), y, place, scope)
        assert made.tensor is not None
        name = made.tensor.name
    ctx.numbers[key] = name
    return name


def _independent(ctx: Context, of: str, x: Tensor, y: Span, wrt: Span):
    """E0321 for a number that no change of x changes."""
    reaches = x.name in ctx.system("", (of,)).ancestors([of])
    return ctx.error(
        "E0321",
        f"`{y.text}` does not depend on `{wrt.text}`"
        + (" through real numbers" if reaches else ""),
        wrt,
        label="its gradient would be 0 everywhere",
        help="only through `stop`, conditions, rounding or indices, whose derivative is 0"
        if reaches
        else f"was it computed from an earlier `{wrt.text}`, or from a copy?",
    )
