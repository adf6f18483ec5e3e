"""How parameters and states start: initialisers are functions of the language, evaluated once.

In: an elaborated model. Out: a system that computes every parameter that is drawn, and arrays for
all of them from a seed. The reference evaluator runs it, so that every backend starts from the
same bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...dsl.syntax import ast as s
from ..ir.dtypes import NUMPY
from ..ir.equation import System, Tensor
from ..reference.evaluator import evaluate
from .broadcasting import broadcast, materialize, pointwise
from .context import LETTERS, Abort, Application, Context, Scope
from .dispatch import value as value_of
from .inlining import inlined
from .interfaces import bind
from .model import ModelWork
from .rules import RULES
from .values import Array, Poison, Value, lift


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out): the inputs that one output sums over and the outputs that one input goes
    to. The last two dimensions are input and output; those before are the receptive field."""
    if len(shape) < 2:
        return (shape[0], shape[0]) if shape else (1, 1)
    field = int(np.prod(shape[:-2]))
    return shape[-2] * field, shape[-1] * field


def initial_system(work: ModelWork) -> System:
    """A system whose outputs are the drawn parameters of the model, each under its own name.

    Raises UserError if an initialiser is unknown or does not fit its parameter.
    """
    ctx = Context(work.definitions, work.report, False, work.float_type, RULES)
    drawn = [t for t in work.tensors.values() if t.init.startswith("~")]
    for tensor in drawn:
        node, scope = work.inits[tensor.name]
        try:
            ctx.calls = [work.origins[tensor.name]] if tensor.name in work.origins else []
            ctx.calls.append(Application(node.span.text, node.span, {}))
            with ctx.recursion_limit(node):
                _draw(ctx, tensor, node, scope)
        except Abort:
            continue
    work.report.check()
    return ctx.system("initial", tuple(t.name for t in drawn))


def _draw(ctx: Context, tensor: Tensor, node: s.Expr, scope: Scope) -> None:
    """One parameter: its initialiser for its shape."""
    fan_in, fan_out = fans(tensor.shape)
    fan_names: dict[str, Value] = {"fan_in": fan_in, "fan_out": fan_out}
    own = Scope(
        f"{tensor.name}_",
        {**scope.names, **fan_names},
        target=tensor.name,
        leading=scope.leading,
    )
    call = node if isinstance(node, s.Call) else s.Call(node.span, node, ())
    name = call.function
    assert isinstance(name, s.Name)
    definition = ctx.definitions.get(name.id)
    value: Value
    if definition is None or (definition.value is None and definition.kind != "fn"):
        value = value_of(ctx, call, own)
    else:
        given = bind(ctx, definition.inputs, call.arguments, [], name, node.span, own)
        if definition.value is not None:
            value = value_of(ctx, definition.value, Scope(own.prefix, {**fan_names, **given}))
        else:
            shapes = (tensor.shape,)
            value = inlined(ctx, definition, {}, given, node.span, own, shapes=shapes)[0]
    if not isinstance(value, Poison):
        _store(ctx, tensor, lift(value, ctx.float_type), node)


def _store(ctx: Context, tensor: Tensor, array: Array, node: s.Expr) -> None:
    if array.tensor is None or array.tensor.dtype != tensor.dtype:
        array = pointwise(ctx, tensor.dtype, [array], node.span)
    like = Array(tensor.shape, array.element, LETTERS[: len(tensor.shape)])
    if broadcast(ctx, [array, like], node.span) != tensor.shape:
        raise ctx.error(
            "E0303",
            f"`{tensor.name}` has shape {list(tensor.shape)}",
            node.span,
            label=f"its first value has shape {list(array.shape)}",
        )
    materialize(ctx, tensor.name, like if array.tensor is None else array, node.span, None)


def initial_values(system: System, drawn: System, seed: int) -> dict[str, np.ndarray]:
    """The first value of every param and state of `system`, from the seed alone."""
    values = dict(_constants(system))
    inputs: Mapping[str, np.ndarray] = {
        "seed": np.array(seed, np.int32),
        "step": np.array(0, np.int32),
    }
    arrays = evaluate(drawn, {k: v for k, v in inputs.items() if k in drawn.tensors})
    values.update({name: arrays[name] for name in drawn.outputs})
    return values


def _constants(system: System):
    for tensor in system.tensors.values():
        if tensor.kind in ("param", "state") and tensor.init.startswith("="):
            value = float(tensor.init[1:].strip().replace("true", "1").replace("false", "0"))
            yield tensor.name, np.full(tensor.shape, value, NUMPY[tensor.dtype])
