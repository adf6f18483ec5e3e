"""What `--emit gradients` prints can be read: it is what a textbook has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nnc.runtime.inspect.emit import Stages
from nnc.runtime.project import project_of_text, setup_of

PAGE = Path(__file__).parents[2] / "docs" / "language.md"


def printed(text: str) -> list[str]:
    """The equations of the training step."""
    project = project_of_text(text)
    lines = Stages(project, setup_of(project, None)).gradients.splitlines()
    return [line.strip() for line in lines if not line.strip().startswith("#")]


def gradients(text: str) -> list[str]:
    return [line for line in printed(text) if line.startswith("d_")]


def test_the_page_shows_what_is_printed():
    section = PAGE.read_text(encoding="utf-8").split("## Gradients")[1].split("\n## ")[0]
    program = re.search(r"```nn\n(.*?)```", section, re.DOTALL)
    shown = re.search(r"```text\n(.*?)```", section, re.DOTALL)
    assert program and shown
    assert gradients(program[1]) == shown[1].splitlines()


CELL = """
model M(x: f32[B, 9, 3]) -> h: f32[B, 9, 4] {{
    {cell}
}}
train M {{
    input target: f32[B, 9, 4]
    loss      = mse(h, target)
    optimizer = sgd()
    batch     = 2
}}
"""


@pytest.mark.parametrize(
    "cell, expected",
    [
        (
            "h = x |> RNN(4)",
            [
                "d_rnn1_h_via_h[b < 2, t < 9, k < 4]"
                " = sum(j < 4) (d_rnn1_h_sum[b, t + 1, j] else 0.0) * rnn1_U[k, j]",
                "d_rnn1_h_sum[b < 2, t < 9, j < 4] = d_rnn1_h[b, t, j] * (1.0 - rnn1_h[b, t, j]^2)",
            ],
        ),
        (
            "h, _ = LSTM(4)(x)",
            [
                "d_lstm1_h_via_z[b < 2, t < 9, k < 4]"
                " = sum(q < 4, j < 4) (d_lstm1_z[b, t + 1, q, j] else 0.0) * lstm1_U[k, q, j]",
                "d_lstm1_g[b < 2, t < 9, j < 4] = d_lstm1_c[b, t, j] * lstm1_i[b, t, j]",
                "d_lstm1_i[b < 2, t < 9, j < 4] = d_lstm1_c[b, t, j] * lstm1_g[b, t, j]",
                "d_lstm1_f[b < 2, t < 9, j < 4] = "
                "d_lstm1_c[b, t, j] * (lstm1_c[b, t - 1, j] else 0.0)",
            ],
        ),
    ],
)
def test_gradients_of_cells_are_those_of_the_textbook(cell, expected):
    found = gradients(CELL.format(cell=cell))
    for line in expected:
        assert line in found, "\n".join(found)


def test_what_a_gradient_comes_through_is_named_apart():
    """`x` is read twice by one equation, and there is a tensor that is called like a part."""
    found = gradients("""
model M(s: f32[B, 5]) -> y: f32[B, 5] {
    param p: [5, 5] ~ glorot_uniform
    x[n, i] = sum(j) s[n, j] * p[j, i]
    d_x_via_y[n, i] = 2 * x[n, i]
    y[n, i] = sum(j) x[n, j] * x[n, (i + j) % 5] + d_x_via_y[n, i]
}
train M {
    input target: f32[B, 5]
    loss      = mse(y, target)
    optimizer = sgd()
    batch     = 2
}
""")
    names = [line.partition("[")[0] for line in found]
    assert len(set(names)) == len(names)
    assert {"d_x", "d_x_via_y_2", "d_x_via_y_3"} <= set(names), names
