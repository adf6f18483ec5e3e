"""Formats of the weights that a model predicts with: f16 and bf16.

In: systems and values as training has them. Out: the same in the format. Training has no formats:
it goes on with all bits. Tests: tests/runtime/test_weight_formats.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...compiler.ir.dtypes import F16_END
from ...compiler.ir.equation import System
from ...compiler.passes.equations.weight_storage import store_weights
from ...dsl.diagnostics.diagnostic import Diagnostic, UserError

HALVES = ("f16", "bf16")
FORMATS = HALVES  # by the names that the command line has for them


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
    found = []
    for name, array in values.items():
        if array.dtype.kind != "f":
            continue
        size = np.where(np.isfinite(array), np.abs(array), 0)
        if size.size and size.max() >= F16_END:
            place = np.unravel_index(size.argmax(), size.shape)
            where = f"`{name}[{', '.join(map(str, place))}]`" if place else f"`{name}`"
            found.append(
                Diagnostic(
                    "E0725",
                    f"{where} is {array[place]:.6g}, beyond the numbers of f16",
                    help="f16 ends at 65,504; `--weights bf16` has the range of f32",
                )
            )
    if found:
        raise UserError(found)


def format_of(name: str | None) -> WeightFormat | None:
    """The format that the command line names; None for that of training."""
    return None if name is None else HalfFormat(name)
