"""Accumulations: values that are added up, or compared, at places that are computed.

    count[token[b] < 65] += 1                  a scatter-add over all b
    best[segment[n] < 9, j < 4] max= x[n, j]   best[i, j] = max(n) if segment[n] = i then x[n, j]
                                                            else -inf

A sum is one equation with places (`Equation.at`). A maximum compares every value with every place:
its gradient is then that of any other maximum. Tests: tests/equations/test_accumulations.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...dsl.check.names import CONSTANTS, DISCARDED, value_names
from ...dsl.syntax import ast as s
from ...dsl.syntax.ast import walk
from ..ir.affine import inside
from ..ir.build import call, literal
from ..ir.equation import Equation, Index
from ..ir.expr import Expr, Idx, Read
from .broadcasting import as_declared, distinct, materialize
from .context import Context
from .dispatch import scalar, size
from .ranges import introduce, lookup, nothing_to_run_over
from .reductions import counted, reducible
from .scopes import BodyScope
from .values import Array

REDUCTION = {"+=": "sum", "max=": "max", "min=": "min"}


def accumulation(ctx: Context, node: s.Equation, scope: BodyScope) -> None:
    """`table[token[b] < 65, j < 16] += sum(b, j) body`: every index on the left states its extent;
    the right side is a sum over all that is added, or one term of it. E0315 otherwise."""
    name, op = node.targets[0].id, REDUCTION[node.accumulate]
    _check_left(ctx, node, op)
    items = node.indices or ()
    if isinstance(node.value, s.Reduce) and node.value.op == op:
        axes, term = node.value.axes, node.value.body
    else:
        axes, term = tuple(_implied(ctx, node, scope)), node.value
    if not axes:
        raise ctx.error(
            "E0315", "there is nothing to accumulate over", node.span, label="no index occurs"
        )
    # An index may be used on the left alone: `count[token[b, t] < 65] += sum(b, t) 1`.
    inner, over, counts = introduce(ctx, axes, (term, *items), scope)
    places: list[Expr] = []
    shape: list[int] = []
    for item in items:
        # leading dimensions of what is accumulated: `y[..., k[..., e] < n] += x[..., e]`
        if isinstance(item, s.Axis) and item.name == "...":
            leading = _leading(ctx, item, inner, op)
            places += map(Idx, leading)
            shape += [inner.indices[n] for n in leading]
            continue
        place, bound = _place(item)
        if bound is None:
            raise ctx.error(
                "E0315",
                "the size of this dimension is not known",
                place.span,
                label=f"a dimension of `{name}`",
                help=f"state it: `{place.span.text} < 10`",
            )
        # A term that does not count adds nothing, wherever that is.
        places.append(call("select", counts, scalar(ctx, place, inner), literal(0)))
        extent = size(ctx, bound, scope, "the range of a place")
        if not extent:
            raise nothing_to_run_over(ctx, place.span.text, place.span)
        shape.append(extent)
    _, _, body = reducible(ctx, op, scalar(ctx, term, inner), over)
    target, body = ctx.declared_name(name, scope), counted(op, body, counts)
    # What is declared of another type is converted once it is accumulated.
    type = scope.declared.get(name)
    dtype = ctx.float_for(type.dtype) if type and type.dtype else body.dtype
    full = target if dtype == body.dtype else ctx.unique(f"{target}_{op}")
    if op == "sum":
        result = _scatter(ctx, full, tuple(places), tuple(shape), body, over, node)
    else:
        result = _extreme(ctx, full, op, (places, shape, counts), body, (over, inner), node)
    if full != target:
        result = as_declared(ctx, result, dtype, node.value.span)
        result = materialize(ctx, target, result, node.span, None, dtype)
    if name != DISCARDED:
        scope.names[name] = result


def _check_left(ctx: Context, node: s.Equation, op: str) -> None:
    name = node.targets[0].id
    if node.targets[0].primed:
        raise ctx.error(
            "E0315",
            "a next value is no accumulation",
            node.targets[0].span,
            help=f"give the sum a name of its own: `a[…] += …`, then `{name}' = a`",
        )
    if not node.indices:
        word = {"sum": "+"}.get(op)
        new = (
            f"{name} + {node.value.span.text}" if word else f"{op}({name}, {node.value.span.text})"
        )
        raise ctx.error(
            "E0315",
            f"`{node.accumulate}` accumulates at places in brackets",
            node.span,
            help=f"a new value has a name of its own: `{name}_2 = {new}`",
        )


def _leading(ctx: Context, item: s.Axis, inner: BodyScope, op: str) -> tuple[str, ...]:
    """The indices that `...` stands for on the left: those of what is accumulated."""
    if inner.ellipsis is None:
        raise ctx.error(
            "E0315",
            "what `...` stands for is not accumulated over",
            item.span,
            label="leading dimensions",
            help=f"the right side has them, too: `{op}(..., e) x[..., e]`",
        )
    return inner.ellipsis


def _place(item: s.Axis | s.Expr) -> tuple[s.Expr, s.Expr | None]:
    """A place on the left and the size of its dimension: of `token[b] < 65`, which was parsed as a
    comparison, and of `j < 16`, which was parsed as an axis."""
    if isinstance(item, s.Axis):
        return s.Name(item.span, item.name), item.bound
    if isinstance(item, s.Binary) and item.op == "<":
        return item.left, item.right
    return item, None


def _implied(ctx: Context, node: s.Equation, scope: BodyScope) -> Iterator[s.Axis]:
    """The indices of `total[token[b] < 65, j < 16] += x[b, j]`: names in brackets that have no
    value, or that stand by themselves where an index does, as `b` beside a tensor `b`."""
    items = node.indices or ()
    places = [_place(item)[0] for item in items]
    reads = [n for n in walk((node.value, *places)) if isinstance(n, s.Index)]
    brackets = (*places, *(e for r in reads for e in r.indices))
    dots = next((e for e in walk(brackets) if isinstance(e, s.Ellipsis_)), None)
    if dots is not None:
        yield s.Axis(dots.span, "...")
    elements = {id(e) for e in brackets}
    uses = list(value_names((*places, node.value)))
    bounds = {i.name: i.bound for i in items if isinstance(i, s.Axis)}
    seen: set[str] = set()
    for use in value_names(brackets):
        found = lookup(ctx, use.id, scope)
        is_index = isinstance(found, Array) and found.rank > 0 and id(use) in elements
        known = use.id in scope.defined_by or use.id in scope.words or use.id in CONSTANTS
        if use.id in seen or "." in use.id or not (is_index or (found is None and not known)):
            continue
        seen.add(use.id)
        # An index that stands on the left alone goes as far as it states there.
        alone = sum(n.id == use.id for n in uses) == 1
        yield s.Axis(use.span, use.id, bounds.get(use.id) if alone else None)


def _scatter(
    ctx: Context,
    name: str,
    places: tuple[Expr, ...],
    shape: tuple[int, ...],
    body: Expr,
    over: tuple[Index, ...],
    node: s.Equation,
) -> Array:
    # A scatter-add has no indices of its own: all are reduced over, `places` says where each goes.
    array = ctx.declare(name, shape, body.dtype, "temp", node.span)
    ctx.equations.append(Equation(name, (), body, "sum", over, places, ctx.located(node.span)))
    return array


def _extreme(
    ctx: Context,
    name: str,
    op: str,
    left: tuple[Sequence[Expr], Sequence[int], Expr],
    body: Expr,
    domain: tuple[tuple[Index, ...], BodyScope],
    node: s.Equation,
) -> Array:
    """The greatest or least value of each place; the least, or greatest, of its type at a place
    without any."""
    (places, shape, counts), (over, inner) = left, domain
    own = distinct(("i",) * len(shape), tuple(inner.indices))
    indices: list[Index] = []
    rest, condition = list(over), counts
    for place, extent, fresh in zip(places, shape, own, strict=True):
        same = next((i for i in rest if place == Idx(i.name) and i.size == extent), None)
        # `j < 16` of an index that goes as far is an index of the result.
        if same is not None:
            rest.remove(same)
            indices.append(same)
            continue
        indices.append(Index(fresh, extent))
        condition = call("and", condition, call("eq", place, Idx(fresh)))
    # How many values each place gets: the places of a scatter are checked, those of a comparison
    # are not.
    if not all(inside(p, n, inner.indices) for p, n in zip(places, shape, strict=True)):
        one = counted("sum", literal(1), counts)
        number = _scatter(
            ctx, ctx.unique(f"{name}_count"), tuple(places), tuple(shape), one, over, node
        )
        assert number.tensor
        here = Read(number.tensor.name, tuple(Idx(i.name) for i in indices), None, "i32")
        condition = call("and", condition, call("gt", here, literal(0)))
    return ctx.add(
        name,
        tuple(indices),
        counted(op, body, condition),
        node.span,
        op if rest else None,
        tuple(rest),
    )
