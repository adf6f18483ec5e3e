"""Texts that are shorter than the windows that a model was trained on.

In: a trained model and the numbers of tokens. Out: nothing, or a mistake. A language model has no
padding in training; what stands behind a text makes no difference to it if no position depends on
later ones, which is tried with two fillings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...compiler.programs import prediction
from ...dsl.diagnostics.diagnostic import UserError, fail
from ..project import with_batch
from ..training.executor import Executor
from .generate import check_causal, text_roles


def check_padding(
    executor: Executor, lengths: np.ndarray, width: int, names: Sequence[str]
) -> None:
    """UserError E0708 if a text has fewer tokens than the `width` of the windows that a model was
    trained on, and its positions depend on later ones."""
    shortest = int(np.argmin(lengths))
    if lengths[shortest] == width:
        return
    system = prediction(with_batch(executor.setup, 1))
    try:
        for roles in text_roles(system):
            check_causal(system, roles, executor.weights(), executor.device)
    except UserError as error:
        found, why = lengths[shortest], error.diagnostics[0].message
        raise fail(
            "E0708",
            f"{names[shortest]} has {found} tokens, and the model was trained on {width}: {why}",
            help="give texts of exactly that length, or tokens as arrays: .npy",
        ) from None
