"""Products of matrices stay products where 0 times infinity has to be 0."""

from __future__ import annotations

import numpy as np
import pytest
from support import plan, system, values

from nnc.compiler.ir.equation import System
from nnc.compiler.ir.expr import Apply, walk
from nnc.compiler.ir.gradients import add_gradients
from nnc.compiler.ir.verify import verify
from nnc.compiler.passes.autodiff.differentiate import adjoint_equations
from nnc.compiler.passes.autodiff.guard_rows import guard_rows
from nnc.compiler.pipeline import derive
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.reference.pass_checker import PassCheck
from nnc.runtime.device.cpu.program import CpuProgram

# Equations from x and w to y, of which `live` says what the loss sees, and where x is infinite
# without being seen: in examples, in places, or nowhere. tanh hides infinite values.
CASES = {
    "rows": (
        "x: f64[5, 4], w: f64[4, 3], live: f64[5]",
        "h[b, k] = exp(x[b, k])\n y[b, j] = sum(k) h[b, k] * w[k, j]\n"
        "loss = sum(b, j) if live[b] > 0 then tanh(y[b, j]) else 0",
    ),
    "a function of two tensors": (
        "x: f64[5, 4], w: f64[4, 3], live: f64[5]",
        "c[k < 4] = 0.5\n y[b, j] = sum(k) exp(x[b, k] + c[k]) * w[k, j]\n"
        "loss = sum(b, j) if live[b] > 0 then tanh(y[b, j]) else 0",
    ),
    "a convolution": (
        "x: f64[5, 6], w: f64[3, 3], live: f64[5]",
        "h[b, i] = exp(x[b, i])\n y[b, i < 6, o] = sum(u) (h[b, i + u - 1] else 0) * w[u, o]\n"
        "loss = sum(b, i, o) if live[b] > 0 then tanh(y[b, i, o]) else 0",
    ),
    "a convolution, in places": (
        "x: f64[2, 9], w: f64[3, 3], live: f64[9]",
        "h[b, i] = exp(x[b, i])\n y[b, i < 9, o] = sum(u) (h[b, i + u - 1] else 0) * w[u, o]\n"
        "loss = sum(b, i, o) if live[i] > 0 then tanh(y[b, i, o]) else 0",
    ),
    "a convolution with a stride": (
        "x: f64[2, 11], w: f64[3, 3], live: f64[5]",
        "h[b, i] = exp(x[b, i])\n y[b, i < 5, o] = sum(u) h[b, 2*i + u] * w[u, o]\n"
        "loss = sum(b, i, o) if live[i] > 0 then tanh(y[b, i, o]) else 0",
    ),
    "backwards": (
        "x: f64[2, 9], w: f64[3, 3], live: f64[7]",
        "h[b, i] = exp(x[b, i])\n y[b, i < 7, o] = sum(u) h[b, 8 - i - u] * w[u, o]\n"
        "loss = sum(b, i, o) if live[i] > 0 then tanh(y[b, i, o]) else 0",
    ),
    "a transposed convolution": (
        "x: f64[2, 5], w: f64[4, 2, 3], live: f64[5]",
        "h[b, i, c < 2] = exp(x[b, i] - c)\n"
        "y[b, p < 5, r < 2, o] = sum(u < 2, c) (h[b, p + 1 - u, c] else 0) * w[2*u + r, c, o]\n"
        "loss = sum(b, i, r, o) if live[i] > 0 then tanh(y[b, i, r, o]) else 0",
    ),
    "scores": (
        "x: f64[5, 4], w: f64[3, 4], live: f64[5]",
        "h[s, e] = exp(x[s, e])\n y[s, t] = sum(e) h[s, e] * w[t, e]\n"
        "loss = sum(s, t) if live[s] > 0 then tanh(y[s, t]) else 0",
    ),
}  # fmt: skip


def guarded(name: str) -> System:
    """The equations of the loss and of its gradient by w, with guards for pairs."""
    signature, lines = CASES[name]
    whole = system(f"model M({signature}) -> loss {{\n {lines}\n}}")
    whole, names = add_gradients(whole, "loss", ["w"])
    return whole.replace(outputs=("loss", names["w"]))


def guards(whole: System) -> list[str]:
    """The targets of the sums in which something is tested for every pair."""
    return [
        eq.target
        for eq in whole.equations
        if eq.reduce and any(isinstance(n, Apply) and n.fn == "is_finite" for n in walk(eq.body))
    ]


def given_to(whole: System, seed: int) -> dict[str, np.ndarray]:
    """Values with a few infinite ones among them, and about half of what the loss sees hidden."""
    given = values(whole, seed)
    generator = np.random.default_rng(seed)
    x, live = given["x"], given["live"]
    live[...] = generator.integers(0, 2, live.shape)
    x[generator.random(x.shape) < 0.1] = 800.0  # the exponential overflows
    return given


@pytest.mark.parametrize("name", CASES)
def test_the_guard_is_that_of_the_pairs(name: str) -> None:
    whole = guarded(name)
    pairs = adjoint_equations(whole)
    rows = verify(guard_rows(pairs), "guard-rows")
    assert guards(pairs) and not guards(rows)
    finite = infinite = hidden = 0
    for seed in range(60):
        given = given_to(whole, seed)
        (_, d_w) = whole.outputs
        expected, found = evaluate(pairs, given)[d_w], evaluate(rows, given)[d_w]
        if np.isfinite(expected).all():
            np.testing.assert_allclose(found, expected, rtol=1e-12)
            finite += 1
            hidden += bool((given["x"] > 700).any())
        else:
            assert not np.isfinite(found).all()
            infinite += 1
    assert finite and hidden


@pytest.mark.parametrize("name", CASES)
def test_every_pass_and_the_code_keep_it(name: str) -> None:
    whole = guarded(name)
    (_, d_w) = whole.outputs
    seed = next(s for s in range(60) if (given_to(whole, s)["x"] > 700).any())
    given = given_to(whole, seed)
    expected = evaluate(derive(whole), given)[d_w]
    program = CpuProgram(plan(whole, PassCheck(whole, given)))
    for key, value in given.items():
        program.arrays[key][...] = value
    program.run()
    np.testing.assert_allclose(program.arrays[d_w], expected, rtol=1e-9, atol=1e-12)


KEPT = {
    "one index": (
        "x: f64[5], w: f64[5], live: f64[5]",
        "y[b] = exp(x[b]) * w[b]\n loss = sum(b) if live[b] > 0 then tanh(y[b]) else 0",
    ),
    "a diagonal": (
        "x: f64[5, 5], w: f64[5, 3], live: f64[5]",
        "y[i, j] = sum(k) exp(x[i, i]) * w[k, j] * k\n"
        "loss = sum(i, j) if live[i] > 0 then tanh(y[i, j]) else 0",
    ),
    "a recurrence": (
        "x: f64[5], w: f64[4, 3], live: f64[5]",
        "v[k, j] = exp(w[k, j])\n"
        "h[t, k < 3] = tanh(x[t] + sum(j < 3) v[j, k] * (h[t - 1, j] else 0))\n"
        "loss = sum(t, k) if live[t] > 0 then h[t, k] else 0",
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_no_product_of_matrices_stays(name: str) -> None:
    signature, lines = KEPT[name]
    whole = system(f"model M({signature}) -> loss {{\n {lines}\n}}")
    whole, names = add_gradients(whole, "loss", ["w"])
    pairs = adjoint_equations(whole.replace(outputs=("loss", names["w"])))
    rows = verify(guard_rows(pairs), "guard-rows")
    given = values(whole, 1)
    expected, found = evaluate(pairs, given), evaluate(rows, given)
    np.testing.assert_array_equal(found[names["w"]], expected[names["w"]])
