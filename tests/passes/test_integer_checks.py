"""Integer checks: a system is refused exactly where exact arithmetic has no result.

An interpreter of its own, in Python's integers and point by point, says what random systems compute
and whether every index is inside; the checks must agree with it on every backend.
"""

from __future__ import annotations

import math
import operator
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from support import TARGET, system

from nnc.compiler.ir.dtypes import INTEGERS, NUMPY, fits, is_float
from nnc.compiler.ir.equation import CHECK, Equation, System
from nnc.compiler.ir.expr import Const, Expr, Idx, Read
from nnc.compiler.ir.integer_ranges import input_limits, integer_ranges
from nnc.compiler.ir.verify import verify
from nnc.compiler.passes.equations.integer_checks import integer_checks, obligations
from nnc.compiler.pipeline import optimize
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.device.cpu.program import CpuProgram

sys.path.insert(0, str(Path(__file__).parents[1] / "backends"))
from gpu_simulator import SimulatedProgram, available
from integer_systems import IntegerSystems, integers

# --- exact arithmetic -----------------------------------------------------------------------------


class NoResult(Exception):
    pass


EXACT = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "neg": operator.neg,
    "abs": abs, "max": max, "min": min, "sign": lambda a: (a > 0) - (a < 0),
    "floordiv": operator.floordiv, "mod": operator.mod,
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le,
    "gt": operator.gt, "ge": operator.ge, "not": operator.not_,
    "floor": lambda a: a, "round": lambda a: a,
}  # fmt: skip


def fitting(value: int, dtype: str) -> int:
    if not fits(value, dtype):
        raise NoResult
    return value


class Interpreter:
    """One system, one point after the other."""

    def __init__(self, system: System, values: dict[str, np.ndarray]):
        self.system, self.arrays = system, dict(values)
        for eq in system.equations:
            self.arrays[eq.target] = self.equation(eq)

    def equation(self, eq: Equation) -> np.ndarray:
        tensor = self.system.tensors[eq.target]
        parts: dict[tuple, list] = {}
        for point in product(*(range(i.size) for i in eq.domain)):
            env = {i.name: n for i, n in zip(eq.domain, point, strict=True)}
            place = tuple(self.value(e, env) for e in eq.at or ()) or point[: len(eq.indices)]
            if eq.at is not None and not self.inside(place, tensor.shape):
                raise NoResult
            parts.setdefault(place, []).append(self.value(eq.body, env))
        found = np.zeros(tensor.shape, NUMPY[tensor.dtype])
        for place, terms in parts.items():
            found[place] = self.reduced(eq, terms)
        return found

    def reduced(self, eq: Equation, terms: list):
        match eq.reduce:
            case "sum" | "prod":
                return fitting({"sum": sum, "prod": math.prod}[eq.reduce](terms), eq.dtype)
            case "argmax" | "argmin":
                return terms.index((max if eq.reduce == "argmax" else min)(terms))
            case "max" | "min":
                return {"max": max, "min": min}[eq.reduce](terms)
        return terms[0]

    @staticmethod
    def inside(place, shape) -> bool:
        return all(0 <= p < n for p, n in zip(place, shape, strict=True))

    def value(self, expr: Expr, env: dict[str, int]):
        if isinstance(expr, Const):
            return expr.value if is_float(expr.dtype) else int(expr.value)
        if isinstance(expr, Idx):
            return env[expr.name]
        if isinstance(expr, Read):
            array = self.arrays[expr.tensor]
            place = tuple(self.value(i, env) for i in expr.index)
            if self.inside(place, array.shape):
                return array[place].item()
            if expr.other is None:
                raise NoResult
            return self.value(expr.other, env)
        match expr.fn:  # type: ignore[attr-defined]
            case "select":
                return self.value(expr.args[1 if self.value(expr.args[0], env) else 2], env)
            case "and" | "or":
                first = self.value(expr.args[0], env)
                return first if bool(first) == (expr.fn == "or") else self.value(expr.args[1], env)
        return self.applied(expr.fn, expr, [self.value(a, env) for a in expr.args])

    def applied(self, fn: str, expr: Expr, args: list):
        if is_float(expr.dtype):
            with np.errstate(all="ignore"):
                kind = NUMPY[expr.dtype]
                if fn == "floordiv":
                    return np.floor(np.divide(*(kind(a) for a in args))).item()
                return kind(EXACT[fn](*args) if fn in EXACT else args[0]).item()
        if fn == "bool":
            return bool(args[0])
        if fn in INTEGERS:
            if not math.isfinite(args[0]):
                raise NoResult
            return fitting(math.trunc(args[0]), fn)
        if fn in ("floordiv", "mod") and args[1] == 0:
            raise NoResult
        if fn == "pow":
            return fitting(self.power(*args), expr.dtype)
        return fitting(EXACT[fn](*args), expr.dtype)

    @staticmethod
    def power(base: int, exponent: int) -> int:
        if base in (1, -1):
            return base ** (exponent % 2)
        if exponent < 0 or (exponent > 64 and base):
            raise NoResult
        return base**exponent


# --- random systems -------------------------------------------------------------------------------


def drawn(seed: int) -> tuple[System, dict[str, np.ndarray]]:
    """Mild values, and reads outside only now and then, so that about half are refused."""
    system = IntegerSystems(seed, unguarded=True).system(2)
    values = integers(system, seed, extreme=0.02)
    return verify(system, "the test").replace(index_inputs={}), values


def exactly(system: System, values: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    try:
        return Interpreter(system, values).arrays
    except NoResult:
        return None


def compare(system: System, expected, found, how: str) -> None:
    refused = CHECK in found and bool(found[CHECK])
    assert refused == (expected is None), how
    for name in system.outputs if expected is not None else ():
        assert np.array_equal(found[name], expected[name], equal_nan=True), (how, name)


def checks_are_exact(seed: int, simulate: bool = False) -> bool:
    system, values = drawn(seed)
    expected = exactly(system, values)
    compare(system, expected, evaluate(integer_checks(system), values), "evaluator")
    compare(system, expected, evaluate(optimize(system, TARGET), values), "passes")
    for kind in (CpuProgram, *((SimulatedProgram,) if simulate else ())):
        program = kind(system)
        for name, value in values.items():
            program.arrays[name][...] = value
        program.run()
        compare(system, expected, program.arrays, kind.__name__)
    return expected is None


def test_random_systems() -> None:
    refused = [checks_are_exact(seed, simulate=seed < 3 and available()) for seed in range(30)]
    assert 5 < sum(refused) < 25  # both happen


@pytest.mark.night
@pytest.mark.parametrize("seed", range(1000, 1300))
def test_three_hundred(seed: int) -> None:
    checks_are_exact(seed, simulate=seed % 10 == 0 and available())


@pytest.mark.parametrize("seed", range(30))
def test_ranges_hold(seed: int) -> None:
    """Every value that exact arithmetic finds is in the range of its tensor."""
    system, values = drawn(seed)
    known, found = integer_ranges(system), exactly(system, values)
    for name, array in (found or {}).items():
        if name in known and array.size:
            assert known[name][0] <= array.min() and array.max() <= known[name][1], name


# --- what needs no check --------------------------------------------------------------------------


def unproven(text: str) -> list[str]:
    made = system(text)
    return [e.eq.target for e in obligations(made.replace(index_inputs=input_limits(made)))]


@pytest.mark.parametrize(
    "body",
    [
        "y[b] = x[b, k[b]]",
        "p = k\n y[b] = x[b, p[b]]",
        "p[b] = argmax(j) x[b, j]\n y[b] = x[b, p[b]]",
        "p[b] = k[b] % 5\n y[b] = x[b, p[b]]",
        "p[b] = min(max(m[b], 0), 4)\n y[b] = x[b, p[b]]",
        "y[b] = x[b, k[b] // 2] + x[b, k[b]]",
        "y[b] = f32(sum(j) x[b, j] > 0)",
        "y[b] = (x[b, m[b]] else 0)",
        "y[b] = x[b, 4 - k[b]] + x[b, k[b]]",
        "y[b] = f32(m[b] // 2 + m[b] % 7)",
    ],
)
def test_proven(body: str) -> None:
    head = "model M(x: f32[3, 5], k: i32[3], m: i32[3]) -> y: f32[3] {\n"
    assert unproven(f"{head} {body}\n}}") == []


@pytest.mark.parametrize(
    "body",
    [
        "y[b] = x[b, m[b] + 1]",
        "y[b] = if m[b] > 0 then x[b, m[b]] else 0",  # true of what is chosen, not of all data
        "y[b] = x[m[0], 0]",  # one element is an index: the others may be anything
        "y[b] = f32(m[b] * m[b])",
        "y[b] = f32(m[b] // k[b])",
        "y[b] = f32(2 ^ m[b])",
        "y[b] = x[b, i32(x[b, 0])]",
    ],
)
def test_checked(body: str) -> None:
    head = "model M(x: f32[3, 5], k: i32[3], m: i32[3]) -> y: f32[3] {\n"
    assert unproven(f"{head} {body}\n}}")


def test_without_anybody_to_ask_nothing_is_checked() -> None:
    made = system("model M(x: f32[5], m: i32[3]) -> y: f32[3] {\n y[b] = x[m[b] + 1]\n}")
    assert made.index_inputs is None and integer_checks(made) is made


def test_a_sum_of_integers_directly_into_a_float_is_exact() -> None:
    made = system(
        "model M(x: i32[2, 5]) -> y: f32[2], z: f32[] {\n"
        " y[b] = sum(i) x[b, i]\n z = sum(b, i) x[b, i]\n}",
        float_type="f32",
    )
    given = {"x": np.array([[2**31 - 1] * 5, [7, 2**24, 1, -(2**24), -8]], np.int32)}
    program = CpuProgram(made)
    program.arrays["x"][...] = given["x"]
    program.run()
    for found in (evaluate(made, given), program.arrays):
        assert found["y"].tolist() == [float(np.float32(5 * (2**31 - 1))), 0.0]
        assert found["z"] == np.float32(5 * (2**31 - 1))
