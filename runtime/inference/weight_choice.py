"""Which format of weights `--weights` and `--calibrate` mean.

In: their texts, an executor with its weights, where its data are. Out: a format. The ranges of 8
bits are those over some examples of the validation data, or else of the training data, or over
what a file holds. Tests: tests/runtime/test_int8.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ...dsl.diagnostics.diagnostic import fail
from ..data import Dataset, Split
from ..training.batch_inputs import Examples, all_examples, check_indices, split_examples
from ..training.calibration import EXAMPLES, int8_format
from ..training.executor import Executor
from ..training.weight_formats import HalfFormat, WeightFormat
from .given_files import Given
from .predict import Inputs

# a number of examples, or what a file holds; None: as many as usual
Calibration = int | Given | None


def format_of(
    name: str | None,
    calibration: Calibration,
    executor: Executor,
    weights: Mapping[str, np.ndarray],
    validation: float,
    data: Callable[[], Dataset | None],
) -> WeightFormat | None:
    """The format of this name, None for that of training. `data` reads the data of the program,
    None if it has none, of which `validation` is held back.

    UserError E0725 without examples, and as `int8_format`; E0708 for arrays that do not fit.
    """
    if name is None:
        return None
    if name != "int8":
        return HalfFormat(name)
    if isinstance(calibration, Given):
        arrays = Inputs(executor, None).checked(calibration.arrays, calibration.origin)
        return int8_format(executor, weights, all_examples(Split(arrays, calibration.scale)))
    dataset = data()
    if dataset is None:
        raise fail(
            "E0725",
            "weights in 8 bits take examples to calibrate with, and the program has no data",
            help="`--calibrate FILE` names arrays of the inputs, .npy or .npz",
        )
    check_indices(executor.system, dataset)
    examples = spread(split_examples(dataset, validation), calibration)
    return int8_format(executor, weights, examples)


def spread(parts: Mapping[str, Examples], count: int | None) -> Examples:
    """So many examples, from the first to the last of the validation data, or of those of
    training: data may be sorted."""
    own = parts.get("validation") or parts["train"]
    most = min(EXAMPLES if count is None else count, len(own))
    return Examples(own.split, own.rows[np.linspace(0, len(own) - 1, most).astype(np.int64)])
