"""Whether numbers lose distinctions where data are exact and a model computes in f32.

In: the program and the data. Out: warnings. Nothing is changed: who reads them computes in f64, or
subtracts what the numbers have in common. Tests: tests/runtime/test_exact_data.py.
"""

from __future__ import annotations

import numpy as np

from ...compiler.ir.equation import System
from ...dsl.diagnostics.diagnostic import Diagnostic
from ..data import Dataset
from ..device.data_inputs import fields_of

LOOKED_AT = 1 << 20  # numbers of a field that are looked at for lost distinctions
MOST_LOST = 0.01  # of the different numbers of a column; random digits at its end meet by chance
LISTED = 3  # columns in a message
WIDE = ("f8", "i8", "i4", "u4")  # types that hold numbers which f32 rounds


def narrowing_warnings(system: System, dataset: Dataset) -> list[Diagnostic]:
    """W0601 for every field whose numbers, exact as they are stored, are not told apart any more in
    the type that the model computes in: times since 1970, longitudes, large ids."""
    found = []
    for tensor in fields_of(system):
        stored, exact = dataset.train.arrays[tensor.name], dataset.train.scale.get(tensor.name)
        if tensor.dtype != "f32" or stored.dtype.str[1:] not in WIDE or exact is not None:
            continue
        # The last axis counts the columns of a table; of anything larger, all numbers are one.
        columns = stored.shape[1] if stored.ndim == 2 else 1
        rows = max(1, LOOKED_AT // max(1, int(np.prod(stored.shape[1:]))))
        first = np.asarray(stored[:rows]).reshape(-1, columns)
        lost = {column: _lost(first[:, column]) for column in _inexact(first)}
        names = dataset.columns.get(tensor.name, ())
        told = [f"in column `{names[c]}` {t}" if names else t for c, t in lost.items() if t]
        if told:
            more = f"; {len(told) - LISTED} other columns, too" if len(told) > LISTED else ""
            found.append(
                Diagnostic(
                    "W0601",
                    f"f32 does not tell the numbers of `{tensor.name}` apart: "
                    + "; ".join(told[:LISTED])
                    + more,
                    tensor.span,
                    help='compute with `float = "f64"`, or subtract what they have in common',
                )
            )
    return found


def _inexact(values: np.ndarray) -> np.ndarray:
    """The columns of [rows, columns] in which f32 rounds a number."""
    with np.errstate(over="ignore"):
        return np.flatnonzero((values.astype(np.float32) != values).any(axis=0))


def _lost(values: np.ndarray) -> str:
    """What of a column's numbers f32 loses, in words; empty if it is nothing but digits."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    # Beyond 2^53, f64 itself holds no fractions: such a number says nothing of what it counts.
    counts = (np.floor(values) == values) & (np.abs(values) <= 1 << 53)
    if counts.all() or values.dtype.kind != "f":
        place = int(np.argmax(rounded != values))
        return f"the whole number {int(values[place])} becomes {rounded[place]:.0f}"
    # Rounding keeps the order, so one sort serves both.
    order = np.sort(values)
    different = _different(order)
    with np.errstate(over="ignore"):
        left = _different(order.astype(np.float32))
    if different - left <= MOST_LOST * different:
        return ""
    return f"{different:,} different numbers become {left:,}"


def _different(order: np.ndarray) -> int:
    """How many different numbers there are, in ascending order."""
    return 1 + int(np.count_nonzero(order[1:] != order[:-1]))
