"""What the tests of the library share: small models from text, their values, their gradients.

Every model is computed in float64 by the reference evaluator. A model's `cost` is a number that
depends on every element of its result `y` in a way of its own.
"""

from __future__ import annotations

import zlib
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support import plan

from nnc.compiler.elaboration.model import forward
from nnc.compiler.ir.dtypes import NUMPY, is_float
from nnc.compiler.ir.equation import System
from nnc.compiler.ir.gradients import add_gradients
from nnc.compiler.ir.verify import verify
from nnc.compiler.passes.autodiff.differentiate import differentiate
from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.check.library import standard_library
from nnc.dsl.diagnostics.diagnostic import Report
from nnc.dsl.syntax import ast as s
from nnc.dsl.syntax.parser import parse
from nnc.dsl.syntax.source import Source
from nnc.runtime.device.cpu.program import CpuProgram

Arrays = dict[str, np.ndarray]
TOLERANCE = 1e-9
TOTAL = "fn total(y: [...]) -> r: [] { r = sum(...) (sin(2*y[...] + 0.3) + y[...]) }\n"


def torch_or_skip() -> Any:
    return pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")


def read(text: str) -> tuple[Mapping[str, s.Definition], s.File]:
    """The definitions that a program sees, its own first, and its tree."""
    report = Report()
    file = parse(Source("test.nn", text), report)
    report.check()
    own = {d.name: d for d in file.declarations if isinstance(d, s.Definition)}
    return ChainMap(own, standard_library()), file  # type: ignore[arg-type]


def model(text: str, training: bool = True, float_type: str = "f64") -> System:
    """The system of the model `M` of a program."""
    definitions, _ = read(text)
    system = forward(definitions, "M", {}, training=training, float_type=float_type)
    return verify(system, "forward")


def random_values(system: System, given: Mapping[str, Any], seed: str) -> Arrays:
    """The given arrays, and numbers around 0 (variances: around 1) for all else."""
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    values: Arrays = {}
    for tensor in system.tensors.values():
        if tensor.kind == "temp":
            continue
        drawn = rng.normal(size=tensor.shape)
        if tensor.name.endswith("running_var"):
            drawn = 0.5 + rng.random(tensor.shape)
        if tensor.name in ("seed", "step"):
            drawn = np.ones(())
        values[tensor.name] = np.asarray(given.get(tensor.name, drawn), NUMPY[tensor.dtype])
    return values


@dataclass(frozen=True)
class Case:
    """One use of a library entry. `inputs` are types, by name; `given` are the values that may not
    be any number. `reference` computes `y` by PyTorch from a namespace of inputs and parameters
    (by their names within the layer); it may be left out where there is nothing to compare with."""

    name: str
    y: str
    inputs: Mapping[str, str]
    reference: Callable[[Any, Any], Any] | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    training: bool = True
    definitions: str = ""

    def __str__(self) -> str:
        return self.name

    @property
    def text(self) -> str:
        inputs = ", ".join(f"{name}: {type}" for name, type in self.inputs.items())
        body = f"y = {self.y}\n cost = total(y)"
        return f"{self.definitions}{TOTAL}model M({inputs}) -> y, cost {{\n {body}\n}}"

    def system(self, float_type: str = "f64") -> System:
        return model(self.text, self.training, float_type)

    def prepared(self, float_type: str = "f64") -> tuple[System, Arrays, dict[str, str]]:
        """The system with gradients, values for it, and the gradients' names."""
        system = self.system(float_type)
        values = random_values(system, self.given, self.name)
        wrt = [
            n
            for n in values
            if is_float(system.tensors[n].dtype) and system.tensors[n].kind in ("input", "param")
        ]
        system, names = add_gradients(system, "cost", wrt)
        system = differentiate(system)
        return verify(system, "differentiate"), values, names


def short(name: str) -> str:
    """`conv1_k` → `k`: a parameter's name within its layer."""
    return name.rpartition("1_")[2]


def within(name: str) -> str:
    """`attention1_heads1_W` → `heads1_W`: a parameter's name within the layer that is tested."""
    return name.partition("1_")[2] or name


def compare_with_torch(
    case: Case, naming: Callable[[str], str] = short, least: float = 1e-6
) -> float:
    """The largest relative difference of values and gradients; asserts that it is small. Gradients
    below `least` are compared as if they were as large: some are 0 but for rounding."""
    torch = torch_or_skip()
    assert case.reference is not None
    system, values, names = case.prepared()
    found = evaluate(system, values)
    leaves = {n: torch.tensor(v) for n, v in values.items()}
    for leaf in leaves.values():
        leaf.requires_grad_(leaf.is_floating_point())
    y = case.reference(torch, SimpleNamespace(**{naming(n): leaf for n, leaf in leaves.items()}))
    ((2 * y + 0.3).sin() + y).sum().backward()
    worst = check(found["y"], y.detach().numpy(), f"{case.name}: y")
    for name, gradient in names.items():
        expected = leaves[name].grad
        expected = np.zeros(values[name].shape) if expected is None else expected.numpy()
        error = check(found[gradient], expected, f"{case.name}: d_{name}", least=least)
        worst = max(worst, error)
    return worst


def compare_with_cpu(case: Case, tolerance: float = 3e-4) -> None:
    """Values and gradients of the machine code, in f32, beside the evaluator's."""
    system, values, names = case.prepared("f32")
    system = system.replace(outputs=("y", *names.values()))
    expected = evaluate(system, values)
    program = CpuProgram(plan(system, verified=True))
    for name, value in values.items():
        program.arrays[name][...] = value
    program.run()
    for name in system.outputs:
        check(program.arrays[name], expected[name], f"{case}: {name}", tolerance, least=1.0)


def compare_with_differences(case: Case, step: float = 1e-6) -> float:
    """The same against central differences along random directions."""
    system, values, names = case.prepared()
    gradients = evaluate(system, values)
    plain = case.system()
    rng = np.random.default_rng(0)
    worst = 0.0
    for name, gradient in names.items():
        direction = rng.normal(size=values[name].shape)
        up, down = (
            evaluate(plain, values | {name: values[name] + sign * step * direction})["cost"]
            for sign in (1, -1)
        )
        expected = (up - down) / (2 * step)
        scale = float(np.abs(gradients[gradient] * direction).sum())
        error = abs(float((gradients[gradient] * direction).sum()) - expected) / max(scale, 1e-3)
        assert error < 1e-6, f"{case.name}: d_{name} is {error} off"
        worst = max(worst, error)
    return worst


def check(
    found: Any, expected: Any, what: str, tolerance: float = TOLERANCE, least: float = 1e-6
) -> float:
    """The largest difference in units of the largest expected value, or of the `least` one."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, what
    if not found.size:
        return 0.0
    scale = max(float(np.abs(expected).max()), least)
    error = float(np.abs(found - expected).max()) / scale
    assert error < tolerance, f"{what} is {error} off"
    return error


def value_of(
    y: str,
    inputs: Mapping[str, str],
    given: Mapping[str, Any],
    definitions: str = "",
    training: bool = True,
) -> Any:
    """What an expression over the given inputs is."""
    typed = ", ".join(f"{name}: {type}" for name, type in inputs.items())
    system = model(f"{definitions}model M({typed}) -> y {{ y = {y} }}", training)
    return evaluate(system, random_values(system, given, y))["y"]


def ids(cases: Sequence[Case]) -> list[str]:
    return [str(case) for case in cases]
