"""How far predicted numbers are from the true ones.

In: predictions and targets. Out: `Residuals`, whose parts are computed when they are asked for, and
the same for JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
SEVERAL = 20  # outputs that have a row each


@dataclass(frozen=True)
class OutputRow:
    """One output: R² = 1 - Σ(y - ŷ)²/Σ(y - ȳ)², None where y is constant; the mean absolute error,
    the root of the mean squared error, and quantiles of the residuals y - ŷ."""

    name: str
    r2: float | None
    mae: float
    rmse: float
    quantiles: tuple[float, ...]


@dataclass(frozen=True)
class FarExample:
    """An example by its number in the data: the root of its mean squared error; with one output,
    the true and the predicted number."""

    index: int
    error: float
    true: float | None
    predicted: float | None


@dataclass(frozen=True, eq=False)
class Residuals:
    """[n] numbers of the examples, [n, outputs] targets and predictions, and names of the
    outputs."""

    field: str
    names: Sequence[str]
    indices: np.ndarray
    targets: np.ndarray
    predicted: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def rows(self) -> list[OutputRow]:
        """A row for each output if there are few, and one for all of them together."""
        y, found = self.targets, self.predicted
        rows = []
        if 1 < y.shape[1] <= SEVERAL:
            rows = [_row(name, y[:, k], found[:, k]) for k, name in enumerate(self.names)]
        return [*rows, _row("all" if rows else self.field, y.reshape(-1), found.reshape(-1))]

    def worst(self, count: int) -> list[FarExample]:
        """The examples that are furthest off."""
        errors = np.sqrt(((self.targets - self.predicted) ** 2).mean(1))
        single = self.targets.shape[1] == 1
        return [
            FarExample(
                int(self.indices[n]),
                float(errors[n]),
                float(self.targets[n, 0]) if single else None,
                float(self.predicted[n, 0]) if single else None,
            )
            for n in np.argsort(-errors, kind="stable")[:count]
        ]

    def plain(self, worst: int) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "kind": "regression",
            "field": self.field,
            "examples": len(self),
            "outputs": [
                {
                    "name": row.name,
                    "r2": row.r2,
                    "mae": row.mae,
                    "rmse": row.rmse,
                    "residuals": {
                        f"{q:.0%}": value for q, value in zip(QUANTILES, row.quantiles, strict=True)
                    },
                }
                for row in self.rows
            ],
            "worst": [
                {name: value for name, value in vars(one).items() if value is not None}
                for one in self.worst(worst)
            ],
        }


def _row(name: str, targets: np.ndarray, predicted: np.ndarray) -> OutputRow:
    off = targets - predicted
    spread = float(((targets - targets.mean()) ** 2).sum())
    return OutputRow(
        name,
        1 - float((off**2).sum()) / spread if spread > 0 else None,
        float(np.abs(off).mean()),
        float(np.sqrt((off**2).mean())),
        tuple(map(float, np.quantile(off, QUANTILES))),
    )
