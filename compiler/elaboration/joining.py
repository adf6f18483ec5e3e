"""Joining and cutting tensors along one dimension: `concat`, `stack`, `split` and `pad`.

    z = concat(x, y)   →   z[i, j] = if j < m then (x[i, j] else 0) else (y[i, j - m] else 0)
    a, b = split(x, 2)   →   a[i, j < n/2] = x[i, j];   b[i, j < n/2] = x[i, j + n/2]

The dimension, `axis`, is the last one unless stated (of `stack`, the first): a number, counted from
the end if it is negative, or a name: of a size, or of an index as the tensor's equation has it.
Each becomes equations, so gradients need no rule. Tests: tests/equations/test_joining.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from ...dsl.check.names import JOINING
from ...dsl.diagnostics.diagnostic import did_you_mean
from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from ..ir.affine import inside
from ..ir.build import call, cast, literal
from ..ir.dtypes import is_float
from ..ir.equation import Index, Tensor
from ..ir.expr import Expr, Idx, Read
from ..ir.functions import promote
from .broadcasting import distinct
from .context import Abort, Context
from .dispatch import array as array_of
from .dispatch import as_array, size, static, tensor, value
from .scopes import BodyScope
from .values import Array, Numbers, Shape, Static

Given = tuple[Static | Array, s.Node]  # an argument, and where it stands


def joined(
    ctx: Context,
    name: s.Name,
    arguments: tuple[s.Argument, ...],
    piped: list[Static | Array],
    span: Span,
    scope: BodyScope,
) -> tuple[Array, ...]:
    """The results of one of these functions. E0204 for arguments that it does not take, E0303 for
    shapes that do not fit."""
    fn = name.id
    named = {a.name: a.value for a in arguments if a.name is not None}
    for a in arguments:
        if a.name is not None and a.name not in JOINING[fn]:
            raise ctx.error(
                "E0204",
                f"`{fn}` has no argument called `{a.name}`",
                a.span,
                help=did_you_mean(a.name, JOINING[fn]) or f"it has {', '.join(JOINING[fn])}",
            )
    rest = [a.value for a in arguments if a.name is None]
    first: Given = (piped[0], name) if piped else (value(ctx, rest[0], scope), rest.pop(0))
    x = tensor(ctx, first[0], first[1], scope)
    if fn in ("concat", "stack"):
        others = [as_array(ctx, value(ctx, node, scope), node) for node in rest]
        parts = [x, *(tensor(ctx, o, n, scope) for o, n in zip(others, rest, strict=True))]
        result = (_concat if fn == "concat" else _stack)(ctx, parts, named.get("axis"), span, scope)
        return (result,)
    axis = _axis(ctx, named.get("axis"), [x], -1, span, scope)
    if fn == "split":
        return _split(ctx, x, axis, rest, span, scope)
    widths = [size(ctx, node, scope, "how much is added") for node in rest]
    other = named.get("value")
    filling = array_of(ctx, other, scope) if other is not None else None
    return (_pad(ctx, x, axis, widths, filling, span, scope),)


# --- the dimension --------------------------------------------------------------------------------


def _axis(
    ctx: Context,
    node: s.Expr | None,
    parts: Sequence[Array],
    default: int,
    span: Span,
    scope: BodyScope,
    more: int = 0,
) -> int:
    """The number of the dimension of these tensors, from 0; the result has some `more`. E0303 if
    there is none."""
    rank = parts[0].rank + more
    if not rank:
        raise ctx.error("E0303", "a number has no dimensions", span, label="one is needed here")
    if node is None:
        return default % rank
    known = scope.names.get(node.id) if isinstance(node, s.Name) else None
    if isinstance(node, s.Name) and (known is None or node.id in scope.origins):
        return _named_axis(ctx, node, known, parts, scope)
    found = static(ctx, node, scope, "the dimension")
    if isinstance(found, int) and not isinstance(found, bool) and -rank <= found < rank:
        return found % rank
    raise ctx.error(
        "E0303",
        f"there is no dimension {node.span.text}",
        node.span,
        label=f"of {rank} dimensions: 0 to {rank - 1}, or -{rank} to -1 from the end",
    )


def _named_axis(
    ctx: Context, node: s.Name, known: object, parts: Sequence[Array], scope: BodyScope
) -> int:
    """The dimension whose index one of the tensors calls so, or the only one of this size."""
    found: list[int] = []
    for x in parts:
        found = [n for n, name in enumerate(x.axes) if name in (node.id, node.id.lower())]
        # The indices of a layer's input are named where it is applied, and mean nothing here.
        if known is not None and (len(found) != 1 or not ctx.is_model(scope)):
            found = [n for n, extent in enumerate(x.shape) if extent == known]
        if len(found) == 1:
            return found[0]
    raise ctx.error(
        "E0303",
        f"several dimensions have the size `{node.id}`"
        if found
        else f"no dimension is called `{node.id}`",
        node.span,
        label=f"the shape is {list(parts[0].shape)}, the indices are {', '.join(parts[0].axes)}",
        help="give its number: `axis = 0` is the first, `axis = -1` the last",
    )


# --- the functions --------------------------------------------------------------------------------


def _concat(
    ctx: Context, parts: list[Array], node: s.Expr | None, span: Span, scope: BodyScope
) -> Array:
    axis = _axis(ctx, node, parts, -1, span, scope)
    for part in parts[1:]:
        if _without(part.shape, axis) != _without(parts[0].shape, axis) or not part.rank:
            raise _unlike(ctx, parts[0], part, span, f"in all dimensions but number {axis}")
    ends = [0, *accumulate(p.shape[axis] for p in parts)]
    shape = (*parts[0].shape[:axis], ends[-1], *parts[0].shape[axis + 1 :])
    indices = _indices(parts[0].axes, shape)
    sizes = {i.name: i.size for i in indices}

    def at(part: Array, start: int) -> Expr:
        place: list[Expr] = [Idx(i.name) for i in indices]
        place[axis] = call("sub", place[axis], literal(start))
        return _read(part, place, sizes, literal(0))

    found = [at(part, start) for part, start in zip(parts, ends, strict=False)]
    return _chosen(ctx, found, Idx(indices[axis].name), ends[1:], indices, "concat", span, scope)


def _stack(
    ctx: Context, parts: list[Array], node: s.Expr | None, span: Span, scope: BodyScope
) -> Array:
    """A new dimension with one place for each tensor."""
    axis = _axis(ctx, node, parts, 0, span, scope, more=1)
    for part in parts[1:]:
        if part.shape != parts[0].shape:
            raise _unlike(ctx, parts[0], part, span, "in all dimensions")
    shape = (*parts[0].shape[:axis], len(parts), *parts[0].shape[axis:])
    axes = parts[0].axes
    indices = _indices((*axes[:axis], "n", *axes[axis:]), shape)
    places = [Idx(i.name) for n, i in enumerate(indices) if n != axis]
    found = [part.element(places, part.shape) for part in parts]
    ends = range(1, len(parts) + 1)
    return _chosen(ctx, found, Idx(indices[axis].name), ends, indices, "stack", span, scope)


def _split(
    ctx: Context, x: Array, axis: int, rest: Sequence[s.Expr], span: Span, scope: BodyScope
) -> tuple[Array, ...]:
    """Equal parts, or parts of the sizes that are given: `split(x, 2, 3)`, `split(x, [2, 3])`."""
    extent = x.shape[axis]
    found = value(ctx, rest[0], scope) if len(rest) == 1 else None
    listed = found.items if isinstance(found, Numbers) else None
    sizes = [size(ctx, node, scope, "the size of a part") for node in rest] if not listed else []
    for item in listed or ():
        if not isinstance(item, int) or isinstance(item, bool) or item < 0:
            raise ctx.error("E0308", "the size of a part is a whole number", rest[0].span)
        sizes.append(item)
    if len(sizes) == 1 and listed is None:
        count = sizes[0]
        if not count or extent % count:
            raise ctx.error(
                "E0303",
                f"{extent} places cannot be divided into {count} equal parts",
                rest[0].span,
                label=f"dimension {axis} has the size {extent}",
                help="or give the size of each part: `split(x, 2, 3)`",
            )
        sizes = [extent // count] * count
    if sum(sizes) != extent or not all(sizes):
        raise ctx.error(
            "E0303",
            f"the parts have {sum(sizes)} places together, and there are {extent}",
            span,
            label=f"dimension {axis} has the size {extent}",
        )
    results = []
    for start, part in zip([0, *accumulate(sizes)], sizes, strict=False):
        indices = _indices(x.axes, (*x.shape[:axis], part, *x.shape[axis + 1 :]))
        place: list[Expr] = [Idx(i.name) for i in indices]
        place[axis] = call("add", place[axis], literal(start))
        body = x.element(place, x.shape)
        results.append(ctx.add(ctx.unique(f"{scope.prefix}split"), indices, body, span))
    return tuple(results)


def _pad(
    ctx: Context,
    x: Array,
    axis: int,
    widths: Sequence[int],
    filling: Array | None,
    span: Span,
    scope: BodyScope,
) -> Array:
    """Places before and after, as many if only one number is given."""
    before, after = (widths[0], widths[-1])
    shape = (*x.shape[:axis], before + x.shape[axis] + after, *x.shape[axis + 1 :])
    indices = _indices(x.axes, shape)
    place: list[Expr] = [Idx(i.name) for i in indices]
    place[axis] = call("sub", place[axis], literal(before))
    other = literal(0) if filling is None else filling.scalar() if not filling.rank else None
    if other is None:
        raise ctx.error("E0303", "the value outside is one number", span, label="this is a tensor")
    dtype = x.element(place, shape).dtype
    if is_float(other.dtype) and not is_float(dtype):
        raise ctx.error(
            "E0307",
            f"the tensor is {dtype}, and what is added to it {other.dtype}",
            span,
            label="this would be cut to whole numbers",
        )
    body = _read(x, place, {i.name: i.size for i in indices}, other)
    return ctx.add(ctx.unique(f"{scope.prefix}pad"), indices, body, span)


# --- equations ------------------------------------------------------------------------------------


def _indices(axes: Sequence[str], shape: Shape) -> tuple[Index, ...]:
    return tuple(map(Index, distinct(axes), shape))


def _without(shape: Shape, axis: int) -> Shape:
    return shape[:axis] + shape[axis + 1 :]


def _read(x: Array, place: list[Expr], sizes: dict[str, int], other: Expr) -> Expr:
    """The element, or another value where the place is outside."""
    source = x.tensor
    assert isinstance(source, Tensor)
    within = all(inside(p, n, sizes) for p, n in zip(place, source.shape, strict=True))
    otherwise = None if within else cast(other, source.dtype)
    return Read(source.name, tuple(place), otherwise, source.dtype)


def _chosen(
    ctx: Context,
    parts: list[Expr],
    place: Expr,
    ends: Sequence[int],
    indices: tuple[Index, ...],
    name: str,
    span: Span,
    scope: BodyScope,
) -> Array:
    """`if j < 2 then … else if j < 5 then … else …`, in the type that all have in common."""
    dtype = parts[0].dtype
    for part in parts[1:]:
        dtype = dtype if part.dtype == dtype else promote(dtype, part.dtype)
    body = cast(parts[-1], dtype)
    for part, end in zip(parts[-2::-1], ends[-2::-1], strict=True):
        body = call("select", call("lt", place, literal(end)), cast(part, dtype), body)
    return ctx.add(ctx.unique(scope.prefix + name), indices, body, span)


def _unlike(ctx: Context, first: Array, other: Array, span: Span, where: str) -> Abort:
    return ctx.error(
        "E0303",
        f"shapes {list(first.shape)} and {list(other.shape)} do not fit",
        span,
        label=f"these have the same sizes {where}",
    )
