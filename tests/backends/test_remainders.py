"""`%` and `//` of floats: exact for quotients of any size, the same in all backends."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from gpu_simulator import SimulatedProgram, available
from support import plan, system

from nnc.compiler.ir.dtypes import NUMPY
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.device.cpu.program import CpuProgram

EDGES = [0.0, -0.0, 1.0, -1.0, 0.3, -0.3, 0.1, 3.0, 7.5, 1e-30, -1e-40, 50331651.0, -50331651.0]
EDGES += [1e10, -3e15, 1e30, 3e38, math.inf, -math.inf, math.nan, 2.0**22, 2.0**24 + 2, 1e-45]


def _pairs(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.array(EDGES, NUMPY[dtype]), np.array(EDGES, NUMPY[dtype]))
    few = rng.normal(size=300) * 10.0 ** rng.integers(-3, 9, 300)
    # whole multiples, whose quotient may be rounded up to the next whole number
    step = rng.uniform(0.01, 1, 300).astype(NUMPY[dtype])
    near = (step * rng.integers(-99, 99, 300)).astype(NUMPY[dtype])
    x = np.concatenate([x.ravel(), few, near]).astype(NUMPY[dtype])
    y = np.concatenate([y.ravel(), rng.normal(size=300), step]).astype(NUMPY[dtype])
    return x, y


def _exact(x: float, y: float) -> tuple[float, float]:
    """x % y and x // y of finite numbers, with one rounding."""
    n = math.floor(Fraction(x) / Fraction(y))
    return float(Fraction(x) - n * Fraction(y)), float(n)


def _runs(whole, given):
    yield evaluate(whole, given)
    program = CpuProgram(plan(whole), threads=1)
    for name, value in given.items():
        program.arrays[name][...] = value
    program.run()
    yield program.arrays
    if available():
        simulated = SimulatedProgram(whole, schedules=(0,))
        for name, value in given.items():
            simulated.arrays[name][...] = value
        simulated.run()
        yield simulated.arrays


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_remainders_and_quotients(dtype: str) -> None:
    x, y = _pairs(dtype)
    text = f"model M(x: f32[{x.size}], y: f32[{x.size}]) -> r, q {{ r = x % y; q = x // y }}"
    with np.errstate(all="ignore"):
        python = np.mod(x, y)
    usual = np.isfinite(x) & np.isfinite(y) & (y != 0)
    exact = np.array([_exact(float(a), float(b)) for a, b in zip(x[usual], y[usual], strict=True)])
    near = np.abs(exact[:, 1]) < 2.0**22
    for found in _runs(system(text, float_type=dtype), {"x": x, "y": y}):
        r, q = np.asarray(found["r"]), np.asarray(found["q"])
        # the remainder to the bit, zeros with the sign of y
        np.testing.assert_array_equal(r, python)
        assert (np.signbit(r) == np.signbit(python))[~np.isnan(python)].all()
        np.testing.assert_array_equal(r[usual], exact[:, 0].astype(NUMPY[dtype]))
        np.testing.assert_array_equal(q[usual][near], exact[:, 1][near])
        unit = {"f32": 2.0**-22, "f64": 2.0**-51}[dtype]
        with np.errstate(over="ignore"):
            wide = exact[:, 1].astype(NUMPY[dtype])
        np.testing.assert_allclose(q[usual], wide, rtol=unit)


@pytest.mark.slow
def test_one_far_quotient_among_near_ones_and_the_other_way_round() -> None:
    whole = system("model M(x: f32[37]) -> r { r = x % 0.3 }", float_type="f32")
    for place in range(37):
        for many, one in ((7.7, 50331651.0), (50331651.0, 7.7)):
            x = np.full(37, many, np.float32)
            x[place] = one
            expected = np.mod(x, np.float32(0.3))
            for found in list(_runs(whole, {"x": x}))[:2]:
                np.testing.assert_array_equal(found["r"], expected)
