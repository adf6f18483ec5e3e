"""`T = 64` in a train block: a symbolic size of the model."""

from __future__ import annotations

import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime.assignments import Assignment
from nnc.runtime.project import project_of_text

TEXT = """
model M(x: f32[B, T, 3]) -> y: f32[B, T] {
    param w: [T] = 1
    y[b, t] = sum(i) x[b, t, i] * w[t]
}
train M {
    let n = 4
    input target: f32[B, T]
    loss      = mse(y, target)
    optimizer = sgd(lr = 0.1)
    BATCH
    T         = 2 * n
}
"""


def sizes(entry: str, **assigned: str) -> tuple[int, int]:
    assignments = [Assignment(name, text) for name, text in assigned.items()]
    settings = project_of_text(TEXT.replace("BATCH", entry), assignments=assignments).settings
    return settings.batch, settings.sizes["T"]


def test_a_size_that_the_block_states() -> None:
    assert sizes("batch = 5") == (5, 8)
    assert sizes("batch = 5", n="3") == (5, 6)
    # The batch by the name that the model has for it.
    assert sizes("B = 6") == (6, 8)


def test_the_command_line_comes_first() -> None:
    assert sizes("batch = 5", T="7") == (5, 7)
    assert sizes("B = 6", batch="3", T="7") == (3, 7)
    assert sizes("B = 6", B="4") == (4, 8)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("BATCH", "batch = 5; B = 6", "E0405"),
        ("BATCH", "T = 5", "E0405"),
        ("BATCH", "Q = 5", "E0401"),
        ("2 * n", "2.5", "E0703"),
        ("2 * n", "0", "E0703"),
        ("2 * n", "m", "E0703"),
    ],
)
def test_sizes_that_are_none(old: str, new: str, code: str) -> None:
    with pytest.raises(UserError) as raised:
        project_of_text(TEXT.replace(old, new).replace("BATCH", ""))
    assert code in {d.code for d in raised.value.diagnostics}
