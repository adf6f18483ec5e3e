"""Which programs join the examples of a batch, and where: there is no gradient of each then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nnc.compiler.elaboration.train_block import Private
from nnc.compiler.programs import training_step
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime.project import project_of_text, setup_of

PROGRAM = """
model M(x: f32[B, 3]) -> y: f32[B, 4] {{
    {body}
}}
{more}
train M {{
    input t: f32[B, 4]
    loss = {loss}
    optimizer = sgd()
    batch = 5
}}
"""
DENSE = "y = x |> Dense(4)"

# what joins examples: the body of the model, the loss, the marked text, and what the label says
JOINING = {
    "batch normalisation": (
        "y = x |> Dense(4) |> BatchNorm", "mse(y, t)", "BatchNorm", "which all of them make up",
    ),
    "the first example": (
        "h = x |> Dense(4)\n    y[b, j] = h[b, j] - h[0, j]", "mse(y, t)",
        "y[b, j] = h[b, j] - h[0, j]", "another example",
    ),
    "the example before": (
        "h = x |> Dense(4)\n    y[b, j] = h[b, j] - (h[b - 1, j] else 0)", "mse(y, t)",
        "y[b, j] = h[b, j] - (h[b - 1, j] else 0)", "another example",
    ),
    "pairs": (DENSE, "mean(pairs(y))", "pairs(y)", "another example"),
    "a maximum": (DENSE, "max(y^2)", "max(y^2)", "compares all examples"),
    "a root of a mean": (DENSE, "sqrt(mse(y, t))", "mse(y, t)", "not linear"),
    "a quotient of sums": (
        DENSE, "sum((y - t)^2) / sum(t^2 + y^2)", "sum((y - t)^2) / sum(t^2 + y^2)", "not linear",
    ),
    "a maximum of the data": (
        "param w: [3] = 1\n    top[i] = max(b) x[b, i]\n"
        "    y[b, i < 4] = if i < 3 then x[b, 0] * w[0] + sum(j) top[j] * w[j] else 0",
        "mse(y, t)", "top[i] = max(b) x[b, i]", "compares all examples",
    ),
}  # fmt: skip
PAIRS = """
fn pairs(z: [B, n]) -> s: [B] {
    p[b, c] = sum(i) z[b, i] * z[c, i]
    s[b]    = log(sum(c) exp(p[b, c])) - p[b, b]
}
"""


def setup_for(body: str, loss: str):
    more = PAIRS if "pairs" in loss else ""
    project = project_of_text(PROGRAM.format(body=body, loss=loss, more=more))
    return replace(setup_of(project, None), private=Private(1.0, 1.0, 2.0))


@pytest.mark.parametrize("body, loss, marked, label", JOINING.values(), ids=JOINING)
def test_what_joins_examples_is_named(body: str, loss: str, marked: str, label: str) -> None:
    with pytest.raises(UserError) as caught:
        training_step(setup_for(body, loss))
    found = [d for d in caught.value.diagnostics if d.span and d.span.text.strip() == marked]
    assert found and {d.code for d in caught.value.diagnostics} == {"E0416"}
    assert any(label in d.label for d in found), [d.label for d in found]


@pytest.mark.parametrize(
    "body",
    [
        "y = x |> Dense(4) |> LayerNorm |> Dropout(0.5)",
        "y = x |> Dense(4)\n    unread = sum(y)",
        "param w: [3, 4] = 1\n    z[j, b] = x[b, j]\n    y[b, j] = sum(i) z[i, b] * w[i, j]",
    ],
)
def test_what_is_apart(body: str) -> None:
    step, _ = training_step(setup_for(body, "mse(y, t)"))
    assert step.clipping is not None and step.clipping.limit == pytest.approx(1 / 5)


def test_a_loss_that_is_a_sum_is_not_divided() -> None:
    step, _ = training_step(setup_for(DENSE, "sum((y - t)^2)"))
    assert step.clipping is not None
    assert (step.clipping.limit, step.clipping.scale) == (1.0, 1.0)


def test_a_sum_over_a_number_is_a_sum() -> None:
    """Nothing says that the number is that of the examples."""
    step, _ = training_step(setup_for(DENSE, "sum((y - t)^2) / 5"))
    assert step.clipping is not None and step.clipping.limit == 1.0


def test_states_that_remember_examples() -> None:
    body = "state seen: [] = 0\n    seen' = seen + sum(x)\n    y = x |> Dense(4)"
    with pytest.raises(UserError, match="E0417: `seen` would remember examples"):
        training_step(setup_for(body, "mse(y, t)"))
