"""The losses and the metrics of a train block, and the fields of the data that they read.

    loss = mse(y, target)   →   loss = …, a tensor without dimensions

Fields of the data are inputs of the system, declared where the block names them.
"""

from __future__ import annotations

from contextlib import suppress

from ...dsl.check.names import value_names
from ...dsl.diagnostics.diagnostic import Note
from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from .broadcasting import materialize, pointwise
from .calls import apply
from .context import RESERVED_INPUTS, Abort, Context, reserved
from .dispatch import array as array_of
from .dispatch import value as value_of
from .interfaces import declared_shape
from .players import trains
from .scopes import BodyScope
from .train_block import TrainBlock
from .values import Array, Shape, Static, is_static, lift

# The expressions of norm and penalty stay this deep however many parameters the model has.
TERMS = 16  # squared gradients, or penalties, that one equation adds up


def objective(block: TrainBlock) -> tuple[str, ...]:
    """The losses and the metrics as tensors without dimensions; their names, in the order of
    `Train.measures`."""
    ctx, scope = block.ctx, block.scope()
    # Two rounds: the block's `let`s and inputs may stand below the loss that reads them.
    for item in block.setup.train.body:
        with suppress(Abort), ctx.recursion_limit(item):
            match item:
                case s.Input():
                    _declare_input(block, item, scope)
                case s.Let(name=name, value=value):
                    _declare_fields(block, value, scope)
                    scope.names[name.id] = found = value_of(ctx, value, scope)
                    # Constants outlive this scope: the optimizer's settings read them, too.
                    if is_static(found):
                        block.constants[name.id] = found
    ctx.report.check()
    # With a wrong `let`, the expressions that read it would report its consequences.
    outputs = []
    for item in block.setup.train.measures:
        with suppress(Abort), ctx.recursion_limit(item.value):
            outputs.append(_number(block, item, scope))
    ctx.report.check()
    return tuple(outputs)


def _declare_input(block: TrainBlock, item: s.Input, scope: BodyScope) -> None:
    """`input label: i32[B]`: its sizes are those of the model's inputs; E0316 for others."""
    ctx, type = block.ctx, item.type
    for size in type.shape or ():
        # An input cannot bind a size of its own: the model is elaborated already.
        if isinstance(size, s.Name) and size.id not in scope.names:
            first = next(iter(block.model.definition.inputs), None)
            others = [p.span.text for p in (first and first.type and first.type.shape) or ()]
            raise ctx.error(
                "E0316",
                f"the size `{size.id}` is not known",
                size.span,
                label="no input of the model has it",
                help=f"is the batch missing there? `{first.name}: "
                f"f32[{', '.join([size.id, *others])}]`"
                if first
                else "",
            )
    shape = declared_shape(ctx, type, scope, f"`{item.name.id}`")
    _declare(ctx, item.name, item.span, shape, ctx.float_for(type.dtype), scope)


def _declare_fields(block: TrainBlock, value: s.Node, scope: BodyScope) -> None:
    """Declare the fields of the data that an expression names."""
    ctx, fields = block.ctx, block.setup.fields or {}
    for node in value_names(value):
        if node.id not in fields:
            continue
        known = scope.names.get(node.id)
        # Either may be meant: `mse(y, n)` where the data have a column `n`.
        if isinstance(known, int) and node.id in block.model.scope.origins:
            place, source = block.model.scope.origins[node.id]
            raise ctx.error(
                "E0206",
                f"`{node.id}` is a size of the model, and a field of the data",
                node.span,
                label="which of them?",
                notes=(Note(place, f"the size, of `{source}`"),),
                help="give the size another name",
            )
        # A name of the model, or one declared by `input`, hides the field.
        if known is not None:
            _warn_of_hidden(block, node)
        else:
            # the type is that of one example: [784] → [B, 784]
            shape = (block.setup.batch, *fields[node.id].shape)
            _declare(ctx, node, node.span, shape, ctx.float_for(fields[node.id].dtype), scope)


def _warn_of_hidden(block: TrainBlock, name: s.Name) -> None:
    """W0306, once, for a field of the data whose name is that of something the model computes."""
    model = block.model
    inputs = {p.name for p in model.definition.inputs}
    if name.id not in model.scope.names or name.id in inputs | block.hidden:
        return
    block.hidden.add(name.id)
    tensor = block.ctx.tensors.get(name.id)
    block.ctx.report.add(
        "W0306",
        f"`{name.id}` is the model's here, and hides the field `{name.id}` of the data",
        name.span,
        label=f"the model's `{name.id}`",
        notes=(Note(tensor.span, "computed here"),) if tensor and tensor.span else (),
        help="if the field is meant, give the model's another name",
    )


def _declare(
    ctx: Context, name: s.Name, place: Span, shape: Shape, dtype: str, scope: BodyScope
) -> None:
    """An input of the system; E0206 if its name is that of a tensor of the model, unless that is
    the same input."""
    if name.id in RESERVED_INPUTS:
        raise reserved(ctx, name.id, name.span)
    # The model may read the same field (a language model's `token`): that is one input.
    known = ctx.tensors.get(name.id)
    found = (known.kind, known.shape) if known is not None and known.storage else None
    # what the model reads in 16 bits is one input, too, wherever else it is read
    if known is not None and found == ("input", shape) and dtype in (known.storage, known.dtype):
        scope.names[name.id] = ctx.array_of(name.id)
        return
    if known is not None and (known.kind, known.shape, known.dtype) != ("input", shape, dtype):
        raise ctx.error(
            "E0206",
            f"`{name.id}` already names another tensor",
            name.span,
            label=f"a field of the data, {dtype}{list(shape)}",
            notes=(Note(known.span, f"{known.storage_dtype}{list(known.shape)}"),)
            if known.span
            else (),
            help="rename the one in the model",
        )
    scope.names[name.id] = ctx.declare(name.id, shape, dtype, "input", place)


def _number(block: TrainBlock, item: s.Field | s.Loss | s.Metric, scope: BodyScope) -> str:
    """The tensor of a loss or a metric; E0410 if it has dimensions."""
    ctx, name, value = block.ctx, item.name.id, item.value
    _declare_fields(block, value, scope)
    # Sums inside are named after it: `loss_mean`.
    scope.target = name
    array = array_of(ctx, value, scope)
    if array.rank:
        raise ctx.error(
            "E0410",
            f"`{name}` must be a single number",
            value.span,
            label=f"its shape is {list(array.shape)}",
            help=f"like `mean({value.span.text})`",
        )
    if not isinstance(item, s.Metric):
        array = _with_penalty(block, item, array, scope)
    # A metric may be a whole number (a count of hits); what a step reports is floats.
    array = pointwise(ctx, ctx.float_type, [array], value.span)
    # Metrics may read the losses and earlier metrics, unless a tensor of the model has that name.
    full = ctx.own_name(name)
    scope.names.setdefault(name, materialize(ctx, full, array, value.span, None))
    return full


def _with_penalty(
    block: TrainBlock, item: s.Field | s.Loss, loss: Array, scope: BodyScope
) -> Array:
    """`penalty = l2(1e-4)`: the function of every parameter that the loss trains, vectors and
    numbers included, added to the loss."""
    ctx, field = block.ctx, block.setting("penalty")
    if field is None:
        return loss
    # A list of its own, as the penalty's equations add tensors while the loop runs.
    parameters = [t for t in ctx.tensors.values() if t.kind == "param" and trains(item, t.name)]
    for number, tensor in enumerate(parameters, 1):
        cost = applied(ctx, field, [ctx.array_of(tensor.name)], scope)
        if cost.rank:
            raise ctx.error(
                "E0410",
                "`penalty` must give a single number",
                field.value.span,
                label=f"its shape is {list(cost.shape)} for `{tensor.name}`",
                help="sum over all elements: `sum(…)`",
            )
        loss = pointwise(ctx, "add", [loss, cost], field.span)
        if number % TERMS == 0:
            loss = materialize(ctx, ctx.unique("penalized_loss_part"), loss, field.span, None)
    return loss


def applied(ctx: Context, field: s.Field, first: list[Static | Array], scope: BodyScope) -> Array:
    """`clip = clip_norm(1.0)`: the function of the `first` values and its own arguments."""
    function, written = callee_of(field)
    if function is None:
        raise ctx.error(
            "E0203",
            f"`{field.name.id}` takes a function",
            field.value.span,
            help="like `penalty = l2(1e-4)` or `clip = clip_norm(1.0)`",
        )
    results = apply(ctx, function, written, (), first, field.value.span, scope)
    return lift(results[0], ctx.float_type)  # type: ignore[arg-type]


def callee_of(field: s.Field) -> tuple[s.Name | None, s.Call | None]:
    """The function that a setting names, and the call if it has arguments."""
    # `clip_norm(1.0)` has a call, `l2` alone is a name; `l2(1)(2)` names no function.
    written = field.value if isinstance(field.value, s.Call) else None
    function = written.function if written else field.value
    return (function if isinstance(function, s.Name) else None), written
