"""Indices belong to where they are written: a fn's own never meet those of its caller."""

from __future__ import annotations

import numpy as np
from support import system, values

from nnc.compiler.reference.evaluator import evaluate

TEXT = """
fn weighted(x, w: [n]) -> y: [] {{ y = sum(i) w[i]*w[i] }}
fn total(x) = sum(i < 3) x*(i + 1)
model M(x: f32[4], w: f32[3]) -> y: f32[4] {{ {} }}
"""


def result(body: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    program = system(TEXT.format(body))
    given = values(program)
    return evaluate(program, given)["y"], given


def test_a_fn_with_an_index_of_the_same_name() -> None:
    found, given = result("y[i] = total(x[i])")
    np.testing.assert_allclose(found, 6 * given["x"])


def test_an_inner_index_hides_the_outer() -> None:
    found, given = result("y[i] = x[i]*(sum(i) w[i])")
    np.testing.assert_allclose(found, given["x"] * given["w"].sum())


def test_both_in_nested_sums() -> None:
    found, given = result("y[i] = sum(j) w[j]*(sum(j) total(w[j])*x[i])")
    np.testing.assert_allclose(found, 6 * given["x"] * given["w"].sum() ** 2)
