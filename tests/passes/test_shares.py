"""Gradients of a softmax that are said through it, and others that are left alone."""

from __future__ import annotations

import numpy as np
import pytest
from support import gradients, system, values

from nnc.compiler.evaluate import evaluate
from nnc.compiler.ir import System
from nnc.compiler.passes.shares import shares
from nnc.compiler.pipeline import optimise
from nnc.compiler.verify import verify

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
    return optimise(found, without=("shares", "ahead", "reciprocal"))


def readers(found: System, name: str) -> set[str]:
    """What is computed from a tensor on the way back."""
    return {eq.target for eq in found.equations
            if name in eq.sources and eq.target.startswith("d_")}  # fmt: skip


def same(one: System, two: System) -> None:
    given = values(one)
    expected, found = evaluate(one, given, wide=True), evaluate(two, given, wide=True)
    for name in one.outputs:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SAID)
def test_the_way_back_reads_the_share(name: str) -> None:
    before = trained(SAID[name])
    after = verify(shares(before), "shares")
    assert any("s" in eq.sources for eq in before.equations if eq.target.startswith("d_"))
    assert readers(before, "e") and not readers(after, "e")
    assert not readers(after, "s") and readers(after, "y")
    same(before, after)


@pytest.mark.parametrize("name", NOT_SAID)
def test_other_gradients_stay_as_they_are(name: str) -> None:
    before = trained(NOT_SAID[name])
    assert shares(before) is before or readers(shares(before), "e") == readers(before, "e")
    same(before, verify(shares(before), "shares"))
