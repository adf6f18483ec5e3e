"""Programs: the systems that training and inference run, before any pass.

    training_step   forward, loss, metrics, gradients; next values of params and states
    evaluation      forward, loss, metrics
    last stage      the loss and the metrics of a set, from what its batches hand over
    prediction      forward
    decoding        a prediction in two: what all positions share, and the step for one position

Gradients are placeholders in them; the first passes of the pipeline (`pipeline.AUTODIFF`) expand
them. How often a program runs, and on which data, is decided by the runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..dsl.diagnostics.diagnostic import Report, UserError
from .elaboration.applications import Part
from .elaboration.initializers import initial_system
from .elaboration.objective import objective
from .elaboration.optimizers import update
from .elaboration.players import differentiate_losses
from .elaboration.privacy import check_apart, check_private, clipping_of, twice_the_examples
from .elaboration.selection import WHOLE, Selected, Selection, results_of, select
from .elaboration.train_block import Setup, elaborate_trained_model
from .ir.equation import Equation, System, Tensor, is_identity
from .ir.expr import Read
from .ir.integer_ranges import input_limits

# Passes and what only a run needs are imported where they are used: who asks for the training step
# alone, as `nnc check` and editors do, need not wait for them.
if TYPE_CHECKING:
    from .ir.aggregates import Aggregates
    from .ir.dynamic_sizes import DynamicSystem


def _expand_gradients(system: System) -> System:
    if not system.gradients:  # as of most measures and predictions
        return system
    from .pipeline import expand_gradients

    return expand_gradients(system)


def training_step(setup: Setup, warnings: Report | None = None) -> tuple[System, System]:
    """The step, and the system that draws the first values of its parameters.

    Raises UserError with everything that is wrong in the model and the train block; warnings are
    added to `warnings`.
    """
    step, drawn, _ = _training_step(setup, warnings, False)
    return step, drawn


def step_with_gradients(setup: Setup) -> tuple[System, System, dict[str, str]]:
    """The same, with the gradients among the step's outputs, and the gradient of each parameter
    that has one, by name."""
    return _training_step(setup, None, True)


def _training_step(
    setup: Setup, warnings: Report | None, gradients: bool
) -> tuple[System, System, dict[str, str]]:
    block = elaborate_trained_model(setup, training=True)
    # Before the loss: an initializer that is wrong is reported first.
    drawn = initial_system(block.ctx)
    outputs = objective(block)
    if setup.private is not None:
        check_private(block)
        block.clipping = clipping_of(block, outputs[0], twice_the_examples(setup))
    players = differentiate_losses(block, outputs)
    update(block, players)
    names = {name: gradient for p in players for name, gradient in p.gradients.items()}
    # As outputs the gradients survive all passes, so that they can be inspected.
    step = block.model.system((*outputs, *names.values()) if gradients else outputs)
    step = _checked(step, setup)
    if block.clipping is not None:
        clipping = replace(block.clipping, gradients=tuple(names.values()))
        check_apart(_expand_gradients(step), clipping, setup.train.losses[0].span)
        step = step.replace(clipping=clipping)
    # no errors among them: those were raised by `check()`
    if warnings is not None:
        warnings.extend(block.ctx.report.diagnostics)
    return step, drawn, names


def evaluation(setup: Setup) -> System:
    """The loss and the metrics of a batch, with `training` false and nothing updated."""
    block = elaborate_trained_model(setup, training=False)
    system = block.model.system(objective(block))
    # Batch normalisation's running means are states of the model: only training moves them.
    return _checked(system.replace(updates={}), setup)


def _measures(setup: Setup, training: bool) -> tuple[System, bool]:
    """Forward, loss and metrics, for any number of examples: nothing will be allocated for it; and
    whether training and evaluation may differ in them."""
    block = elaborate_trained_model(setup, training, limited=False)
    system = block.model.system(objective(block)).replace(updates={})
    # What a loss's own gradients are made of decides how it is split, so they are equations first.
    return _expand_gradients(system), block.ctx.phased


def measured(setup: Setup, training: bool) -> Aggregates:
    """What the batches of a set hand over for its loss and metrics."""
    from .ir.aggregates import SIZES, aggregates, one_by_one

    try:
        one, two = (_measures(replace(setup, batch=size), training) for size in SIZES)
    # A program that is right for some batch sizes only: then each batch is measured by itself.
    except UserError:
        system, phased = _measures(setup, training)
        return replace(one_by_one(system), phased=phased)
    return replace(aggregates(one[0], two[0]), phased=one[1] or two[1])


def states_kept(setup: Setup) -> list[Tensor]:
    """The states that a batch of two examples updates and a batch of one leaves as they are."""

    def kept(batch: int) -> dict[str, Tensor]:
        step = training_step(replace(setup, batch=batch))[0]
        updates = ((state, step.definition[eq]) for state, eq in step.updates.items())
        same = (state for state, eq in updates if _is_copy(eq, state))
        return {state: step.tensors[state] for state in same}

    try:
        one, two = kept(1), kept(2)
    except UserError:  # the program is right for some batch sizes only
        return []
    return [tensor for name, tensor in one.items() if name not in two]


def _is_copy(eq: Equation, source: str) -> bool:
    body = eq.body
    return isinstance(body, Read) and body.tensor == source and is_identity(body, eq)


def last_stage_of(setup: Setup, training: bool, found: Aggregates, examples: int) -> System:
    """The system that computes the measures of so many examples from their parts, in f64.

    UserError if the program is wrong for a batch of this size."""
    from .ir.aggregate_programs import last_stage

    wide = replace(setup, batch=examples, float_type="f64", precision="f32")
    return last_stage(_measures(wide, training)[0], found)


def prediction(setup: Setup) -> System:
    """The model's results for a batch of its inputs."""
    return selected(setup, WHOLE).system


def selected(setup: Setup, selection: Selection) -> Selected:
    """What is selected of a model, for a batch."""
    found = select(setup, selection)
    return replace(found, system=_checked(found.system, setup))


def untrained(setup: Setup) -> tuple[Selected, System, Mapping[str, Part]]:
    """The prediction, the system that draws the first values of its parameters, and the layers and
    models in it by name: what is needed of a model that is not trained here."""
    model = elaborate_trained_model(setup, training=False).model
    drawn, found = initial_system(model.ctx), results_of(model)
    return replace(found, system=_checked(found.system, setup)), drawn, model.ctx.parts


def any_sizes(setup: Setup, selection: Selection) -> DynamicSystem:
    """What is selected, for any values of the sizes that have a maximum. NotDynamic if what is
    computed depends on them in another way than by the length of dimensions and numbers made of
    it."""
    from .ir.dynamic_sizes import NotDynamic, counted, dynamic_system, sample_sizes, size_input
    from .passes.equations.integer_checks import obligations

    try:
        samples = [
            (sizes, sized(setup, replace(selection, sizes=tuple(sizes.items()))))
            for sizes in sample_sizes(setup.limits)
        ]
    except UserError as error:  # the program is right for some sizes only
        raise NotDynamic from error
    found = dynamic_system(samples, setup.limits)

    def finished(system: System) -> System:
        system = _checked(system, setup)
        known = {size_input(symbol): most + 1 for symbol, most in setup.limits.items()}
        return system.replace(index_inputs={**(system.index_inputs or {}), **known})

    system = finished(found.system)
    unproven = {each.eq.target for each in obligations(system)}
    if unproven:
        system = finished(counted(found, unproven))
    return replace(found, system=system)


def sized(setup: Setup, selection: Selection) -> System:
    """What is selected, as `any_sizes` compares it."""
    return _expand_gradients(selected(setup, selection).system)


def dynamic(setup: Setup, system: System) -> System | None:
    """The system for any number of examples up to the batch; None if the results of an example
    depend on other examples, and so on their number, or are not one after the other."""
    from .passes.kernels.dynamic_batch import example_dimensions

    system = system.replace(batch=setup.batch)
    dimensions = example_dimensions(_expand_gradients(system))
    apart = dimensions is not None and not any(dimensions[name] for name in system.outputs)
    return system if apart else None


def _checked(system: System, setup: Setup) -> System:
    """The system as the runtime has it run: with the precision of the block, integers checked."""
    return system.replace(precision=setup.precision, index_inputs=input_limits(system))


def decoding(predicted: System, tokens: str, logits: str) -> tuple[System, System]:
    """`decode_first` and `decode_next`: a prediction for tokens [1, T] evaluated position by
    position. The first computes what is the same at all positions and gives it to the second, whose
    inputs are `position` and one token, and whose states are what later positions read.

    Raises NotIncremental if the logits [1, T, n] cannot be computed so.
    """
    from .passes.equations.incremental_decoding import incremental_decoding, once

    return once(incremental_decoding(_expand_gradients(predicted), tokens, 1, logits), tokens)
