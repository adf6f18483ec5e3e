"""Programs of one model for every purpose and batch size, and the one set of values they pass on.

In: a `Setup` and a device. Out: programs ready to run, each compiled when first asked for. The
last batch of an epoch is often shorter: it gets a program of its own, so that it is exact. Only
when the size changes are params and states copied from one program's memory to the other's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from ..compiler.initialise import initial_values
from ..compiler.ir import System
from ..compiler.training import Setup, evaluation, prediction, training_step
from ..dsl import syntax as s
from ..dsl.diagnostics import Report
from .device import Device, Program
from .feeding import Examples, fields_of, fill
from .project import for_batch

Values = dict[str, np.ndarray]


class Bound:
    """A program with what the loop touches at every step, looked up once."""

    def __init__(self, system: System, program: Program, seed: int, measured: tuple[str, ...]):
        self.system, self.program = system, program
        arrays = program.arrays
        self.kept = {t.name: arrays[t.name] for t in system.tensors.values()
                     if t.kind in ("param", "state")}  # fmt: skip
        self.fields = [(t.name, arrays[t.name]) for t in fields_of(system)]
        pairs = zip(measured, system.outputs, strict=False)  # none are measured in a prediction
        self.measured = [(name, arrays[output]) for name, output in pairs]
        self.results = {name: arrays[name] for name in system.outputs}
        self.step = arrays.get("step", np.zeros((), np.int32))
        if "seed" in arrays:
            arrays["seed"][...] = seed

    def run(self, examples: Examples, rows: np.ndarray, step: int) -> dict[str, float]:
        """One run on these rows; the loss and the metrics by name."""
        fill(self.fields, examples.split, rows)
        self.step[...] = step
        self.program.run()
        return {name: array.item() for name, array in self.measured}

    def adopt(self, values: Mapping[str, np.ndarray]) -> None:
        """Take over params and states from elsewhere, those that it has."""
        for name, array in self.kept.items():
            np.copyto(array, values[name])


class Executor:
    """All programs of a model. Steps count from 1. Nothing is compiled before it is asked for."""

    def __init__(self, setup: Setup, device: Device, seed: int):
        self.setup, self.device, self.seed = setup, device, seed
        self._programs: dict[tuple[str, int], Bound] = {}
        metrics = (i.name.id for i in setup.train.body if isinstance(i, s.Metric))
        self.measured = ("loss", *metrics)  # the order of the systems' outputs
        self.report = Report()  # of what is doubtful in the program
        self.system, drawn = training_step(setup, self.report)
        self._values: Mapping[str, np.ndarray] = initial_values(self.system, drawn, seed)

    @property
    def values(self) -> Mapping[str, np.ndarray]:
        """Params and states as they are now; the next training step may change the arrays."""
        return self._values

    @cached_property
    def weight_names(self) -> tuple[str, ...]:
        """The params, and the states that are the model's own rather than the optimizer's."""
        tensors = prediction(for_batch(self.setup, 1)).tensors.values()
        return tuple(t.name for t in tensors if t.kind in ("param", "state"))

    def weights(self) -> Values:
        """A copy of the params and the model's states."""
        return {name: self.values[name].copy() for name in self.weight_names}

    def restore(self, values: Mapping[str, np.ndarray]) -> None:
        """Give params and states these values; those that are missing stay."""
        for name, array in values.items():
            np.copyto(self._values[name], array)

    def training(self, batch: int) -> Bound:
        """The training step for a batch, holding the current values, which its runs change."""
        found = self._programs.get(("train", batch))
        if found is None:
            own = batch == self.setup.batch
            system = self.system if own else training_step(for_batch(self.setup, batch))[0]
            found = self._bound("train", batch, system)
        if found.kept is not self._values:
            found.adopt(self._values)
            self._values = found.kept
        return found

    def evaluation(self, batch: int) -> Bound:
        """Loss and metrics of a batch under a copy of the current values."""
        return self._other("evaluate", batch, evaluation)

    def prediction(self, batch: int) -> Bound:
        """The model's results for a batch under a copy of the current values."""
        return self._other("predict", batch, prediction)

    def _other(self, purpose: str, batch: int, elaborate) -> Bound:
        found = self._programs.get((purpose, batch))
        if found is None:
            found = self._bound(purpose, batch, elaborate(for_batch(self.setup, batch)))
        found.adopt(self._values)
        return found

    def _bound(self, purpose: str, batch: int, system: System) -> Bound:
        measured = () if purpose == "predict" else self.measured
        bound = Bound(system, self.device(system), self.seed, measured)
        self._programs[purpose, batch] = bound
        return bound


EVALUATION_BATCH = 256


def evaluation_batch(count: int) -> int:
    """How many examples to evaluate at once: a divisor of `count` if a large one exists, so that
    one program serves all."""
    if count <= EVALUATION_BATCH:
        return count
    for size in range(EVALUATION_BATCH, EVALUATION_BATCH // 2, -1):
        if count % size == 0:
            return size
    return EVALUATION_BATCH
