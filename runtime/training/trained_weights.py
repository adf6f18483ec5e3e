"""The weights of a run, for who evaluates or predicts with them: those that it keeps, or, where it
was interrupted before there were any, those of its last checkpoint.

With `keep = "last"` a checkpoint that is newer than the kept weights has the last ones.
Tests: tests/runtime/test_interrupted_runs.py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from ...dsl.diagnostics.diagnostic import Diagnostic, UserError, fail
from .checkpoints import Position
from .executor import Executor, Values
from .run_folder import RunFolder


class TrainedWeights(NamedTuple):
    """Weights by name, the step that they are of, what is to be told of a run that was interrupted
    (empty for others), and warnings about damaged checkpoints."""

    weights: Values
    step: int
    remark: str = ""
    warnings: Sequence[Diagnostic] = ()


def trained_weights(folder: RunFolder, executor: Executor, keep: str) -> TrainedWeights:
    """The weights of a run whose program says `keep`. UserError E0706 if there are none, or if they
    are damaged."""
    kept = None
    if os.path.lexists(folder.weights_file):
        kept = TrainedWeights(*folder.read_weights_and_step(executor.weight_forms()))
        steps = folder.checkpoints.steps()
        if keep != "last" or not steps or steps[-1] <= kept.step:
            return kept
    try:
        values, position, warnings = folder.checkpoints.read(executor.values)
    except UserError:
        if kept is None:
            raise
        return kept
    if position is not None and _newest(position, keep):
        remark = f"{folder.path} was interrupted: these are the weights of its last checkpoint, "
        remark += f"after step {position.step}"
        return TrainedWeights(executor.weights_of(values), position.step, remark, warnings)
    if kept is not None:
        return kept
    if position is None:
        message = f"{folder.path} has no weights: it stopped before its first checkpoint"
        raise fail("E0706", message, help=f"`nnc train --resume {folder.path}` begins anew")
    # Those of the best epoch are lost; others in their place would be other results.
    return TrainedWeights(*folder.read_weights_and_step(executor.weight_forms()))


def _newest(position: Position, keep: str) -> bool:
    """Whether a checkpoint has the weights that the run would keep if it had stopped there."""
    return position.kept == 0 or (keep == "last" and position.kept < position.step)
