"""Which parameters each loss of a train block trains, in which steps, and the gradients for that.

    loss = mse(y, target)              →   d_w = grad(loss, w)  for every parameter w

    loss critic for critic.* = …       →   d_critic_w = grad(critic, critic_w)
    loss generator for generator.* = …     d_generator_w = grad(generator, generator_w)

Several losses are players of a game: each changes its own parameters only, and its gradients by the
others are not computed. A step trains all of them, from the same weights, or those whose turn it is
(`turns`). Gradients are placeholders (`ir/gradients.py`), which a pass expands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from ...dsl.check.turns import turns
from ...dsl.diagnostics.diagnostic import Note, did_you_mean
from ...dsl.records import record
from ...dsl.syntax import ast as s
from ..ir.build import call, literal
from ..ir.equation import Gradient, Tensor
from ..ir.expr import Expr
from ..ir.gradients import active_tensors
from .broadcasting import materialize
from .train_block import Setup, TrainBlock
from .values import Array, of_scalar


@record
class Player:
    """A loss that a step reduces, and the gradients of the parameters that it trains, by name."""

    loss: s.Field | s.Loss
    gradients: Mapping[str, str]


# --- parameters by name -------------------------------------------------------------------------


def groups(train: s.Train) -> list[s.ParamGroup]:
    """`optimizer encoder.* = …` and `freeze …`."""
    return [i for i in train.body if isinstance(i, s.ParamGroup)]


def group_of(train: s.Train, parameter: str) -> s.ParamGroup | None:
    """The entry that says how a parameter is trained: the last one with a pattern for it."""
    fitting = (g for g in groups(train) if any(_fits(p, parameter) for p in g.patterns))
    return next(iter([*fitting][::-1]), None)


def is_frozen(train: s.Train, parameter: str) -> bool:
    group = group_of(train, parameter)
    return group is not None and group.value is None


def trains(loss: s.Field | s.Loss, parameter: str) -> bool:
    """Whether a loss is for a parameter; one without a name is for all of them."""
    return isinstance(loss, s.Field) or any(_fits(p, parameter) for p in loss.patterns)


def _fits(pattern: s.Pattern, parameter: str) -> bool:
    """Whether `encoder.*` is a pattern for `encoder_dense1_w`: a dot stands for the underscore
    between a layer and what it has."""
    return fnmatchcase(parameter, pattern.text.replace(".", "_"))


# --- steps --------------------------------------------------------------------------------------


def own_step(block: TrainBlock, loss: s.Field | s.Loss) -> Array:
    """The number of steps that have trained a loss, with this one: of `turns = [5*a, b]` step 12 is
    the second of b."""
    ctx, cycle = block.ctx, turns(block.setup.train)
    step = ctx.scalar_input("step")
    own = [loss.name.id in turn for turn in cycle]
    if all(own):
        return step
    before = call("sub", step.scalar(), literal(1))
    within = call("mod", before, literal(len(own)))
    count: Expr = call("mul", call("floordiv", before, literal(len(own))), literal(sum(own)))
    # Of each run of own steps in the cycle, those up to this one.
    begin = 0
    while begin < len(own):
        end = begin
        while end < len(own) and own[end]:
            end += 1
        if end > begin:
            done = call("sub", within, literal(begin - 1))
            done = call("min", call("max", done, literal(0)), literal(end - begin))
            count = call("add", count, done)
        begin = end + 1
    name = ctx.unique(f"{loss.name.id}_step")
    return materialize(ctx, name, of_scalar(count), loss.name.span, None)


def steps_of(setup: Setup) -> list[Setup]:
    """The setup for every kind of step that a run has, by the losses that it trains."""
    return [replace(setup, turn=turn) for turn in dict.fromkeys(turns(setup.train) or ((),))]


def own_steps(setup: Setup, loss: s.Field | s.Loss) -> int | None:
    """How many steps of a run train a loss; None if it is not known how many it has."""
    cycle = turns(setup.train)
    if setup.steps is None or not cycle:
        return setup.steps
    own = [loss.name.id in turn for turn in cycle]
    whole, part = divmod(setup.steps, len(own))
    return whole * sum(own) + sum(own[:part])


# --- gradients ----------------------------------------------------------------------------------


def differentiate_losses(block: TrainBlock, outputs: Sequence[str]) -> list[Player]:
    """Placeholders for the gradients of the losses, the first of the `outputs`, whose turn it is.
    Warns of parameters that have none."""
    ctx, train = block.ctx, block.setup.train
    parameters = [t for t in ctx.tensors.values() if t.kind == "param"]
    _check_patterns(block, [p.name for p in parameters])
    trained = [p for p in parameters if not is_frozen(train, p.name)]
    _check_one_loss_each(block, trained)
    ctx.report.check()
    turn = block.setup.turn or tuple(loss.name.id for loss in train.losses)
    return [
        _player(block, loss, tensor, [p for p in trained if trains(loss, p.name)])
        for loss, tensor in zip(train.losses, outputs, strict=False)
        if loss.name.id in turn
    ]


def _player(
    block: TrainBlock, loss: s.Field | s.Loss, output: str, parameters: Sequence[Tensor]
) -> Player:
    ctx, report = block.ctx, block.ctx.report
    system = ctx.system(block.model.definition.name, (output,))
    # Activity analysis: a parameter that the loss does not depend on, or only through steps of
    # derivative zero such as `argmax`, gets no gradient and no update.
    active = active_tensors(system, output, [p.name for p in parameters])
    names = {}
    for p in parameters:
        if p.name in active:
            names[p.name] = target = ctx.unique(f"d_{p.name}")
            ctx.declare(target, p.shape, p.dtype, "temp", None, ctx.axes[p.name])
            ctx.gradients.append(Gradient(target, output, p.name, p.span))
    # One warning for all instead of W0301 for each parameter.
    if not names:
        frozen = any(is_frozen(block.setup.train, t.name) for t in system.of_kind("param"))
        named = f"loss `{loss.name.id}`" if isinstance(loss, s.Loss) else "loss"
        report.add(
            "W0302",
            f"the {named} depends on no parameter" + " that it is for" * isinstance(loss, s.Loss),
            loss.span,
            label="nothing will be trained",
            help="compute it from a result of the model"
            if parameters
            else "all of them are frozen"
            if frozen
            else "the model has no parameters",
        )
        return Player(loss, names)
    read = {source for eq in ctx.equations for source in eq.sources}
    for p in parameters:
        if p.name not in names and p.name in read:  # what nothing reads is W0201
            # A parameter of a library layer is shown where the user applies the layer.
            use = ctx.origins.get(p.name)
            report.add(
                "W0301",
                f"no gradient reaches `{p.name}`",
                use.span if use else p.span,
                label="it will not be trained",
            )
    return Player(loss, names)


# --- mistakes -----------------------------------------------------------------------------------


def _check_patterns(block: TrainBlock, parameters: Sequence[str]) -> None:
    """E0412 for a pattern that no parameter has."""
    entries = (i for i in block.setup.train.body if isinstance(i, s.Loss | s.ParamGroup))
    for pattern in (p for entry in entries for p in entry.patterns):
        if any(_fits(pattern, name) for name in parameters):
            continue
        layers = {name.partition("_")[0] for name in parameters}
        first = pattern.text.partition(".")[0]
        listed = ", ".join(parameters[:8]) + ", …" * (len(parameters) > 8)
        block.ctx.error(
            "E0412",
            f"no parameter is called `{pattern.text}`",
            pattern.span,
            label="this fits none",
            help=did_you_mean(first, sorted(layers))
            or (f"there are {listed}" if parameters else "the model has none"),
        )


def _check_one_loss_each(block: TrainBlock, parameters: Sequence[Tensor]) -> None:
    """E0413 for a parameter that several losses are for, and for those that none is for."""
    losses = block.setup.train.losses
    left = []
    for p in parameters:
        own = [loss for loss in losses if trains(loss, p.name)]
        if not own:
            left.append(p.name)
        if len(own) < 2:
            continue
        names = " and ".join(f"`{loss.name.id}`" for loss in own)
        block.ctx.error(
            "E0413",
            f"`{p.name}` would be trained by the losses {names}",
            own[1].name.span,
            label="the second of them",
            notes=(Note(own[0].name.span, "the first"),),
            help="a parameter has one loss: for both, add them up in one `loss`",
        )
    # a pattern that is misspelt leaves its parameters without a loss
    if left and not any(d.code == "E0412" for d in block.ctx.report.diagnostics):
        listed = ", ".join(f"`{name}`" for name in left[:4]) + ", …" * (len(left) > 4)
        block.ctx.error(
            "E0413",
            f"no loss trains {listed}",
            losses[-1].name.span,
            label="the last of the losses",
            help=f"name what it is for after `for`, or do not train it: `freeze {left[0]}`",
        )
