"""What compiles and is hardly meant is warned of, and what may be meant is not."""

from __future__ import annotations

import pytest

from nnc.dsl.diagnostics.diagnostic import Diagnostic

from .front import diagnose

UNREAD = "W0202", "W0301"


def warnings(text: str) -> list[Diagnostic]:
    """But for what is not read or not trained."""
    return [d for d in diagnose(text) if d.code not in UNREAD]


MODEL = "model M(x: f32[B, 32, 32, 3], s: f32[B, 9, 8]) -> y {{\n y = {}\n}}"


@pytest.mark.parametrize(
    ("layer", "meant"),
    [
        ("x |> Conv(3, 16, 3)", "Conv(16, 3)"),
        ("x |> Conv(3, 6, 5)", "Conv(6, 5)"),
        ("x |> Conv(64, 32, 3)", "Conv(32, 3)"),
        ("s |> Conv1D(8, 9, 3)", "Conv1D(9, 3)"),
        ("s |> GRU(8, 16)", "GRU(16)"),
        ("s |> LSTM(8, 16) |> relu", "LSTM(16)"),
    ],
)
def test_the_size_of_the_input_first(layer: str, meant: str) -> None:
    (found,) = warnings(MODEL.format(layer))
    assert found.code == "W0408" and f"`{meant}`" in found.help


@pytest.mark.parametrize(
    "layer",
    [
        "x |> Conv(16, 3)",
        "x |> Conv(16, 5, 2)",
        "x |> Conv(96, 11, 4)",
        "x |> Conv(8, 16, 16)",
        "x |> Conv(1, 3, 1)",
        "x |> Conv(3, kernel = 16, stride = 3)",
        "s |> GRU(8, true)",
        "s |> GRU(8, reverse = true)",
        "s |> StackedGRU(8, 2)",
    ],
)
def test_usual_layers(layer: str) -> None:
    assert warnings(MODEL.format(layer)) == []


LOSS = """
model M(x: f32[B, 3]) -> y: f32[B, {0}], p: f32[B, 1] {{
    y = x |> Dense({0})
    z = x |> Dense(1)
    p = sigmoid(z)
}}
train M {{
    input target: f32[B]
    input label: f32[B, 1]
    loss = {1}
    optimizer = sgd()
}}"""


@pytest.mark.parametrize(
    ("loss", "code"),
    [
        ("mean((y - target)^2)", "W0308"),
        ("mean(abs(target - y))", "W0308"),
        ("sum(if y > target then y else target)", "W0308"),
        ("mean(p * max(y, target))", "W0308"),
        ("mean(b) (y[b, 0] - target[b])^2", ""),
        ("mean((y - label)^2)", ""),
        ("mean((y - 1)^2) + mean(target)", ""),
        ("binary_cross_entropy(label, p)", "W0409"),
        ("binary_cross_entropy_logits(label, z) + mean(y)", "W0409"),
        ("binary_cross_entropy(p, label)", ""),
        ("binary_cross_entropy(p, y)", ""),
    ],
)
def test_losses(loss: str, code: str) -> None:
    found = {d.code for d in warnings(LOSS.format(1, loss))}
    assert found == ({code} if code else set())


def test_what_a_column_meets_may_be_meant() -> None:
    assert warnings(LOSS.format(5, "mean(y - p)")) == []
    text = "model M(x: f32[4, 3], y: f32[4, 1], w: f32[3]) -> z: f32[4, 3] { z = x * y + y * w }"
    assert warnings(text) == []
