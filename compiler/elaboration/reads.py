"""Reads of tensors: every index is proven to be in bounds, or guarded by an `else`.

    x[i, j + 1]                 E0306 unless j + 1 < m for every j
    (x[i - 1] else 0)           0 where i - 1 is out of bounds
    if i > 0 then x[i - 1] …    proven from the condition

Indices that depend on data (`table[token[b]]`) are not checked here.
"""

from __future__ import annotations

from ...dsl.syntax import ast as s
from ...dsl.syntax.ast import walk
from ..ir.affine import bounds, inside
from ..ir.build import cast, literal
from ..ir.dtypes import is_float
from ..ir.expr import Const, Expr, Idx, Read, expr_text, index_names, reads
from ..ir.implications import inside_where
from .context import Context
from .dispatch import scalar, tensor, value
from .names import variable
from .ranges import dimension_syntax
from .scopes import BodyScope
from .values import Array, Numbers, Static, of_scalar


def guarded_read(ctx: Context, node: s.Guarded, scope: BodyScope) -> Static | Array:
    """`(x[i - 1] else 0)`."""
    return read(ctx, node.read, scope, node.other)


def read(
    ctx: Context, node: s.Index, scope: BodyScope, other: s.Node | None = None
) -> Static | Array:
    """`x[i, j]`; `other` is the value out of bounds."""
    known = variable(ctx, node.tensor, scope)
    if isinstance(known, Numbers):
        fixed = _static_place(ctx, node, scope)
        if fixed is not None:
            return _element(ctx, node, known, fixed, scope, other)
    array = tensor(ctx, known, node.tensor, scope, node.tensor.id)
    source = array.tensor
    assert source is not None
    places = _places(ctx, node, array, scope)
    # A place that is read from data (`table[token[b]]`) has no bounds that are known here.
    checked = [
        (place, size, written)
        for place, size, written in zip(
            places, array.shape, dimension_syntax(node, array), strict=True
        )
        if not reads(place)
    ]
    for place, _, written in checked:
        _check_reach(ctx, place, written, scope)
    # Each mistake is a raise, so the first dimension out of bounds is the one reported.
    proven = all(inside(place, size, scope.indices) for place, size, _ in checked)
    if other is None:
        for place, size, written in checked:
            if not inside_where(place, size, scope.indices, scope.conditions):
                _report_out_of_bounds(ctx, place, size, node, written, scope)
        # What is read outside stands in a branch that is not taken.
        unused = None if proven else literal(0, source.dtype)
        return of_scalar(Read(source.name, places, unused, source.dtype), source.name)
    found, name = scalar(ctx, other, scope), node.tensor.span.text
    whole = isinstance(found, Const) and float(found.value).is_integer()
    if is_float(found.dtype) and not is_float(source.dtype) and not whole:
        raise ctx.error(
            "E0307",
            f"`{name}` is {source.dtype}, and what is read outside of it is {found.dtype}",
            other.span,
            label="this would be cut to a whole number",
            help=f"convert `{name}` first, in an equation of its own: `v = f32({name})`",
        )
    otherwise: Expr | None = cast(found, source.dtype)
    if proven and len(checked) == len(places):
        # A guard that is never needed would still cost a comparison at every element.
        otherwise = None  # always in bounds
    return of_scalar(Read(source.name, places, otherwise, source.dtype), source.name)


def _static_place(ctx: Context, node: s.Index, scope: BodyScope) -> list[int] | None:
    """The place of an element that is known when compiling."""
    found = [
        None if isinstance(item, s.Ellipsis_) else value(ctx, item, scope) for item in node.indices
    ]
    whole = [i for i in found if isinstance(i, int) and not isinstance(i, bool)]
    return whole if len(whole) == len(found) else None


def _element(
    ctx: Context,
    node: s.Index,
    numbers: Numbers,
    place: list[int],
    scope: BodyScope,
    other: s.Node | None,
) -> Static | Array:
    """`kernel[0]`: an element of a list, which is known when compiling, too."""
    shape = numbers.shape
    if len(place) != len(shape):
        raise ctx.error(
            "E0302",
            f"`{node.tensor.id}` is a list, {len(place)} are indexed",
            node.span,
            label=f"its shape is {list(shape)}",
        )
    for index, extent, item in zip(place, shape, node.indices, strict=True):
        if 0 <= index < extent:
            continue
        if other is not None:
            return value(ctx, other, scope)
        raise ctx.error(
            "E0306",
            f"index `{index}` falls outside `{node.tensor.id}`",
            item.span,
            label=f"places are 0 to {extent - 1}",
        )
    return numbers.at(place)


def _places(ctx: Context, node: s.Index, array: Array, scope: BodyScope) -> tuple[Expr, ...]:
    """One integer expression per dimension."""
    explicit = sum(not isinstance(i, s.Ellipsis_) for i in node.indices)
    dots = len(node.indices) - explicit
    # without `...` every dimension has an index; with it, there may be fewer
    if explicit > array.rank or (not dots and explicit != array.rank):
        raise ctx.error(
            "E0302",
            f"`{node.tensor.id}` has {array.rank} dimension{'s' * (array.rank != 1)}, "
            f"{explicit} {'are' if explicit != 1 else 'is'} indexed",
            node.span,
            label=f"its shape is {list(array.shape)}",
            help=f"`...` stands for leading dimensions: `{node.tensor.id}[..., i]`"
            if explicit < array.rank
            else "",
        )
    result: list[Expr] = []
    for item in node.indices:
        if isinstance(item, s.Ellipsis_):
            result += map(Idx, _leading_indices(ctx, node, scope, array.rank - explicit))
            continue
        expr = scalar(ctx, item, scope)
        # Integers of any width will do; a bool as an index is hardly ever meant.
        if is_float(expr.dtype) or expr.dtype == "bool":
            divides = any(isinstance(n, s.Binary) and n.op == "/" for n in walk(item))
            raise ctx.error(
                "E0310",
                "an index must be a whole number",
                item.span,
                label=f"this is {expr.dtype}",
                help="whole numbers are divided with `//`"
                if divides
                else f"declare it i32 where it comes from, or convert it: `i32({item.span.text})`",
            )
        result.append(expr)
    return tuple(result)


def _leading_indices(ctx: Context, node: s.Index, scope: BodyScope, count: int) -> tuple[str, ...]:
    # `...` stands for the same indices in every read of an equation.
    names = scope.ellipsis
    if names is None or len(names) != count:
        found = "nothing" if names is None else f"{len(names)} dimensions"
        raise ctx.error(
            "E0302",
            f"`...` stands for {count} dimensions here, for {found} elsewhere",
            node.span,
            label="leading dimensions of this read",
            help="put `...` on the left, too: `y[...] = x[..., 0]`",
        )
    return names


def _check_reach(ctx: Context, place: Expr, written: s.Node, scope: BodyScope) -> None:
    """E0311 for index arithmetic that does not fit 32 bits."""
    # Interval arithmetic over the index ranges. A guarded read may reach far outside, but the index
    # itself is computed in i32.
    furthest = max(map(abs, bounds(place, scope.indices)))
    if furthest > ctx.most_elements:
        raise ctx.error(
            "E0311",
            f"index `{expr_text(place)}` goes too far",
            written.span,
            label=f"up to {furthest:,}",
            help=f"the limit is {ctx.most_elements:,}",
        )


def _report_out_of_bounds(
    ctx: Context, place: Expr, size: int, node: s.Index, written: s.Node, scope: BodyScope
) -> None:
    low, high = bounds(place, scope.indices)
    # A constant place, as in `x[-1]`, which Python would count from the end.
    if low == high:
        label = f"the size here is {size}: places are 0 to {size - 1}"
        help = f"places are not counted from the end: the last is {size - 1}" if high < 0 else ""
    else:
        names = index_names(place)
        ranges = ", ".join(f"{n} < {extent}" for n, extent in scope.indices.items() if n in names)
        of_indices = f" ({ranges})" if ranges else ""
        label = f"runs over {low} to {high}{of_indices}; the size here is {size}"
        help = f"give the value that is read there: `({node.span.text} else 0)`"
    raise ctx.error(
        "E0306",
        f"index `{expr_text(place)}` falls outside `{node.tensor.id}`",
        written.span,
        label=label,
        help=help,
    )
