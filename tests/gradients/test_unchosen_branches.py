"""A branch that is not taken, and an element that is not read, adds exactly 0 to every gradient."""

from __future__ import annotations

import re

import numpy as np
import pytest
from gpu_simulator import SimulatedProgram
from support import elaborated, gpu_plan, mostly_slow, plan, system

from nnc.compiler.ir.equation import System
from nnc.compiler.ir.gradients import add_gradients
from nnc.compiler.ir.value_ranges import Ranges
from nnc.compiler.passes.equations.simplify import simplify
from nnc.compiler.pipeline import derive
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.reference.pass_checker import PassCheck
from nnc.runtime.device.cpu.program import CpuProgram

# Zeros, both signs, what `exp` overflows of in f64, what is 0 after a shift by 3.
X = [0.0, 0.5, -0.5, 3.0, -3.0, 800.0, -800.0, 1.0]


def step(x: np.ndarray) -> np.ndarray:
    return (x > 0).astype(float)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.where(x > 20, 1.0, 1 / (1 + np.exp(-np.minimum(x, 20.0))))


def entropy(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, np.log(np.maximum(x, 1e-300)) + 1, 0.0)


def root(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, 0.5 / np.sqrt(np.where(x > 0, x, 1.0)), 0.0)


def but_at_0(slope: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.where(x == 0, 0.0, slope)


# name: (the equations from x[8] to y[8], or to a number y, the derivative of the sum of y by x)
CASES = {
    "p log p": ("y[i] = if x[i] > 0 then x[i]*log(x[i]) else 0", entropy),
    "p log p, the other way": ("y[i] = if x[i] <= 0 then 0 else x[i]*log(x[i])", entropy),
    "softplus": ("y[i] = if x[i] > 20 then x[i] else log(1 + exp(x[i]))", softplus),
    "root": ("y[i] = if x[i] > 0 then sqrt(x[i]) else 0", root),
    "root or itself": (
        "y[i] = if x[i] > 0 then sqrt(x[i]) else x[i]",
        lambda x: np.where(x > 0, root(x), 1.0),
    ),
    "power": (
        "y[i] = if x[i] > 0 then x[i]^1.5 else 0",
        lambda x: 1.5 * np.sqrt(np.maximum(x, 0)),
    ),
    "power of a tensor": (
        "p[i < 8] = 0.5\n y[i] = if x[i] > 0 then x[i]^p[i] else 0", root),
    "reciprocal": (
        "y[i] = if x[i] == 3 then 0 else 1/(x[i] - 3)",
        lambda x: np.where(x == 3, 0.0, -1 / np.where(x == 3, 1.0, x - 3) ** 2),
    ),
    "x exp x": (
        "y[i] = if x[i] < 20 then x[i]*exp(x[i]) else x[i]",
        lambda x: np.where(x < 20, (1 + x) * np.exp(np.minimum(x, 20)), 1.0),
    ),
    "in an equation of its own": ("z[i] = sqrt(x[i])\n y[i] = if x[i] > 0 then z[i] else 0", root),
    "through two equations": (
        "z[i] = log(x[i])\n u[i] = x[i]*z[i]\n y[i] = if x[i] > 0 then u[i] else 0", entropy),
    "in a sum": ("y = sum(i) if x[i] > 0 then x[i]*log(x[i]) else 0", entropy),
    "a sum of an equation": (
        "z[i] = x[i]*log(x[i])\n y = sum(i) if x[i] > 0 then z[i] else 0", entropy),
    "a sum in a branch": (
        "s[i < 8] = sum(j < 1) sqrt(x[i + j])\n y[i] = if x[i] > 0 then s[i] else 0", root),
    "nested": (
        "y[i] = if x[i] > -1 then (if x[i] > 0 then sqrt(x[i]) else 0) else 0", root),
    "both branches": (
        "z[i] = sqrt(abs(x[i]))\n y[i] = if x[i] == 0 then 1 else if x[i] > 0 then z[i] else -z[i]",
        lambda x: np.where(x == 0, 0.0, 0.5 / np.sqrt(np.where(x == 0, 1.0, np.abs(x)))),
    ),
    "clamped from below": ("y[i] = max(log(x[i]*x[i]), -100)",
        lambda x: np.where(x == 0, 0.0, 2 / np.where(x == 0, 1.0, x))),
    "clamped from above": ("y[i] = min(exp(x[i]), 100)",
        lambda x: np.where(x < np.log(100), np.exp(np.minimum(x, 5.0)), 0.0)),
    "relu of a root": ("y[i] = max(0.25 - sqrt(abs(x[i])) - 1, 0)", lambda x: 0 * x),
    "leaky": ("z[i] = exp(x[i])\n y[i] = if x[i] > 20 then x[i] else x[i] + z[i]",
        lambda x: np.where(x > 20, 1.0, 1 + np.exp(np.minimum(x, 20)))),
    "not read": ("z[i] = sqrt(x[i])\n y = z[3] + z[7]",
        lambda x: np.where(np.isin(np.arange(8), [3, 7]), root(x), 0.0)),
    "a slice": ("z[i] = log(x[i])\n y[k < 1] = z[k + 3]",
        lambda x: np.where(np.arange(8) == 3, 1 / 3, 0.0)),
    "a border": ("z[i] = sqrt(x[i])\n y[k < 2] = (z[k + 7] else 0)",
        lambda x: np.where(np.arange(8) == 7, 0.5, 0.0)),
    "gathered": ("z[i] = sqrt(x[i])\n y[k] = z[n[k]]",
        lambda x: np.where(np.isin(np.arange(8), [1, 3]), [0, 1, 0, 2, 0, 0, 0, 0] * root(x), 0.0)),
    "the maximum": ("z[i] = sqrt(abs(x[i]))\n y = max(i) z[i]",
        lambda x: np.where(np.arange(8) == 5, root(np.abs(x)), 0.0)),
    "a product by 0": ("y[i] = (if x[i] > 0 then 1 else 0)*sqrt(abs(x[i]))", root),
    "a mask of data": (
        "y[i] = (n[i % 3] - 1)*sqrt(x[i]^2)",
        lambda x: np.array([0, 2, 2, 0, 2, 2, 0, 2]) * np.sign(x),
    ),
    "a mask inside of a root": (
        "y[i] = sqrt(((n[i % 3] - 1)*x[i])^2)",
        lambda x: np.array([0, 2, 2, 0, 2, 2, 0, 2]) * np.sign(x),
    ),
    "the norm of what is masked": (
        "m[i] = (n[i % 3] - 1)*x[i]\n q[r < 3, i < 8] = if i % 3 == r then m[i] else 0\n"
        "s[r < 3] = sum(i < 8) q[r, i]^2\n y[r] = if r == 0 then sqrt(s[r]) else 0*s[r]",
        lambda x: 0 * x,
    ),
    "an overflow that a quotient hides": (
        "e[i] = exp(x[i])\n y[i] = 1/(2 + e[i])",
        lambda x: -1 / (4 * np.exp(-x) + 4 + np.exp(x)),
    ),
    "a root times a weight that is 0": (
        "w = x[0]\n z[i] = sqrt(abs(x[i]))\n y[i] = w*z[i] + (if i > 0 then 0*x[i] else 0)",
        lambda x: np.where(np.arange(8) == 0, np.sqrt(np.abs(x)).sum(), 0.0)),
    "a root times its argument": (
        "y[i] = x[i]*sqrt(abs(x[i]))", lambda x: 1.5 * np.sqrt(np.abs(x))),
    "a power times its argument": (
        "y[i] = x[i]^2*abs(x[i])^0.3",
        lambda x: np.sign(x) * 2.3 * np.abs(x) ** 1.3),
    "a root of a difference that is 0": ("y[i] = sqrt(x[i] - x[i])", lambda x: 0 * x),
    "what saturates at a pole": (
        "y[i] = exp(-1/x[i]^2)", lambda x: but_at_0(2 * np.exp(-1 / x**2) / x**3, x)),
    "what saturates at a pole, stored": (
        "q[i] = 1/x[i]^2\n y[i] = 1/(1 + q[i]) - tanh(q[i])",
        lambda x: 2 * x / (1 + x * x) ** 2 + but_at_0(2 / x**3 * (1 - np.tanh(x**-2.0) ** 2), x)),
    "an overflow that saturates": (
        "y[i] = tanh(if x[i] > 0 then x[i]*exp(x[i]) else 0)",
        lambda x: np.where((x > 0) & (x < 700),
            (1 + x) * np.exp(x) * (1 - np.tanh(x * np.exp(x)) ** 2), 0.0)),
    "mish": (
        "y[i] = x[i]*tanh(log(1 + exp(x[i])))",
        lambda x: np.tanh(np.logaddexp(0, x))
            + x * np.exp(-np.logaddexp(0, -x)) * (1 - np.tanh(np.logaddexp(0, x)) ** 2)),
    "a power that overflows": (
        "p[i] = 0.01^x[i]\n y[i] = if x[i] < -100 then p[i]^x[i] else 0", lambda x: 0 * x),
    "in a matrix product": (
        "z[i, j < 2] = log(x[i])\n h[i, k < 3] = sum(j) z[i, j]*c[j, k]\n"
        "y[i] = sum(k) if x[i] > 0 then h[i, k] else 0",
        lambda x: np.where(x > 0, 1 / np.where(x > 0, x, 1.0), 0.0),  # times the sum of c
    ),
    "in a recurrence": (
        "h[t] = (if x[t] > 0 then sqrt(x[t]) else 0) + (h[t - 1] else 0)\n y = h[7]", root),
    "a state in a branch": (
        "h[t] = if x[t] > 0 then x[t] + sqrt((h[t - 1] else 0)) else 0\n y = sum(t) h[t]",
        # h is 0, 0.5, 0, 3, 0, 800, 0, 1: no root of a state but those of 0 in the branch taken
        lambda x: step(x),
    ),
    "a state's root": (
        "z[t < 8] = sqrt((h[t - 1] else 0))\n"
        "h[t] = (if x[t] > 0 then x[t] else 0) + (if t > 7 then z[t] else 0)\n y = sum(t) h[t]",
        step,
    ),
    "modulo": (
        "y[i] = if x[i] == 0 then 0 else 2.5 % x[i]",
        lambda x: np.where(x == 0, 0.0, -np.floor(2.5 / np.where(x == 0, 1.0, x))),
    ),
}  # fmt: skip


def program_of(name: str, float_type: str = "f64") -> tuple[System, dict[str, np.ndarray], str]:
    text, _ = CASES[name]
    # a case whose y is a number is its own loss
    loss = "y" if re.search(r"\by =", text) else "sum(y)"
    real = f"{float_type}[8]"
    signature = f"x: {real}, n: i32[3], c: {float_type}[2, 3]"
    lines = f"{text}\n loss = {loss}"
    whole = system(f"model M({signature}) -> loss {{\n {lines}\n}}", float_type=float_type)
    whole, names = add_gradients(whole, "loss", ["x"])
    whole = whole.replace(outputs=("loss", *names.values()))
    given = {"x": np.array(X), "n": np.array([1, 3, 3]), "c": np.full((2, 3), 1 / 6)}
    return whole, given, names["x"]


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_that_of_the_branch_taken(name: str) -> None:
    whole, given, d_x = program_of(name)
    found = evaluate(derive(whole), given)[d_x]
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(found, CASES[name][1](np.array(X)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("float_type", ["f64", "f32"])
@pytest.mark.parametrize("name", mostly_slow(CASES, [*CASES][::4]))
def test_every_pass_and_the_code_keep_it(name: str, float_type: str) -> None:
    whole, given, d_x = program_of(name, float_type)
    expected = evaluate(derive(whole), given)[d_x]
    programs = [CpuProgram(plan(whole, PassCheck(whole, given)))]
    # one type is enough for the simulator, which g++ compiles for each program
    if float_type == "f32":
        programs.append(SimulatedProgram(gpu_plan(whole, PassCheck(whole, given))))
    for program in programs:
        for key, value in given.items():
            program.arrays[key][...] = value
        program.run()
        rtol = {"f64": 1e-9, "f32": 1e-5}[float_type]
        np.testing.assert_allclose(program.arrays[d_x], expected, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize(
    ("window", "always"),
    [
        ("max(u < 3) (x[2*i + u - 1, c] else -inf)", True),
        ("min(u < 3) (x[2*i + u - 1, c] else inf)", True),
        ("max(u < 3, v < 2) (x[2*i + u - 1, c + v - 1] else -inf)", True),
        ("max(u < 3) (x[2*i + u - 3, c] else -inf)", False),  # the first window is outside
        ("max(u < 3) (x[2*i + u - 1, c - u + 1] else -inf)", False),  # u is in both
        ("max(u < 3) (x[2*i + u - 1, c] else inf)", False),
    ],
)
def test_a_padded_maximum_is_one_of_the_elements(window: str, always: bool) -> None:
    """A product with it needs no care for what is infinite, as it would at each of its terms."""
    text = f"model M(x: f32[8, 3]) -> m {{\n m[i < 4, c < 3] = {window}\n}}"
    assert Ranges(system(text, float_type="f32")).found["m"].finite is always


@pytest.mark.parametrize(
    ("lines", "finite"),
    [
        ("m[i] = exp(x[i])", False),
        ("m[i] = exp(s[i])", True),
        ("a[i] = 3*s[i]\n m[i] = 1/exp(a[i])", True),
        ("m[i] = exp(x[i]*s[i])", False),
        ("m[i] = log(s[i])", False),
        ("m[i < 8] = normal()", True),
        ("m[i] = exp(-exp(s[i])*softplus(x[i]))", True),
        ("m[i] = exp(exp(s[i])*softplus(x[i]))", False),
    ],
)
def test_what_may_be_infinite(lines: str, finite: bool) -> None:
    """Inputs and parameters are of ordinary size, and so are exponentials of parameters alone."""
    text = f"model M(x: f32[8]) -> m {{\n param s: [8] = 0\n {lines}\n}}"
    assert Ranges(simplify(elaborated(text))).found["m"].finite is finite
