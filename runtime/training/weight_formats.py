"""Formats of the weights that a model predicts with: f16, bf16, and 8 bits.

In: systems and values as training has them. Out: the same in the format. Training has no formats:
it goes on with all bits. With weights in 8 bits activations are, too, by the ranges that they have
over some examples (`calibration.py`). Tests: tests/runtime/test_weight_formats.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...compiler.ir.dtypes import F16_END
from ...compiler.ir.equation import System
from ...compiler.passes.equations.quantize import Bounds
from ...compiler.passes.equations.weight_storage import store_weights
from ...compiler.pipeline import quantized
from ...compiler.reference.evaluator import evaluate
from ...dsl.diagnostics.diagnostic import Diagnostic, UserError

HALVES = ("f16", "bf16")
FORMATS = (*HALVES, "int8")  # by the names that the command line has for them


class WeightFormat(Protocol):
    """How predictions and evaluations have their weights."""

    @property
    def name(self) -> str: ...

    def system(self, system: System) -> System:
        """A prediction or an evaluation that reads such weights."""

    def values(self, values: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """What it reads, from the values of training. UserError E0725 if some do not fit."""


@dataclass(frozen=True)
class HalfFormat:
    """Numbers of 16 bits, rounded to nearest, ties to even: `name` is f16 or bf16."""

    name: str

    def system(self, system: System) -> System:
        return store_weights(system, self.name)

    def values(self, values: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        if self.name == "f16":
            _check_range(values)
        return values


def _check_range(values: Mapping[str, np.ndarray]) -> None:
    """UserError E0725 for each param with a finite number that would become infinite."""
    beyond = _first_where(values, lambda a: np.isfinite(a) & (np.abs(a) >= F16_END))
    found = [
        Diagnostic(
            "E0725",
            f"{where} is {value:.6g}, beyond the numbers of f16",
            help="f16 ends at 65,504; `--weights bf16` has the range of f32",
        )
        for where, value in beyond
    ]
    if found:
        raise UserError(found)


def _first_where(
    values: Mapping[str, np.ndarray], wrong: Callable[[np.ndarray], np.ndarray]
) -> Iterator[tuple[str, float]]:
    """The first element of each array of floats for which something holds, by what it is called,
    and its value."""
    for name, array in values.items():
        if array.dtype.kind != "f":
            continue
        places = np.argwhere(wrong(array))
        if len(places):
            place = tuple(places[0])
            where = f"`{name}[{', '.join(map(str, place))}]`" if place else f"`{name}`"
            yield where, float(array[place])


class Int8Format:
    """Whole numbers of 8 bits, and activations of 8 bits by their `bounds`, for the computation of
    a model's results (`passes/equations/quantize.py`)."""

    name = "int8"

    def __init__(self, prediction: System, bounds: Bounds):
        self._results, self.bounds = prediction.outputs, bounds
        self.quantized = quantized(prediction, self._results, bounds)

    def system(self, system: System) -> System:
        return quantized(system, self._results, self.bounds).system

    def values(self, values: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        preparation = self.quantized.preparation
        used = {n: v for n, v in values.items() if n in preparation.tensors}
        found = [
            Diagnostic(
                "E0725", f"{where} is {value:.6g}, which no whole number of 8 bits stands for"
            )
            for where, value in _first_where(used, lambda array: ~np.isfinite(array))
        ]
        if found:
            raise UserError(found)
        arrays = evaluate(preparation, used)
        return {**values, **{name: arrays[name] for name in preparation.outputs}}
