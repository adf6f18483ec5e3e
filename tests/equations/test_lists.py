"""Lists of numbers, `[3, 5]`: compile-time values of settings and `let`s."""

from __future__ import annotations

import numpy as np
import pytest
from backends_agree import agree_everywhere
from support import elaborated, values

from nnc.compiler.ir.printer import system_text
from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.diagnostics.diagnostic import Report, UserError
from nnc.dsl.syntax.formatter import format as formatted
from nnc.dsl.syntax.parser import parse
from nnc.dsl.syntax.source import Source

LAYER = """
layer Affine(weights, other = [7, 8.5])(x: [..., n]) -> y: [..., n] {
    let half = count(weights) // 2
    y = x * weights[0] + (weights[half] else 0) + (weights[9] else -1) + other[1] + rank(weights)
}
"""


def test_elements_are_constants() -> None:
    system = elaborated(
        f"{LAYER} model M(x: f64[2, 3]) -> y {{ let m = 2\n y = x |> Affine([m, m + 3]) }}"
    )
    given = values(system)
    np.testing.assert_allclose(evaluate(system, given)["y"], given["x"] * 2 + 5 - 1 + 8.5 + 1)
    assert "[2, 5]" not in system_text(system)


def test_layers_of_equal_lists_are_the_same_layer() -> None:
    text = "model M(x: f64[1, 9, 9, 1]) -> y { y = x |> Conv(1, [1, 3]) |> Conv(1, [3, 1]) }"
    system = elaborated(text)
    assert [t.shape for t in system.of_kind("param") if len(t.shape) == 4] == [
        (1, 3, 1, 1),
        (3, 1, 1, 1),
    ]
    assert system.tensors["y"].shape == (1, 7, 7, 1)


X = np.array([[1.0, 2.0], [3.0, 4.0]])
PLACES = np.array([1, 0])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = x * [10, 0.5]", X * [10, 0.5]),
        ("y = -[1, 2] + exp([0, 0]) * x", X - [1, 2]),
        ("y = [[1, 2, 3], [4, 5, 6]]", np.array([[1, 2, 3], [4, 5, 6]])),
        ("let w = [[1, 2, 3], [4, 5, 6.5]]\n y = x @ w", X @ [[1, 2, 3], [4, 5, 6.5]]),
        ("let w = [[1, 2], [3, 4]]\n y[i, j] = w[j, i] * x[i, j]", X * [[1, 3], [2, 4]]),
        ("let w = [0.5, 7]\n y[i] = w[k[i]] * x[i, 0]", X[:, 0] * [7, 0.5]),
        ("let p = [1, 0]\n y[i, j] = x[i, p[j]]", X[:, ::-1]),
        ("let w = [1, 2, 3]\n y[i < 5] = (w[i - 1] else -1)", np.array([-1, 1, 2, 3, -1])),
        ("let w = [1, 2, 3]\n y = sum(i) w[i] + sum(w) + count(w)", np.array(15)),
        ("let n = 2\n let w = [n, n / 4, -inf]\n y = max(w[1], w[2])", np.array(0.5)),
        ("let w = [1, 0.25]\n y = scaled(x, w) + scaled(x, [2, 2])", X * [3, 2.25]),
        ("let w = [true, false]\n y[i, j] = if w[j] then x[i, j] else 0", X * [1, 0]),
        ("let w = [[1], [2]]\n u, v = split(concat(x, w), [1, 2])\n y = v",
         np.array([[2, 1], [4, 2]])),
        ("y = x\n repeat 2 { y = y * [2, 3] }", X * [4, 9]),
        ("let w = [1, 2]\n y[b, t] = (y[b, t - 1] else 0) + w[t] * x[b, t]",
         np.cumsum(X * [1, 2], 1)),
    ],
)  # fmt: skip
def test_a_list_is_a_tensor_where_one_is_needed(body: str, expected: np.ndarray) -> None:
    scaled = "fn scaled(x: [..., n], w: [n]) -> y: [..., n] { y[..., i] = w[i] * x[..., i] }"
    system = elaborated(f"{scaled}\nmodel M(x: f64[2, 2], k: i32[2]) -> y {{ {body} }}")
    given = {"x": X, "k": PLACES}
    np.testing.assert_allclose(evaluate(system, given)["y"], expected, rtol=1e-12)
    again = elaborated(system_text(system))
    np.testing.assert_array_equal(evaluate(again, given)["y"], evaluate(system, given)["y"])


def test_gradients_on_every_backend() -> None:
    text = """layer Weighted(x: [..., n], w: [n]) -> y: [..., n] {
        param u: [n] = 1
        y = u * w * x
    }
    model M(x: f64[3, 4], label: i32[3]) -> loss: f64 {
        let weights = [0.5, 2.5, 1, 4]
        let mixed = [[1, 2], [0, -1], [0.5, 3], [1, 1]]
        h = Weighted(x, weights) |> Weighted(weights)
        z = tanh(h) @ mixed
        loss = sum(b, j) weights[label[b]] * z[b, j]^2
    }"""
    agree_everywhere(text, ["x", "weighted1_u"])


def test_a_long_list_is_laid_out_on_several_lines() -> None:
    report = Report()
    text = f"fn w() = {[n / 8 for n in range(100)]}\n"
    found = formatted(parse(Source("test.nn", text), report))
    assert not report.diagnostics and max(map(len, found.splitlines())) <= 100
    assert formatted(parse(Source("test.nn", found), report)) == found


@pytest.mark.parametrize(
    "body, code, says",
    [
        ("y = if [1, 2] then x else 2*x", "E0312", "a list is not a number"),
        ('y = x |> Conv(4, ["same", 2])', "E0312", "a list holds numbers"),
        ("y = x * [[1, 2], [3]]", "E0303", "the lists in a list have one shape"),
        ("y = x * [1, [2, 3]]", "E0303", "the lists in a list have one shape"),
        ("y = x * [1, 2, 3]", "E0303", "shapes [2, 2] and [3] do not fit"),
        ("y = x * []", "E0309", "a list without numbers"),
        ("y = x |> Conv(4, [x, 2])", "E0308", "what a list holds must be known when compiling"),
        ("y = x |> Dense([1, 2])", "E0308", "the size `units` of `w` must be a whole number"),
        ("let w = [1, 2]\n y = x * w[2]", "E0306", "index `2` falls outside `w`"),
        ("let w = [1, 2]\n y = x * w[-1]", "E0306", "index `-1` falls outside `w`"),
        ("let w = [1, 2]\n y[i < 3] = w[i]", "E0306", "index `i` falls outside `w`"),
        ("let w = [1, 2]\n y = x * w[0, 1]", "E0302", "`w` is a list, 2 are indexed"),
        ("let w = [1, 2]\n y = x * w[1.5]", "E0310", "an index must be a whole number"),
        ("let w = [1, 2]\n y = grad(sum(x), w)", "E0321", "`w` is not a tensor"),
        (f"let w = {list(range(3000))}\n y = x", "E0311", "a list of 3,000 numbers"),
        ("y = x * table(3)", "E0312", "`table` takes the name of a file"),
        ("param p: [2] ~ normal([0, 1])\n y = p", "E0312", "a list is not a number"),
        ("let w = [1, 2]\n param p: [2] = w\n y = p", "E0312", "a parameter starts"),
    ],
)
def test_mistakes(body: str, code: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        elaborated(f"model M(x: f64[2, 2]) -> y {{ {body} }}")
    (found,) = caught.value.diagnostics
    assert (found.code, says) == (code, found.message[: len(says)])
