"""Integer and truth-valued tensors of recurrences have the type of what they are made of."""

from __future__ import annotations

import numpy as np
import pytest
from support import check_gradients, plan, system, values

from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime.device.cpu.program import CpuProgram

INPUTS = "x: f32[B, 5, 4], E: f32[4, 4], w: f32[4], token: i32[B, 5], first: i32[B], wide: i64[B]"
H = "h[b, t, j] = tanh(x[b, t, j] + w[j]*"

# the equations of a recurrence, and the type of `p` in it
CASES = {
    "an index from the step before": (
        f"{H}E[(p[b, t-1] else 0), j])\n p[b, t] = argmax(j) h[b, t, j]", "i32"),
    "a position within the step": (
        f"{H}(s[b, t-1] else 0))\n p[b, t] = argmax(j) h[b, t, j]\n"
        "s[b, t] = sum(j) if j == p[b, t] then h[b, t, j] else 0", "i32"),
    "read before its equation": (
        f"{H}(p[b, t-1] else 0))\n p[b, t] = argmin(j) h[b, t, j]*2", "i32"),
    "an offset": (
        f"{H}E[(p[b, t-1] else 3), j])\n p[b, t] = 3 - (argmax(j) h[b, t, j])", "i32"),
    "chosen": (
        f"{H}E[(p[b, t-1] else 0), j])\n"
        "p[b, t] = if x[b, t, 0] > 0 then argmax(j) h[b, t, j] else (p[b, t-1] else 0)", "i32"),
    "of data": ("p[b, t] = max((p[b, t-1] else first[b]), token[b, t])", "i32"),
    "of wide data": ("p[b, t < 5] = (p[b, t-1] else 0) + wide[b]", "i64"),
    "counted": ("p[b, t < 5] = (p[b, t-1] else first[b]) + 1", "i32"),
    "the last place": ("p[b, t] = if token[b, t] == 2 then t else (p[b, t-1] else -1)", "i32"),
    "converted": ("p[b, t] = i32(x[b, t, 0]*3) + (p[b, t-1] else 0)", "i32"),
    "a truth value": ("p[b, t] = token[b, t] == 2 or (p[b, t-1] else false)", "bool"),
    "not yet": ("p[b, t] = not (p[b, t-1] else token[b, t] == 1)", "bool"),
    "a sum of truth values": (
        "p[b, t] = (p[b, t-1] else 0) + (sum(j) x[b, t, j] > 0)", "i32"),
    "by a fn": ("p[b, t] = limited((p[b, t-1] else 0) + token[b, t])", "i32"),
    "two that read each other": (
        "p[b, t] = (q[b, t-1] else 0) + token[b, t]\n q[b, t] = p[b, t] % 3", "i32"),
    "real": ("p[b, t] = (p[b, t-1] else 0)*0.5 + token[b, t]", "f64"),
    "a quotient": ("p[b, t] = ((p[b, t-1] else 0) + token[b, t]) / 2", "f64"),
    "a mean": ("p[b, t] = (p[b, t-1] else 0) + (mean(j < 2) token[b, t])", "f64"),
    "a real start": ("p[b, t] = (p[b, t-1] else 0.5) + token[b, t]", "f64"),
    "numbers alone": ("p[b < 3, t < 5] = 2*(p[b, t-1] else 1)", "f64"),
}  # fmt: skip


def elaborated(name: str):
    equations, _ = CASES[name]
    text = f"fn limited(n) = min(n, 3)\nmodel M({INPUTS}) -> p, loss {{\n {equations}\n"
    return system(f"{text} loss = sum(x) + sum(p)*0.5\n}}", B=3)


@pytest.mark.parametrize("name", CASES)
def test_type(name: str) -> None:
    found = elaborated(name)
    assert found.tensors["p"].dtype == CASES[name][1]
    given = values(found, integers=4)
    expected = evaluate(found, given)
    program = CpuProgram(plan(found, verified=True))
    for key, value in given.items():
        program.arrays[key][...] = value
    program.run()
    np.testing.assert_allclose(program.arrays["p"], expected["p"], rtol=1e-12)


def test_gradients_pass_by_positions() -> None:
    equations = CASES["a position within the step"][0]
    check_gradients(
        system(f"model M({INPUTS}) -> loss {{\n {equations}\n loss = sum(h*h)\n}}", B=3), ["x", "w"]
    )


def test_a_declared_type_counts() -> None:
    text = "model M(x: i32[B, 5]) -> n: f32[B, 5] { n[b, t] = (n[b, t-1] else 0) + x[b, t] }"
    assert system(text, B=2).tensors["n"].dtype == "f64"
    text = "model M(x: f32[B, 5]) -> n: i32[B, 5] { n[b, t] = (n[b, t-1] else 0) + x[b, t] }"
    with pytest.raises(UserError) as caught:
        system(text, B=2)
    assert caught.value.diagnostics[0].code == "E0307"
