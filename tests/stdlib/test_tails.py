"""The library's functions where their naive formulas lose every digit: far out, and close to 0.

Values and gradients, in f32 and f64, by the evaluator, as machine code and through the simulator of
a GPU, against the same formulas in decimal arithmetic with 220 digits; gradients against central
differences there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cache

import numpy as np
import pytest
from gpu_simulator import SimulatedProgram, available
from support import gradients, one_in, plan

from nnc.compiler.ir.dtypes import NUMPY
from nnc.compiler.passes.equations.simplify import simplify
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.device.cpu.program import CpuProgram

from .programs import model

ONE = Decimal(1)
DIGITS = 220
NEAR = (1e-30, 1e-8, 1e-4, 0.3, 1, 3, 6, 9.5, 15, 20, 40, 80)
PLACES = [0.0, *NEAR, *(-x for x in NEAR)]
PLACES += [-87.5, -95.0, -100.0, 88.5, 95.0, 1000.0, -1000.0]


def _sigmoid(x: Decimal) -> Decimal:
    return ONE / (ONE + (-x).exp())


def _softplus(x: Decimal) -> Decimal:
    return (ONE + x.exp()).ln()


def _tanh(x: Decimal) -> Decimal:
    return 2 * _sigmoid(2 * x) - 1


def _erf(x: Decimal) -> Decimal:
    """By its power series, whose terms are below e^(x²)."""
    if abs(x) > 14:
        return ONE.copy_sign(x)
    total = term = x
    n = 0
    while term and abs(term) > Decimal(10) ** -DIGITS:
        n += 1
        term *= -x * x / n
        total += term / (2 * n + 1)
    return total * 2 / PI.sqrt()


def _gelu(x: Decimal) -> Decimal:
    return x * (1 - _erf(-x / Decimal(2).sqrt())) / 2


def _gelu_tanh(x: Decimal) -> Decimal:
    return x * _sigmoid(2 * (2 / PI).sqrt() * (x + Decimal("0.044715") * x**3))


def _pi() -> Decimal:
    """Machin's formula."""

    def arctan_of_inverse(n: int) -> Decimal:
        total = term = ONE / n
        k = 1
        while abs(term) > Decimal(10) ** -DIGITS:
            term /= -n * n
            k += 2
            total += term / k
        return total

    with localcontext() as context:
        context.prec = DIGITS
        return 4 * (4 * arctan_of_inverse(5) - arctan_of_inverse(239))


PI = _pi()
EPSILON = {"f32": 2.0**-23, "f64": 2.0**-52}


@dataclass(frozen=True)
class Tail:
    """`exact` gives y. `units` is how many units in the last place y and its gradient may be off,
    relative to themselves; `slope_units` how many of 1 the gradient may be off besides (see the
    bounds in compiler/ir/derivatives.py). Tried up to |x| = `limit` and to x = `high`."""

    y: str
    exact: Callable[[Decimal], Decimal]
    units: float = 4
    slope_units: float = 0
    limit: float = 1e9
    high: float = 1e9
    conditioned: bool = False  # an error of x in its last place counts x² times


TAILS = [
    Tail("sigmoid(x)", _sigmoid, slope_units=1),
    Tail("log(sigmoid(x))", lambda x: _sigmoid(x).ln(), slope_units=1, limit=86, high=0),
    Tail("log_sigmoid(x)", lambda x: _sigmoid(x).ln(), slope_units=0),
    Tail("softplus(x)", _softplus),
    Tail("silu(x)", lambda x: x * _sigmoid(x), slope_units=100),
    Tail("mish(x)", lambda x: x * _tanh(_softplus(x)), slope_units=100),
    Tail("tanh(x)", _tanh, slope_units=2),
    Tail("gelu(x)", _gelu, units=8, conditioned=True, limit=11),
    Tail("gelu_tanh(x)", _gelu_tanh, units=8, slope_units=100, conditioned=True, limit=11),
    Tail("erfc(x)", lambda x: 1 - _erf(x), conditioned=True, limit=11),
    Tail("erf(x)", _erf, conditioned=True, limit=11),
    # as a user writes them
    Tail("log(1 + exp(x))", _softplus, limit=88),
    Tail("log(exp(-x) + 1)", lambda x: _softplus(-x), limit=88),
    Tail("exp(x) - 1", lambda x: x.exp() - 1, limit=88),
    Tail("1 - exp(-x)", lambda x: 1 - (-x).exp(), limit=87),
    Tail("1 / (1 + exp(-x))", _sigmoid, slope_units=1),
    Tail("x / (1 + exp(-x))", lambda x: x * _sigmoid(x), slope_units=100, limit=88),
    Tail("elu(x)", lambda x: x if x > 0 else x.exp() - 1),
    Tail("selu(x)", lambda x: Decimal("1.0507009873554805") * (
        x if x > 0 else Decimal("1.6732632423543772") * (x.exp() - 1))),
]  # fmt: skip


@cache
def _exact(tail: Tail, x: float) -> tuple[float, float]:
    """y and its derivative."""
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = DIGITS, -(10**6), 10**6
        x_, step = Decimal(x), Decimal(10) ** -60
        slope = (tail.exact(x_ + step) - tail.exact(x_ - step)) / (2 * step)
        # between the pieces of elu and selu both slopes are the same or the left one is taken
        if x == 0 and tail.y.startswith(("elu", "selu")):
            slope = (tail.exact(x_) - tail.exact(x_ - step)) / step
        return float(tail.exact(x_)), float(slope)


def _runs(system, given):
    yield "evaluator", evaluate(system, given)
    program = CpuProgram(plan(system), threads=1)
    for name, value in given.items():
        program.arrays[name][...] = value
    program.run()
    yield "machine code", program.arrays
    if available():
        simulated = SimulatedProgram(system, schedules=(0,))
        for name, value in given.items():
            simulated.arrays[name][...] = value
        simulated.run()
        yield "simulator", simulated.arrays


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("tail", one_in(3, TAILS), ids=lambda tail: tail.y)
def test_tails(tail: Tail, dtype: str) -> None:
    places = np.array([x for x in PLACES if abs(x) <= tail.limit and x <= tail.high], NUMPY[dtype])
    element = re.sub(r"\bx\b", "x[i]", tail.y)
    signature = f"model M(x: f32[{places.size}]) -> y, loss"
    text = f"{signature} {{ y[i] = {element}; loss = sum(i) y[i] }}"
    system, names = gradients(simplify(model(text, float_type=dtype)), "loss", ["x"])
    exact = np.array([_exact(tail, float(x)) for x in places]).T
    unit, least = EPSILON[dtype], float(np.finfo(NUMPY[dtype]).smallest_subnormal)
    factor = 1 + np.abs(places.astype(float)) ** 2 * tail.conditioned
    for where, found in _runs(system, {"x": places}):
        for name, right, more in zip(("y", names["x"]), exact, (0, tail.slope_units), strict=True):
            got = np.asarray(found[name], np.float64)
            allowed = unit * (tail.units * factor * np.abs(right) + more)
            allowed += least * (4 + np.abs(places.astype(float)))  # results below the normal range
            wrong = np.abs(got - right) > allowed
            shown = np.column_stack([places, got, right])[wrong | np.isnan(got)]
            assert not shown.size, f"{where}, {name}: x, found, right\n{shown}"


@pytest.mark.parametrize(
    ("loss", "p", "q", "right"),
    [
        # log(1 - p) of a small p; p = 1 counts as 1 - eps
        ("binary_cross_entropy(p, q)", 1e-9, 0, 1e-9),
        ("binary_cross_entropy(p, q)", 1, 0, 27.631021115928547),
        ("binary_cross_entropy(p, q)", 0, 1, 27.631021115928547),
        ("binary_cross_entropy(p, q)", 0.25, 0.5, 0.8369882167858358),
        # 1e-3 * log(1e-3 / 1.001e-3), whose logarithms agree in three digits
        ("kl(p, q)", 1.001e-3, 1e-3, -9.99500333083439e-07),
    ],
)
def test_losses_of_probabilities_near_their_ends(loss: str, p, q, right: float) -> None:
    text = f"model M(p: f32[1, 1], q: f32[1, 1]) -> y {{ y = {loss} }}"
    system, names = gradients(simplify(model(text, float_type="f32")), "y", ["p"])
    given = {"p": np.full((1, 1), p, np.float32), "q": np.full((1, 1), q, np.float32)}
    for where, found in _runs(system, given):
        np.testing.assert_allclose(found["y"], right, rtol=2e-4 if "kl" in loss else 1e-6)
        assert np.isfinite(found[names["p"]]).all(), where
