"""Declarations of parameters and states: shapes, types and initial values.

param w: [n, units] ~ glorot_uniform        state mean: [c] = 0
"""

from __future__ import annotations

from ...dsl.syntax import ast as s
from ..ir.build import literal
from ..ir.dtypes import fits, is_float
from ..ir.expr import number_text
from .context import RESERVED_INPUTS, Context, reserved
from .dispatch import not_a_number, static
from .interfaces import declared_shape
from .scopes import BodyScope
from .values import Array, Numbers, Shape


def param(ctx: Context, node: s.Param, scope: BodyScope) -> None:
    for name in node.names:
        shape = declared_shape(ctx, node.type, scope, f"`{name.id}`")
        dtype = ctx.float_for(node.type.dtype)
        # Printed programs show the initial value with its numbers: `~ normal(0.0, 0.02)`.
        init = _initial_text(ctx, node.value, node.drawn, dtype, scope)
        _check_reserved(ctx, name, scope)
        known = _shared(ctx, name, shape, dtype, scope)
        if known is not None:
            scope.names[name.id] = known
            continue
        full = ctx.declared_name(name.id, scope)
        scope.names[name.id] = made = ctx.declare(
            full, shape, dtype, "param", name.span, _axes(node.type), init
        )
        _share(name, made, scope)
        # Drawn later, in a system of its own, with the sizes that this scope has bound.
        ctx.inits[full] = (node.value, scope)


def state(ctx: Context, node: s.State, scope: BodyScope) -> None:
    """A state; without a shape it is a number, and in an optimizer like the parameter."""
    shape: Shape
    if node.type is not None and node.type.shape is not None:
        shape = declared_shape(ctx, node.type, scope, f"`{node.name.id}`")
    else:
        shape = () if scope.parameter is None else scope.parameter.shape
    dtype = ctx.float_for(node.type.dtype if node.type else None)
    init = _copied(ctx, node.value, shape, dtype, scope) or _initial_text(
        ctx, node.value, False, dtype, scope
    )
    _check_reserved(ctx, node.name, scope)
    known = _shared(ctx, node.name, shape, dtype, scope)
    if known is not None:
        assert known.tensor
        # A second application begins with what the first one made of the state.
        scope.states[node.name.id] = known
        following = ctx.updates.get(known.tensor.name)
        scope.names[node.name.id] = known if following is None else ctx.array_of(following)
        return
    full = ctx.declared_name(node.name.id, scope)
    scope.names[node.name.id] = made = ctx.declare(full, shape, dtype, "state", node.span, (), init)
    _share(node.name, made, scope)


def _shared(ctx: Context, name: s.Name, shape: Shape, dtype: str, scope: BodyScope) -> Array | None:
    """The parameter or state that an earlier application of a layer with a name made; E0301 if it
    does not fit this one."""
    for stem, layer in reversed(scope.shared):
        known = layer.tensors.get((scope.prefix + name.id).removeprefix(stem))
        if known is None:
            continue
        assert known.tensor
        if (known.shape, known.tensor.storage_dtype) != (shape, dtype):
            raise ctx.error(
                "E0301",
                f"`{layer.name}` has parameters for other sizes",
                name.span,
                label=f"`{name.id}` is {list(known.shape)} since `{layer.name}` was first applied, "
                f"and would be {list(shape)} here",
            )
        _share(name, known, scope)
        return known
    return None


def _share(name: s.Name, made: Array, scope: BodyScope) -> None:
    for stem, layer in scope.shared:
        layer.tensors[(scope.prefix + name.id).removeprefix(stem)] = made


def _check_reserved(ctx: Context, name: s.Name, scope: BodyScope) -> None:
    # what a run keeps goes by its name, which nothing else may have
    if ctx.is_model(scope) and name.id in RESERVED_INPUTS:
        raise reserved(ctx, name.id, name.span)


def _axes(type: s.Type) -> tuple[str, ...]:
    """Names of dimensions that are declared with simple names: `[n, units]` → n, u; else none."""
    items = type.shape or ()
    names = [i.id.lower() for i in items if isinstance(i, s.Name)]
    # Dimensions of equal initials, such as [height, heads], would get one name twice.
    letters = {n[0] for n in names}
    return tuple(n[0] for n in names) if len(letters) == len(names) == len(items) else ()


def _copied(ctx: Context, value: s.Expr, shape: Shape, dtype: str, scope: BodyScope) -> str:
    """`= w` for a state that begins as the parameter w; E0303 if that has another shape or type."""
    found = scope.names.get(value.id) if isinstance(value, s.Name) else None
    if not isinstance(found, Array) or found.tensor is None or found.tensor.kind != "param":
        return ""
    # An average of a parameter in 16 bits may have 32.
    same = (is_float(found.tensor.dtype) and is_float(dtype)) or found.tensor.dtype == dtype
    if found.shape != shape or not same:
        raise ctx.error(
            "E0303",
            f"`{value.span.text}` is {found.tensor.storage_dtype}{list(found.shape)}",
            value.span,
            label=f"the state is {dtype}{list(shape)}",
        )
    return f"= {found.tensor.name}"


def _initial_text(ctx: Context, value: s.Expr, drawn: bool, dtype: str, scope: BodyScope) -> str:
    """An initial value with its numbers evaluated: `~ normal(0.0, 0.02)`, `= 0.0`."""
    if not drawn:
        return f"= {number_text(_initial_number(ctx, value, dtype, scope), dtype)}"
    if isinstance(value, s.Name):
        return f"~ {value.id}"
    if isinstance(value, s.Call) and isinstance(value.function, s.Name):
        parts = []
        for argument in value.arguments:
            given = static(ctx, argument.value, scope, "an initialiser's argument")
            if isinstance(given, Numbers):
                raise not_a_number(ctx, given, argument.value)
            text = repr(given).lower() if isinstance(given, bool) else repr(given)
            parts.append(f"{argument.name} = {text}" if argument.name else text)
        return f"~ {value.function.id}({', '.join(parts)})"
    raise ctx.error(
        "E0312",
        "after `~` comes an initialiser",
        value.span,
        help="like `~ glorot_uniform` or `~ normal(0, 0.02)`",
    )


def _initial_number(ctx: Context, value: s.Expr, dtype: str, scope: BodyScope) -> float:
    """The number after `=`; E0307, E0311 or E0312 if its type cannot hold it."""
    if isinstance(value, s.List):
        raise ctx.error(
            "E0312",
            "a parameter starts from one number",
            value.span,
            label="this is a list",
            help="numbers that are given are a tensor of their own: "
            "`w[i < 3] = if i == 0 then 1 else 2`",
        )
    advice = f"what is drawn or computed follows a `~`: `~ {value.span.text}`"
    start = static(ctx, value, scope, "the first value", advice)
    if isinstance(start, str | Numbers):
        raise ctx.error(
            "E0312",
            "a parameter starts from a number",
            value.span,
            label="this is a word" if isinstance(start, str) else "this is a list",
            help="an initialiser follows a `~`: `~ normal(0, 0.02)`",
        )
    if not is_float(dtype) and isinstance(start, float) and not start.is_integer():
        raise ctx.error(
            "E0307",
            f"{start!r} is not a value of the type {dtype}",
            value.span,
            label="a real number",
        )
    if not fits(start, dtype):
        raise ctx.error("E0311", f"{start} does not fit {dtype}", value.span, label="too large")
    return literal(start, dtype).value
