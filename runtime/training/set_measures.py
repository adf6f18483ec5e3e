"""The loss and the metrics of a set of examples, from what its batches hand over.

In: for every batch, the parts of `compiler/ir/aggregates.py`. Out: the numbers of the whole set,
the same for any division into batches but for rounding. Parts are collected in float64 and whole
numbers; what is computed from them is computed in float64.

Tests: tests/runtime/test_set_measures.py, tests/fuzzers/metrics.py.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from ...compiler.elaboration.train_block import Setup
from ...compiler.ir.aggregate_terms import Part
from ...compiler.ir.aggregates import Aggregates
from ...compiler.ir.dtypes import NUMPY
from ...compiler.reference.evaluator import evaluate
from ...dsl.diagnostics.diagnostic import Diagnostic, UserError
from ..compiling import compiled_once, compiling
from ..device import Device, Program
from .kept_programs import last_stage_of, measured
from .program_pool import ProgramPool

# Of a measure that has to see all examples at once. Beyond, it is the mean over the batches.
MOST_BYTES = 2**30  # of the values that are kept, and of what is computed from them
MOST_POINTS = 2 * 10**10  # points of the equations computed from them: tens of seconds
FEW_POINTS = 2 * 10**6  # that NumPy computes sooner than code is compiled

Value = Any  # a number or an array; of rows, a list of arrays


@dataclass
class Totals:
    """What the batches of a set have handed over so far, by the names of the parts, and the number
    of their examples. `before` has the sums over examples that nnc 0.1.0 kept of the loss and the
    metrics, and their number, for an epoch that began with it."""

    values: dict[str, Value] = field(default_factory=dict)
    count: int = 0
    before: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As what JSON can hold, to the bit."""
        values = {name: _plain(value) for name, value in self.values.items()}
        return {"values": values, "count": self.count, "before": self.before}

    @staticmethod
    def of_plain(plain: Mapping[str, Any]) -> Totals:
        """What `plain` gave. ValueError, KeyError, TypeError, AttributeError for anything else."""
        values = {name: _of_plain(value) for name, value in plain["values"].items()}
        return Totals(values, plain["count"], plain["before"])


def _plain(value: Value) -> Any:
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if not isinstance(value, np.ndarray):
        return value
    data = b64encode(np.ascontiguousarray(value).tobytes()).decode()
    return {"dtype": value.dtype.str, "shape": list(value.shape), "data": data}


def _of_plain(plain: Any) -> Value:
    if isinstance(plain, list):
        return [_of_plain(v) for v in plain]
    if not isinstance(plain, dict):
        return plain + 0  # a number
    found = np.frombuffer(b64decode(plain["data"]), plain["dtype"])
    return found.reshape(plain["shape"]).copy()


class SetMeasures:
    """Loss and metrics of sets, by `names`, in training or in evaluation; `known` holds what is
    found out about either."""

    def __init__(
        self,
        setup: Setup,
        training: bool,
        names: Sequence[str],
        device: Device,
        known: list[Aggregates],
    ):
        self.setup, self.training, self.names, self.device = setup, training, names, device
        self._known = known
        self._stages: dict[tuple[int, bool], _LastStage] = {}

    @compiled_once
    def aggregates(self) -> Aggregates:
        # Most models do the same in both, and finding out takes two elaborations.
        found = next((each for each in self._known if not each.phased), None)
        if found is None:
            found = measured(self.setup, self.training)
            self._known.append(found)
        return found

    @compiled_once
    def _handed(self) -> list[tuple[str, str]]:
        return [(part.name, part.kind) for part in self.aggregates.handed]

    @compiled_once
    def _sums(self) -> list[str]:
        """The names of the parts if all of them are sums."""
        names = [name for name, kind in self._handed if kind == "sum"]
        return names if len(names) == len(self._handed) else []

    def add(self, totals: Totals, values: Sequence[Value], examples: int, of: int) -> None:
        """Add what a batch of so many examples has handed over, for a set of `of` examples."""
        before, after = totals.values, totals.count + examples
        if self._sums and totals.count:  # the most frequent case, and this is part of every step
            for name, value in zip(self._sums, values, strict=False):
                before[name] += value
            totals.count = after
            return
        for (name, kind), value in zip(self._handed, values, strict=True):
            if kind == "rows":
                if self._stage(of, True).fits:
                    before.setdefault(name, []).append(value)
            elif not totals.count:
                before[name] = _wide(value)
            elif kind == "sum":
                before[name] = before[name] + value
            elif kind == "mean":
                # in this form, the mean of equal values is that value to the bit
                before[name] = before[name] + (value - before[name]) * (examples / after)
            else:
                before[name] = _COMBINE[kind](before[name], value)
        totals.count = after

    def fit(self, totals: Totals) -> bool:
        """Whether they are of these parts: another version may hand over others."""
        rows = {name for name, kind in self._handed if kind == "rows"}
        return {*totals.values} in (
            {n for n, _ in self._handed} - missing for missing in (set(), rows)
        )

    def values(self, totals: Totals) -> dict[str, float]:
        """The loss and the metrics of the set by name; empty for no examples."""
        if not totals.count:
            return {}
        rows = all(name in totals.values for name, kind in self._handed if kind == "rows")
        found = self._stage(totals.count, rows).compute(totals.values)
        values = dict(zip(self.names, found, strict=True))
        if totals.before:
            sums, count = totals.before["sums"], totals.before["count"]
            for name in values.keys() & sums.keys():
                both = sums[name] + values[name] * totals.count
                values[name] = both / (count + totals.count)
        return values

    def warnings(self, examples: int) -> list[Diagnostic]:
        """W0703 for what is not measured over so many examples at once."""
        found = self.aggregates
        large = bool(found.holistic) and not self._stage(examples, True).fits
        names = dict(zip(found.measures, self.names, strict=True))
        reason = f"compares examples with each other, and {examples:,} are too many for that"
        return [
            self._warning(names[m], "is only known for single batches") for m in found.divided
        ] + [self._warning(names[m], reason) for m in found.holistic if large]

    def _warning(self, name: str, reason: str) -> Diagnostic:
        items = self.setup.train.measures
        span = next((i.value.span for i in items if i.name.id == name), None)
        return Diagnostic(
            "W0703",
            f"`{name}` {reason}",
            span,
            label="shown as the mean over the batches",
            help="its value depends on the batch size; measure a part of the data, or write it "
            "with sums over the examples",
        )

    def _stage(self, examples: int, rows: bool) -> _LastStage:
        found = self._stages.get((examples, rows))
        if found is None:
            with compiling():
                # Another thread may have made it while this one waited for its turn.
                if (examples, rows) not in self._stages:
                    self._stages[examples, rows] = _LastStage(self, examples, rows)
                found = self._stages[examples, rows]
        return found


_COMBINE: dict[str, Callable[[Value, Value], Value]] = {
    "prod": lambda a, b: a * b,
    "max": np.maximum,
    "min": np.minimum,
    "last": lambda a, b: b,
}


class _LastStage:
    """What computes the measures of a set of so many examples; without `rows`, those that would
    need them are means of batches. It `fits` if it is not too much memory or work."""

    def __init__(self, measures: SetMeasures, examples: int, rows: bool):
        whole = measures.aggregates
        self.device = measures.device
        self.aggregates = whole if rows else whole.without(whole.holistic)
        try:
            self.system = last_stage_of(
                measures.setup, measures.training, self.aggregates, examples
            )
        except UserError:  # the program is wrong for so many examples
            self.aggregates = whole.without(whole.measures)
            self.system = last_stage_of(measures.setup, measures.training, self.aggregates, 1)
        self.points = sum(prod(i.size for i in eq.domain) for eq in self.system.equations)
        taken = sum(tensor.bytes for tensor in self.system.tensors.values())
        self.fits = taken <= MOST_BYTES and self.points <= MOST_POINTS

    @compiled_once
    def _programs(self) -> ProgramPool[Program]:
        return ProgramPool(self.device(self.system))

    def compute(self, totals: Mapping[str, Value]) -> list[float]:
        """The measures from the parts, in order."""
        outputs = self.system.outputs
        if self.points > FEW_POINTS:
            with self._programs.lend() as program:
                self._fill(program.arrays, totals)
                program.run()
                return [float(program.arrays[measure]) for measure in outputs]
        inputs = self.system.of_kind("input")
        given: dict[str, np.ndarray] = {t.name: np.empty(t.shape, NUMPY[t.dtype]) for t in inputs}
        self._fill(given, totals)
        found = evaluate(self.system, given)
        return [float(found[measure]) for measure in outputs]

    def _fill(self, arrays: Mapping[str, np.ndarray], totals: Mapping[str, Value]) -> None:
        """Write what the batches have handed over into the inputs."""
        for part in self.aggregates.parts:
            # a measure that is not needed for the others may have parts of its own
            if part.name in self.system.tensors:
                _write(arrays[part.name], totals[part.name], part)


def _write(array: np.ndarray, value: Value, part: Part) -> None:
    if part.kind != "rows":
        array[...] = value
        return
    along, begin = np.moveaxis(array, part.axis, 0), 0
    for rows in value:  # one after the other: all of them together are a copy too many
        rows = np.moveaxis(rows, part.axis, 0)
        along[begin : begin + len(rows)] = rows
        begin += len(rows)


def _wide(value: Value) -> Value:
    """An array of a type in which many can be added up."""
    if not isinstance(value, np.ndarray):
        return value
    return value.astype({"f": np.float64, "i": np.int64}.get(value.dtype.kind, value.dtype))
