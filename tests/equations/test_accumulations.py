"""`+=`, `max=` and `min=`: values that are added up, or compared, at computed places."""

from __future__ import annotations

import numpy as np
import pytest
from backends_agree import agree_everywhere
from support import elaborated, gradients, values

from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.diagnostics.diagnostic import UserError

from .test_evaluate import agrees, computed

X = np.array([[1, 2], [5, 4], [3, 8], [0, 1], [7, -1], [2, 2]], np.float32)
K = np.array([0, 2, 0, 2, 4, 4], np.int32)
GIVEN = {"x": ("f32[6, 2]", X), "k": ("i32[6]", K)}
START = {"+=": 0.0, "max=": -np.inf, "min=": np.inf}
WORD = {"+=": "sum", "max=": "max", "min=": "min"}
AT = {"+=": np.add.at, "max=": np.maximum.at, "min=": np.minimum.at}


def accumulated(sign: str, shape: tuple[int, ...], places, terms) -> np.ndarray:
    total = np.full(shape, START[sign], np.float32)
    AT[sign](total, places, terms)
    return total


@pytest.mark.parametrize("sign", START)
@pytest.mark.parametrize(
    ("left", "over", "term", "expected"),
    [
        ("k[b] < 5", "b", "x[b, 0]", ((5,), (K,), X[:, 0])),
        ("k[b] < 5, j < 2", "b, j", "x[b, j]", ((5, 2), (K,), X)),
        ("b // 2 < 3, k[b] < 5", "b", "x[b, 1]", ((3, 5), (np.arange(6) // 2, K), X[:, 1])),
        ("j < 2", "b, j", "x[b, j]", ((2,), (np.array([[0, 1]] * 6),), X)),
        ("k[b] < 5, j < 3", "b, j < 3", "x[b, 0]", ((5, 3), (K,), X[:, :1])),
    ],
)
def test_values(sign: str, left: str, over: str, term: str, expected) -> None:
    value = accumulated(sign, *expected)
    for right in (f"{WORD[sign]}({over}) {term}", term):
        agrees(computed(f"y[{left}] {sign} {right}", GIVEN), value, "f32")


@pytest.mark.parametrize("sign", START)
@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_leading_dimensions(sign: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, k = rng.integers(-9, 9, (*shape, 6, 2)) / 2, rng.integers(0, 4, (*shape, 6))
    for right in (f"{WORD[sign]}(..., e, j) x[..., e, j]", "x[..., e, j]"):
        text = (
            "layer Gathered(x: [..., n, m], k: i32[..., n]) -> y: [..., 4, m] {"
            f" y[..., k[..., e] < 4, j < m] {sign} {right} }}\n"
            f"model M(x: f64{[*x.shape]}, k: i32{[*k.shape]}) -> y {{ y = Gathered(x, k) }}"
        )
        found = evaluate(elaborated(text), {"x": x, "k": k})["y"]
        assert found.shape == (*shape, 4, 2)
        for place in np.ndindex(*shape):
            expected = accumulated(sign, (4, 2), (k[place],), x[place])
            np.testing.assert_allclose(found[place], expected, rtol=1e-6)


@pytest.mark.parametrize("right", ["x[0, e]", "sum(e) x[0, e]"])
def test_leading_dimensions_of_nothing(right: str) -> None:
    text = f"""layer A(x: [..., n], k: i32[n]) -> y: [..., 4] {{ y[..., k[e] < 4] += {right} }}
    model M(x: f64[3, 2], k: i32[2]) -> y {{ y = A(x, k) }}"""
    with pytest.raises(UserError) as caught:
        elaborated(text)
    (found,) = caught.value.diagnostics
    assert found.code == "E0315"
    assert found.message == "what `...` stands for is not accumulated over"


@pytest.mark.parametrize("sign", START)
def test_terms_before_a_length(sign: str) -> None:
    """What does not count is nowhere, also where its place is none."""
    given = {**GIVEN, "n": ("i32[6]", np.array([-9, 1, 1, 2, 0, 2]))}
    body = f"y[n[b] < 3] {sign} {WORD[sign]}(b, t < n[b]) x[b, t]"
    terms = {1: [5, 3], 2: [0, 1, 2, 2]}
    expected = np.full(3, START[sign])
    for place, found in terms.items():
        expected[place] = {"+=": sum, "max=": max, "min=": min}[sign](found)
    agrees(computed(body, given), expected, "f32")


def test_of_whole_numbers() -> None:
    least = np.iinfo(np.int32).min
    agrees(computed("y[k[b] < 3] max= b", GIVEN), [2, least, 3], "i32")
    agrees(computed("y[k[b] < 5] += 1", GIVEN), [2, 0, 2, 0, 2], "i32")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("y max= x", "E0315"),
        ("y[k[b]] min= x[b, 0]", "E0315"),
        ("y[2 < 5] += 1", "E0315"),
        ("y[k[b] < 5] max= q[b]", "E0202"),
        ("y[k[b] < 5] += z", "E0202"),
        ("y[k[b] < 5] max= x[b]", "E0302"),
        ("y[k[b] < 0] max= x[b, 0]", "E0309"),
        ("y[k[b] < 5] max= x[b, 0]\ny[k[b] < 5] max= x[b, 1]", "E0206"),
    ],
)
def test_mistakes(body: str, code: str) -> None:
    with pytest.raises(UserError) as raised:
        computed(body, GIVEN)
    assert {d.code for d in raised.value.diagnostics} == {code}


SEGMENTS = """
layer Best(parts)(x: [n, m], k: i32[n]) -> y: [parts, m] {
    param w: [m] = 1
    top[k[b] < parts, j < m] max= w[j] * x[b, j]
    low[k[b] < parts, j < m] min= min(b, j) x[b, j]^2
    all[k[b] < parts, j < m] += sin(x[b, j])
    y[i, j] = if top[i, j] > -inf then top[i, j] - low[i, j] + all[i, j] else 0.5
}
model M(x: f64[6, 2], k: i32[6]) -> loss: f64 {
    h = x
    repeat 2 {
        best = Best(4)(h, k)
        h[b, j] = x[b, j] + best[k[b], j]
    }
    loss = sum(h^2)
}"""


@pytest.mark.slow
def test_gradients_on_every_backend() -> None:
    agree_everywhere(SEGMENTS, ["x", "best1_w"])


def test_the_gradient_of_equal_values_is_that_of_the_first() -> None:
    text = """model M(x: f64[4], k: i32[4]) -> loss: f64 {
        top[k[b] < 3] max= x[b]
        loss = sum(i) (if top[i] > -inf then top[i] else 0)
    }"""
    system, names = gradients(elaborated(text), "loss", ["x"])
    given = {**values(system), "x": np.array([2.0, 5.0, 5.0, 5.0]), "k": np.array([0, 1, 1, 0])}
    np.testing.assert_array_equal(evaluate(system, given)[names["x"]], [0, 1, 0, 1])
