"""Slopes computed where the values are."""

from __future__ import annotations

import numpy as np
import pytest
from support import TARGET, gradients, optimize, plan, system, values

from nnc.compiler.ir.equation import System
from nnc.compiler.ir.expr import Apply, walk
from nnc.compiler.ir.verify import verify
from nnc.compiler.passes.equations.precompute_derivatives import precompute_derivatives
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.device.cpu.program import CpuProgram

LAYERS = """model M(x: f32[6, 5], w: f32[5, 32], u: f32[32, 3]) -> loss: f32[] {{
    y[b, o] = sum(i) x[b, i]*w[i, o]
    {act}
    z[b, q] = sum(o) g[b, o]*u[o, q]{more}
    loss = sum(z*z)
}}"""
ACTIVATIONS = {
    "gelu": "0.5*y*(1 + erf(sqrt(0.5)*y))",
    "silu": "y*(0.5 + 0.5*tanh(0.5*y))",
    "negative": "1 - y*erf(y)",
    "mish": "y*tanh(log1p(exp(y)))",
}


def trained(act: str, more: str = "", float_type: str = "f64") -> System:
    act = act if act.startswith("g[") else f"g = {act}"
    return gradients(
        system(LAYERS.format(act=act, more=more), float_type=float_type), "loss", ["x", "w", "u"]
    )[0]


def count(system: System, *functions: str) -> int:
    return sum(
        isinstance(n, Apply) and n.fn in functions
        for eq in system.equations
        if eq.target.startswith("d_")
        for n in walk(eq.body)
    )


@pytest.mark.parametrize("act", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_the_way_back_reads_the_slope(act: str) -> None:
    before = optimize(trained(act), without=["precompute-derivatives"])
    after = verify(precompute_derivatives(before, TARGET), "precompute-derivatives")
    assert count(before, "erf", "exp", "tanh") and not count(after, "erf", "exp", "tanh")
    given = values(before)
    expected, found = evaluate(before, given), evaluate(after, given)
    for name in before.outputs:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("act", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_the_value_stays_in_registers_and_results_are_those_of_the_evaluator(act: str) -> None:
    whole = trained(act, float_type="f32")
    made = plan(whole)
    kernel = next(k for k in made.kernels if "y" in {e.target for e in k.equations})
    assert "y" in kernel.local and "y_slope" in kernel.stored
    given = values(whole)
    expected, results = evaluate(whole, given), []
    for threads in (1, 2, 3):
        program = CpuProgram(made, threads=threads)
        for name, value in given.items():
            program.arrays[name][...] = value
        program.run()
        results.append([program.arrays[name].tobytes() for name in whole.outputs])
        for name in whole.outputs:
            scale = float(np.abs(expected[name]).max())
            np.testing.assert_allclose(program.arrays[name], expected[name], atol=1e-5 * scale)
    assert all(r == results[0] for r in results)


@pytest.mark.parametrize(
    ("act", "more"),
    [
        ("max(y, 0)", ""),  # nothing long
        ("tanh(y)", ""),  # the way back reads g itself
        (ACTIVATIONS["gelu"], " + sum(o) y[b, o]^2*u[o, q]"),  # the way back needs y anyway
        ("g[b, o] = y[b, o]*erf(y[b, o] + x[b, 0])", ""),  # the slope is not of y alone
    ],
)
def test_what_gains_nothing_stays(act: str, more: str) -> None:
    before = optimize(trained(act, more), without=["precompute-derivatives"])
    assert precompute_derivatives(before, TARGET) is before
