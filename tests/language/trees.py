"""Shared by these tests: parsing that must succeed, trees without spans, programs."""

from __future__ import annotations

from nnc.dsl.diagnostics.diagnostic import Diagnostic, Report
from nnc.dsl.syntax import ast as s
from nnc.dsl.syntax.parser import parse
from nnc.dsl.syntax.source import Source

SPANS = {"span", "name_span", "source", "comments", "own_line"}


def parsed(text: str) -> s.File:
    report = Report()
    file = parse(Source("test.nn", text), report)
    assert not report.diagnostics, report.diagnostics
    return file


def mistakes(text: str) -> list[Diagnostic]:
    report = Report()
    parse(Source("test.nn", text), report)
    return report.diagnostics


def expression(text: str) -> s.Expr:
    """The value of `fn f(x) = text`."""
    (definition,) = parsed(f"fn f(x) = {text}").declarations
    assert isinstance(definition, s.Definition) and definition.value is not None
    return definition.value


def shape(node: object) -> object:
    """A tree as nested tuples without spans: equal shapes mean equal programs."""
    if isinstance(node, tuple):
        return tuple(map(shape, node))
    if isinstance(node, s.Node):
        parts = (shape(value) for name, value in vars(node).items() if name not in SPANS)
        return (type(node).__name__, *parts)
    return node


PROGRAMS = {
    "pipeline": '''
"""Digits by convolution."""

use "blocks.nn"

model Digits(image: f32[B, 28, 28, 1]) -> logits: f32[B, 10] {
    logits = image
        |> Conv(8, 3) |> relu        # thin
        |> MaxPool(2)
        # the head
        |> Flatten |> Dense(10)
}

train Digits {
    data      = digits("train", fold = 3)
    loss      = cross_entropy(logits, label)
    metric    accuracy = mean(argmax(logits) == label)
    optimizer = adam(lr = cosine(t, 1e-3, steps))
    input label: i32[B]
    let warm = 1_000
    batch     = 32; epochs = 10
    until accuracy > 0.99
    T <= 4 * 128  # any length
    keep      = ["best", "last"]
}
''',
    "equations": """
layer Linear(units, bias = true)(x: [..., n]) -> y: [..., units] {
    # weights
    param w, u: [n, units] ~ normal(0, 0.02)
    param b: [units] = 0
    let half = units // 2    # a size

    y[..., o] = sum(i) x[..., i] * (w[i, o] + u[i, o])
        + b[o]
}

layer Window(size)(x: [..., h]) -> y: [..., h // size] {
    y[..., i] = max(u < size) (x[..., i*size + u - 1] else -inf)
}

layer Cell(units)(x: [..., T, n]) -> h: [..., T, units], c: [..., T, units] {
    param W: [n, units] ~ glorot_uniform
    state seen: [units] = 0
    h, c = x |> Gate(units)(W)
    repeat 3 {
        z = h |> relu
    }
    seen' = seen + 1
}

fn scatter(token: i32[B, T], d_y: [B, T, e]) -> d_table: [v, e] {
    d_table[token[b, t], j] += d_y[b, t, j]
}
""",
    "functions": '''
"""Half."""

fn half(x) = x / 2
fn gate(x, y = 1) = if training and not x > 0 then -x^-y else sum(i) if x > i then 1 else 2

optimizer sgd(lr = 0.01) { p' = p - lr * g }

fn power(x: f64[n], k: i32) -> y: f64[n] {
    """Raised to k."""
    y[i] = x[i]^k
}
''',
}
