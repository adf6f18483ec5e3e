"""Recurrences of every form that can be ordered: values, gradients, machine code.

The values are checked against an evaluation on demand, which knows no order: each element asks for
those that it needs. The gradients are checked against finite differences, and machine code against
the evaluator.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest
from support import check_gradients, gradients, plan, system, values

from nnc.compiler.ir.equation import System
from nnc.compiler.ir.expr import Apply, Const, Expr, Idx, Read
from nnc.compiler.ir.functions import TABLE
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.device.cpu.program import CpuProgram

# inputs, and equations for y
CASES = {
    "two steps and three": ("x: f64[9]", "y[t] = tanh(x[t] + (y[t-2] else 0.5)*(y[t-3] else 1))"),
    "from the end": ("x: f64[7]", "y[t] = x[t] + 0.5*(y[t+2] else x[t])"),
    "a start of its own": (
        "x: f64[2, 5, 3], s: f64[2, 3], u: f64[3, 3]",
        "y[b, t, j] = tanh(x[b, t, j] + sum(k) (y[b, t-1, k] else s[b, k])*u[k, j])"),
    "two indices": (
        "x: f64[4, 5]",
        "y[t, s] = x[t, s] + log(exp((y[t-1, s] else x[t, 0])) + exp((y[t-1, s-1] else -1))"
        " + exp((y[t-1, s-2] else -2)))"),
    "a table": (
        "x: f64[4, 5]",
        "y[i, j] = x[i, j] + 0.5*(y[i-1, j] else 1)*(y[i, j-1] else 1) - (y[i-1, j-1] else 0)"),
    "a table read across": ("x: f64[4, 5]",
                            "y[t, s] = x[t, s]*(y[t-1, s+1] else 1) + 0.3*(y[t, s-1] else 0)"),
    "a table from two corners": ("x: f64[4, 5]",
                                 "y[i, j] = x[i, j]*(y[i+1, j] else 1) + 0.3*(y[i, j-1] else 0)"),
    "a network along two indices": (
        "x: f64[2, 3, 4, 2], u: f64[2, 2], w: f64[2, 2]",
        "y[b, t, s, j] = tanh(x[b, t, s, j] + sum(k) (y[b, t-1, s, k] else 0)*u[k, j]"
        " + sum(k) (y[b, t, s-1, k] else 0)*w[k, j])"),
    "two that need each other": (
        "x: f64[6, 2], u: f64[2, 2]",
        "c[t, j] = 0.5*x[t, j] + (c[t-1, j] else 0)*(y[t-2, j] else 1)\n"
        "y[t, j] = tanh(c[t, j]) + sum(k) (y[t-1, k] else 0)*u[k, j]"),
    "three, from the end": (
        "x: f64[6]",
        "a[t < 6] = x[t] + (y[t+1] else 0)\n"
        "c[t < 6] = sin(a[t])*(c[t+2] else 1)\n"
        "y[t < 6] = a[t] + 0.5*c[t]"),
    "there and back": (
        "x: f64[6]",
        "a[t] = tanh(x[t] + 0.7*(a[t-1] else 0))\n"
        "z[t] = tanh(a[t] + 0.7*(z[t+1] else 0))\n"
        "y[t] = a[t]*z[t]"),
    "running maximum": ("x: f64[7]", "y[t] = max(x[t], (y[t-1] else -9)) + 0.1*x[t]"),
    "one upon the other": (
        "x: f64[5]",
        "a[t] = x[t] + 0.5*(a[t-1] else 0)\n"
        "y[t] = a[t]*a[t] - 0.5*(y[t-1] else 0)*(a[t-1] else 1)"),
}  # fmt: skip


def model(name: str) -> System:
    inputs, equations = CASES[name]
    return system(f"model M({inputs}) -> loss: f64[], y {{\n{equations}\nloss = sum(y*y + y)\n}}")


def by_demand(whole: System, given: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Every element of a tensor from those that it reads, however they are ordered."""

    @cache
    def element(tensor: str, place: tuple[int, ...]):
        if tensor in given:
            return given[tensor][place]
        eq = whole.definition[tensor]
        at = dict(zip((i.name for i in eq.indices), place, strict=True))
        if eq.reduce is None:
            return value(eq.body, at)
        assert eq.reduce == "sum"
        points = product(*(range(i.size) for i in eq.over))
        names = [i.name for i in eq.over]
        return sum(value(eq.body, at | dict(zip(names, p, strict=True))) for p in points)

    def value(expr: Expr, at: dict[str, int]):
        match expr:
            case Const():
                return expr.value
            case Idx():
                return at[expr.name]
            case Read():
                place = tuple(int(value(e, at)) for e in expr.index)
                shape = whole.tensors[expr.tensor].shape
                if all(0 <= p < n for p, n in zip(place, shape, strict=True)):
                    return element(expr.tensor, place)
                assert expr.other is not None
                return value(expr.other, at)
            case Apply():
                return TABLE[expr.fn].numpy(*(value(a, at) for a in expr.args))
        raise AssertionError(expr)

    shape = whole.tensors[name].shape
    points = product(*map(range, shape))
    return np.array([element(name, p) for p in points], float).reshape(shape)


@pytest.mark.parametrize("name", CASES)
def test_values_need_no_order(name: str) -> None:
    whole = model(name)
    given = values(whole)
    np.testing.assert_allclose(evaluate(whole, given)["y"], by_demand(whole, given, "y"), 1e-12)


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str) -> None:
    whole = model(name)
    check_gradients(whole, [t.name for t in whole.of_kind("input")])


@pytest.mark.parametrize("name", CASES)
def test_machine_code(name: str) -> None:
    plain = model(name)
    whole, _ = gradients(plain, "loss", [t.name for t in plain.of_kind("input")])
    given = values(whole)
    expected = evaluate(whole, given)
    for threads in (1, 2):
        program = CpuProgram(plan(whole, verified=True), threads)
        for key, array in given.items():
            program.arrays[key][...] = array
        program.run()
        for key in whole.outputs:
            np.testing.assert_allclose(program.arrays[key], expected[key], 1e-9, err_msg=key)
