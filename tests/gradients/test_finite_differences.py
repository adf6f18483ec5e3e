"""Every form of equation: its gradient against finite differences, in float64."""

from __future__ import annotations

import pytest
from support import check_gradients, system

# name: (inputs that are differentiated, the model's signature, the equations)
CASES = {
    "product": ("x w", "x: f32[3, 4], w: f32[4, 5]", "y[b, o] = sum(i) x[b, i]*w[i, o]"),
    "broadcast": ("x b", "x: f32[3, 4], b: f32[4]", "y = x*b + b"),
    "transpose": ("x", "x: f32[3, 4]", "y[j, i] = x[i, j]^3"),
    "diagonal": ("x", "x: f32[4, 4]", "y[i] = x[i, i]*x[0, i]"),
    "constant index": ("x", "x: f32[4, 3]", "y[j] = x[2, j]*x[0, 1]"),
    "reverse": ("x", "x: f32[5]", "y[i] = x[4 - i]*x[i]"),
    "window": ("x k", "x: f32[9], k: f32[3]", "y[i < 7] = sum(u) x[i + u]*k[u]"),
    "padded": ("x k", "x: f32[7], k: f32[3]", "y[i < 7] = sum(u) (x[i + u - 1] else 0)*k[u]"),
    "padded with": ("x", "x: f32[7]", "y[i < 9] = (x[i - 1] else 0.5)^2"),
    "padded with a value": (
        "x z", "x: f32[5], z: f32[7]", "y[i < 7] = (x[i - 1] else z[i]*z[i])*(x[i - 2] else 2)"),
    "strided": ("x k", "x: f32[9], k: f32[3]", "y[i < 4] = sum(u) x[i*2 + u]*k[u]"),
    "strided wide": ("x k", "x: f32[13], k: f32[5]", "y[i < 5] = sum(u) x[i*2 + u]*k[u]"),
    "strided padded": (
        "x k", "x: f32[9], k: f32[4]", "y[i < 4] = sum(u) (x[i*3 + u - 2] else 0)*k[u]"),
    "dilated": ("x k", "x: f32[9], k: f32[3]", "y[i < 5] = sum(u) x[i + 2*u]*k[u]"),
    "strided dilated": ("x k", "x: f32[12], k: f32[3]", "y[i < 4] = sum(u) x[i*2 + 2*u]*k[u]"),
    "strided dilated 3": ("x k", "x: f32[13], k: f32[3]", "y[i < 4] = sum(u) x[i*2 + 3*u]*k[u]"),
    "subsample": ("x", "x: f32[9]", "y[i < 4] = x[2*i + 1]^2"),
    "convolution": (
        "x k", "x: f32[2, 6, 5, 2], k: f32[3, 2, 2, 3]",
        "y[b, i < 4, j < 4, o] = sum(u, v, c) x[b, i + u, j + v, c]*k[u, v, c, o]"),
    "transposed convolution": (
        "x k", "x: f32[5], k: f32[3]",
        "y[p < 11] = sum(u, i) (if i*2 + u == p then x[i]*k[u] else 0)"),
    "maximum": ("x", "x: f32[4, 5]", "y[i] = max(j) x[i, j]"),
    "minimum": ("x", "x: f32[4, 5]", "y[i] = min(j) x[i, j]*x[i, 0]"),
    "pool": ("x", "x: f32[6, 2]", "y[i < 3, c] = max(u < 2) x[2*i + u, c]"),
    "overlapping pool": ("x", "x: f32[7]", "y[i < 3] = max(u < 3) x[2*i + u]"),
    "mean": ("x", "x: f32[4, 5]", "y[i] = mean(j) x[i, j]^2"),
    "product of all": ("x", "x: f32[3, 4]", "y[i] = prod(j) x[i, j]"),
    "nested": (
        "x w", "x: f32[3, 4], w: f32[4]",
        "y[i] = exp(sum(j) x[i, j]*w[j]) / (sum(j) w[j]^2)"),
    "reshape": ("x", "x: f32[2, 3, 4]", "y[b, p < 12] = x[b, p // 4, p % 4]^2"),
    "flatten": ("x", "x: f32[2, 2, 3, 2]", "y[b, p < 12] = x[b, p // 6, p // 2 % 3, p % 2]^2"),
    "upsample": ("x", "x: f32[4, 2]", "y[i < 8, j] = x[i // 2, j]^2"),
    "tile": ("x", "x: f32[4]", "y[i < 10] = x[i % 4]*i"),
    "gather": ("x", "x: f32[5, 3], n: i32[7]", "y[b, j] = x[n[b], j]^2"),
    "gather last": ("x", "x: f32[6, 5], n: i32[6]", "y[b] = x[b, n[b]]^2"),
    "gather with an offset": ("x", "x: f32[8], n: i32[4]", "y[b] = x[2*n[b] + 1]^2"),
    "gather with a border": (
        "x", "x: f32[4, 5, 2], n: i32[2]", "y[i, j < 4] = (x[i + j, n[i], i] else 0)^2"),
    "functions": (
        "x", "x: f32[6]",
        "y[i] = tanh(x[i]) + exp(x[i])*sin(x[i]) + log(1 + x[i]^2) + sqrt(2 + cos(x[i]))"),
    "more functions": (
        "x", "x: f32[6]", "y = erf(x) + log1p(x^2) + expm1(x) + abs(x) + 1/(2 + x^2)"),
    "power": ("x z", "x: f32[4], z: f32[4]", "y = (x^2 + 1)^z + x^5"),
    "condition": ("x", "x: f32[6]", "y[i] = if i > 2 and x[i] > 0 then x[i]^2 else 3*x[i]"),
    "pairs": ("x z", "x: f32[4], z: f32[4]", "y[i] = max(x[i], z[i])*min(x[i], 0.3)"),
    "stop": ("x", "x: f32[4]", "y = x*x"),
    "index value": ("x", "x: f32[5]", "y[i] = x[i]*(i + 1)"),
    "matrix product": ("x w", "x: f32[2, 3, 4], w: f32[4, 5]", "y = x @ w"),
    "running sum": ("x", "x: f32[6]", "y[t] = x[t]*x[t] + 0.5*(y[t - 1] else 1)"),
    "reverse time": ("x", "x: f32[6]", "y[t] = x[t]*(y[t + 1] else 1)"),
    "two steps back": ("x", "x: f32[6]", "y[t] = x[t] + 0.5*(y[t - 1] else 0)*(y[t - 2] else 1)"),
    "recurrent network": (
        "x W U", "x: f32[2, 4, 3], W: f32[3, 2], U: f32[2, 2]",
        "y[b, t, j] = tanh(sum(i) x[b, t, i]*W[i, j] + sum(k) (y[b, t - 1, k] else 0)*U[k, j])"),
    "state by a permutation": (
        "x w", "x: f32[2, 5, 4], w: f32[4], n: i32[2, 4]",
        "y[b, t, j] = tanh(x[b, t, j] + (y[b, t - 1, n[b, j]] else 0)*w[j])"),
    "state by a permutation of each step": (
        "x w", "x: f32[2, 5, 4], w: f32[4], n: i32[2, 5, 4]",
        "y[b, t, j] = x[b, t, j]*w[j] + sin((y[b, t - 1, n[b, t, j]] else 0))"),
    "state of another row": (
        "x", "x: f32[4, 5, 3], n: i32[4]",
        "y[b, t, j] = x[b, t, j]^2 + sin((y[n[b], t - 1, j] else 0) + (y[b, t - 2, j] else 1))"),
    "two states by data": (
        "x", "x: f32[5, 4], n: i32[4], m: i32[5]",
        "u[t, j] = x[t, j]*(y[t - 1, n[j]] else 1)\ny[t, j] = sin(u[t, j]) + u[t, m[t]]"),
    "a state by a number": (
        "x", "x: f32[5, 4], n: i32[5]",
        "y[t, j] = x[t, j]*x[t, j] + (y[t - 1, n[t]] else 0)*0.5"),
    "a state by its own position": (
        "x", "x: f32[5, 4]",
        "y[t, j] = x[t, j] + 0.5*(y[t - 1, (p[t - 1] else 0)] else 0)\np[t] = argmax(j) y[t, j]"),
    "scattered sum of a state": (
        "x", "x: f32[5, 4], n: i32[4]",
        "y[t, j] = sin(x[t, j] + (sum(k) if n[k] == j then (y[t - 1, k] else 0) else 0))"),
    "edit distance": (
        "x", "x: f32[4, 5]",
        "y[i, j] = x[i, j]^2 + 0.5*(y[i - 1, j] else 1) + 0.25*(y[i, j - 1] else 1)"
        " + 0.1*(y[i - 1, j - 1] else 0)"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_gradient(name: str) -> None:
    wrt, inputs, equations = CASES[name]
    text = f"model M({inputs}) -> loss: f32[] {{\n{equations}\nloss = sum(y*y*0.5 + y)\n}}"
    check_gradients(system(text), wrt.split())


def test_mutual_recurrence() -> None:
    text = """model M(x: f32[5, 2], u: f32[2, 2]) -> loss: f32[] {
        c[t, j] = x[t, j]*0.5 + (c[t - 1, j] else 0)*(h[t - 1, j] else 1)
        h[t, j] = tanh(c[t, j]) + sum(k) (h[t - 1, k] else 0)*u[k, j]
        loss = sum(h) + sum(c*c)
    }"""
    check_gradients(system(text), ["x", "u"])


def test_the_tie_goes_to_the_first() -> None:
    """A maximum hands its gradient to the first index that attains it."""
    from support import gradients

    from nnc.compiler.reference.evaluator import evaluate

    text = "model M(x: f32[4]) -> loss: f32[] { loss = max(i) x[i] }"
    with_gradients, names = gradients(system(text), "loss", ["x"])
    found = evaluate(with_gradients, {"x": [1.0, 2.0, 2.0, 0.0]})
    assert found[names["x"]].tolist() == [0, 1, 0, 0]


def test_stop_is_a_constant() -> None:
    from support import gradients

    from nnc.compiler.reference.evaluator import evaluate

    text = "model M(x: f32[3]) -> loss: f32[] { loss = sum(x*stop(x)) }"
    with_gradients, names = gradients(system(text), "loss", ["x"])
    found = evaluate(with_gradients, {"x": [1.0, 2.0, 3.0]})
    assert found[names["x"]].tolist() == [1, 2, 3]


def test_a_strided_convolution_wastes_nothing() -> None:
    """The gradient of a stride-2 window of 4 sums over 2 taps, not 4."""
    from support import gradients

    text = """model M(x: f32[12], k: f32[4]) -> loss: f32[] {
        y[i < 5] = sum(u) x[i*2 + u]*k[u]
        loss = sum(y)
    }"""
    with_gradients, names = gradients(system(text), "loss", ["x"])
    (equation,) = (e for e in with_gradients.equations if e.target == names["x"])
    assert [i.size for i in equation.over] == [2]
