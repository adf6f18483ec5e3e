"""Gradient accumulation: the mean of the gradients of several batches, one after the other.

    accumulate = 4    →   total = w_gathered + 32.0 * d_w             batches of 32 examples
                          w_gathered' = if left == 0 then 0 else total
                          g = total / (examples so far)               what the optimizer reads
                          w' = if left == 0 then w - lr * g else w

A step is as many runs of the program as it has batches, the last ones of an epoch fewer;
`microbatches_left` says how many are to come. The gradient of a mean over examples is that of all
batches as one, for a batch counts by its examples; memory is that of a single one, and a second
gradient for each parameter. Tests: tests/equations/test_accumulation.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...dsl.syntax.source import Span
from ..ir.build import call, literal
from ..ir.expr import Expr, Idx, Read
from .broadcasting import materialize, pointwise
from .context import Context
from .players import Player
from .train_block import TrainBlock
from .values import Array, of_scalar


def gathered(block: TrainBlock, player: Player) -> tuple[Mapping[str, str], Expr | None]:
    """The gradients of a step by parameter, and whether a run is the last of its step, where that
    is not all of them."""
    ctx, setup, span = block.ctx, block.setup, player.loss.span
    if setup.accumulate == 1 or not player.gradients:
        return player.gradients, None
    left = ctx.scalar_input("microbatches_left").scalar()
    is_last = call("eq", left, literal(0))
    examples = _added_up(ctx, "examples", _number(ctx, setup.batch), is_last, span)
    means = {}
    for parameter, gradient in player.gradients.items():
        by_examples = [_number(ctx, setup.batch), ctx.array_of(gradient)]
        weighted = pointwise(ctx, "mul", by_examples, span)
        total = _added_up(ctx, parameter, weighted, is_last, span)
        mean = pointwise(ctx, "div", [total, examples], span)
        means[parameter] = _named(ctx, f"{parameter}_gradient", mean, span)
    return means, is_last


def _added_up(ctx: Context, name: str, more: Array, is_last: Expr, span: Span) -> Array:
    """The sum over the batches of a step so far, of which a state has those before this one."""
    gathered = ctx.unique(f"{name}_gathered")
    dtype = more.scalar().dtype if not more.rank else ctx.tensors[name].dtype
    before = ctx.declare(gathered, more.shape, dtype, "state", span, more.axes, "= 0")
    both = pointwise(ctx, "add", [before, more], span)
    total = ctx.array_of(_named(ctx, f"{name}_total", both, span))
    rest = pointwise(ctx, "select", [of_scalar(is_last), _number(ctx, 0), total], span)
    ctx.updates[gathered] = _named(ctx, f"{gathered}'", rest, span)
    return total


def _number(ctx: Context, value: int) -> Array:
    return of_scalar(literal(float(value), ctx.float_type))


def _named(ctx: Context, name: str, array: Array, span: Span) -> str:
    """The tensor of an array, called so or with a number."""
    made = materialize(ctx, ctx.unique(name), array, span, None)
    assert made.tensor
    return made.tensor.name


def only_at(ctx: Context, is_last: Expr, names: Sequence[str], span: Span) -> None:
    """Let params and states have their next values in the last run of a step, and keep their values
    in the others."""
    place = {eq.target: n for n, eq in enumerate(ctx.equations)}
    for name in names:
        following, dtype = ctx.updates[name], ctx.tensors[name].dtype
        eq = ctx.equations[place[following]]
        if eq.reduce is None and eq.at is None:
            here = tuple(Idx(i.name) for i in eq.indices)
            body = call("select", is_last, eq.body, Read(name, here, None, dtype))
            ctx.equations[place[following]] = eq.with_body(body)
        else:
            values = [of_scalar(is_last), ctx.array_of(following), ctx.array_of(name)]
            kept = pointwise(ctx, "select", values, span)
            ctx.updates[name] = _named(ctx, f"{following}_kept", kept, span)
