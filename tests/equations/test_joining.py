"""`concat`, `stack`, `split` and `pad` along any dimension, beside NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from backends_agree import agree_everywhere
from support import elaborated, values

from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.diagnostics.diagnostic import UserError

from .test_evaluate import agrees, computed

A = np.arange(1.0, 13.0).reshape(2, 3, 2)
B = np.array([[[7.0, 8.0]], [[9.0, 10.0]]])
GIVEN = {"a": ("f32[2, 3, 2]", A), "b": ("f32[2, 1, 2]", B), "k": ("i32[3]", [1, 2, 3])}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = concat(a, a)", np.concatenate([A, A], -1)),
        ("y = concat(a, b, a, axis = 1)", np.concatenate([A, B, A], 1)),
        ("y = a |> concat(b, axis = -2)", np.concatenate([A, B], 1)),
        ("y = concat(a, 2*b, b + 1, b, axis = 1)", np.concatenate([A, 2 * B, B + 1, B], 1)),
        ("y = stack(a, a, 0*a)", np.stack([A, A, 0 * A])),
        ("y = stack(a, 3*a, axis = 1)", np.stack([A, 3 * A], 1)),
        ("y = stack(a, 3*a, axis = -1)", np.stack([A, 3 * A], -1)),
        ("y = stack(1, 2.5, sum(a))", np.array([1, 2.5, A.sum()])),
        ("u, _, w = split(a, 3, axis = 1)\ny = w - u", A[:, 2:] - A[:, :1]),
        ("u, v = split(a, 1, 2, axis = 1)\ny = v + u", A[:, 1:] + A[:, :1]),
        ("u, v = split(a, 2)\ny = v", A[..., 1:]),
        ("y = pad(a, 1)", np.pad(A, ((0, 0), (0, 0), (1, 1)))),
        ("y = pad(a, 2, 0, axis = 0, value = -1)", np.pad(A, ((2, 0), (0, 0), (0, 0)),
                                                         constant_values=-1)),
        ("h[i, t, j] = a[i, t, j]\ny = concat(h, b, axis = t)", np.concatenate([A, B], 1)),
        ("y = both(a, b)", np.concatenate([A, B], 1)),
    ],
)  # fmt: skip
def test_values(body: str, expected: np.ndarray) -> None:
    both = "fn both(x: [B, T, n], z: [B, S, n]) -> y { y = concat(x, z, axis = T) }"
    agrees(computed(body, GIVEN, both), expected, "f32")


def test_the_type_is_the_one_that_all_have_in_common() -> None:
    agrees(computed("y = concat(k, k)", GIVEN), [1, 2, 3, 1, 2, 3], "i32")
    agrees(computed("y = concat(k, 0.5*k)", GIVEN), [1, 2, 3, 0.5, 1, 1.5], "f32")


def test_a_size_of_the_model_names_a_dimension() -> None:
    text = """model M(x: f64[B, T, 3], z: f64[B, 2, 3]) -> y {
        y = concat(x, z, axis = T)
    }"""
    system = elaborated(text, B=2, T=2)
    given = values(system)
    expected = np.concatenate([given["x"], given["z"]], 1)
    np.testing.assert_array_equal(evaluate(system, given)["y"], expected)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("y = concat(a, b)", "E0303"),
        ("y = concat(a, k)", "E0303"),
        ("y = concat(a, b, axis = 3)", "E0303"),
        ("y = concat(a, b, axis = q)", "E0303"),
        ("y = concat(a, b, axis = 0.5)", "E0303"),
        ("y = concat(a, b, dim = 1)", "E0204"),
        ("y = concat([a, b])", "E0204"),
        ("y = concat()", "E0204"),
        ("y = concat(a, c)", "E0202"),
        ("y = stack(a, b)", "E0303"),
        ("y = stack(a, a, axis = 4)", "E0303"),
        ("u, v = split(a, 2, axis = 1)\ny = u + v", "E0303"),
        ("u, v = split(a, 2, 2)\ny = u + v", "E0303"),
        ("u, v = split(a, 3, axis = 1)\ny = u + v", "E0317"),
        ("u, v = split(a, sum(a), 1)\ny = u + v", "E0308"),
        ("y = pad(a, -1)", "E0309"),
        ("y = pad(k, 1, value = 0.5)", "E0307"),
        ("y = pad(a, 1, value = a)", "E0303"),
        ("y = pad(1, 1)", "E0303"),
        ("y[i] = concat(a[i, 0, 0], 2)", "E0313"),
        ("y = square(a)", "E0303"),
    ],
)
def test_mistakes(body: str, code: str) -> None:
    square = "fn square(x: [B, n, B]) -> y { y = concat(x, x, axis = B) }"
    with pytest.raises(UserError) as raised:
        computed(body, GIVEN, square)
    assert {d.code for d in raised.value.diagnostics} == {code}


MODEL = """
layer Both(x: [..., T, n]) -> y: [..., T, 2*n] {
    param w: [n] = 1
    y = concat(w * x, sin(x))
}
model M(x: f64[2, 4, 3], h0: f64[2, 1, 6]) -> loss: f64 {
    h = Both(x)
    repeat 2 {
        before = concat(h0, h, axis = 1)
        u, v, _ = split(before, 2, 2, 1, axis = 1)
        h = tanh(concat(v, u, axis = 1)) + 0.5 * h
    }
    s = stack(h, pad(u, 1, axis = 1), axis = 2)
    loss = sum(s^2) + sum(pad(x, 2, 0, value = 0.5)^3)
}"""


def test_gradients_on_every_backend() -> None:
    agree_everywhere(MODEL, ["x", "h0", "both1_w"])
