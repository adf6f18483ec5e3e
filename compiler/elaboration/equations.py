"""Equations: `y = …`, `y[i, j] = …`, next values `m' = …` and accumulations `y[…] += …`."""

from __future__ import annotations

from dataclasses import replace

from ...dsl.check.names import DISCARDED
from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from ..ir.build import cast
from ..ir.dtypes import HALVES, is_float
from ..ir.equation import Equation, Index
from ..ir.expr import Read
from .accumulations import accumulation
from .broadcasting import as_declared, check_conversion, like_state, materialize, state_mismatch
from .context import Abort, Context
from .dispatch import as_array, results, scalar, value
from .interfaces import name_layer
from .ranges import declare_ahead, is_ahead, left_side
from .reductions import Reduction, inexact, reduced, reduced_apart, sum_of_integers
from .scopes import BodyScope, spelled
from .values import Array, Poison, Value, is_static


def equation(ctx: Context, node: s.Equation, scope: BodyScope) -> None:
    """An equation of a body: a value for each name on its left."""
    if node.accumulate:
        accumulation(ctx, node, scope)
        return
    names = [spelled(t) for t in node.targets]
    for name, target in zip(names, node.targets, strict=True):
        _check_target(ctx, name, target, scope)
    if node.indices is None and len(names) == 1 and name_layer(ctx, node, scope):
        return
    # `h, c = LSTM(8)(x)`: the names are bound to the call's results; no equation is added
    if node.indices is None and len(names) > 1:
        found = results(ctx, node.value, scope)
        if len(found) != len(names):
            fitting = ", ".join([*names, *"_" * len(found)][: len(found)])
            raise ctx.error(
                "E0317",
                f"{len(found)} result{'s' * (len(found) != 1)} for {len(names)} names",
                node.value.span,
                label=f"this gives {len(found)}",
                help=f"name as many: `{fitting} = …`",
            )
        scope.names |= {n: v for n, v in zip(names, found, strict=True) if n != DISCARDED}
        return
    # `loss = sum(i) x[i]` has no brackets either, but its right side is a value at one point.
    whole = node.indices is None and not isinstance(node.value, s.Reduce)
    state = scope.state(node.targets[0].id) if node.targets[0].primed else None
    result = (_assignment if whole else _indexed)(ctx, names[0], node, state, scope)
    if names[0] != DISCARDED:
        scope.names[names[0]] = result
    # `m' = …` also says which tensor the next step finds in m.
    if state is not None:
        assert state.tensor and isinstance(result, Array) and result.tensor
        ctx.updates[state.tensor.name] = result.tensor.name


def _check_target(ctx: Context, name: str, target: s.Name, scope: BodyScope) -> None:
    """E0212 for the next value of what is no state, E0206 for a result that has a value."""
    known = scope.states.get(target.id) or scope.names.get(target.id)
    tensor = known.tensor if isinstance(known, Array) else None
    if target.primed:
        # the declaration of the state is wrong, and reported
        if isinstance(known, Poison):
            raise Abort()
        if tensor is None or tensor.kind not in ("state", "param"):
            raise ctx.error(
                "E0212",
                f"`{target.id}'` is the next value of nothing",
                target.span,
                label=f"`{target.id}` is not a state",
                help=f"declare it: `state {target.id}: […] = 0`",
            )
    # In a layer the new tensor has another name, by its prefix, and in a `repeat` every iteration
    # has its own; a tensor that is ahead has only now come to its equation.
    elif tensor and tensor.name == name and not (is_ahead(known) or scope.prefix or ctx.repeats):
        raise ctx.error(
            "E0206",
            f"`{name}` is given a value twice",
            target.span,
            help="give the new value a name of its own",
        )


def _assignment(
    ctx: Context, name: str, node: s.Equation, state: Array | None, scope: BodyScope
) -> Value:
    """`y = …`, all elements at once. In a layer a tensor that has a name keeps it."""
    target = node.targets[0]
    # Intermediate results are named after the target: `y_sum`, `y_product`.
    around, scope.target = scope.target, target.id
    try:
        found = value(ctx, node.value, scope)
    finally:
        scope.target = around
    # `e = d // 2` without a declared type stays a constant, which can be a size
    if is_static(found) and name not in scope.declared and state is None:
        return found
    array = as_array(ctx, found, node.value)
    type, dtype = scope.declared.get(name), ""
    if type is not None and type.dtype is not None:
        dtype = ctx.float_for(type.dtype)
        array = as_declared(ctx, array, dtype, node.value.span)
    # No copy inside a layer: `y = x |> Dense(8)` makes y another name for the inner tensor. In a
    # model the name is visible to the user, so it gets a tensor of its own.
    if array.tensor is not None and state is None and scope.prefix:
        return array
    if state is not None:
        assert state.tensor
        dtype = state.tensor.storage_dtype
        array = as_declared(ctx, array, dtype, node.value.span, f"`{target.id}`")
        array = like_state(ctx, array, state, node.span)
    return materialize(ctx, ctx.target_name(target, scope), array, node.span, None, dtype)


def _indexed(
    ctx: Context, name: str, node: s.Equation, state: Array | None, scope: BodyScope
) -> Value:
    """`y[i, j] = …`, the value at one point."""
    target, span = node.targets[0], node.value.span
    indices, ellipsis = left_side(ctx, node, scope)
    sizes = {i.name: i.size for i in indices}
    # Fresh indices: equations do not nest.
    inner = replace(scope, indices=sizes, ellipsis=ellipsis, target=target.id)
    # Before the body is elaborated, as the body of a recurrence reads the tensor.
    if node.indices is not None:
        declare_ahead(ctx, node, scope, indices)
    reduce: str | None = None
    over: tuple[Index, ...] = ()
    # An equation reduces at its top level only. A mean is a sum and a division after it, so it
    # becomes an equation of its own that this one reads.
    if isinstance(node.value, s.Reduce) and node.value.op != "mean":
        reduce, over, body = reduced(ctx, node.value, inner)
    else:
        body = scalar(ctx, node.value, inner)
    positional = reduce in ("argmax", "argmin")
    ahead = scope.names.get(name)
    # The tensor was declared when it was first read, with its type: the body must fit that.
    if isinstance(ahead, Array) and ahead.tensor and is_ahead(ahead):
        tensor = ahead.tensor
        if positional and tensor.dtype != "i32":
            raise ctx.error(
                "E0502",
                f"`{name}` reads itself through `{reduce}`",
                span,
                label=f"`{reduce}` gives whole numbers, and `{name}` is {tensor.dtype}",
                help="declare it i32, or is a `max` or `min` meant?",
            )
        place = ctx.located(node.span)
        # From here on it is an ordinary temp, no longer "ahead".
        ctx.tensors[tensor.name] = replace(tensor, kind="temp", span=place)
        dtype = tensor.storage_dtype
        reduce, over, body = _typed(ctx, dtype, (reduce, over, body), span, inner)
        ctx.check_limits(body, node.span)
        ctx.compute(Equation(tensor.name, indices, body, reduce, over, None, place))
        return ctx.array_of(tensor.name)
    type, dtype = scope.declared.get(name), ""
    if type is not None and type.dtype is not None:
        dtype = ctx.float_for(type.dtype)
        reduce, over, body = _typed(ctx, dtype, (reduce, over, body), span, inner)
    if state is not None:
        assert state.tensor
        dtype, what = state.tensor.storage_dtype, f"`{target.id}`"
        reduce, over, body = _typed(ctx, dtype, (reduce, over, body), span, inner, what)
    full = ctx.target_name(target, scope)
    array = ctx.add(full, indices, body, node.span, reduce, over, dtype)
    if state is not None and array.shape != state.shape:
        raise state_mismatch(ctx, array.shape, state, node.span)
    return array


def _typed(
    ctx: Context,
    dtype: str,
    reduction: Reduction,
    span: Span,
    inner: BodyScope,
    what: str = "the result",
) -> Reduction:
    """What an equation reduces, in the type that is declared for its result."""
    reduce, over, body = reduction
    positional = reduce in ("argmax", "argmin")
    check_conversion(ctx, "i32" if positional else body.dtype, dtype, span, what)
    if positional and dtype == "i32":
        return reduction
    if reduce == "sum" and is_float(dtype) and inexact(body, over, inner.indices):
        # Whole numbers are added up as such, and the sum becomes a float.
        body, reduce, over = sum_of_integers(ctx, over, body, span, inner), None, ()
    elif positional or (reduce is not None and dtype in HALVES):
        # The result is converted, not what is added up or compared.
        body, reduce, over = reduced_apart(ctx, reduction, span, inner), None, ()
    if is_float(dtype) and not is_float(body.dtype):
        body = cast(body, ctx.float_type)
    # an element of a tensor of that format is rounded already
    stored = ctx.tensors[body.tensor].storage if isinstance(body, Read) and not body.other else ""
    return reduce, over, body if dtype == stored else cast(body, dtype)
