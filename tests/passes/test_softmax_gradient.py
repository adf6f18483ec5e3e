"""The gradient of a softmax rewritten in terms of its output, and gradients that are left alone."""

from __future__ import annotations

import numpy as np
import pytest
from support import gradients, optimize, system, values

from nnc.compiler.ir.equation import System
from nnc.compiler.ir.verify import verify
from nnc.compiler.passes.equations.softmax_gradient import softmax_gradient
from nnc.compiler.reference.evaluator import evaluate

MODEL = """model M(x: f32[6, 5], w: f32[5, 9], v: f32[9, 4]) -> loss: f32[] {{
    a[b, i] = sum(k) x[b, k]*w[k, i]
    {}
    z[b, o] = sum(i) y[b, i]*v[i, o]
    loss = sum(b, o) z[b, o]*z[b, o]{}
}}"""
EXP = "e[b, i] = exp(a[b, i] - stop(max(j) a[b, j]))"
SOFTMAX = f"{EXP}\n    s[b] = sum(j) e[b, j]\n    y[b, i] = e[b, i] / s[b]"
SQUARES = "e = a*a\n    s[b] = sum(j) e[b, j]\n    y[b, i] = e[b, i]/s[b]"
MASKED = SOFTMAX.replace("exp(a[b, i]", "exp((if i > b then -inf else a[b, i])")
SAID = {
    "softmax": MODEL.format(SOFTMAX, ""),
    "masked": MODEL.format(MASKED, ""),
}
NOT_SAID = {
    "the whole has a gradient of its own": MODEL.format(SOFTMAX, " + sum(b) s[b]*s[b]"),
    "squares, whose gradient is another": MODEL.format(SQUARES, ""),
    "no share": MODEL.format(f"{EXP}\n    y[b, i] = e[b, i] / (1 + sum(j) a[b, j]*a[b, j])", ""),
}


def trained(text: str) -> System:
    found, _ = gradients(system(text, float_type="f32"), "loss", ["x", "w", "v"])
    return optimize(found, without=("softmax-gradient", "precompute-derivatives", "reciprocal"))


def readers(found: System, name: str) -> set[str]:
    """What is computed from a tensor on the way back."""
    return {
        eq.target for eq in found.equations if name in eq.sources and eq.target.startswith("d_")
    }


def same(one: System, two: System) -> None:
    given = values(one)
    expected, found = evaluate(one, given, wide=True), evaluate(two, given, wide=True)
    for name in one.outputs:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SAID)
def test_the_way_back_reads_the_share(name: str) -> None:
    before = trained(SAID[name])
    after = verify(softmax_gradient(before), "softmax-gradient")
    assert any("s" in eq.sources for eq in before.equations if eq.target.startswith("d_"))
    assert readers(before, "e") and not readers(after, "e")
    assert not readers(after, "s") and readers(after, "y")
    same(before, after)


@pytest.mark.parametrize("name", NOT_SAID)
def test_other_gradients_stay_as_they_are(name: str) -> None:
    before = trained(NOT_SAID[name])
    assert softmax_gradient(before) is before or readers(softmax_gradient(before), "e") == readers(
        before, "e"
    )
    same(before, verify(softmax_gradient(before), "softmax-gradient"))


PLAIN = """model M(e: f32[6, 9], d: f32[6, 9]) -> z: f32[6, 9], y: f32[6, 9] {{
    s[b] = sum(j) e[b, j]*e[b, j]
    y[b, i] = e[b, i] / s[b]
    t[b] = {}
    z[b, i] = {}
}}"""
ROW = "sum(j) d[b, j]*y[b, j] / s[b]"
PRODUCT = "(d[b, i]/s[b] + t[b]) * e[b, i]"
LEFT = {
    "the sum is read twice": (ROW, f"{PRODUCT} * t[b]"),
    "so is what is divided": (ROW, f"{PRODUCT} * exp(d[b, i]/s[b] + t[b])"),
    "so is the part": (ROW, f"{PRODUCT} / (1 + e[b, i]*e[b, i])"),
    "a quotient is divided by the whole": ("sum(j) d[b, j]*e[b, j] / s[b]", "t[b]*d[b, i]"),
    "not all is divided": (ROW, "(d[b, i] + t[b]) * e[b, i]"),
}


def test_a_product_of_a_part_that_the_program_has() -> None:
    before = system(PLAIN.format(ROW, PRODUCT), float_type="f32")
    after = verify(softmax_gradient(before), "softmax-gradient")
    assert set(after.definition["z"].sources) == {"d", "t", "y"}
    same(before, after)


@pytest.mark.parametrize("row, product", LEFT.values(), ids=LEFT)
def test_what_would_become_something_else_stays(row: str, product: str) -> None:
    before = system(PLAIN.format(row, product), float_type="f32")
    assert softmax_gradient(before) is before
    same(before, optimize(before))
