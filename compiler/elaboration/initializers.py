"""Initializers: functions of the language that draw the first value of a parameter.

    param w: [n, m] ~ glorot_uniform   →   w[n, m] = glorot_uniform() with fan_in = n, fan_out = m

They form a system of their own, which is evaluated once (`reference/initial_values.py`).
"""

from __future__ import annotations

from contextlib import suppress
from math import prod

from ...dsl.syntax import ast as s
from ..ir.equation import System, Tensor
from .applications import Application
from .broadcasting import broadcast, materialize, pointwise
from .context import LETTERS, Abort, Context
from .dispatch import value as value_of
from .inlining import inlined
from .interfaces import bind
from .names import find
from .rules import RULES
from .scopes import BodyScope
from .values import Array, Poison, Value, lift


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out): the number of inputs that one output sums over, and of outputs that one
    input contributes to. The last two dimensions are input and output; those before are the
    receptive field."""
    # a vector: it has no two sides that could be told apart
    if len(shape) < 2:
        return (shape[0], shape[0]) if shape else (1, 1)
    # Conv: [3, 3, c, filters] has fan_in = 9 * c.
    field = prod(shape[:-2])
    return shape[-2] * field, shape[-1] * field


def initial_system(model: Context) -> System:
    """A system whose outputs are the drawn parameters of a model, each under its own name.

    Raises UserError if an initializer is unknown or does not fit its parameter.
    """
    # A context of its own with the model's report: nothing drawn here is part of the step.
    ctx = Context(model.definitions, model.report, False, model.float_type, RULES)
    drawn = [t for t in model.tensors.values() if t.init.startswith("~")]
    ctx.reserve(t.name for t in drawn)
    for tensor in drawn:
        node, scope = model.inits[tensor.name]
        with suppress(Abort):
            # As if inside the user's layer, so that a mistake is shown where the user wrote
            # `Dense(…)`.
            ctx.calls = [model.origins[tensor.name]] if tensor.name in model.origins else []
            ctx.calls.append(Application(node.span.text, node.span, {}))
            with ctx.recursion_limit(node):
                _draw(ctx, tensor, node, scope)
    model.report.check()
    return ctx.system("initial", tuple(t.name for t in drawn))


def _draw(ctx: Context, tensor: Tensor, node: s.Expr, scope: BodyScope) -> None:
    """One parameter: its initializer for its shape."""
    fan_in, fan_out = fans(tensor.shape)
    fan_names: dict[str, Value] = {"fan_in": fan_in, "fan_out": fan_out}
    own = BodyScope(
        f"{tensor.name}_",
        {**fan_names, **scope.names},
        target=tensor.name,
        leading=scope.leading,
    )
    # `~ glorot_uniform` is short for `~ glorot_uniform()`
    call = node if isinstance(node, s.Call) else s.Call(node.span, node, ())
    name = call.function
    assert isinstance(name, s.Name)
    definition = find(ctx, name)
    value: Value
    # An expression of built-ins, such as `~ random()`; also what is no initializer: a layer.
    if definition is None or (definition.value is None and definition.kind != "fn"):
        value = value_of(ctx, call, own)
    else:
        given = bind(ctx, definition.inputs, call.arguments, [], name, node.span, own)
        # The two forms of a fn: an expression, or a body whose result has the parameter's shape.
        if definition.value is not None:
            value = value_of(ctx, definition.value, BodyScope(own.prefix, {**fan_names, **given}))
        else:
            shapes = (tensor.shape,)
            value = inlined(ctx, definition, {}, given, node.span, own, shapes=shapes)[0]
    if not isinstance(value, Poison):
        _store(ctx, tensor, lift(value, ctx.float_type), node)


def _store(ctx: Context, tensor: Tensor, array: Array, node: s.Expr) -> None:
    if array.tensor is None or array.tensor.dtype != tensor.dtype:
        array = pointwise(ctx, tensor.dtype, [array], node.span)
    # A number or a smaller draw fills the parameter; a larger one does not fit.
    like = Array(tensor.shape, array.element, LETTERS[: len(tensor.shape)])
    if broadcast(ctx, [array, like], node.span) != tensor.shape:
        raise ctx.error(
            "E0303",
            f"`{tensor.name}` has shape {list(tensor.shape)}",
            node.span,
            label=f"its first value has shape {list(array.shape)}",
        )
    materialize(ctx, tensor.name, like if array.tensor is None else array, node.span, None)
