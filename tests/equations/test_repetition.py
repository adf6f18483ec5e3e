"""Layers that are used again are written down again: nothing shows that it was elaborated once."""

from __future__ import annotations

import pytest
from support import system as system_of

from nnc.compiler.elaboration import inlining, optimizers, repetition, statements
from nnc.compiler.ir.structural_hash import system_signature
from nnc.compiler.ir.verify import verify
from nnc.compiler.pipeline import check_remat
from nnc.compiler.programs import training_step
from nnc.dsl.diagnostics.diagnostic import Report, UserError
from nnc.runtime.project import project_of_text, setup_of

LAYERS = """
layer Block(units)(x: [..., n]) -> y: [..., units], z: [..., n] {
    param a: [n] = -0.0
    h = x |> Dense(units) |> Dropout(0.3) |> BatchNorm |> tanh
    y = h * (if random() < 0.5 then 1 else 2)
    z[..., i] = (x[..., i - 1] else 0) * a[i]
}
layer Scaled(factor)(x: [..., n], by: [..., n]) -> y: [..., n] {
    param w: [n] ~ normal(0, 0.1)
    y = x * by * w / factor
}
layer Counted(table: [v, n], place: i32[...]) -> y: [..., n] {
    count[place[b] < v] += sum(b) 1.0
    y[..., j] = table[place[...], j] + 0.001 * count[place[...]]
}
layer Again(x: [..., n]) -> y: [..., n] {
    remat { y = x |> Dense(n) |> Dropout(0.3) |> tanh |> Dense(n) }
}
layer Deep(x: [..., n]) -> y: [..., n] {
    h = x
    repeat 2 { h = h |> Dense(n) |> gelu }
    y = h
}
"""

BODIES = {
    "repeated": "h = x; repeat 3 { a, b = h |> Block(4); h = a + b }; y = h",
    "states": "h = x; repeat 3 { h = h |> Dense(4) |> BatchNorm |> relu }; y = h",
    "the same input twice": "a = Scaled(2)(x, x); b = Scaled(2)(x, a); c = Scaled(2)(b, b); y = c",
    "settings that are nearly equal": "y = Scaled(1)(x, x) + Scaled(1.0)(x, x) + Scaled(-1)(x, x)",
    "blocks of blocks": "y = x |> Deep |> Deep |> Dense(4)",
    "names that are taken": (
        "dense2_w = x + 1; d = dense2_w |> Dense(4); deep2_h = d + 1; y = deep2_h |> Deep |> Deep"
    ),
    "recurrences": "h = x; repeat 2 { h = h |> RNN(4) }; y = h",
    "again": "h = x; repeat 3 { remat { h = h |> Deep |> Dense(4) |> tanh |> Again } }; y = h",
    "attention": "h = x; repeat 2 { h = h |> TransformerBlock(2, 8, causal = true) }; y = h",
}


def text(body: str) -> str:
    return f"""{LAYERS}
model M(x: f32[B, 4, 4]) -> y: f32[B, 4, 4] {{
    {body}
}}
train M {{
    input target: f32[B, 4, 4]
    loss      = mse(y, target)
    optimizer = adam(lr = 0.1)
    clip      = clip_norm(1.0)
    batch     = 2
}}
"""


def elaborated(program: str) -> tuple:
    """Everything about the training step and the drawing of its first weights."""
    report = Report()
    found = training_step(setup_of(project_of_text(program), None), report)
    check_remat(found[0], report)
    for system in found:
        verify(system, "elaboration")
    return (
        *map(system_signature, found),
        [[(t.name, t.init, str(t.span)) for t in s.tensors.values()] for s in found],
        [[str(e.span) for e in s.equations] for s in found],
        [(d.code, str(d.span), d.message) for d in report.diagnostics],
    )


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_repeated_elaboration_is_elaboration(body, monkeypatch):
    again = elaborated(text(body))
    for module in (inlining, optimizers):
        monkeypatch.setattr(
            module, "memoized", lambda ctx, key, stem, given, elaborate: elaborate()
        )
    assert elaborated(text(body)) == again


def test_repeats_are_not_elaborated_again(monkeypatch):
    """Of many equal blocks one is elaborated: the others are written down again."""
    made: list[int] = []
    replay = repetition.replay
    monkeypatch.setattr(
        repetition, "replay", lambda ctx, *known: made.append(1) or replay(ctx, *known)
    )
    elaborated(text("h = x; repeat 5 { h = h |> Deep }; y = h"))
    blocks = 4
    assert len(made) >= blocks


def test_what_is_not_trained_is_blamed_on_its_own_use():
    body = """a = x |> Dense(4)
    b = x |> Dense(4)
    y = a"""
    report = Report()
    training_step(setup_of(project_of_text(text(body)), None), report)
    told = [(d.message, d.span.line) for d in report.diagnostics if d.code == "W0301"]
    line = text(body)[: text(body).index("b = x")].count("\n") + 1
    assert told == [(f"no gradient reaches `dense2_{name}`", line) for name in "wb"]


def test_mistakes_of_repeated_layers_are_told_once():
    with pytest.raises(UserError) as caught:
        elaborated(text("h = x; repeat 3 { h = Scaled(2)(h, h |> Dense(3)) }; y = h"))
    assert len(caught.value.diagnostics) == 1


def test_a_block_of_nothing_is_not_written_out(monkeypatch):
    bodies, body = [], statements.body

    def counted(*given):
        bodies.append(given)
        body(*given)

    monkeypatch.setattr(statements, "body", counted)
    found = system_of("model M(x: f32[3]) -> y: f32[3] { repeat 9 { repeat 5000 { } }; y = 2*x }")
    assert len(found.equations) == 1 and len(bodies) <= 10
