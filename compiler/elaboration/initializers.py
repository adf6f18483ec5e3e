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
from .builder import Abort, Application, Scope
from .definitions import Definitions
from .model import ModelWork
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
    builder = Definitions(work.definitions, work.report, False, work.float_type)
    drawn = [t for t in work.tensors.values() if t.init.startswith("~")]
    for tensor in drawn:
        node, scope = work.inits[tensor.name]
        try:
            builder.calls = [work.origins[tensor.name]] if tensor.name in work.origins else []
            builder.calls.append(Application(node.span.text, node.span, {}))
            with builder.shallow(node):
                _draw(builder, tensor, node, scope)
        except Abort:
            continue
    work.report.check()
    return builder.system("initial", tuple(t.name for t in drawn))


def _draw(builder: Definitions, tensor: Tensor, node: s.Expr, scope: Scope) -> None:
    """One parameter: its initialiser for its shape."""
    fan_in, fan_out = fans(tensor.shape)
    names: dict[str, Value] = {**scope.names, "fan_in": fan_in, "fan_out": fan_out}
    own = Scope(f"{tensor.name}_", names, target=tensor.name)
    call = node if isinstance(node, s.Call) else s.Call(node.span, node, ())
    assert isinstance(call.function, s.Name)
    definition = builder.definitions.get(call.function.id)
    if definition is not None and definition.value is None and definition.kind == "fn":
        given = builder.bind(definition.inputs, call.arguments, [], call.function, node.span, own)
        value = builder.instantiate(definition, {}, given, node.span, own, (tensor.shape,))[0]
    elif definition is not None and definition.value is not None:
        given = builder.bind(definition.inputs, call.arguments, [], call.function, node.span, own)
        inner = Scope(own.prefix, {"fan_in": fan_in, "fan_out": fan_out, **given})
        value = builder.value(definition.value, inner)
    else:
        value = builder.value(call, own)
    if isinstance(value, Poison):  # its mistakes are in the report
        return
    _store(builder, tensor, lift(value, builder.float_type), node)  # type: ignore[arg-type]


def _store(builder: Definitions, tensor: Tensor, array: Array, node: s.Expr) -> None:
    if array.tensor is None or array.tensor.dtype != tensor.dtype:
        array = builder.pointwise(tensor.dtype, [array], node.span)
    like = Array(tensor.shape, array.element, builder.fresh_axes(tensor.shape))
    if builder.broadcast([array, like], node.span) != tensor.shape:
        raise builder.error(
            "E0303",
            f"`{tensor.name}` has shape {list(tensor.shape)}",
            node.span,
            label=f"its first value has shape {list(array.shape)}",
        )
    builder.materialise(tensor.name, like if array.tensor is None else array, node.span, None)


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
