"""Calibration: between which bounds the operands of contractions lie, over some examples.

In: an executor with its weights, examples. Out: a format in which the activations of a model have 8
bits. Tests: tests/runtime/test_int8.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...compiler.elaboration.selection import WHOLE
from ...compiler.pipeline import operands_of_prediction
from ...compiler.programs import selected
from ...dsl.diagnostics.diagnostic import Diagnostic, UserError, fail
from ..device.data_inputs import fields_of
from ..project import with_batch
from .batch_inputs import Examples, fill_inputs
from .executor import Executor
from .weight_formats import Int8Format

EXAMPLES = 256  # from which the ranges are taken, unless something else is asked for
LEAST_RANGE = 2.0**-100  # whose reciprocal is a number of f32


def int8_format(
    executor: Executor, weights: Mapping[str, np.ndarray], examples: Examples
) -> Int8Format:
    """Weights in 8 bits, and activations by the bounds that they have for these examples.

    UserError E0725 if nothing of the model can be in 8 bits, or an operand is 0 or not finite.
    """
    count = len(examples)
    batch = min(executor.setup.batch, count)
    prediction = selected(with_batch(executor.setup, batch), WHOLE).system
    system, operands = operands_of_prediction(prediction)
    if not operands:
        raise fail(
            "E0725",
            f"nothing of `{prediction.name}` can be in 8 bits: it has no sums of products of "
            "parameters with activations in f32",
            help="`--weights bf16` halves its weights",
        )
    program = executor.device(system)
    arrays = program.arrays
    for tensor in system.tensors.values():
        if tensor.kind in ("param", "state"):
            arrays[tensor.name][...] = weights[tensor.name]
    for name, value in (("seed", executor.seed), ("step", 1)):
        if name in arrays:
            arrays[name][...] = value
    fields = [(t.name, arrays[t.name]) for t in fields_of(system)]
    found = {name: (np.inf, -np.inf) for name in operands}
    broken = set()
    for begin in range(0, count, batch):
        # The last batch may have examples of the one before it: that changes no bound.
        begin = min(begin, count - batch)
        fill_inputs(fields, examples.split, examples.rows[begin : begin + batch])
        program.run()
        for name, one in operands.items():
            least, greatest = (float(arrays[n]) for n in (one.least, one.greatest))
            found[name] = min(found[name][0], least), max(found[name][1], greatest)
            if arrays[one.broken]:
                broken.add(name)
    _check(found, broken, count)
    return Int8Format(prediction, found)


def _check(bounds: dict[str, tuple[float, float]], broken: set[str], count: int) -> None:
    """UserError E0725 with all operands that have no range."""
    of = f"{count} examples" if count > 1 else "example"
    wrong = [
        Diagnostic(
            "E0725",
            f"`{name}` is not finite for one of the {of} of calibration",
            help="NaN and infinity become no whole numbers; `nnc debug` finds where they begin",
        )
        if name in broken
        else Diagnostic(
            "E0725",
            f"`{name}` is 0 for the {of} of calibration, so that its range is not known",
            help="`--calibrate` names other examples, or another number of them",
        )
        for name, (least, greatest) in bounds.items()
        if name in broken or max(greatest, -least) < LEAST_RANGE
    ]
    if wrong:
        raise UserError(wrong)
