"""Private training, `private = dp(…)`: gradients clipped for each example, with noise (DP-SGD).

    d_w = grad(loss, w)          the sum over examples of clipped gradients / examples on average
    d_w_noisy = d_w + 0.0046 * sqrt(-2 * log(u)) * cos(2 * pi * v)         what the optimizer reads

The clipping is done by a pass, once there are gradients (`passes/autodiff/clip_examples.py`); what
it is told is found here. The gradient of an example is that of the loss of a batch of it alone. So
of a loss that is a mean over examples the share of each is multiplied by their number, and the sum
of clipped gradients divided by how many a step has on average; of a sum, neither.

Noise is drawn by a key of 128 bits that is new in every step and that only the run knows: a counter
of the generator gives a uniform number of 48 bits and one of 24, and these a normal one (Box and
Muller 1958). Its deviation is `noise` times the largest norm of what one example adds.
Abadi et al. 2016, "Deep learning with differential privacy".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isclose, pi

from ...dsl.check.names import input_symbols
from ...dsl.diagnostics.diagnostic import Diagnostic, Report
from ...dsl.syntax.source import Span
from ..ir.batch_axis import Joined, batch_axis, weights_of_sums
from ..ir.build import call, cast, literal
from ..ir.equation import Clipping, System
from ..ir.expr import Expr
from ..ir.random import UNIFORM_SCALE
from .broadcasting import materialize, pointwise
from .context import DRAWN, NOISE_KEY, Context, within
from .model import find_model
from .objective import objective
from .train_block import Setup, TrainBlock, elaborate_trained_model
from .values import Array, Shape


def clipping_of(block: TrainBlock, loss: str, other: System) -> Clipping:
    """What the gradients of a loss are clipped to. `other` is the same for twice the examples.
    E0417 if the loss is neither a sum nor a mean over examples."""
    setup, private = block.setup, block.setup.private
    assert private is not None
    own = block.model.system((loss,))
    found = [
        weights_of_sums(system, loss, batch_axis(system, batch, [loss]))
        for system, batch in ((own, setup.batch), (other, 2 * setup.batch))
    ]
    one, two = (list((weights or {}).values()) for weights in found)
    ratios = {round(b / a, 6) if a else 1.0 for a, b in zip(one, two, strict=False)}
    if len(one) != len(two) or (not ratios <= {0.5} and not ratios <= {1.0}):
        span = setup.train.losses[0].span
        block.ctx.error(
            "E0417",
            "this loss is neither the mean nor the sum of a loss for each example",
            span,
            label="what would be the share of one example?",
            help="like `mean(…)` over all examples",
        )
        block.ctx.report.check()
    is_mean = isclose(next(iter(ratios), 0.5), 0.5)
    count = setup.batch if is_mean else 1
    # Of `accumulate` batches the mean of the gradients is taken.
    scale = setup.batch * setup.accumulate / private.expected if is_mean else 1.0
    setting = block.setting("private")
    block.ctx.scalar_input(DRAWN)
    span = setting.span if setting else setup.train.span
    return Clipping((), setup.batch, private.limit / count, scale, DRAWN, span)


def twice_the_examples(setup: Setup) -> System:
    """The loss for twice as many examples, of which nothing else is known."""
    definition = find_model(setup.definitions, setup.train.model.id)
    batch = input_symbols(definition)[:1]  # which may be among the sizes that are set
    sizes = {name: size for name, size in setup.sizes.items() if name not in batch}
    twice = replace(setup, batch=2 * setup.batch, sizes=sizes, private=None)
    block = elaborate_trained_model(twice, training=True, limited=False)
    return block.model.system(objective(block))


# --- noise ----------------------------------------------------------------------------------------


def with_noise(block: TrainBlock, gradients: Mapping[str, str]) -> Mapping[str, str]:
    """The gradients by parameter, of a private block with noise."""
    private, clipping, ctx = block.setup.private, block.clipping, block.ctx
    if private is None or clipping is None:
        return gradients
    sensitivity = clipping.limit * clipping.scale / block.setup.accumulate
    found = {}
    for parameter, gradient in gradients.items():
        exact = ctx.array_of(gradient)
        assert clipping.span is not None
        noise = _normal(ctx, exact.shape, private.noise * sensitivity)
        both = pointwise(ctx, "add", [exact, noise], clipping.span)
        made = materialize(ctx, ctx.unique(f"d_{parameter}_noisy"), both, clipping.span, None)
        assert made.tensor
        found[parameter] = made.tensor.name
    return found


def _normal(ctx: Context, shape: Shape, deviation: float) -> Array:
    """A normal number for every element."""
    first, ctx.streams = ctx.streams, ctx.streams + 2
    keys = [ctx.scalar_input(name).scalar() for name in NOISE_KEY]

    def uniform(key: int, stream: int, place: Expr) -> Expr:
        return call("random", *keys[key : key + 2], literal(first + stream), place)

    def element(indices, outer: Shape) -> Expr:
        place: Expr = literal(0)
        for index, size in zip(indices, outer, strict=True):
            place = place * literal(size) + index
        # 24 bits alone would end at 5.8 deviations
        radius = uniform(0, 0, place) + UNIFORM_SCALE * uniform(2, 0, place)
        radius = call("max", radius, UNIFORM_SCALE**2)
        angle = 2 * pi * uniform(2, 1, place)
        normal = call("sqrt", -2.0 * call("log", radius)) * call("cos", angle)
        return cast(deviation * normal, ctx.float_type)

    return Array(shape, element, (), hint="noise")


# --- what private training cannot be --------------------------------------------------------------


def check_apart(derived: System, clipping: Clipping, loss: Span) -> None:
    """UserError E0416 for what joins the examples of a batch, E0417 for states that examples change
    in another way than by gradients. `derived` is a step with the equations of its gradients."""
    axis = batch_axis(derived, clipping.batch, clipping.gradients)
    report = Report()
    places: set[Span | None] = set()
    for joined in axis.joined:
        place = _place(joined.eq.span) if joined.other else _place_of_sum(joined, derived)
        if place not in places:
            places.add(place)
            report.extend([_joined(joined, place, loss)])
    cut = derived.replace(
        equations=tuple(e for e in derived.equations if e.target not in clipping.gradients)
    )
    data = {t.name for t in derived.of_kind("input") if t.shape}
    for state, following in derived.updates.items():
        span = _place(derived.tensors[state].span)
        if span not in places and not data.isdisjoint(cut.ancestors([following])):
            report.extend([_leaking(state, span, clipping)])
    report.check()


def _place(span: Span | None) -> Span | None:
    return span and (span.call_site or span)


def _place_of_sum(joined: Joined, system: System) -> Span | None:
    """Where the sum over examples stands in the user's file, or in the library what reads it."""
    eq = system.definition.get(joined.source)  # an input has none
    source = eq and eq.span
    return _place(source if source and source.call_site else joined.eq.span)


def _joined(joined: Joined, place: Span | None, loss: Span) -> Diagnostic:
    what = "another example" if joined.other else f"`{joined.source}`, which all of them make up"
    label = f"`{joined.eq.target}` of an example reads {what}"
    if not joined.own:
        label = f"`{joined.eq.target}` is not linear in {what}"
    if not joined.own and joined.eq.reduce not in (None, "sum"):
        label = f"`{joined.eq.target}` compares all examples"
    help = "compute this for each example by itself"
    if place is not None and "BatchNorm" in place.text:
        help = "use `GroupNorm(groups)` or `LayerNorm`, which normalise each example by itself"
    elif place is not None and within(place, loss) and not joined.other:
        help = "compute a loss for each example by itself, and take the mean of these last"
    return Diagnostic(
        "E0416",
        "the examples of a batch depend on each other, and `private` needs a gradient of each",
        place,
        label=label,
        help=help,
    )


def _leaking(state: str, place: Span | None, clipping: Clipping) -> Diagnostic:
    return Diagnostic(
        "E0417",
        f"`{state}` would remember examples without noise",
        place,
        label="its next value depends on the data other than by gradients",
        help="`private` covers what is learned by gradients alone",
    )


def check_private(block: TrainBlock) -> None:
    """E0417 for train blocks that cannot be private."""
    setting = block.setting("private")
    if setting is None or block.setup.private is None:
        return
    losses = block.setup.train.losses
    if len(losses) > 1:
        block.ctx.error(
            "E0417",
            "private training has one loss",
            losses[1].span,
            label="a second one",
            help="its guarantee is about the gradients of one loss",
        )
    if block.setup.precision != "f32":
        precision = block.setting("precision") or setting
        block.ctx.error(
            "E0417",
            "private training computes in f32",
            precision.span,
            label="norms of rounded gradients are not exact",
            help="leave `precision` out",
        )
    block.ctx.report.check()
