"""Programs: the systems that training and inference run, before any pass.

    training_step   forward, loss, metrics, gradients; next values of params and states
    evaluation      forward, loss, metrics
    prediction      forward
    decoding        a prediction in two: what all positions share, and the step for one position

Gradients are placeholders in them; the first passes of the pipeline (`pipeline.AUTODIFF`) expand
them. How often a program runs, and on which data, is decided by the runtime.
"""

from __future__ import annotations

from ..dsl.diagnostics.diagnostic import Report
from .elaboration.initializers import initial_system
from .elaboration.train_block import (
    Setup,
    differentiate_loss,
    elaborate_trained_model,
    objective,
    update,
)
from .ir.equation import System
from .passes.equations.incremental_decoding import incremental_decoding, once


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
    names = differentiate_loss(block, outputs[0])
    update(block, names)
    # As outputs the gradients survive all passes, so that they can be inspected.
    step = block.model.system((*outputs, *names.values()) if gradients else outputs)
    step = step.replace(precision=setup.precision)
    # no errors among them: those were raised by `check()`
    if warnings is not None:
        warnings.diagnostics += block.ctx.report.diagnostics
    return step, drawn, names


def evaluation(setup: Setup) -> System:
    """The loss and the metrics of a batch, with `training` false and nothing updated."""
    block = elaborate_trained_model(setup, training=False)
    system = block.model.system(objective(block))
    # Batch normalisation's running means are states of the model: only training moves them.
    return system.replace(updates={}, precision=setup.precision)


def prediction(setup: Setup) -> System:
    """The model's results for a batch of its inputs."""
    system = elaborate_trained_model(setup, training=False).model.system()
    return system.replace(updates={}, precision=setup.precision)


def decoding(predicted: System, tokens: str, logits: str) -> tuple[System, System]:
    """`decode_first` and `decode_next`: a prediction for tokens [1, T] evaluated position by
    position. The first computes what is the same at all positions and gives it to the second, whose
    inputs are `position` and one token, and whose states are what later positions read.

    Raises NotIncremental if the logits [1, T, n] cannot be computed so.
    """
    return once(incremental_decoding(predicted, tokens, 1, logits), tokens)
