"""Lists of numbers, `[3, 5]`: compile-time values of settings and `let`s."""

from __future__ import annotations

import numpy as np
import pytest
from support import elaborated, values

from nnc.compiler.ir.printer import system_text
from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.diagnostics.diagnostic import UserError

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


@pytest.mark.parametrize(
    "body, code, says",
    [
        ("y = x + [1, 2]", "E0312", "a list is not a number"),
        ("y = -[1, 2]", "E0312", "a list is not a number"),
        ("y = if [1, 2] then x else 2*x", "E0312", "a list is not a number"),
        ("y = exp([1, 2])", "E0312", "a list cannot be computed with"),
        ("y = softmax([1, 2])", "E0312", "`x` of `softmax` is a tensor, and this is a list"),
        ('y = x |> Conv(4, ["same", 2])', "E0312", "a list holds numbers"),
        ("y = x * [[1, 2], [3]]", "E0312", "a list holds numbers"),
        ("y = x |> Conv(4, [x, 2])", "E0308", "what a list holds must be known when compiling"),
        ("y = x |> Dense([1, 2])", "E0308", "the size `units` of `w` must be a whole number"),
        ("let w = [1, 2]\n y = x * w[2]", "E0306", "index `2` falls outside `w`"),
        ("let w = [1, 2]\n y = x * w[-1]", "E0306", "index `-1` falls outside `w`"),
        ("let w = [1, 2]\n y = x * w[0, 1]", "E0302", "`w` is a list, 2 are indexed"),
        ("let w = [1, 2]\n y = x * w[1.5]", "E0310", "an index must be a whole number"),
        ("let w = [1, 2]\n y[i] = x[0, i] * w[i]", "E0308", "a place in a list must be known"),
        ("param p: [2] ~ normal([0, 1])\n y = p", "E0312", "a list is not a number"),
        ("let w = [1, 2]\n param p: [2] = w\n y = p", "E0312", "a parameter starts"),
    ],
)
def test_mistakes(body: str, code: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        elaborated(f"model M(x: f64[2, 2]) -> y {{ {body} }}")
    (found,) = caught.value.diagnostics
    assert (found.code, says) == (code, found.message[: len(says)])
