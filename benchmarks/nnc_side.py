"""nnc as one of the systems that are compared, and the source of weights and data for the others.

In: a workload. Out: a `Runner` with `step`, `reset` and `loss`.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from products import PRODUCTS
from workloads import Workload

from nnc.compiler.elaboration.model import forward
from nnc.compiler.ir.equation import Equation, System
from nnc.dsl.check.checker import load_source
from nnc.dsl.diagnostics.diagnostic import Report
from nnc.dsl.syntax.source import Source
from nnc.runtime.assignments import Assignment
from nnc.runtime.device import DEVICES
from nnc.runtime.device.data_inputs import fields_of
from nnc.runtime.inspect.bench import fill_random
from nnc.runtime.project import project_of_text, setup_of
from nnc.runtime.training.bound_program import BoundProgram
from nnc.runtime.training.executor import Executor

SEED = 1
LONGEST = 128  # steps of a sequence that comes with its length


def executor_of(workload: Workload, threads: int) -> Executor:
    """The programs of a workload's model."""
    batch = [Assignment("batch", str(workload.batch))]
    project = project_of_text(workload.text, f"{workload.model}.nn", None, batch)
    return Executor(setup_of(project, None), DEVICES["cpu"](threads), SEED)


def work(equations: Iterable[Equation], system: System) -> float:
    """10^9 operations in products."""
    from nnc.compiler.ir.work import flops  # no part of a start

    return sum(flops(equation, system) for equation in equations) / 1e9


class Runner:
    """A training step or a prediction on fixed data."""

    def __init__(self, workload: Workload, threads: int):
        self.executor = executor_of(workload, threads)
        self.training = workload.kind == "train"
        self.first = {name: array.copy() for name, array in self.executor.values.items()}
        self.borrowed = ExitStack()
        self.bound: BoundProgram = (
            self.executor.training(workload.batch)
            if self.training
            else self.borrowed.enter_context(self.executor.prediction(workload.batch))
        )
        rng = np.random.default_rng(SEED)
        fill_random(self.bound.system, dict(self.bound.fields), rng)
        for name, array in self.bound.fields:
            if name == "length":  # of a sequence: from half of it on
                array[...] = rng.integers(LONGEST // 2, LONGEST + 1, array.shape)
        self.number, self.rows = 0, np.arange(workload.batch)

    def step(self) -> None:
        self.number += 1
        self.bound.step[...] = self.number
        self.bound.compute(self.rows, self.number)

    def loss(self) -> float:
        """Of the last step; for a prediction how large its results are."""
        return float(np.mean(np.abs(next(iter(self.bound.results.values())))))

    def reset(self) -> None:
        """Back to the first weights."""
        self.bound.load(self.first)
        self.number = 0

    @property
    def gflop(self) -> float:
        """Of a step. Asked for after the first one: deriving the gradients takes as long as a
        cached start."""
        from nnc.compiler.pipeline import derive

        derived = derive(self.bound.system)
        return work(derived.equations, derived)

    @property
    def gbyte(self) -> float:
        """At the least: all values and data once, and of a training step all new values."""
        values = sum(array.nbytes for array in self.bound.values.values())
        data = sum(array.nbytes for _, array in self.bound.fields)
        return (values * (2 if self.training else 1) + data) / 1e9

    @property
    def arena(self) -> int:
        return getattr(self.bound.program, "plan", None) and self.bound.program.plan.arena_bytes

    def export(self, path: Path) -> None:
        """The data, and the first weights in the order of their declaration."""
        names = [t.name for t in self.executor.system.of_kind("param")]
        weights = {f"weight{n:03}": self.first[name] for n, name in enumerate(names)}
        np.savez(path, **weights, **dict(self.bound.fields))


class ProductRunner:
    """One sum of products."""

    def __init__(self, workload: Workload, threads: int):
        from nnc.compiler.passes.equations.simplify import simplify

        product = PRODUCTS[workload.model]
        report = Report()
        checked = load_source(Source("product.nn", product.text), report)
        report.check()
        system = simplify(forward(checked.definitions, "Product", {}))
        self.program = DEVICES["cpu"](threads)(system)
        rng = np.random.default_rng(SEED)
        self.inputs = {t.name: self.program.arrays[t.name] for t in fields_of(system)}
        for array in self.inputs.values():
            array[...] = rng.uniform(-1, 1, array.shape)
        self.result = self.program.arrays["y"]
        self.gflop, self.arena = product.flops / 1e9, self.program.plan.arena_bytes
        self.gbyte = sum(array.nbytes for array in (*self.inputs.values(), self.result)) / 1e9
        self.step = self.program.run

    def loss(self) -> float:
        """A number that is wrong if the result is."""
        return float(np.mean(np.abs(self.result)))

    def reset(self) -> None:
        """Nothing changes."""

    def export(self, path: Path) -> None:
        np.savez(path, **self.inputs)
