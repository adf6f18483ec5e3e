"""Optimizers: every parameter's next value, by the optimizer that the train block names for it.

    optimizer = sgd(lr = 0.1)            →   w' = w - 0.1 * d_w
    optimizer encoder.* = sgd(lr = 1e-3)     encoder_w' = encoder_w - 1e-3 * d_encoder_w
    average = ema(0.9)                       w_average' = 0.9 * w_average + (1 - 0.9) * w'

The body of an optimizer is elaborated for a parameter `p` with its gradient `g`, after clipping; of
several batches, the mean of their gradients (`accumulation.py`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice

from ...dsl.diagnostics.diagnostic import did_you_mean
from ...dsl.records import record
from ...dsl.syntax import ast as s
from ...dsl.syntax.ast import walk
from ..ir.build import call, cast, literal
from ..ir.equation import Equation
from ..ir.expr import Apply, Expr, Idx, Read
from .accumulation import gathered, only_at
from .applications import Application
from .broadcasting import broadcast, materialize, pointwise
from .context import Abort, Context
from .interfaces import bind
from .names import find
from .objective import TERMS, applied, callee_of
from .players import Player, group_of, groups, own_step, own_steps
from .privacy import with_noise
from .reductions import reduce_array
from .repetition import memoized, outline
from .scopes import BodyScope
from .statements import body
from .train_block import TrainBlock
from .values import Array, Value, of_scalar


def update(block: TrainBlock, players: Sequence[Player]) -> None:
    """The next value of every parameter that is trained, by the optimizer that the train block
    names."""
    # The mistake is in the report, which is raised now: nothing follows the update.
    for player in players:
        with suppress(Abort):
            _update(block, player)
    block.ctx.report.check()


@record
class _Optimizer:
    """An optimizer with its settings, and the number of its entry in the block."""

    definition: s.Definition
    use: Application
    number: Hashable


def _update(block: TrainBlock, player: Player) -> None:
    ctx, train, field = block.ctx, block.setup.train, block.setting("optimizer")
    loss = player.loss.name.id
    gradients, is_last = gathered(block, player)
    gradients = with_noise(block, gradients)
    before = len(ctx.updates)
    # Settings are elaborated once, in the block's scope: `lr = cosine(t, steps)` reads the step.
    step = own_step(block, player.loss)
    scope = block.settings_scope(step, own_steps(block.setup, player.loss))
    own = [g for g in groups(train) if g.value is not None]
    known = {
        id(g): _optimizer(ctx, g.value, (loss, n), scope) for n, g in enumerate(own, 1) if g.value
    }
    default = None if field is None else _optimizer(ctx, field.value, (loss, 0), scope)
    chosen: dict[str, _Optimizer] = {}
    for parameter in gradients:
        group = group_of(train, parameter)
        optimizer = default if group is None else known[id(group)]
        if optimizer is None:
            raise ctx.error(
                "E0411",
                f"`train {train.model.id}` has no optimizer" + f" for `{parameter}`" * bool(own),
                train.model.span,
                label="nothing would change a parameter"
                if not own
                else "nothing would change this parameter",
                help="like `optimizer = adam(lr = 1e-3)`",
            )
        chosen[parameter] = optimizer
    norm = _gradient_norm(block, [o.definition for o in chosen.values()], gradients)
    for parameter, gradient in gradients.items():
        # Parameters of equal shape and type have equal updates up to names: elaborated once, then
        # replayed (`repetition.py`).
        p, g = ctx.array_of(parameter), ctx.array_of(gradient)
        seen = outline({"p": p, "g": g})
        assert seen is not None
        own_optimizer = chosen[parameter]
        of = _Gradient(parameter, gradient, norm, step)
        update = partial(_update_parameter, block, own_optimizer, of, scope)
        memoized(ctx, ("update", own_optimizer.number, seen[0]), parameter, seen[1], update)
        own_average = _own_average(ctx, own_optimizer.definition, parameter)
        if own_average:
            _check_one_average(block, own_optimizer.definition)
            ctx.averages[parameter] = own_average
        elif block.setting("average") is not None and parameter in ctx.updates:
            _average(block, parameter, step, scope)
    if is_last is not None:
        only_at(ctx, is_last, [*islice(ctx.updates, before, None)], player.loss.span)


def _optimizer(ctx: Context, value: s.Expr, number: Hashable, scope: BodyScope) -> _Optimizer:
    """The optimizer that an entry names; E0406 if there is none."""
    written = value if isinstance(value, s.Call) else None
    name = written.function if written else value
    optimizer = ctx.definitions.get(name.id) if isinstance(name, s.Name) else None
    if not isinstance(name, s.Name) or optimizer is None or optimizer.kind != "optimizer":
        known = [d.name for d in ctx.definitions.values() if d.kind == "optimizer"]
        text = value.span.text
        raise ctx.error(
            "E0406",
            f"`{text}` is not an optimizer",
            value.span,
            help=did_you_mean(text, known) or f"there are {', '.join(known)}",
        )
    arguments = written.arguments if written else ()
    settings = bind(ctx, optimizer.settings, arguments, [], name, value.span, scope)
    return _Optimizer(optimizer, Application(name.id, value.span, settings), number)


def _gradient_norm(
    block: TrainBlock, optimizers: Sequence[s.Definition], gradients: Mapping[str, str]
) -> Array | float:
    """sqrt(sum of g^2 over all gradients), if an optimizer or the clipping uses it; else 0."""
    ctx, clip = block.ctx, block.setting("clip")
    function = callee_of(clip)[0] if clip else None
    clipping = find(ctx, function) if function else None
    # The norm reads every gradient in full, so it is computed only for those that use it. A name in
    # the body is enough to decide: optimizers call it `norm`, a clipping function as it likes.
    called = [(optimizer, "norm") for optimizer in {d.name: d for d in optimizers}.values()]
    if clipping is not None and len(clipping.inputs) > 1:
        called.append((clipping, clipping.inputs[1].name))
    if not any(isinstance(n, s.Name) and n.id == name for d, name in called for n in walk(d)):
        return 0.0
    total = of_scalar(literal(0.0, ctx.float_type))
    span = (clip or block.setting("optimizer") or block.setup.train).span
    for number, gradient in enumerate(gradients.values(), 1):
        g = ctx.array_of(gradient)
        square = pointwise(ctx, "mul", [g, g], span)
        if g.rank:
            # Each gradient gets a sum of its own: they have different shapes.
            scope = BodyScope("", {}, target=f"{gradient}_square")
            square = reduce_array(ctx, "sum", square, span, scope)
        total = pointwise(ctx, "add", [total, square], span)
        if number % TERMS == 0:  # a deep model has hundreds: limits the expression's depth
            total = materialize(ctx, ctx.unique("gradient_norm_part"), total, span, None)
    root = pointwise(ctx, "sqrt", [total], span)
    return materialize(ctx, ctx.unique("gradient_norm"), root, span, None)


def _own_average(ctx: Context, optimizer: s.Definition, parameter: str) -> str:
    """The state `state average = p` of an optimizer that averages the weights for its own steps;
    empty if it has none."""
    states = (n for n in optimizer.body if isinstance(n, s.State) and n.name.id == "average")
    if next(states, None) is None:
        return ""
    # by its beginning, as its name may have a number where a user's tensor has the name
    stem, init = f"{parameter}_average", f"= {parameter}"
    made = (t for t in ctx.tensors.values() if t.name.startswith(stem) and t.init == init)
    return next((t.name for t in made), "")


def _check_one_average(block: TrainBlock, optimizer: s.Definition) -> None:
    """E0206 where the train block averages what the optimizer averages already."""
    field = block.setting("average")
    if field is not None:
        raise block.ctx.error(
            "E0206",
            f"`{optimizer.name}` averages the weights already",
            field.value.span,
            label="averaged again here",
            help="leave `average = …` out",
        )


def _average(block: TrainBlock, parameter: str, step: Array, scope: BodyScope) -> None:
    """The next value of the average of a parameter: a state, which begins as the parameter."""
    ctx, field = block.ctx, block.setting("average")
    assert field is not None
    p = ctx.array_of(parameter)
    assert p.tensor
    name = ctx.unique(f"{parameter}_average")
    axes, init = ctx.axes[parameter], f"= {parameter}"
    average = ctx.declare(name, p.shape, p.tensor.dtype, "state", field.span, axes, init)
    following = ctx.array_of(ctx.updates[parameter])
    number = of_scalar(call(ctx.float_type, step.scalar()))
    value = applied(ctx, field, [average, following, number], scope)
    # A number would fill it, and a larger tensor is no average of the parameter any more.
    if value.shape != p.shape:
        raise ctx.error(
            "E0303",
            "`average` must keep the shape of a parameter",
            field.value.span,
            label=f"it makes {list(value.shape)} of {list(p.shape)}",
        )
    made = materialize(ctx, ctx.unique(f"{name}'"), value, field.value.span, None, p.tensor.dtype)
    assert made.tensor
    ctx.updates[name] = made.tensor.name
    ctx.averages[parameter] = name


@record
class _Gradient:
    """The gradient of a parameter, the norm of all those of its loss, and the number of the step
    that they are of."""

    parameter: str
    gradient: str
    norm: Array | float
    step: Array


def _update_parameter(
    block: TrainBlock, optimizer: _Optimizer, of: _Gradient, scope: BodyScope
) -> tuple[()]:
    """The optimizer's body for one parameter, after clipping."""
    ctx, clip = block.ctx, block.setting("clip")
    parameter, gradient, norm = of.parameter, of.gradient, of.norm
    p, g = ctx.array_of(parameter), ctx.array_of(gradient)
    if clip is not None:
        clipped = applied(ctx, clip, [g, norm], scope)
        # Broadcasting would accept a larger result, which is no gradient of the parameter any more.
        if broadcast(ctx, [clipped, g], clip.value.span) != g.shape:
            raise ctx.error(
                "E0303",
                "`clip` must keep the shape of a gradient",
                clip.value.span,
                label=f"it makes {list(clipped.shape)} of {list(g.shape)}",
            )
        g = clipped
    # Optimizers compute with the step (`beta^t`), so it is a float in them.
    step = of_scalar(call(ctx.float_type, of.step.scalar()))
    own: dict[str, Value] = {"p": p, "g": g, "norm": norm, "t": step}
    use, definition = optimizer.use, optimizer.definition
    # `state m = 0` of adam becomes `dense1_w_m`.
    inner = BodyScope(f"{parameter}_", {**use.names, **own}, target=definition.name, parameter=p)
    # Mistakes inside the optimizer are shown at `optimizer = …` in the train block.
    ctx.calls.append(use)
    body(ctx, definition.body, inner)
    ctx.calls.pop()
    if "p'" not in inner.names:
        raise ctx.error(
            "E0209", f"optimizer `{definition.name}` never assigns `p'`", definition.name_span
        )
    if parameter in ctx.updates:  # else the mistakes in its equation are in the report
        _propagate_nonfinite(ctx, parameter, gradient)
    return ()


def _propagate_nonfinite(ctx: Context, parameter: str, gradient: str) -> None:
    """Where a gradient is not finite, make the parameter's next value not finite, so that the step
    is found to be bad. Most optimizers do so by themselves; where the gradient is clipped, compared
    or only its sign is used, the next value becomes the gradient there."""
    # A state does not count: its next value may no longer depend on this one (`last' = g`).
    definition = {eq.target: eq for eq in ctx.equations}
    following = ctx.updates[parameter]
    if _is_nonfinite_with(gradient, following, definition):
        return
    eq = definition[following]
    here = tuple(Idx(i.name) for i in eq.indices)
    # An update has the parameter's shape, so the gradient is read at the same indices.
    g = Read(gradient, here, None, ctx.tensors[gradient].dtype)
    body = call("select", call("is_finite", g), eq.body, g)
    checked = eq.with_body(cast(body, ctx.tensors[following].storage_dtype))
    ctx.equations[ctx.equations.index(eq)] = checked


def _is_nonfinite_with(source: str, name: str, definition: Mapping[str, Equation]) -> bool:
    """Whether a tensor is certainly not finite at every element where `source`, of its shape, is
    not. A conservative analysis: it may be so where the answer is no."""
    eq = definition.get(name)
    if name == source:
        return True
    # Inputs, params and states have no equation; of a reduction or a scatter it is not shown that
    # the element comes out at the same place.
    if eq is None or eq.reduce is not None or eq.at is not None:
        return False

    def certain(expr: Expr) -> bool:
        # A read elsewhere (a shift, a transpose) would tell of another element.
        if isinstance(expr, Read):
            here = tuple(Idx(i.name) for i in eq.indices)
            return expr.index == here and _is_nonfinite_with(source, expr.tensor, definition)
        if not isinstance(expr, Apply):
            return False
        # inf - inf is NaN
        if expr.fn in ("add", "sub", "mul", "neg", "abs", "f16", "bf16", "stop"):
            return any(map(certain, expr.args))
        # x / NaN is NaN, but x / inf is 0: the divisor proves nothing
        if expr.fn == "div":
            return certain(expr.args[0])
        # either branch may be the one that is taken
        return expr.fn == "select" and certain(expr.args[1]) and certain(expr.args[2])

    return certain(eq.body)
