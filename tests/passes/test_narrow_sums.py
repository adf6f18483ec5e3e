"""Clipping: sums over fewer places are the same sums."""

from __future__ import annotations

import numpy as np
import pytest
from support import system, values

from nnc.compiler.ir.equation import Equation
from nnc.compiler.ir.verify import verify
from nnc.compiler.passes.equations.narrow_sums import narrow_sums
from nnc.compiler.reference.evaluator import evaluate

CASES = {  # a condition, and over how many places of t < 7 is left to sum
    "t < 3": 3,
    "t - 1 < 0": 1,
    "t >= 2": 5,
    "3 - t >= 0": 4,
    "2 < 5 - t": 3,
    "t <= 2": 3,
    "t > 5": 1,
    "t == 4": 1,
    "4 == t": 1,
    "t > 1 and t < 5 and b < 2": 3,
    "t < 9": 7,
    "t > 1 and t < 2": 0,
    "t - 7 >= 0": 0,
    "2*t < 5": 7,  # not by a factor
    "t + b < 4": 7,  # not with another index
    "t != 3": 7,
}


def narrowed(text: str) -> tuple[Equation, int]:
    """The sum of a program after the pass, whose value is the same, and its terms along `t`."""
    whole = system(text)
    narrow = verify(narrow_sums(whole), "narrow-sums")
    given = values(whole)
    expected, found = evaluate(whole, given), evaluate(narrow, given)
    np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-12)
    (eq,) = [e for e in narrow.equations if e.target == "y" or e.reduce]
    left = {i.name: i.size for i in eq.over}
    return eq, left.get("t", 1 if left else 0)


@pytest.mark.parametrize("condition", CASES)
def test_a_clipped_sum_is_the_sum(condition: str) -> None:
    text = f"""
model M(x: f32[3, 7, 4]) -> y: f32[3] {{
    y[b] = sum(t, j) (if {condition} then x[b, t, j] * t else 0)
}}
"""
    _, terms = narrowed(text)
    assert terms == CASES[condition]


FACTORS = {  # a sum over t < 7, and over how many places of t is left to sum
    "x[b, t, j] * (x[b, t - 1, j] else 0)": 6,
    "(x[b, t + 2, j] else 0) * (x[b, t - 1, j] else 0)": 4,
    "-(x[b, 5 - t, j] else 0) * t": 6,
    "x[b, t, j] * (x[b, t - 6, j] else 0)": 1,
    "(x[b, t - 7, j] else 0) * t": 0,
    "if t < 5 and b < 2 then t * (x[b, t - 1, j] else 0) else 0": 4,
    "x[b, t, j] + (x[b, t - 1, j] else 0)": 7,  # a term, not a factor
    "x[b, t, j] * (x[b, t - 1, j] else 2)": 7,
    "t * (x[b, t - b, j] else 0)": 7,  # with another index
    "t * (x[b, 2*t - 1, j] else 0)": 7,  # not by a factor
}


@pytest.mark.parametrize("body", FACTORS)
def test_factors_that_are_0_outside_of_a_tensor(body: str) -> None:
    eq, terms = narrowed(
        f"model M(x: f32[3, 7, 4]) -> y: f32[3] {{\n    y[b] = sum(t < 7, j < 4) ({body})\n}}\n"
    )
    assert terms == FACTORS[body]
    # What is inside for all that is left needs no other value; a sum that is whole keeps it.
    guarded = [read for read in eq.reads if read.other is not None]
    assert bool(guarded) == (FACTORS[body] == 7)
