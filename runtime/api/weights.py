"""How often examples are drawn: weights of examples and of classes, for imbalanced data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np

from ...dsl.diagnostics.diagnostic import fail
from ..data import Dataset
from ..draw_choice import balanced_weights
from .arrays import Array, as_array

ClassWeight: TypeAlias = Mapping[int, float] | Literal["balanced"]


def example_weights(
    dataset: Dataset, sample_weight: Array | None, class_weight: ClassWeight | None
) -> np.ndarray | None:
    """The weight of every training example, f64 [n]; None if all count alike. UserError E0708 for
    weights that are none, or not one for each example."""
    found = np.ones(len(dataset.train))
    if sample_weight is not None:
        found *= _given(sample_weight, len(found))
    if class_weight is not None:
        found *= _by_class(dataset, class_weight)
    if not found.any():
        raise fail("E0708", "all weights are 0: no example is left to train on")
    return None if (found == found[0]).all() else found


def _given(sample_weight: Array, count: int) -> np.ndarray:
    array = as_array("sample_weight", sample_weight).astype(np.float64)
    if array.shape != (count,):
        shape = list(array.shape)
        raise fail("E0708", f"`sample_weight` is {shape}, and there are {count:,} examples")
    wrong = np.flatnonzero(~(np.isfinite(array) & (array >= 0)))
    if len(wrong):
        number = array[wrong[0]]
        raise fail("E0708", f"`sample_weight` is {number} at {wrong[0]}: weights are 0 or more")
    return array


def _by_class(dataset: Dataset, class_weight: object) -> np.ndarray:
    labels = [a for a in dataset.train.arrays.values() if a.dtype.kind in "iub" and a.ndim == 1]
    if len(labels) != 1:
        raise fail(
            "E0708",
            f"`class_weight` goes by one label for each example, and the data have {len(labels)}",
            help="`sample_weight` takes a weight for each example",
        )
    if isinstance(class_weight, str) and class_weight == "balanced":
        return balanced_weights(np.asarray(labels[0]))
    classes, numbers = np.unique(labels[0], return_inverse=True)
    if not isinstance(class_weight, Mapping):
        raise fail(
            "E0708",
            f"`class_weight` is {class_weight!r}",
            help='it is "balanced", or a dictionary such as `{0: 1, 1: 5}`',
        )
    weights = np.array([class_weight.get(int(c), 1) for c in classes], np.float64)
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise fail("E0708", "`class_weight` has numbers that are no weights: they are 0 or more")
    return weights[numbers]
